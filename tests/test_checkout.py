"""A clone that nobody installed: with no package but NumPy and no pip, and beside an installed wheel."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
WHERE = "import distgrad, distgrad.launch.rank as r; print(distgrad.__file__, r.__file__)"
TRAIN = """
import distgrad as dg
dg.comm.init()
rank = dg.comm.get_world().rank
model = dg.parallel.DistributedDataParallel(dg.nn.Linear(64, 64))
optimizer = dg.optim.Adam(model.parameters(), lr=0.1)
for _ in range(2):
    optimizer.zero_grad()
    model(dg.full((64, 64), rank + 1.0)).sum().backward()
    optimizer.step()
print(dg.__file__)
"""


def install(folder: Path) -> None:
    """Copy the package's files to where a wheel would have them."""
    for name in SETUP["py-modules"]:
        shutil.copy(ROOT / f"{name}.py", folder)
    for name in SETUP["packages"]:
        source = ROOT / SETUP["package-dir"].get(name, name.replace(".", "/"))
        target = folder / name.replace(".", "/")
        target.mkdir(parents=True)
        for path in source.iterdir():
            if path.suffix in (".py", ".cu", ".cuh"):
                shutil.copy(path, target)


@pytest.fixture
def interpreter(tmp_path) -> Path:
    """A Python with NumPy alone."""
    environment = tmp_path / "environment"
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(command, check=True, timeout=60)
    (packages,) = environment.glob("lib/python*/site-packages")
    for path in Path(np.__file__).parents[1].glob("numpy*"):
        (packages / path.name).symlink_to(path)
    return environment / "bin" / "python"


def run(interpreter: Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(interpreter), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=env, check=False)


def words(interpreter: Path, *arguments: str, cwd: Path = ROOT) -> list[str]:
    """What a command prints, without the ranks' numbers."""
    ended = run(interpreter, *arguments, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.replace("[0]", "").replace("[1]", "").split()


def script(tmp_path: Path) -> str:
    """A script that trains, in another folder."""
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    return str(path)


HERE = [str(ROOT / "distgrad/__init__.py"), str(ROOT / "launch/rank.py")]


def test_a_clone_needs_numpy_alone(interpreter, tmp_path):
    assert words(interpreter, "-c", WHERE) == HERE
    train = script(tmp_path)
    assert words(interpreter, "-m", "distgrad", "run", "-n", "2", train) == HERE[:1] * 2
    assert words(interpreter, "distgrad_command.py", "run", "-n", "1", train) == HERE[:1]


def test_a_clone_stands_before_an_installed_wheel_and_the_wheel_elsewhere(interpreter, tmp_path):
    (packages,) = interpreter.parents[1].glob("lib/python*/site-packages")
    install(packages)
    job = ("-m", "distgrad", "run", "-n", "1", script(tmp_path))
    assert words(interpreter, "-c", WHERE) == HERE
    assert words(interpreter, *job) == HERE[:1]
    there = [str(packages / "distgrad/__init__.py"), str(packages / "distgrad/launch/rank.py")]
    assert words(interpreter, "-c", WHERE, cwd=tmp_path) == there
    assert words(interpreter, *job, cwd=tmp_path) == there[:1]


def test_the_command_line_without_click_says_what_it_lacks(interpreter):
    ended = run(interpreter, "-m", "distgrad", "ops")
    assert ended.returncode == 1
    assert ended.stderr.startswith("distgrad: the command line needs click")
    assert ended.stderr.count("\n") == 1
