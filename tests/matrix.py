"""The package and a part of its tests on every Python from 3.11 to 3.14 that is found here.

``python tests/matrix.py [pytest's arguments]`` makes an environment a version in ``.venv/matrix`` (kept for
the next time), installs the package into it and runs the tests; what is not found is said, and fails nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv" / "matrix"
MINORS = range(11, 15)
#: A part that reaches every room of the package: its rules, values, ranks in threads and processes, files.
PART = [
    *("tests/test_house.py", "tests/optim/test_values.py", "tests/comm/test_threads.py"),
    *("tests/data/test_sampler.py", "tests/checkpoint/test_files.py", "tests/launch/test_start.py"),
    *("tests/autograd/test_methods.py", "tests/nn/test_module.py", "tests/parallel/test_functional.py"),
]


def candidates(minor: int) -> Iterator[Path]:
    """Where an interpreter of Python 3.``minor`` may be."""
    name = f"python3.{minor}"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield Path(folder) / name
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from sorted(versions.glob(f"3.{minor}.*/bin/python3"), reverse=True)


def find(minor: int) -> Path | None:
    """An interpreter of Python 3.``minor`` that runs; None where there is none."""
    code = f"import sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
    for path in candidates(minor):
        if (
            path.exists()
            and subprocess.run([path, "-c", code], capture_output=True, check=False).returncode == 0
        ):
            return path
    return None


def prepare(python: Path, minor: int) -> Path:
    """The interpreter of an environment with the package as pyproject.toml describes it now."""
    folder, settings = FOLDER / f"3.{minor}", (ROOT / "pyproject.toml").read_text()
    inside, stamp = folder / "bin" / "python", folder / "pyproject.toml"
    if not stamp.exists() or stamp.read_text() != settings:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        install = [inside, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*install, "--editable", f"{ROOT}[mpi,test]"], check=True)
        stamp.write_text(settings)
    return inside


def main(arguments: Sequence[str]) -> int:
    """Run the tests on each version; 1 if any failed."""
    rows, worst = [], 0
    for minor in MINORS:
        python = find(minor)
        if python is None:
            rows.append(f"3.{minor}  not found here")
            continue
        began_s = time.monotonic()
        try:
            command = [prepare(python, minor), "-m", "pytest", "-q", "-m", "not slow", *(arguments or PART)]
            failed = subprocess.run(command, cwd=ROOT, check=False).returncode != 0
        except subprocess.CalledProcessError as error:
            print(f"matrix: {error}", flush=True)
            failed = True
        worst |= failed
        rows.append(f"3.{minor}  {'failed' if failed else 'passed'} in {time.monotonic() - began_s:.0f} s")
    print("matrix:", *rows, sep="\n  ")
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
