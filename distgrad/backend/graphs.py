"""A step written down as graphs of a GPU, and the numbers in it that are others at every replay.

A kernel's arguments are written down with it. What changes from step to step (a learning rate, a step's
number, a loss's scale, where a generator is) therefore lies in a table on the device, filled before a replay;
what Python remembers is changed by functions that a replay calls again. Where the host must know a result
before it goes on, one graph ends and another begins.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.backend.device import Device, find_backend
from distgrad.backend.streams import Stream
from distgrad.errors import CaptureError

__all__ = ["Branch", "GraphRecording", "Segment", "graph_recording", "private_memory", "refuse"]

_NUMBERS = 4096  # of a step; those of an optimizer are a dozen a group of parameters
_WORDS = 4  # of a generator's state: seed, stream, and the block in two words
_MASK = (1 << 64) - 1


class _Here(threading.local):
    """What records this thread's work."""

    recording: GraphRecording | None = None


_here = _Here()


def graph_recording() -> GraphRecording | None:
    """What writes this thread's work down instead of running it; None where nothing does."""
    return _here.recording


def refuse(what: str) -> None:
    """Raise where a recording is under way.

    Raises:
        CaptureError: ``what`` cannot be in a graph.
    """
    if _here.recording is not None:
        raise CaptureError(f"graphed: a step that is written down cannot have {what}")


def private_memory(device: Device) -> Callable[[], Any]:
    """What opens memory of a GPU's of its own: arrays are made of it inside, and none outside."""
    backend: Any = find_backend(device.kind)
    memory: Callable[[], Any] = backend.private_memory()
    return memory


@dataclasses.dataclass
class Segment:
    """What is launched at once.

    Attributes:
        graph: the backend's.
        effects: called before it.
        sources: places in the table, and what gives their numbers.
    """

    graph: Any = None
    effects: list[Callable[[], Any]] = dataclasses.field(default_factory=list)
    sources: list[tuple[slice, Callable[[], Sequence[float]]]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Branch:
    """What is launched if the device has found something to be true, for which the host waits.

    Attributes:
        condition: an array without axes.
        told: called with what it was.
        segment: launched if it was true.
    """

    condition: Any
    told: Callable[[bool], Any]
    segment: Segment


class GraphRecording:
    """Writes down what a stream is given, from ``with recording:`` on, and plays it again.

    Args:
        stream: its work and that of those which wait for it are written down; the current one.
        state: of the generator whose numbers differ from replay to replay: seed, stream and block.

    Attributes:
        items: what a replay goes through.
    """

    def __init__(self, stream: Stream, state: tuple[int, int, int]) -> None:
        self.items: list[Segment | Branch] = []
        self._stream, self._state = stream, state
        xp = find_backend(stream.device.kind).xp
        self._table = xp.zeros(_WORDS + _NUMBERS, dtype=np.float64)
        self._host = np.zeros(_WORDS + _NUMBERS)
        self._count = _WORDS
        self._segment = Segment()
        self._kept: list[Any] = []

    @property
    def device(self) -> Device:
        """Where it runs."""
        return self._stream.device

    # -- writing down

    def __enter__(self) -> GraphRecording:
        _here.recording = self
        self._stream.begin_capture()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _here.recording = None
        if kind is None:
            self.items.append(self._end())
            return
        try:
            self._stream.end_capture()
        except Exception as second:  # a capture that broke ends with an error of its own
            error.add_note(f"the capture ended with: {second}")

    def _end(self) -> Segment:
        ended, self._segment = self._segment, Segment()
        ended.graph = self._stream.end_capture()
        return ended

    def live(self, count: int, function: Callable[[], Sequence[float]]) -> Any:
        """Where on the device ``count`` numbers will lie, float64 ``[count]``.

        Args:
            count: how many.
            function: gives them, before every replay.
        """
        place = slice(self._count, self._count + count)
        if place.stop > self._host.size:
            raise CaptureError(f"graphed: over {_NUMBERS} numbers change from step to step; use fewer groups")
        self._count = place.stop
        self._segment.sources.append((place, function))
        return self._table[place]

    def effect(self, function: Callable[[], Any]) -> None:
        """Have a function called before every replay of the work that is being written down."""
        self._segment.effects.append(function)

    def keep(self, what: Any) -> None:
        """Hold what the graphs use, and nobody else may."""
        self._kept.append(what)

    def branch(self, condition: Any, told: Callable[[bool], Any], body: Callable[[], Any]) -> None:
        """Write ``body`` down as what a replay does if the device finds ``condition`` to be true."""
        self.items.append(self._end())
        self._stream.begin_capture()
        body()
        self.items.append(Branch(condition, told, self._end()))
        self._stream.begin_capture()

    def words(self, state: tuple[int, int, int]) -> tuple[int, int, int, Any]:
        """A generator's state as kernels take it: its seed, stream and block from the recording's, and those.

        Raises:
            CaptureError: another generator, whose place nobody keeps.
        """
        if state[:2] != self._state[:2]:
            raise CaptureError(
                "graphed: random numbers of a generator of one's own would be the same at every replay; draw "
                "them outside and pass them in, or leave generator= out"
            )
        return 0, 0, state[2] - self._state[2], self._table[:_WORDS].view(np.uint64)

    # -- playing again

    def replay(self, state: tuple[int, int, int]) -> None:
        """Do all of it again.

        Collective: as what was written down; blocks: where a branch has to know its condition.

        Args:
            state: where the generator is now.
        """
        seed, stream, block = state
        words = [seed & _MASK, stream & _MASK, block & _MASK, block >> 64]
        self._host[:_WORDS].view(np.uint64)[:] = words
        for item in self.items:
            if isinstance(item, Segment):
                self._launch(item)
                continue
            is_true = bool(item.condition)
            item.told(is_true)
            if is_true:
                self._launch(item.segment)

    def _launch(self, segment: Segment) -> None:
        for effect in segment.effects:
            effect()
        for place, function in segment.sources:
            self._host[place] = function()
        self._table[: self._count].set(self._host[: self._count])
        segment.graph.launch(self._stream.native)
