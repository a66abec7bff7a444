"""Rung 6: each fault of the list is planted into a copy of the package, and the test that it names fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_double.mutants import MUTANTS
from gpu_double.runtime import unavailable

import distgrad

ROOT = Path(__file__).parents[2]
PACKAGE = Path(distgrad.__file__).parent


@pytest.fixture(scope="module", autouse=True)
def needs_the_double():
    if (reason := unavailable()) is not None:
        pytest.skip(reason)


@pytest.fixture
def copy(tmp_path):
    """The package in a folder of its own, which Python looks into first; compiled, as far as it was."""
    shutil.copytree(PACKAGE, tmp_path / "distgrad", ignore=shutil.ignore_patterns("launch"))
    (tmp_path / "distgrad" / "launch").symlink_to(ROOT / "launch")
    return tmp_path / "distgrad"


def run(check, copy):
    """One test on the copy; pytest's exit status, and what it printed."""
    env = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", check]
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_tests_pass_on_a_copy_as_it_is(copy):
    status, printed = run(MUTANTS[0].check, copy)
    assert status == 0, printed
    assert "1 passed" in printed


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.what, marks=() if mutant.every_run else pytest.mark.slow)
        for mutant in MUTANTS
    ],
)
def test_mutant_is_caught(mutant, copy):
    file = copy / mutant.file
    text = file.read_text()
    assert text.count(mutant.old) == 1, (
        f"{mutant.file} holds this {text.count(mutant.old)} times:\n{mutant.old}"
    )
    file.write_text(text.replace(mutant.old, mutant.new))
    status, printed = run(mutant.check, copy)
    assert status == 1, f"{mutant.check} did not notice:\n{printed}"
    assert "1 failed" in printed, printed
