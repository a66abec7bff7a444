"""What users see of errors and warnings: their own lines, and few of the package's."""

from __future__ import annotations

import os
import sys
import warnings
from types import TracebackType

from distgrad import env
from distgrad.errors import DistgradError

__all__ = ["inside", "install", "shorten", "warn_once"]

NUM_OWN = 2  # frames of the package that a traceback keeps, the innermost
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_warned: set[str] = set()


def inside(filename: str) -> bool:
    """Whether a source file belongs to the package, or was made by it."""
    return filename.startswith((_PACKAGE, "<operation", "<backward of ", "<distgrad."))


def shorten(error: BaseException) -> None:
    """Leave out of an error's traceback what the package called within itself, but for the last two calls.

    Errors that are not the package's own keep everything: they may be its faults.
    """
    if not isinstance(error, DistgradError):
        return
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    own = [each for each in frames if inside(each.tb_frame.f_code.co_filename)]
    left_out = set(map(id, own[:-NUM_OWN]))
    kept = None
    for each in reversed(frames):
        if id(each) not in left_out:
            kept = TracebackType(kept, each.tb_frame, each.tb_lasti, each.tb_lineno)
    error.__traceback__ = kept


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
