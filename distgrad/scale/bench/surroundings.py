"""What a measured process finds around it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

__all__ = ["UNSET", "command_of", "environment", "result_file"]

UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # where they are set, NumPy's products are slower
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(threads: int) -> dict[str, str]:
    """This process's variables for another one that is measured on ``threads`` threads."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return kept | dict.fromkeys(_THREADS, str(threads))


def command_of(name: str) -> list[str]:
    """The command that runs a benchmark's file in a process of its own."""
    return [sys.executable, "-m", f"{__package__}.{name}"]


def result_file(text: str) -> Path:
    """A path as an option's type, refused before anything is measured if no file can be written there."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"no file can be written at {text}; name another")
    return path
