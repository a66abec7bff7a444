"""Which version of the package this is: the nearest tag of a checkout, or what was noted when it was built.

A wheel and an sdist have ``version.txt``, which setuptools-scm writes as they are built. A checkout changes
after that, so Git is asked there; the answer is what setuptools-scm would build from it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import subprocess
from pathlib import Path

__all__ = ["describe", "find_version"]

UNKNOWN = "0.0"  # neither Git nor a note: files that were copied out of a checkout
_PACKAGE = Path(__file__).parent
_GIT_TIMEOUT_S = 10


def find_version(package: Path = _PACKAGE) -> str:
    """The version of the package in a folder, as PEP 440 writes it.

    Args:
        package: the folder of ``distgrad``; one beside ``.git`` is a checkout.
    """
    if (package.parent / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return describe(package.parent)
    with contextlib.suppress(OSError):
        return (package / "version.txt").read_text().strip()
    return UNKNOWN


def describe(checkout: Path) -> str:
    """The version of a checkout: its tag, or the one that would follow with the number of commits since.

    Args:
        checkout: a folder with ``.git``.

    Returns:
        ``1.2.0`` at the tag ``v1.2.0``, ``1.2.1.dev5+gCOMMIT`` five commits later, ``0.1.dev9+gCOMMIT`` at
        the ninth commit where there is no tag; changed files add the date.

    Raises:
        OSError: there is no Git.
        subprocess.SubprocessError: it does not take the folder for its own, or does not answer.
    """
    try:
        tag, distance, commit = _git(
            checkout, "describe", "--tags", "--long", "--abbrev=40", "--match=*[0-9]*"
        ).rsplit("-", 2)
    except subprocess.CalledProcessError:
        tag, distance = "0.0", _git(checkout, "rev-list", "--count", "HEAD")
        commit = "g" + _git(checkout, "rev-parse", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    version = re.sub(r"^[^0-9]*", "", tag)
    if distance == "0" and not changed:
        return version
    following = re.sub(r"\d+$", lambda number: str(int(number[0]) + 1), version)
    date = f".d{datetime.datetime.now(datetime.UTC):%Y%m%d}" if changed else ""
    return f"{following}.dev{distance}+{commit[:10]}{date}"


def _git(checkout: Path, *arguments: str) -> str:
    """What Git says of a checkout, whatever repository a hook has named."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True, env=environment
    )
    return ended.stdout.strip()
