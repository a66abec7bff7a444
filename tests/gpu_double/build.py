"""Compile C and C++ once and keep the shared libraries: of kernels, of the doubles, of the trampolines.

The cache is ``DISTGRAD_GPU_DOUBLE_CACHE`` or ``distgrad/gpu-double`` in the user's cache folder. A library is
written under a name of this process and thread and renamed when it is whole, so any number of processes may
fill one cache.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
INCLUDE = HERE / "include"


class DoubleError(RuntimeError):
    """What the double refuses: a call that it does not carry, or one that a GPU would have failed on."""


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    named = os.environ.get("DISTGRAD_GPU_DOUBLE_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = Path(named) if named else home / "distgrad" / "gpu-double"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def missing_compiler() -> str | None:
    """The compiler that is not installed; None if both are."""
    return next((name for name in ("gcc", "g++") if shutil.which(name) is None), None)


@functools.cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _headers() -> str:
    return "".join(file.read_text() for file in sorted(INCLUDE.rglob("*.*h")))


def compile_library(
    name: str,
    source: str,
    options: Sequence[str] = (),
    *,
    compiler: str = "gcc",
    file_name: str | None = None,
) -> Path:
    """Compile ``source`` to a shared library, or find the one that was compiled before.

    Args:
        name: what an error message and the cache call it.
        source: of C (gcc) or C++ (g++).
        options: of the compiler, on top of those of a shared library.
        compiler: gcc or g++.
        file_name: the library's own name, where a loader looks for one.
    """
    parts = (source, *options, compiler, _version(compiler), _headers())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    folder = cache_folder()
    stem = "".join(c if c.isalnum() else "_" for c in name)[:40]
    if file_name is None:
        target = folder / f"{stem}-{key}.so"
    else:
        target = folder / f"{stem}-{key}" / file_name
        target.parent.mkdir(exist_ok=True)
    if target.exists():
        return target
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}")
    command = [
        *(compiler, "-x", "c" if compiler == "gcc" else "c++", "-", "-o", str(unfinished)),
        *("-shared", "-fPIC", "-pipe", "-w", f"-I{INCLUDE}", *options),
    ]
    ran = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        unfinished.unlink(missing_ok=True)
        raise DoubleError(f"{compiler} does not compile {name}:\n{ran.stderr[:4000]}")
    unfinished.replace(target)
    return target
