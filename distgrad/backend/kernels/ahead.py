"""Kernels that a model will need, compiled beside it: one process a host, for all ranks of a job.

What builds a layer or an optimizer says which kernels it will call (:func:`request`), and an operation that
runs says that its gradient's will be. The first rank of a host keeps one process that compiles them, the
latest first, since the rank itself begins with the earliest. A kernel is waited for where it is first called,
never replaced: it rounds otherwise than the formula. Which kernels there are is known by markers on disk, so
that nothing is started, not even Numba, where all have been compiled before.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from distgrad import env
from distgrad.backend.kernels import cache
from distgrad.backend.kernels.compiler import has_numba

__all__ = ["compile_now", "request", "requested"]

_SECONDS_EACH = 0.5  # of one core, as measured
_requested: set[str] = set()
_said: set[str] = set()  # kernels that were announced
_service: subprocess.Popen[bytes] | None = None
_lock = threading.Lock()


def request(kernels: Iterable[str], char: str = "f") -> None:
    """Have kernels compiled that will be needed soon.

    Args:
        kernels: each as its file and the function in it, such as ``norm.layer_norm``.
        char: the elements' dtype.
    """
    new = [name for name in kernels if f"{name} {char}" not in _requested]
    if not new:
        return
    _requested.update(f"{name} {char}" for name in new)
    if not has_numba() or cache.State.announce is None or cache.cache_folder() is None:
        return
    missing = [name for name in new if not cache.is_compiled(name, char)]
    if missing and _is_first():
        _send([(name, char) for name in missing])


def _is_first() -> bool:
    return not env.read().local_rank


def _start(*options: str, level: str | None = None) -> subprocess.Popen[bytes]:
    """Start a process that compiles what it is told, and ends with this process, whose pipe it reads."""
    processor = {} if level is None else {"NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": ""}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("service.py")), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | processor,
    )


def _tell(service: subprocess.Popen[bytes], work: Iterable[tuple[str, str]]) -> None:
    if service.stdin is not None:
        service.stdin.write("".join(f"{name}\t{char}\n" for name, char in work).encode())
        service.stdin.flush()


def _close(service: subprocess.Popen[bytes] | None) -> None:
    if service is not None and service.stdin is not None:
        with contextlib.suppress(OSError):
            service.stdin.close()


def _send(work: list[tuple[str, str]]) -> None:
    """Hand work to the host's service."""
    global _service
    with _lock, contextlib.suppress(OSError):
        if _service is None or _service.poll() is not None:
            _close(_service)
            _service = _start()
        _tell(_service, work)


def requested() -> list[tuple[str, str]]:
    """All that was asked for in this process, each with the elements' dtype."""
    return [(name, char) for name, _, char in (each.rpartition(" ") for each in sorted(_requested))]


def compile_now(work: list[tuple[str, str]], rare: bool = False, level: str | None = None) -> None:
    """Compile kernels on all cores that this process may use, and wait for that.

    Args:
        work: as :func:`requested` has it.
        rare: also what models seldom need.
        level: of x86-64 to compile for, in place of this processor.
    """
    num_processes = min(len(os.sched_getaffinity(0)), len(work))
    services = [_start(*(["rare"] if rare else []), level=level) for _ in range(num_processes)]
    for number, service in enumerate(services):
        _tell(service, work[number::num_processes])
    for service in services:
        service.wait()
        _close(service)


def _end() -> None:
    """Let the service go with this process."""
    if _service is not None:
        _close(_service)  # which ends it too, where this process may no longer kill it
        with contextlib.suppress(OSError):
            _service.kill()
            _service.wait()


def _forget() -> None:
    """In a fork, whose parent keeps the service."""
    global _service, _lock
    if _service is not None:
        _close(_service)
        _service.returncode = 0  # not this process's child, as far as Python is concerned
    _service, _lock = None, threading.Lock()
    cache.State.announce = None  # a worker of a loader, say, speaks for nobody


def _announce(kernel: str) -> None:
    """Say once for all kernels that are known to be missing that they are compiled."""
    if kernel in _said:
        return
    from distgrad.backend.kernels.entries import missing  # loads Numba, which compiles now anyway

    found = {kernel, *missing(requested())} - _said
    _said.update(found)
    if not found or not _is_first():
        return
    number = len(found)
    seconds = max(1, round(_SECONDS_EACH * number / min(2, len(os.sched_getaffinity(0)))))
    what = "1 kernel" if number == 1 else f"{number} kernels"
    sys.stderr.write(f"distgrad: compiling {what}, once on this machine (about {seconds} s)\n")
    sys.stderr.flush()


cache.State.announce = _announce
atexit.register(_end)
os.register_at_fork(after_in_child=_forget)
