"""Faults planted into a copy of the package, each with the tests of which one must fail on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "distgrad"
FAILED = 1  # pytest's exit status where a test failed; anything else is no answer


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        kind: missing wait, wrong sign, and so on.
        what: in a few words.
        file: in the package.
        old: the text that makes way, once in the file.
        new: what stands there instead.
        check: pytest's arguments that choose the tests which must find it, split at blanks outside brackets.
        every_run: whether ``make test`` tries it too.
    """

    kind: str
    what: str
    file: str
    old: str
    new: str
    check: str
    every_run: bool = False


def copy_package(folder: Path) -> Path:
    """The package in a folder, which Python looks into first; compiled, as far as it was."""
    shutil.copytree(PACKAGE, folder / "distgrad", ignore=shutil.ignore_patterns("launch"))
    shutil.copytree(ROOT / "launch", folder / "distgrad" / "launch")  # as a wheel has it
    return folder / "distgrad"


def run_check(check: Sequence[str], copy: Path, timeout_s: float = 280) -> tuple[int, str]:
    """Tests on a copy; pytest's exit status, and what it printed."""
    env = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *check]
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def problem(mutant: Mutant) -> str:
    """Why a fault cannot be planted; empty if it can."""
    folder = ROOT if mutant.file.startswith("launch/") else PACKAGE
    count = (folder / mutant.file).read_text().count(mutant.old)
    return "" if count == 1 else f"{mutant.file} holds this {count} times:\n{mutant.old}"


def plant(mutant: Mutant, copy: Path) -> None:
    """Put a fault into a copy."""
    file = copy / mutant.file
    assert not (why := problem(mutant)), why
    file.write_text(file.read_text().replace(mutant.old, mutant.new))
