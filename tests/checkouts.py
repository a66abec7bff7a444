"""What Git says of the folder that the tests lie in."""

import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["ROOT", "needs_checkout", "needs_git"]

ROOT = Path(__file__).parents[1]


def _is_checkout() -> bool:
    """Whether Git takes the folder for a checkout: neither one copied without it, nor another user's."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    own = shutil.which("git") is not None and (ROOT / ".git").exists()
    return own and subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="Git is not installed")
needs_checkout = pytest.mark.skipif(not _is_checkout(), reason="Git knows of no checkout here")
