"""What users see of errors and warnings: their own lines, and few of the package's."""

from __future__ import annotations

import linecache
import os
import sys
import warnings
from types import FrameType, TracebackType

from distgrad import env
from distgrad.errors import DistgradError

__all__ = ["inside", "install", "shorten", "warn_once"]

NUM_OWN = 2  # frames of the package that a traceback keeps, the innermost
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARIES = {"numpy", "cupy", "mpi4py", "numba", "llvmlite", *sys.stdlib_module_names}
_warned: set[str] = set()


def inside(filename: str) -> bool:
    """Whether a source file belongs to the package, or was made by it."""
    return filename.startswith((_PACKAGE, "<operation", "<formula of ", "<backward of ", "<distgrad."))


def shorten(error: BaseException) -> None:
    """Leave out of an error's traceback what the package called within itself, but for the last two calls.

    So is the error that led to it, if the package met it in its own calls and the message quotes it. Errors
    that the package has not raised itself keep everything: they may be its faults. Of Ctrl-C, the user's own
    calls stay.
    """
    entries = _entries(error)
    if isinstance(error, KeyboardInterrupt):
        left_out = {id(each) for each in entries if _is_library(each.tb_frame)}
    elif _raised_by_us(error, entries):
        own = [each for each in entries if inside(each.tb_frame.f_code.co_filename)]
        imports = [each for each in entries if _module(each.tb_frame) == "importlib"]
        left_out = {id(each) for each in own[:-NUM_OWN] + imports}
    else:
        return
    kept = None
    for each in reversed(entries):
        if id(each) not in left_out:
            kept = TracebackType(kept, each.tb_frame, each.tb_lasti, each.tb_lineno)
    error.__traceback__ = kept
    cause = error.__cause__
    said, before = (" ".join(str(each).split()) for each in (error, cause))
    if cause is None or before not in said:
        return
    if all(_is_library(each.tb_frame) for each in _entries(cause)):
        error.__cause__, error.__suppress_context__ = None, True


def _entries(error: BaseException) -> list[TracebackType]:
    """The traceback of an error, from the outermost call to the innermost."""
    entries = []
    trace = error.__traceback__
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    return entries


def _raised_by_us(error: BaseException, entries: list[TracebackType]) -> bool:
    """Whether the package has raised an error in so many words, of a class of its own or of Python's."""
    if isinstance(error, DistgradError) or not entries:
        return isinstance(error, DistgradError)
    filename = entries[-1].tb_frame.f_code.co_filename
    line = linecache.getline(filename, entries[-1].tb_lineno, entries[-1].tb_frame.f_globals)
    return inside(filename) and line.lstrip().startswith("raise ")


def _is_library(frame: FrameType) -> bool:
    """Whether a call is of the package or of what it is built on, and of no code of its user's."""
    return inside(frame.f_code.co_filename) or _module(frame) in _LIBRARIES


def _module(frame: FrameType) -> str:
    """The package that a call is of."""
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def install() -> None:
    """Show errors that nothing caught in their short form."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        shorten(error)
        previous(kind, error, error.__traceback__ or trace)

    sys.excepthook = hook


def warn_once(kind: str, message: str, rank: int | None = None) -> None:
    """Warn of a likely mistake, naming the user's line.

    Args:
        kind: of mistake; a program is warned of each once, and on its first rank alone.
        message: what was done, and what to do.
        rank: of this process among those that made the mistake; None for its rank in the world.
    """
    if kind in _warned or (env.read().rank if rank is None else rank):
        return
    _warned.add(kind)
    depth, frame = 1, sys._getframe(1)
    while inside(frame.f_code.co_filename) and frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=depth + 1)
