"""Where compiled kernels lie on disk, and who compiles them.

Numba would write beside the package or into the home folder, and fail if neither can be written. Here it is
``NUMBA_CACHE_DIR`` if that is set, else a folder of the user's own (in ``$XDG_CACHE_HOME`` or ``~/.cache``),
else one in the host's folder for temporary files; where nothing can be written, kernels are compiled anew by
every process. Numba itself keeps processors apart, so that hosts may share the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from distgrad import env

__all__ = ["LOCK_TIMEOUT_S", "cache_folder", "compiling"]

LOCK_TIMEOUT_S = 20.0  # the slowest kernel takes 10 s on one busy core; a job's watch for hangs waits 60 s
_HERE = f"{zlib.crc32(os.fsencode(__file__)):08x}"  # another installation's code has kernels of its own
_LOOK_S = 0.01  # between two looks at the lock: what is loaded meanwhile takes several times as long


def _own_folder(path: Path) -> bool:
    """Make the folder; whether it is the user's own and can be written. Cached code must be nobody else's."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        owned = path.lstat().st_uid == path.stat().st_uid == os.getuid()  # also of a link to it
        return owned and os.access(path, os.W_OK | os.X_OK)
    except OSError:
        return False


def _temporary() -> Path:
    import tempfile  # only here: it loads ten modules more, which `import distgrad` would wait for

    return Path(tempfile.gettempdir()) / f"distgrad-{os.getuid()}"


@functools.cache
def cache_folder() -> Path | None:
    """The first of the folders above that can be written; None if there is none."""
    for path in (env.read().cache_home / "distgrad" / "kernels", _temporary()):
        if _own_folder(path):
            return path
    return None


def _lock(file: IO[str]) -> None:
    """Wait for the file's lock, but no longer than the deadline."""
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return
            time.sleep(_LOOK_S)


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """Let one process of the host at a time compile, or load, the kernel of that name.

    Without a folder for the lock's file there is no lock. Others' kernels do not wait: a job that compiles
    would hold up all jobs beside it, whose kernels lie in the cache. Nor does anyone wait for ever: who holds
    the lock may be stopped, in a debugger say, and a kernel that two compile is no fault.

    The collector of cycles rests meanwhile: a compiler makes objects by the million, few of them garbage,
    and looking through them again and again takes a tenth of its time.
    """
    folder = _temporary()
    with contextlib.ExitStack() as stack:
        if _own_folder(folder):
            with contextlib.suppress(OSError):  # a full disk, or one that knows no locks
                _lock(stack.enter_context((folder / f"compiling {name} {_HERE}").open("w")))
        if gc.isenabled():
            gc.disable()
            stack.callback(gc.enable)
        yield
