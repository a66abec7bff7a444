"""Streams and events of the double: queues of operations, and when they run.

An operation is a function that returns whether it is finished; a collective that waits for another process is
called again until it is. Three orders keep the rules of CUDA: a stream's operations run in order; the legacy
default stream and the blocking streams of its device wait for each other; an event stands for what was queued
before it was recorded. Within the rules,

- **eager**: whatever can run is run by every call that queues something;
- **late**: an operation runs only when the host waits for it, or when one that waits for it runs;
- **early**: nothing runs until the host waits; then other streams run first, as far as they can, before each
  operation of the stream that it waits for.

With **null** the double is a null GPU: what is queued is counted and never runs.

Work whose order nobody has asked for so runs in the worst order, every time: a wait that is missing after a
collective shows in the late order, one that is missing before it in the early order.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu_double.build import DoubleError

Step = Callable[[], bool]  # runs an operation or tries to; returns whether it is finished
NOT_READY = 600  # cudaErrorNotReady
EAGER, LATE, EARLY, NULL = "eager", "late", "early", "null"
_PATIENCE_S = 5.0  # of a wait, until streams that nobody waits for run too, as they would on a GPU
_SLEEP_S = 0.0005


@dataclass(eq=False)
class Capture:
    """What streams are given between the begin and the end of a capture, in the order in which it came.

    A stream that waits for an event of the capture joins it, and has to be waited for by the first one.

    Attributes:
        origin: the stream that began it.
        entries: names, and what makes a step anew for each launch.
        last: for each stream how many entries there were after its last one.
        seen: for each stream up to where the first one waits for it.
        is_over: whether it has ended.
    """

    origin: Stream
    entries: list[tuple[str, Callable[[], Step]]] = field(default_factory=list)
    last: dict[Stream, int] = field(default_factory=dict)
    seen: dict[Stream, int] = field(default_factory=dict)
    is_over: bool = False

    def add(self, stream: Stream, name: str, renew: Callable[[], Step]) -> None:
        """Write down what a stream of it is given."""
        self.entries.append((name, renew))
        self.last[stream] = len(self.entries)

    def end(self) -> list[tuple[str, Callable[[], Step]]]:
        """What was written down, once every stream has been waited for."""
        self.is_over = True
        for stream, last in self.last.items():
            stream.captured = None
            if stream is not self.origin and self.seen.get(stream, 0) < last:
                raise DoubleError(f"{stream} joined the capture of {self.origin}, which does not wait for it")
        return self.entries


@dataclass(eq=False)
class Stream:
    """One queue.

    Attributes:
        handle: CUDA's, 0 for the legacy default stream.
        device: whose it is.
        is_blocking: whether it and the legacy default stream wait for each other.
        pending: what has not run, with a name for error messages.
        num_submitted, num_finished: operations since the stream was made.
        captured: the capture that writes down what it gets; None where there is none.
        is_running: whether its next operation is under way.
    """

    handle: int
    device: int
    is_blocking: bool = True
    pending: deque[tuple[str, Step]] = field(default_factory=deque)
    num_submitted: int = 0
    num_finished: int = 0
    captured: Capture | None = None
    is_running: bool = False

    def __str__(self) -> str:
        return f"stream {self.handle:#x} of device {self.device}"


@dataclass
class Event:
    """Where it was recorded: the stream, and how many of its operations must have finished."""

    stream: Stream | None = None
    position: int = 0
    completed_s: float = 0.0
    num_polls: int = 0
    polled_at: int = -1
    capture: Capture | None = None


class Scheduler:
    """Runs what is queued.

    Args:
        order: eager, late, early or null.
        timeout_s: after which a wait gives up and says what it waits for.

    Attributes:
        started: how often each thing was queued, by its name: ``kernel adam``, ``a copy``.
    """

    def __init__(self, order: str, timeout_s: float) -> None:
        if order not in (EAGER, LATE, EARLY, NULL):
            raise ValueError(f"streams are eager, late, early or null, not {order!r}")
        self.order = order
        self.started: Counter[str] = Counter()
        self.timeout_s = timeout_s
        self.streams: dict[tuple[int, int], Stream] = {}
        self.events: dict[int, Event] = {}
        self.num_waits = 0  # of the host
        self.num_queued = 0
        self._graphs: dict[int, list[tuple[str, Callable[[], Step]]]] = {}
        self._failures: list[BaseException] = []  # of operations, for the next call that waits
        self._lock = threading.RLock()
        self._next_handle = 0x1000

    def make_handle(self) -> int:
        """A number that CUDA could have given to a stream, event, module or function."""
        with self._lock:
            self._next_handle += 16
            return self._next_handle

    # -- streams

    def make_stream(self, device: int, is_blocking: bool) -> int:
        """Handle of a new stream of the device."""
        handle = self.make_handle()
        with self._lock:
            self.streams[-1, handle] = Stream(handle, device, is_blocking)
        return handle

    def find(self, handle: int, device: int) -> Stream:
        """The stream; the default ones (0, 1 legacy; 2 the thread's) are the device's own."""
        with self._lock:
            if handle in (0, 1, 2):
                key = device, 0 if handle < 2 else 2
                return self.streams.setdefault(key, Stream(key[1], device))
            stream = self.streams.get((-1, handle))
        if stream is None:
            raise DoubleError(f"stream {handle:#x} was never made, or has been destroyed")
        return stream

    def _all(self) -> list[Stream]:
        """Every stream, in a list of its own: a stream that is collected meanwhile leaves the table."""
        return list(self.streams.values())

    def destroy_stream(self, handle: int) -> None:
        """Forget the handle; what is queued stays queued, as on a GPU."""
        with self._lock:
            if (stream := self.streams.pop((-1, handle), None)) is not None and stream.pending:
                self.streams[-2, handle] = stream

    def enqueue(
        self,
        handle: int,
        device: int,
        name: str,
        step: Any,
        raises: bool = True,
        renews: bool = False,
    ) -> Stream:
        """Queue an operation, after what CUDA's rules put before it.

        Args:
            handle, device: the stream's.
            name: for error messages.
            step: what it does.
            renews: a capture is under way, and ``step`` makes what it does at each launch.
            raises: whether an operation that has run and failed raises here, and not at the next wait.
        """
        stream = self.find(handle, device)
        self.started[re.sub(r" (of|for) .*", "", name)] += 1
        if self.order == NULL:
            return stream
        if stream.captured is not None:
            stream.captured.add(stream, name, step if renews else lambda: step)
            return stream
        with self._lock:
            before = [(other, other.num_submitted) for other in self._implicit(stream)]
            if before:
                self._push(stream, f"{name} after the default stream's order", lambda: self._depend(before))
            self._push(stream, name, step)
            self.num_queued += 1
            if self.order == EAGER:
                self._advance_everything()
            if raises:
                self._raise_failure()
        return stream

    def _push(self, stream: Stream, name: str, step: Step) -> None:
        stream.pending.append((name, step))
        stream.num_submitted += 1

    def _implicit(self, stream: Stream) -> list[Stream]:
        """The streams that the legacy default stream's rule puts before ``stream``."""
        if not stream.is_blocking:
            return []
        return [
            other
            for other in self._all()
            if other.device == stream.device
            and other is not stream
            and other.is_blocking
            and other.pending
            and 0 in (stream.handle, other.handle)
        ]

    # -- captures

    def begin_capture(self, handle: int, device: int) -> None:
        """Write down what the stream gets from now on, instead of queueing it."""
        stream = self.find(handle, device)
        self._refuse_capture(stream, "a capture")
        stream.captured = Capture(stream)
        stream.captured.last[stream] = 0

    def end_capture(self, handle: int, device: int) -> int:
        """Handle of a graph that holds what was written down."""
        stream = self.find(handle, device)
        if stream.captured is None:
            raise DoubleError(f"{stream} ends a capture that was not begun")
        if stream.captured.origin is not stream:
            raise DoubleError(f"{stream} ends a capture that {stream.captured.origin} began")
        graph = self.make_handle()
        self._graphs[graph] = stream.captured.end()
        return graph

    def launch_graph(self, graph: int, handle: int, device: int) -> None:
        """Queue all that the graph holds."""
        for name, renew in self._graphs[graph]:
            self.enqueue(handle, device, name, renew(), raises=False)

    def is_capturing(self, handle: int, device: int) -> bool:
        """Whether the stream writes down what it gets."""
        return self.find(handle, device).captured is not None

    def _refuse_capture(self, stream: Stream, what: str) -> None:
        if stream.captured is not None:
            raise DoubleError(f"{stream} is being captured, and cannot take {what}")

    # -- events

    def make_event(self) -> int:
        """Handle of a new event."""
        handle = self.make_handle()
        self.events[handle] = Event()
        return handle

    def _event(self, handle: int) -> Event:
        if handle not in self.events:
            raise DoubleError(f"event {handle:#x} was never made, or has been destroyed")
        return self.events[handle]

    def record(self, handle: int, stream_handle: int, device: int) -> None:
        """Let the event stand for all that the stream holds now."""
        event = self._event(handle)
        event.capture = (stream := self.find(stream_handle, device)).captured
        if event.capture is not None:
            event.stream, event.position = stream, event.capture.last[stream]
            return

        def stamp() -> bool:
            event.completed_s = time.perf_counter()
            return True

        with self._lock:
            stream = self.enqueue(stream_handle, device, f"record of event {handle:#x}", stamp)
            event.stream, event.position, event.num_polls = stream, stream.num_submitted, 0

    def wait_event(self, stream_handle: int, handle: int, device: int) -> None:
        """Let what the stream gets from now on run after the event."""
        event, stream = self._event(handle), self.find(stream_handle, device)
        if event.capture is not None or stream.captured is not None:
            self._join(stream, event)
        elif event.stream is not None:
            before = [(event.stream, event.position)]
            self.enqueue(stream_handle, device, f"wait for event {handle:#x}", lambda: self._depend(before))

    def _join(self, stream: Stream, event: Event) -> None:
        """Order two streams of a capture; inside and outside of one cannot wait for each other."""
        capture = event.capture
        if capture is None or capture.is_over or stream.captured not in (None, capture):
            raise DoubleError(f"{stream} and the event it waits for are not of one capture")
        if stream.captured is None:
            stream.captured = capture
            capture.last[stream] = 0
        if stream is capture.origin:
            assert event.stream is not None
            capture.seen[event.stream] = max(capture.seen.get(event.stream, 0), event.position)

    def query_event(self, handle: int) -> int:
        """0 or NOT_READY. Asking twice, with nothing queued in between, is a wait and lets work run.

        Threads beside the program's own, as that which looks after collectives, ask without waiting: how
        often they look makes nothing run that is late.
        """
        event = self._event(handle)
        if event.capture is not None:
            raise DoubleError("an event of a capture is no moment that could be asked for")
        with self._lock:
            if event.stream is None or event.stream.num_finished >= event.position:
                return 0
            if self.order != EAGER and threading.current_thread() is not threading.main_thread():
                return NOT_READY
            event.num_polls = event.num_polls + 1 if event.polled_at == self.num_queued else 1
            event.polled_at = self.num_queued
            if event.num_polls > 2 or self.order == EAGER:
                self._drive([(event.stream, event.position)])
            self._raise_failure()
            return 0 if event.stream.num_finished >= event.position and event.num_polls > 3 else NOT_READY

    def elapsed_ms(self, start: int, end: int) -> float:
        """Time on the host's clock between the completion of two events."""
        return (self._event(end).completed_s - self._event(start).completed_s) * 1e3

    # -- waits of the host

    def wait_for_event(self, handle: int) -> None:
        """Return when all that the event stands for has run."""
        event = self._event(handle)
        if event.stream is not None:
            self._wait([(event.stream, event.position)])

    def wait_for_stream(self, handle: int, device: int) -> None:
        """Return when all that the stream holds has run; for the default stream, the blocking ones too."""
        stream = self.find(handle, device)
        with self._lock:
            targets = [(other, other.num_submitted) for other in [stream, *self._implicit(stream)]]
        self._wait(targets)

    def wait_for_device(self, device: int | None = None, captured: bool = True) -> None:
        """Return when all that the device holds has run; without a device, all devices.

        Streams that are captured refuse it, unless ``captured`` leaves them out.
        """
        with self._lock:
            targets = [
                (stream, stream.num_submitted)
                for stream in self._all()
                if device in (None, stream.device) and (captured or stream.captured is None)
            ]
        self._wait(targets)

    def query_stream(self, handle: int, device: int) -> int:
        """0 or NOT_READY; asking does not make anything run."""
        return NOT_READY if self.find(handle, device).pending else 0

    def _wait(self, targets: list[tuple[Stream, int]]) -> None:
        self.num_waits += 1
        for stream, _ in targets:
            self._refuse_capture(stream, "a wait of the host")
        start_s = time.monotonic()
        while True:
            with self._lock:
                is_over = self._drive(targets)
                self._raise_failure()
                if is_over:
                    return
                waited_s = time.monotonic() - start_s
                if waited_s > _PATIENCE_S:
                    self._advance_everything()
            if waited_s > self.timeout_s:
                raise DoubleError(f"a wait of {self.timeout_s} s did not end; {self.describe()}")
            time.sleep(_SLEEP_S)

    # -- running

    def _depend(self, targets: list[tuple[Stream, int]]) -> bool:
        """What an operation does that waits for other streams; in the early order they run by themselves."""
        if self.order == EARLY:
            return _have_finished(targets)
        return all([self._advance(stream, position) for stream, position in targets])  # noqa: C419 (all of them)

    def _drive(self, targets: list[tuple[Stream, int]]) -> bool:
        """Run what must run for the targets, as far as it can; return whether they have finished."""
        if self.order != EARLY:
            return self._depend(targets)
        waited_for = [stream for stream, _ in targets]
        while not _have_finished(targets):
            self._advance_everything(waited_for)
            if not any(s.num_finished < position and self._run_one(s) for s, position in targets):
                return False
        return True

    def _advance(self, stream: Stream, position: int) -> bool:
        """Run the stream's operations up to ``position`` as far as they can; return whether all have run."""
        while stream.num_finished < position:
            if not self._run_one(stream):
                return False
        return True

    def _run_one(self, stream: Stream) -> bool:
        """Run the stream's next operation; return whether there was one and it has finished."""
        if not stream.pending or stream.is_running:  # running: the collector ended an array in its midst
            return False
        name, step = stream.pending[0]
        stream.is_running = True
        try:
            is_finished = step()
        except Exception as error:
            error.add_note(f"in {name} on {stream}")
            self._failures.append(error)
            is_finished = True
        finally:
            stream.is_running = False
        if is_finished:
            stream.pending.popleft()
            stream.num_finished += 1
        return is_finished

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures.pop(0)

    def _advance_everything(self, without: Sequence[Stream] = ()) -> None:
        streams = [stream for stream in self._all() if stream not in without]
        while any([self._run_one(stream) for stream in streams]):  # noqa: C419 (each of them)
            continue

    def describe(self) -> str:
        """What has not run, a stream a line."""
        with self._lock:
            lines = [
                f"{stream} waits at {stream.pending[0][0]}, {len(stream.pending)} operations to run"
                for stream in self._all()
                if stream.pending
            ]
        return "nothing is queued" if not lines else "\n  ".join(["queued are", *lines])


def _have_finished(targets: Sequence[tuple[Stream, int]]) -> bool:
    return all(stream.num_finished >= position for stream, position in targets)
