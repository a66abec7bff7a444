"""Kernels compiled ahead for kinds of GPUs, on a machine that may have none, and found by a first launch.

Code for a compute capability runs on the GPUs of the same major version that are as able or abler: sm_80's on
8.0 to 8.9, sm_90's on 9.0. It lies beside the host's kernels, in a folder named after the digest of all CUDA
sources, in files named after the digest of what is in them, so that a damaged one is none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distgrad.backend.device import find_backend
from distgrad.backend.kernels import cache
from distgrad.backend.kernels.cuda.source import TYPES, families, source
from distgrad.errors import DeviceError, OptionError

__all__ = ["LEVELS", "compile_binaries", "find_binary", "level_of"]

#: Compute capabilities that are compiled for, by the name that compilers give them.
LEVELS = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_100": (10, 0), "sm_120": (12, 0)}

_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")  # CuPy's, so that both round alike
_DIGITS = 16


@functools.cache
def _folders() -> list[Path]:
    """Where binaries of these sources, for this CUDA, may lie; the one that is written to last."""
    cuda = importlib.import_module("cupy.cuda.runtime").runtimeGetVersion() // 1000
    digest = hashlib.sha256(f"{cuda} {_OPTIONS}".encode())
    for family in families():
        for char in TYPES:
            digest.update(source(family, char).encode())
    return cache.places("cuda", digest.hexdigest()[:_DIGITS])


@functools.cache
def _level() -> str | None:
    """The level whose code all GPUs that this process sees run; None where there is none."""
    backend: Any = find_backend("cuda")
    found = [backend.properties(index) for index in range(backend.device_count())]
    return level_of((int(each["major"]), int(each["minor"])) for each in found)


def level_of(gpus: Iterable[tuple[int, int]]) -> str | None:
    """The level whose code GPUs of all these compute capabilities run; None where there is none."""
    found = list(gpus)
    for name, (major, minor) in LEVELS.items():
        if found and all(gpu[0] == major and gpu[1] >= minor for gpu in found):
            return name
    return None


def _look(family: str, char: str, level: str) -> Path | None:
    """The first whole file of that kind."""
    for folder in _folders():
        for path in sorted(folder.glob(f"{family}-{char}.{level}.*.cubin")):
            with contextlib.suppress(OSError):  # gone meanwhile, or another's
                if path.suffixes[-2] == f".{_digest(path.read_bytes())}":
                    return path
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def find_binary(family: str, char: str) -> Path | None:
    """A family's kernels for this process's GPUs, if they were compiled ahead.

    Args:
        family, char: as :func:`source` has them.
    """
    level = _level()
    return None if level is None else _look(family, char, level)


def _compile(family: str, char: str, level: str) -> None:
    """Compile a family for a level, and keep it, whole or not at all."""
    nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
    program = nvrtc.createProgram(source(family, char), f"{family}.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={level}", *_OPTIONS))
        data: bytes = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise DeviceError(
            f"warm: NVRTC does not compile {family} for {level} ({error}); choose levels that it knows:\n"
            f"{nvrtc.getProgramLog(program)}"
        ) from error
    finally:
        nvrtc.destroyProgram(program)
    _keep(f"{family}-{char}.{level}.{_digest(data)}.cubin", data)


def _keep(name: str, data: bytes) -> None:
    folder = _folders()[-1]
    beside = folder / f".{name}.{os.getpid()}"
    try:
        cache.make(folder)
        beside.write_bytes(data)
        beside.replace(folder / name)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise OptionError(
            f"warm: {folder}: {error.strerror}; set DISTGRAD_CACHE to a folder that can be written"
        ) from error


def compile_binaries(levels: tuple[str, ...] = ()) -> int:
    """Compile all CUDA sources for kinds of GPUs by NVRTC, which takes no GPU; what is there stays.

    Args:
        levels: keys of :data:`LEVELS`; without them all.

    Returns:
        How many were compiled.

    Raises:
        DeviceError: CuPy or NVRTC is not to be had, or does not know a level.
        OptionError: no folder for kernels can be written.
    """
    if cache.cache_folder() is None:
        raise OptionError("warm: no folder for compiled kernels can be written; set DISTGRAD_CACHE to one")
    kinds = [(family, char, level) for level in levels or LEVELS for family in families() for char in TYPES]
    try:
        missing = [kind for kind in kinds if _look(*kind) is None]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda kind: _compile(*kind), missing))
    except (DeviceError, OptionError):
        raise
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            f'warm: CuPy with NVRTC is needed, and does not load ({error}); pip install "distgrad[cuda13]"'
        ) from error
    return len(missing)
