"""What a wheel and an sdist hold, beside what Git tracks.

The sdist is the checkout: with tests, examples, guide and benchmarks, so that who packs it for a distribution
can run the tests. The wheel is the package alone. Both have ``distgrad/version.txt``, which the build writes.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

#: What building adds to an sdist.
ADDED = re.compile(r"PKG-INFO|setup\.cfg|distgrad/version\.txt|distgrad\.egg-info/[\w.-]+")
#: What a wheel says of itself.
DIST_INFO = re.compile(
    r"distgrad-[^/]+\.dist-info/"
    r"(METADATA|WHEEL|RECORD|entry_points\.txt|top_level\.txt|licenses/LICENSE)"
)
#: Kernels that `make wheel` has compiled.
COMPILED = re.compile(r"distgrad/backend/kernels/compiled/.+")
#: In a checkout distgrad/launch/ points to launch/, which takes its place in a wheel.
POINTER = "distgrad/launch/__init__.py"


def tracked(root: Path) -> set[str]:
    """The files of a checkout."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (root / name).exists()}


def of_wheel(files: set[str]) -> set[str]:
    """Where a wheel has the checkout's files that belong into it."""
    found = {"distgrad_command.py", "distgrad/version.txt"}
    for name in files - {POINTER}:
        if name.startswith("distgrad/"):
            found.add(name)
        elif name.startswith("launch/"):
            found.add(f"distgrad/{name}")
    return found


def differences(has: set[str], wanted: set[str], may: tuple[re.Pattern[str], ...]) -> list[str]:
    """Files that are missing, and files too many, a sentence each."""
    missing = [f"lacks {name}" for name in sorted(wanted - has)]
    return missing + [
        f"has {name}" for name in sorted(has - wanted) if not any(one.fullmatch(name) for one in may)
    ]


def wheel_problems(path: Path, files: set[str]) -> list[str]:
    """What is wrong with a wheel's contents."""
    with zipfile.ZipFile(path) as archive:
        has = {name for name in archive.namelist() if not name.endswith("/")}
    return differences(has, of_wheel(files), (DIST_INFO, COMPILED))


def sdist_problems(path: Path, files: set[str]) -> list[str]:
    """What is wrong with an sdist's contents."""
    with tarfile.open(path) as archive:
        has = {member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()}
    return differences(has, files | {"PKG-INFO", "distgrad/version.txt"}, (ADDED,))
