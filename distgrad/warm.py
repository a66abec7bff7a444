"""``distgrad warm``: compile kernels before anybody waits for them, in a container's image, say."""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from distgrad import trace
from distgrad.backend.kernels import ahead, cache
from distgrad.backend.kernels.compiler import load_numba
from distgrad.backend.kernels.cuda import binaries
from distgrad.backend.kernels.table import jobs
from distgrad.errors import MissingDependencyError, OptionError

__all__ = ["warm_all", "warm_gpus", "warm_script"]


class _EnoughError(BaseException):
    """Ends a script once it has trained a step; no ``except Exception`` keeps it."""


class _FirstStep:
    """Listens for the first step of an optimizer."""

    def span(self, name: str, start_s: float, end_s: float, fields: dict[str, Any]) -> None:
        if name == "optimizer.step":
            raise _EnoughError

    def event(self, name: str, time_s: float, fields: dict[str, Any]) -> None:
        return


def _check() -> Path:
    """The folder that kernels go into."""
    if not load_numba():
        raise MissingDependencyError("warm: Numba, which compiles kernels, does not load; pip install numba")
    folder = cache.cache_folder()
    if folder is None:
        raise OptionError("warm: no folder for compiled kernels can be written; set DISTGRAD_CACHE to one")
    return folder


def warm_all(levels: tuple[str, ...] = ()) -> str:
    """Compile every kernel, on all cores that this process may use.

    Args:
        levels: of x86-64 to compile for; without them, for this processor.

    Returns:
        What was done, in a sentence.

    Raises:
        MissingDependencyError: there is no Numba.
        OptionError: no folder for kernels can be written.
    """
    folder = _check()
    began_s, work = time.monotonic(), [*jobs(), (cache.SHARED, "f")]
    for level in levels or (None,):
        ahead.compile_now(work, rare=True, level=level)
    kinds = f" for {' and '.join(levels)}" if levels else ""
    return f"warm: all kernels of {len(work)} operations{kinds} lie in {folder} ({_since(began_s)})"


def warm_gpus(levels: tuple[str, ...] = ()) -> str:
    """Compile all kernels of GPUs, which takes none.

    Args:
        levels: of GPUs, as ``sm_90``; without them, all that are known.

    Returns:
        What was done, in a sentence.

    Raises:
        DeviceError: CuPy or its compiler, NVRTC, is not to be had.
        OptionError: no folder for kernels can be written.
    """
    began_s = time.monotonic()
    count = binaries.compile_binaries(levels)
    kinds = " and ".join(levels or binaries.LEVELS)
    return (
        f"warm: all kernels for GPUs of {kinds} lie in {cache.cache_folder()}, {count} sources compiled "
        f"({_since(began_s)})"
    )


def warm_script(script: str, arguments: list[str]) -> str:
    """Run a script until it has trained one step, and compile what else its model may need.

    Args:
        script: its path.
        arguments: its own.

    Returns:
        What was done, in a sentence.

    Raises:
        MissingDependencyError: there is no Numba.
        OptionError: no folder for kernels can be written.
    """
    folder = _check()
    began_s, listener, own = time.monotonic(), _FirstStep(), (sys.argv, sys.path[:])
    trace.subscribe(listener)
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.realpath(script)))
    end = "ended without a step of an optimizer"
    try:
        runpy.run_path(script, run_name="__main__")
    except _EnoughError:
        end = "was stopped after its first step"
    finally:
        trace.unsubscribe(listener)
        sys.argv, sys.path[:] = own
    ahead.compile_now([*ahead.requested(), (cache.SHARED, "f")])
    return f"warm: {script} {end}; its kernels lie in {folder} ({_since(began_s)})"


def _since(began_s: float) -> str:
    return f"{time.monotonic() - began_s:.0f} s"
