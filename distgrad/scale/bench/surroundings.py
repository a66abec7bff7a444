"""What a measured process finds around it."""

from __future__ import annotations

import os
import sys

__all__ = ["UNSET", "command_of", "environment"]

UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # where they are set, NumPy's products are slower
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(threads: int) -> dict[str, str]:
    """This process's variables for another one that is measured on ``threads`` threads."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return kept | dict.fromkeys(_THREADS, str(threads))


def command_of(name: str) -> list[str]:
    """The command that runs a benchmark's file in a process of its own."""
    return [sys.executable, "-m", f"{__package__}.{name}"]
