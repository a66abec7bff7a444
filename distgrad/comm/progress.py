"""How far this rank is, told to the launcher's watcher through memory that the two share.

A watcher in another process reads it whenever it likes, so that a rank which holds the GIL, waits in C or was
stopped is still told of. Writing costs a microsecond a call, and nothing without a launcher.
"""

from __future__ import annotations

import mmap
import os

from distgrad import env
from distgrad.backend.kernels import cache
from distgrad.comm.calls import Call
from distgrad.launch.rank import PROGRESS, PROGRESS_BYTES

__all__ = ["Progress", "advise", "find", "tell_step"]

_MAX_TEXTS = 1000
_told: Progress | None = None  # what :func:`find` found
_num_steps = 0  # that this rank has trained
_MAX_CHARS = 330  # a line; three lines of four bytes a character fit


class Progress:
    """Writes which call this rank is in.

    Args:
        memory: what the watcher reads: ``PROGRESS``, then the call, its group and its place as lines.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._numbers = memoryview(memory)[: PROGRESS.size].cast("q")
        self._texts: dict[tuple[object, ...], bytes] = {}

    def begin(self, call: Call, group: str) -> None:
        """This rank waits in ``call`` from now on."""
        key = (call.verb, call.dtype and call.dtype.char, call.shape, call.options, call.site, group)
        text = self._texts.get(key)
        if text is None:
            if len(self._texts) == _MAX_TEXTS:
                self._texts.clear()
            lines = (str(call), group, call.place)
            text = self._texts[key] = "\n".join(
                line.replace("\n", " ")[-_MAX_CHARS:] for line in lines
            ).encode()
        length = len(text)
        self._memory[PROGRESS.size : PROGRESS.size + length] = text
        numbers = self._numbers
        numbers[1] = call.number
        numbers[2] = 1
        numbers[3] = length
        numbers[0] += 1

    def end(self) -> None:
        """The call is over."""
        self._numbers[2] = 0
        self._numbers[0] += 1

    def step(self, number: int) -> None:
        """``number`` steps of training are done."""
        self._numbers[4] = number

    def compile(self, begins: bool) -> None:
        """This rank compiles from now on, or no longer."""
        self._numbers[5] = begins


def tell_step(count: int) -> None:
    """Tell the watcher, and who reports a failure here, how many steps of training are done."""
    global _num_steps
    _num_steps = count
    if _told is not None:
        _told.step(count)


def advise(rank: int, place: str) -> str:
    """What to say to a rank that waited for others which had ended.

    Args:
        rank: this one.
        place: its line.
    """
    text = f"; rank {rank} waits at {place}"
    if not _num_steps:
        return text
    return (
        f"{text}, in step {_num_steps + 1} of its training: unless the other has failed, it had fewer "
        "batches or left a backward out; give every rank the same number, as DistributedSampler does"
    )


def find() -> Progress | None:
    """The memory that the launcher gave this process; None without one, and in this process's children."""
    global _told
    descriptor, _, inode = (env.read().progress or "").partition(":")
    try:
        if not inode or os.fstat(int(descriptor)).st_ino != int(inode):
            return None
        _told = Progress(mmap.mmap(int(descriptor), PROGRESS_BYTES))
        cache.State.tell = _told.compile
        return _told
    except OSError:  # the variable was inherited, the descriptor was not
        return None
