"""Where compiled kernels lie on disk, who compiles them, and what is said of it.

Kernels are looked for in ``DISTGRAD_CACHE``, which others may have filled, among those that came with the
package, and in the folder of the user's own: ``NUMBA_CACHE_DIR`` if that is set, else one in
``$XDG_CACHE_HOME`` or ``~/.cache``, else in the host's folder for temporary files. New ones go into the first
of the user's folders that can be written; where none can, every process compiles for itself.

Within it each module has a folder a version, named after the module and a digest of its source and of those
that it imports here: an edit compiles anew what it may change and nothing else. Files name the processor and
the versions of Python and Numba that they are for, so that hosts may share a folder; what was compiled for a
level of x86-64 comes before what was compiled for the very processor, so that who finds it finds it in every
run. Other versions' folders stay, since another installation may use them; where the user named no folder,
those that nobody used for a month go when the next one is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import hashlib
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from distgrad import env

__all__ = [
    "LEVELS",
    "LOCK_TIMEOUT_S",
    "SHARED",
    "State",
    "cache_folder",
    "closure",
    "compiling",
    "find",
    "is_compiled",
    "levels",
    "make",
    "mark",
    "places",
    "read",
    "read_from",
    "write",
    "write_to",
]

SHARED = "shared.prepare"  #: What reduces in shared memory, for all dtypes

SHIPPED = Path(__file__).with_name("compiled")  #: What a wheel may bring

#: What a processor's flags must have for code of a level of x86-64 (psABI), the most able first.
_V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
LEVELS = {
    "x86-64-v4": _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": _V3,
}

LOCK_TIMEOUT_S = 20.0  # the slowest kernel takes 10 s on one busy core; a job's watch for hangs waits 60 s
_HERE = f"{zlib.crc32(os.fsencode(__file__)):08x}"  # another installation's code has kernels of its own
_LOOK_S = 0.01  # between two looks at the lock: what is loaded meanwhile takes several times as long
_DIGEST_BYTES = 32
_DAY_S = 86400.0
_KEPT_S = 30 * _DAY_S  # how long another version's folder stays after its last use
_SOURCES = Path(__file__).parent
_VERSION = re.compile(r"\w+-[0-9a-f]{16}")
#: Much faster than a syntax tree, which takes as long as Numba's loading of a kernel; a test compares them.
_IMPORT = re.compile(
    r"^\s*(?:from|import) distgrad\.backend\.kernels(?:\.(\w+)| import (?:\(([\w\s,]+)|([\w ,]+)))",
    re.MULTILINE,
)


class State:
    """What this process says of compiling.

    Attributes:
        announce: says that a kernel is compiled, or waited for, before it is.
        tell: told True when this process begins to compile or to wait for it, and False at the end.
        depth: how many of its threads do.
        complained: whether it was said that nothing can be kept.
    """

    announce: Callable[[str], None] | None = None
    tell: Callable[[bool], None] | None = None
    depth = 0
    complained = False


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


def _given(path: Path) -> bool:
    """Make the folder that the user named; whether it can be written. Whose it is, the user knows."""
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)  # pathlib raises in others' folders


def _named_folders() -> list[Path]:
    """Those that the user named."""
    settings = env.read()
    named = (settings.kernel_cache, settings.numba_cache)
    return [Path(path).expanduser() for path in named if path is not None]


@functools.cache
def cache_folder() -> Path | None:
    """The first of the folders above that can be written; None if there is none."""
    for path in _named_folders():
        if _given(path):
            return path
    for path in (env.read().cache_home / "distgrad" / "kernels", _temporary()):
        if _own_folder(path):
            return path
    return None


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """The modules here that a module imports; not this one, which shapes no code."""
    source = (_SOURCES / f"{module}.py").read_text(encoding="utf-8")
    found = " ".join(name for names in _IMPORT.findall(source) for name in names)
    return frozenset(re.findall(r"\w+", found)) - {"cache"}


def closure(module: str) -> list[str]:
    """The modules whose source may change what a module's kernels are compiled to, itself among them."""
    found, new = set(), {module}
    while new:
        found |= new
        new = {name for each in new for name in _imports(each)} - found
    return sorted(found)


@functools.cache
def _folders(module: str) -> list[Path]:
    """Where code of a module, as its sources are, may lie, the one that is written to last."""
    digest = hashlib.sha256()
    for name in closure(module):
        digest.update(b"%s\0" % name.encode())
        digest.update((_SOURCES / f"{name}.py").read_bytes())
    return places(module, digest.hexdigest()[:16])


def places(name: str, digest: str) -> list[Path]:
    """The folders of a version, by its name and 16 digits of its digest, the one that is written to last."""
    shared, own = env.read().kernel_cache, cache_folder()
    found = [Path(shared).expanduser()] if shared is not None else []
    found = [path for path in (*found, SHIPPED) if path != own and os.path.isdir(path)]
    found += [own] if own is not None else []
    folders = [path / f"{name}-{digest}" for path in found]
    with contextlib.suppress(OSError):  # there is none yet, or it is another's
        if folders and time.time() - folders[-1].stat().st_mtime > _DAY_S:
            os.utime(folders[-1])
    return folders


def make(folder: Path) -> None:
    """Make a version's folder; where nobody fills the cache for others, let those go that nobody uses."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    if folder.parent in _named_folders():
        return
    oldest_s = time.time() - _KEPT_S
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may be at it
            if _VERSION.fullmatch(other.name) and other.stat().st_mtime < oldest_s:
                for file in other.iterdir():
                    file.unlink()
                other.rmdir()


def find(name: str) -> Path | None:
    """Where the file of that name, which begins with its module's, lies."""
    folders = _folders(name.partition(".")[0])
    return next((folder / name for folder in folders if os.path.exists(folder / name)), None)


def read(name: str) -> bytes | None:
    """What a file holds, which its module's name begins; None where there is none, or where it is damaged."""
    return read_from(_folders(name.partition(".")[0]), name)


def read_from(folders: list[Path], name: str) -> bytes | None:
    """What the first whole file of that name holds; None where there is none."""
    for folder in folders:
        try:
            data = (folder / name).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data[_DIGEST_BYTES:]).digest() == data[:_DIGEST_BYTES]:
            return data[_DIGEST_BYTES:]
    return None


def write(name: str, data: bytes) -> None:
    """Keep a file, whole or not at all; where nothing can be kept, that is said once."""
    write_to(_folders(name.partition(".")[0]), name, data)


def write_to(folders: list[Path], name: str, data: bytes) -> None:
    """Keep a file in the last of a version's folders, as :func:`write` does."""
    if cache_folder() is None:
        _complain("no folder for them can be written")
        return
    folder = folders[-1]
    beside = folder / f".{name}.{os.getpid()}"
    try:
        make(folder)
        beside.write_bytes(hashlib.sha256(data).digest() + data)
        beside.replace(folder / name)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        _complain(f"{folder}: {error.strerror}")


@functools.cache
def _described() -> list[str]:
    """What the system says of the first processor."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.read(1 << 16).split("\n\n")[0].splitlines()
    except OSError:
        return []
    return [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]


@functools.cache
def _processor() -> str:
    """The kind of processor that is compiled for, known without the compiler."""
    return env.read().processor or hashlib.sha256("\n".join(_described()).encode()).hexdigest()[:12]


@functools.cache
def levels() -> tuple[str, ...]:
    """The levels of x86-64 whose code this processor runs, the most able first.

    None where the user named the processor to compile for.
    """
    flags = {flag for line in _described() if line.startswith("flags") for flag in line.split()}
    named = env.read().processor is not None
    return () if named else tuple(level for level, needed in LEVELS.items() if needed <= flags)


def _marker(name: str, char: str, processor: str) -> str:
    return f"{name} {char}.{processor}.{sys.version_info[0]}{sys.version_info[1]}"


def is_compiled(name: str, char: str = "f") -> bool:
    """Whether all that a kernel calls lies on disk, by what was noted of it."""
    return any(find(_marker(name, char, kind)) is not None for kind in (*levels(), _processor()))


def mark(name: str, char: str = "f") -> None:
    """Note that it does."""
    write(_marker(name, char, _processor()), b"")


def _complain(why: str) -> None:
    if not State.complained and State.announce is not None:
        State.complained = True
        sys.stderr.write(f"distgrad: compiled kernels cannot be kept and are compiled by each run ({why})\n")


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
    """Let one process of the host at a time compile the kernel of that name; the others wait, and load it.

    Without a folder for the lock's file there is no lock. Others' kernels do not wait: a job that compiles
    would hold up all jobs beside it, whose kernels lie in the cache. Nor does anyone wait for ever: who holds
    the lock may be stopped, in a debugger say, and a kernel that two compile is no fault.

    The collector of cycles rests meanwhile: a compiler makes objects by the million, few of them garbage,
    and looking through them again and again takes a tenth of its time.
    """
    if State.announce is not None:
        State.announce(name)
    folder = _temporary()
    with contextlib.ExitStack() as stack:
        _count(1)
        stack.callback(_count, -1)
        if _own_folder(folder):
            stack.callback(_remove, path := folder / f"compiling {name} {_HERE}")
            with contextlib.suppress(OSError):  # a full disk, or one that knows no locks
                _lock(stack.enter_context(path.open("w")))
        if gc.isenabled():
            gc.disable()
            stack.callback(gc.enable)
        yield


def _remove(path: Path) -> None:
    """Leave nothing behind; whoever waits for the lock of a file that is gone gets it all the same."""
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()


def _count(change: int) -> None:
    """Tell when the first thread of this process begins to compile, and when the last one ends."""
    State.depth += change
    if State.tell is not None and State.depth == max(change, 0):
        State.tell(change > 0)
