"""What type checkers and editors know: the stubs are the registry's, and a user's script has its types."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from write_stubs import MODULES, stub_path, text

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "user_script.py"
#: A line of the script, and one that says something else of it.
PLANTED = ("assert_type(dg.exp(x), dg.Tensor)", "assert_type(dg.exp(x), int)")


@pytest.mark.parametrize("module", MODULES)
def test_stubs_are_those_of_the_registry(module):
    assert stub_path(module).read_text() == text(module), "run python tests/write_stubs.py"


def test_the_wheel_holds_every_stub():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for module in MODULES:
        place = stub_path(module).parent.relative_to(ROOT)
        assert "*.pyi" in data[".".join(place.parts)]
    assert sorted(ROOT.glob("distgrad/**/*.pyi")) == sorted(map(stub_path, MODULES))


def mypy(files, folder):
    """The command that checks files by themselves."""
    options = ["--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={folder}"]
    return [sys.executable, "-m", "mypy", *options, *files]


def basedpyright(files, folder):
    """The same in Pyright's own mode."""
    settings = {"include": files, "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    return [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "-p", str(folder)]


@pytest.mark.parametrize("checker", [mypy, basedpyright])
def test_a_users_script_has_its_types(checker, tmp_path):
    pytest.importorskip(checker.__name__)
    assert SCRIPT.read_text().count(PLANTED[0]) == 1
    wrong = tmp_path / "wrong_script.py"
    wrong.write_text(SCRIPT.read_text().replace(*PLANTED))
    command = checker([str(SCRIPT), str(wrong)], tmp_path)
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment, check=False
    )
    errors = [line for line in done.stdout.splitlines() if " error: " in line or " - error" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert "wrong_script.py" in errors[0]
    assert done.returncode == 1


def test_the_script_runs(tmp_path):
    command = [sys.executable, SCRIPT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, timeout=100, check=True)


def test_an_editor_completes_after_a_call():
    jedi = pytest.importorskip("jedi")
    script = "import distgrad as dg\nx = dg.zeros(3)\ndg.exp(x)."
    project = jedi.Project(ROOT, smart_sys_path=False, added_sys_path=[str(ROOT)])
    names = {each.name for each in jedi.Script(script, project=project).complete()}
    assert names >= {"backward", "shape", "requires_grad", "reshape", "sum", "unsqueeze"}
    (signature,) = jedi.Script("import distgrad as dg\ndg.softmax(", project=project).get_signatures()
    assert [each.name for each in signature.params][:2] == ["x", "axis"]
