"""``torch.profiler``: its names and meanings over the spans of :mod:`distgrad.trace`."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from distgrad import trace
from distgrad.errors import OptionError
from distgrad.profiler.clocks import identity
from distgrad.profiler.merge import merge
from distgrad.profiler.recorder import find_rank
from distgrad.torch.averages import EventList, FunctionEvent
from distgrad.tracebacks import warn_once

__all__ = [
    "ProfilerAction",
    "ProfilerActivity",
    "kineto_available",
    "profile",
    "record_function",
    "schedule",
    "supported_activities",
    "tensorboard_trace_handler",
]


class ProfilerActivity(enum.Enum):
    """What can be looked at; on a GPU it is the time in which operations are issued."""

    CPU = 0
    CUDA = 1
    XPU = 2


class ProfilerAction(enum.Enum):
    """What is done with a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


def kineto_available() -> bool:
    """Whether PyTorch's own collector of events is here: never."""
    return False


def supported_activities() -> set[ProfilerActivity]:
    """What this profiler sees."""
    return {ProfilerActivity.CPU}


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0, skip_first_wait: int = 0
) -> Callable[[int], ProfilerAction]:
    """Steps in turns of ``wait``, ``warmup`` and ``active`` ones, of which the last is saved.

    Args:
        wait: steps of each turn that are passed by.
        warmup: then, steps that are run in and not kept.
        active: then, steps that are kept.
        repeat: turns; 0 goes on for ever.
        skip_first: steps before the first turn.
        skip_first_wait: whether the first turn has no ``wait``, if it is not 0.
    """
    if min(wait, warmup, repeat, skip_first) < 0 or active <= 0:
        raise OptionError(
            f"profiler.schedule: expected active above 0 and nothing below 0, got wait={wait}, "
            f"warmup={warmup}, active={active}, repeat={repeat}, skip_first={skip_first}"
        )
    length = wait + warmup + active

    def action(step: int) -> ProfilerAction:
        step -= skip_first
        if step < 0:
            return ProfilerAction.NONE
        step += wait if skip_first_wait else 0
        if repeat and step // length >= repeat:
            return ProfilerAction.NONE
        place = step % length
        if place < wait:
            return ProfilerAction.NONE
        if place < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if place < length - 1 else ProfilerAction.RECORD_AND_SAVE

    return action


_RECORDED = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


class _Collector:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.spans: list[tuple[Any, ...]] = []

    def span(self, name: str, start_s: float, end_s: float, fields: dict[str, Any]) -> None:
        self.spans.append((name, start_s, end_s, threading.get_ident(), fields))

    def event(self, name: str, time_s: float, fields: dict[str, Any]) -> None:
        self.spans.append((name, time_s, None, threading.get_ident(), fields))


class profile:
    """Looks at what its body does: operations, ``record_function``, and the spans of a training step.

    Args:
        activities: taken; on a GPU, an operation's time is that in which it is issued.
        schedule: what is done with each step, as :func:`schedule` gives it; None keeps all.
        on_trace_ready: called with this object after the last step that is kept, and at the end.
        record_shapes: shapes are not recorded, which is said once.
        profile_memory: an operation's bytes are always recorded.
        with_stack: the line that called an operation always is.
        with_flops: operations have no count here, which is said once; a whole step's is in
            ``distgrad report``.
        **others: PyTorch's other options, which change nothing of what is asked here.
    """

    def __init__(
        self,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        schedule: Callable[[int], ProfilerAction] | None = None,
        on_trace_ready: Callable[[profile], Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        **others: Any,
    ) -> None:
        if record_shapes or with_flops:
            warn_once("profiler", "torch.profiler: shapes and FLOPs of single operations are not recorded")
        self.activities = set(activities or supported_activities())
        self.on_trace_ready = on_trace_ready
        self.step_num = 0
        self._schedule = schedule or (lambda step: ProfilerAction.RECORD)
        self._has_schedule = schedule is not None
        self._action = ProfilerAction.NONE
        self._collector: _Collector | None = None
        self._operations = contextlib.ExitStack()
        self._spans: list[tuple[Any, ...]] = []
        self._began_s = 0.0

    @property
    def current_action(self) -> ProfilerAction:
        """What is done with this step."""
        return self._action

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin with step 0."""
        self._action = self._schedule(self.step_num)
        self._turn()

    def stop(self) -> None:
        """The end."""
        recorded = self._collector is not None
        self._end_step()
        self._let_go()
        if recorded and self.on_trace_ready is not None:
            self.on_trace_ready(self)
        self._action = ProfilerAction.NONE

    def step(self) -> None:
        """The next step begins."""
        self._end_step()
        before, self.step_num = self._action, self.step_num + 1
        self._action = self._schedule(self.step_num)
        if before is ProfilerAction.RECORD_AND_SAVE:
            self._let_go()
            if self.on_trace_ready is not None:
                self.on_trace_ready(self)
        self._turn()

    def _turn(self) -> None:
        """Listen, or listen no more, as this step is to be."""
        self._began_s = time.perf_counter()
        if self._action in _RECORDED and self._collector is None:
            self._collector = _Collector()
            trace.subscribe(self._collector)
            self._operations.enter_context(trace.timers["operations"]())
        elif self._action not in _RECORDED:
            self._let_go()

    def _end_step(self) -> None:
        if self._collector is not None and self._has_schedule:
            name, fields = f"ProfilerStep#{self.step_num}", {"step": self.step_num}
            self._collector.span(name, self._began_s, time.perf_counter(), fields)

    def _let_go(self) -> None:
        if self._collector is not None:
            trace.unsubscribe(self._collector)
            self._operations.close()
            self._spans, self._collector = self._collector.spans, None

    # -- what was seen

    def events(self) -> EventList:
        """Everything in the order of its start."""
        spans = self._spans if self._collector is None else self._collector.spans
        return EventList(FunctionEvent.of(spans))

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0) -> EventList:
        """Sums by name, and with ``group_by_stack_n`` by line; shapes are not recorded."""
        return self.events().averages(by_line=group_by_stack_n > 0)

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write what was seen for Perfetto and Chrome; compressed if the name ends with ``.gz``."""
        output = Path(path).absolute()
        folder = output.with_name(f"{output.name}.{os.getpid()}.spool")
        folder.mkdir()
        now_s = time.perf_counter()
        about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "clock": identity(),
            "argv": ["torch.profiler"],
        }
        about |= {"perf_s": now_s, "time_s": time.time()}
        lines = (about, {"rank": find_rank() or 0, "size": 1}, self._spans, {"end": True})
        try:
            text = "".join(json.dumps(line, default=str) + "\n" for line in lines)
            (folder / "own.jsonl").write_text(text)
            merge(folder, output)
        finally:
            shutil.rmtree(folder)


class switched(profile):
    """``torch.autograd.profiler.profile``, which has a switch.

    Args:
        enabled: whether anything is looked at.
        **options: as :class:`profile` takes them, and PyTorch's, which change nothing of what is asked here.
    """

    def __init__(self, enabled: bool = True, **options: Any) -> None:
        super().__init__(schedule=None if enabled else lambda step: ProfilerAction.NONE, **options)


class of_autograd:
    """``torch.autograd.profiler``: what is unlike ``torch.profiler``."""

    profile = switched


class record_function(contextlib.ContextDecorator):
    """Name a part of the program in what a profiler shows: a context manager, and a decorator.

    Args:
        name: its name.
        args: shown beside it.
    """

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name, self._fields = name, {} if args is None else {"args": args}
        self._starts: list[float] = []

    def __enter__(self) -> record_function:
        self._starts.append(time.perf_counter())
        return self

    def __exit__(self, *exception: object) -> None:
        trace.report(self.name, self._starts.pop(), time.perf_counter(), **self._fields)


def tensorboard_trace_handler(
    dir_name: str, worker_name: str | None = None, use_gzip: bool = False
) -> Callable[[profile], None]:
    """What writes each trace into a folder, as TensorBoard's plugin wants it named.

    Args:
        dir_name: the folder; made if it is not there.
        worker_name: the beginning of the files' names; None takes host and process.
        use_gzip: compress them.
    """

    def write(profiler: profile) -> None:
        Path(dir_name).mkdir(parents=True, exist_ok=True)
        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        end = ".gz" if use_gzip else ""
        profiler.export_chrome_trace(Path(dir_name) / f"{worker}.{time.time_ns()}.pt.trace.json{end}")

    return write
