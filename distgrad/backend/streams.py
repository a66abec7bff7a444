"""Streams and events: in what order work on a device runs.

A stream's work runs in order; two streams' does not, unless an event says so. On the CPU work has been done
when its call returns, and the same classes have nothing to wait for.
"""

from __future__ import annotations

import time
from typing import Any

from distgrad.backend.device import Device, activated, find_backend, resolve
from distgrad.errors import DeviceError

__all__ = ["Event", "Moment", "Stream", "current_stream", "synchronize"]


class Stream:
    """A sequence of work on one device. As a context manager, this thread's work goes to it.

    Args:
        device: where; None means the default device.
        priority: below 0 goes first where two streams compete.

    Attributes:
        device: where its work runs.
        native: the backend's own stream; None on the CPU.
    """

    def __init__(self, device: Device | str | None = None, priority: int = 0) -> None:
        self.device = resolve(device)
        self.native = find_backend(self.device.kind).make_stream(self.device.index, priority)
        self._outer: list[Any] = []

    @classmethod
    def wrap(cls, native: Any, device: Device) -> Stream:
        """A stream around one that the backend has made."""
        stream = cls.__new__(cls)
        stream.device, stream.native, stream._outer = device, native, []
        return stream

    @property
    def handle(self) -> int:
        """The address that libraries such as NCCL take; 0 on the CPU."""
        return 0 if self.native is None else int(self.native.ptr)

    def query(self) -> bool:
        """Whether all its work is done."""
        return True if self.native is None else bool(self.native.done)

    def synchronize(self) -> None:
        """Let the host wait until all its work is done."""
        if self.native is not None:
            self.native.synchronize()

    def record_event(self, event: Event | None = None) -> Event:
        """An event that comes when all work given to the stream so far is done.

        Args:
            event: the one to use; None makes one.
        """
        event = Event(device=self.device) if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Let work that is given to the stream from now on wait for an event; the host does not wait."""
        if self.native is not None and event.native is not None:
            self.native.wait_event(event.native)

    def wait_stream(self, stream: Stream) -> None:
        """Let work that is given to the stream from now on wait for all that ``stream`` has so far."""
        if self.native is not None:
            self.wait_event(stream.record_event())

    def begin_capture(self) -> None:
        """Write down the work that is given to the stream from now on, instead of running it.

        Raises:
            DeviceError: on the CPU, or on the default stream, which cannot be captured.
        """
        if self.native is None or self.handle == 0:
            raise DeviceError(
                "begin_capture: only a stream of its own on a GPU can be captured; use dg.cuda.Stream()"
            )
        self.native.begin_capture()

    def end_capture(self) -> Any:
        """The graph of what was written down since :meth:`begin_capture`; ``launch()`` runs it."""
        return self.native.end_capture()

    def __enter__(self) -> Stream:
        self._outer.append(current_stream(self.device))
        find_backend(self.device.kind).use_stream(self.native, self.device.index)
        return self

    def __exit__(self, *exc: object) -> None:
        find_backend(self.device.kind).use_stream(self._outer.pop().native, self.device.index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (self.device, self.handle) == (other.device, other.handle)

    def __hash__(self) -> int:
        return hash((self.device, self.handle))

    def __repr__(self) -> str:
        return f"<Stream {self.handle:#x} on {self.device}>"


class Event:
    """A point in a stream's work.

    Args:
        enable_timing: whether :meth:`elapsed_time` can be asked.
        device: where; None means the default device.

    Attributes:
        device: where it is recorded.
        native: the backend's own event; None on the CPU.
    """

    def __init__(self, enable_timing: bool = False, *, device: Device | str | None = None) -> None:
        self.device = resolve(device)
        self.native = find_backend(self.device.kind).make_event(enable_timing, self.device.index)
        self._timed = enable_timing
        self._at_s: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Come when all work given so far to ``stream`` (None: the current one) is done."""
        stream = current_stream(self.device) if stream is None else stream
        self._at_s = time.perf_counter()
        if self.native is not None:
            with activated(self.device):
                self.native.record(stream.native)

    def wait(self, stream: Stream | None = None) -> None:
        """Let what is given to ``stream`` (None: the current one) from now on wait for it."""
        (current_stream(self.device) if stream is None else stream).wait_event(self)

    def query(self) -> bool:
        """Whether it has come; an event that was never recorded has."""
        return True if self.native is None else bool(self.native.done)

    def synchronize(self) -> None:
        """Let the host wait for it."""
        if self.native is not None:
            self.native.synchronize()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to a later one; both must have come.

        Raises:
            DeviceError: an event that was not recorded, or made without ``enable_timing``.
        """
        if not (self._timed and end_event._timed) or self._at_s is None or end_event._at_s is None:
            raise DeviceError(
                "elapsed_time: both events must be made with enable_timing=True and have been recorded"
            )
        if self.native is None:
            return (end_event._at_s - self._at_s) * 1e3
        return float(find_backend(self.device.kind).elapsed_ms(self.native, end_event.native))

    def __repr__(self) -> str:
        return f"<Event on {self.device}>"


class Moment:
    """When the work given so far to a device's current stream is done; on the CPU, now.

    Args:
        device: whose stream.

    Attributes:
        told_s: ``time.perf_counter()`` when the device was asked; on the CPU the moment itself.
    """

    __slots__ = ("_at", "told_s")

    def __init__(self, device: Device) -> None:
        self._at: Any = time.perf_counter()
        self.told_s: float = self._at
        if device.kind != "cpu":
            self._at = Event(enable_timing=True, device=device)
            self._at.record()

    def until(self, later: Moment) -> float | None:
        """Seconds to a later one of the same device; None if that is still to come. Nobody waits for it."""
        if isinstance(later._at, float):
            return float(later._at - self._at)
        return self._at.elapsed_time(later._at) * 1e-3 if later._at.query() else None


def current_stream(device: Device | str | None = None) -> Stream:
    """The stream that this thread's work goes to.

    Args:
        device: where; None means the default device.
    """
    found = resolve(device)
    return Stream.wrap(find_backend(found.kind).current_stream(found.index), found)


def synchronize(device: Device | str | None = None) -> None:
    """Let the host wait for all work of a device (None: the default one)."""
    found = resolve(device)
    find_backend(found.kind).synchronize(found.index)
