"""Capturing a step: a function whose calls are recorded, looked at, and replayed."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.modes import modes
from distgrad.backend.kernels.compiler import has_numba
from distgrad.backend.recording import here
from distgrad.errors import CaptureError, MissingDependencyError, OptionError
from distgrad.replay.agreement import CANNOT, MAY, WANTS, Ranks
from distgrad.replay.arguments import (
    AliveGraphError,
    Arguments,
    Results,
    check_contents,
    contents,
    copier,
    graphs_alive,
    without_traces,
)
from distgrad.replay.conditions import Conditions
from distgrad.replay.explain import describe_tape
from distgrad.replay.holders import hearing, recording, turn
from distgrad.replay.looks import DifferenceError, check_replay
from distgrad.replay.places import owner
from distgrad.replay.record import Record, check_alike
from distgrad.replay.surroundings import thawed
from distgrad.replay.tape import GuardError, Tape
from distgrad.replay.variables import check_unchanged
from distgrad.tracebacks import warn_once

__all__ = ["Captured", "capture"]

_WARM_UP = 2  # an optimizer makes its state in the first call, and kernels and caches come
_MAX_TAPES = 8
_MAX_KINDS = 64


@dataclasses.dataclass
class _Recording:
    """The first of two records of a step, and the conditions that it was made under."""

    record: Record
    conditions: Conditions
    inputs: list[np.ndarray]


class _Outcome:
    """What a recorded call of a step gives, for where it turns out that it cannot be captured."""

    def __init__(self) -> None:
        self.is_known = False
        self.value: Any = None

    def set(self, value: Any) -> None:
        """It has come to its end."""
        self.is_known, self.value = True, value


class Kind:
    """Calls of one key: with arguments of the same shapes, dtypes and values that are no arrays.

    Attributes:
        is_eager: nothing is recorded any more.
    """

    def __init__(self, objects: list[Any]) -> None:
        self.num_calls = 0
        self.is_eager = False
        self.objects = objects  # which the key knows by their ids
        self.firsts: list[_Recording] = []
        self.unverified: list[Tape] = []
        self.tapes: list[Tape] = []

    def has_records(self) -> bool:
        """Whether anything was recorded."""
        return bool(self.firsts or self.unverified or self.tapes)

    def stay_eager(self) -> None:
        """Let go of what was recorded."""
        self.is_eager = True
        for records in (self.firsts, self.unverified, self.tapes):
            records.clear()


class Captured:
    """A step that is recorded in its first calls and replayed in later ones; made by :func:`capture`.

    Attributes:
        step: the function.
        num_eager: how many calls were computed eagerly, recordings and comparisons among them.
        num_replays: how many were replayed.
    """

    def __init__(self, step: Callable[..., Any], mode: str, verify_every: int) -> None:
        functools.update_wrapper(self, step, updated=())
        self.step, self._mode, self._verify_every = step, mode, verify_every
        self._kinds: dict[Any, Kind] = {}
        self._made: list[str] = []
        self.num_eager = self.num_replays = 0
        self._num_calls = self._since = 0  # the last comparison
        self._lock = threading.Lock()
        self._ranks: Ranks | None = None

    def __reduce__(self) -> Any:
        """A copy records for itself: tapes know where arrays lie, and a copy of the step has others."""
        return Captured, (self.step, self._mode, self._verify_every)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The step's result; tensors in it are new ones, outside the graph."""
        if here.listener is not None or modes.check is not None:  # inside another capture; anomaly detection
            return self.step(*args, **kwargs)
        if not self._lock.acquire(blocking=False):  # another call is running, of this thread or another one
            return self.step(*args, **kwargs)
        try:
            return self._called(args, kwargs)
        finally:
            self._lock.release()

    def _called(self, args: Any, kwargs: Any) -> Any:
        arguments = Arguments(args, kwargs)
        if arguments.problem is not None:
            return self._refused(None, arguments.problem, lambda: self.step(*args, **kwargs))
        kind = self._kinds.get(arguments.key)
        if kind is None:
            kind = self._add_kind(arguments)
        tape = _standing(kind.tapes)
        new = _standing(kind.unverified) if tape is None else None
        self._num_calls += 1
        if self._compares(tape, new):
            return self._compare(kind, tape, new, arguments)
        return self._learn(kind, new, arguments) if tape is None else self._replay(tape, arguments)

    def _compares(self, tape: Tape | None, new: Tape | None) -> bool:
        """Whether this call compares a replay with an eager step, which all ranks do together."""
        is_due = bool(self._verify_every) and self._since + 1 >= self._verify_every
        wish = WANTS if new is not None or (tape is not None and is_due) else MAY if tape else CANNOT
        if self._ranks is None or self._num_calls <= _WARM_UP:
            return wish == WANTS
        found = tape or new
        return self._ranks.agree(self._num_calls, wish, 0 if found is None else found.digest)

    def _add_kind(self, arguments: Arguments) -> Kind:
        """A kind for these arguments; of those that led to nothing the oldest goes when there are many."""
        if len(self._kinds) >= _MAX_KINDS:
            idle = [key for key, kind in self._kinds.items() if not kind.has_records()]
            for key in idle[:1]:
                del self._kinds[key]
        kind = self._kinds[arguments.key] = Kind(arguments.objects)
        return kind

    def _replay(self, tape: Tape, arguments: Arguments) -> Any:
        self._since += 1
        try:
            arrays = tape.run(arguments.arrays)
        except GuardError as guard:
            warn_once(
                f"capture guard {id(self)}",
                f"capture: {guard}; this call and others like it are computed eagerly, which is right but "
                "slower: see capture.explain()",
            )
            self.num_eager += 1
            return self.step(*arguments.args, **arguments.kwargs)
        self.num_replays += 1
        return tape.results.build(arrays)

    # -- the looks

    def _learn(self, kind: Kind, new: Tape | None, arguments: Arguments) -> Any:
        """One of the calls before the first replay."""
        kind.num_calls += 1
        self.num_eager += 1
        if self._num_calls == 1:
            return self._met(kind, self._first_call(arguments))
        is_early = kind.num_calls <= _WARM_UP
        if is_early or kind.is_eager or new is not None:  # that other ranks cannot compare yet
            value = self.step(*arguments.args, **arguments.kwargs)
            return self._met(kind, value) if is_early else value
        if not turn.acquire(blocking=False):  # another thread records, and may wait for this one's gradients
            return self.step(*arguments.args, **arguments.kwargs)
        try:
            with thawed():
                return self._recorded(kind, arguments)
        finally:
            turn.release()

    def _recorded(self, kind: Kind, arguments: Arguments) -> Any:
        """A call that is recorded, if it can be."""
        first = next((each for each in kind.firsts if each.conditions.broken() is None), None)
        try:
            arguments.check()
            if first is None:
                self._count_tape(kind, arguments)
        except CaptureError as error:
            return self._refused(kind, error, lambda: self.step(*arguments.args, **arguments.kwargs))
        outcome = _Outcome()
        try:
            self._look(kind, first, arguments, outcome)
        except CaptureError as error:
            if not outcome.is_known:
                raise
            return self._refused(kind, error, lambda: without_traces(outcome.value))
        return outcome.value

    def _met(self, kind: Kind, value: Any) -> Any:
        """The result of a call that came before the first record."""
        return value

    def _refused(self, kind: Kind | None, error: CaptureError, compute: Callable[[], Any]) -> Any:
        """A step cannot be captured.

        Args:
            kind: of its calls; None where its arguments say so.
            error: what to do about it.
            compute: gives the call's result all the same.
        """
        raise error

    def _look(self, kind: Kind, first: _Recording | None, arguments: Arguments, outcome: _Outcome) -> None:
        """The first look, or the second, at which both must agree."""
        inputs = arguments.copies() if first is None else first.inputs
        recorded = self._record(arguments, inputs, outcome)
        if recorded is None:
            if first is None:
                self._made.pop()
            return
        record, conditions, results = recorded
        if first is None:
            kind.firsts.append(_Recording(record, conditions, inputs))
        else:
            kind.firsts.remove(first)
            check_alike(first.record, record)
            kind.unverified.append(Tape(record, inputs, conditions, results, self._mode))

    def _first_call(self, arguments: Arguments) -> Any:
        """Compute the step, and see with whom it communicates."""
        found: dict[int, Any] = {}
        with hearing(lambda comm: found.setdefault(id(comm), comm)):
            value = self.step(*arguments.args, **arguments.kwargs)
        several = [comm for comm in found.values() if comm.size > 1]
        self._ranks = Ranks(several) if several else None
        return value

    def _compare(self, kind: Kind, tape: Tape | None, new: Tape | None, arguments: Arguments) -> Any:
        compared = tape or new
        assert compared is not None
        try:
            value, arrays = check_replay(compared, arguments, self.step, self._ranks)
        except DifferenceError as error:
            return self._refused(kind, error, lambda: self.step(*arguments.args, **arguments.kwargs))
        self._since = 0
        self.num_eager += 1
        if arrays is None:  # a guard has failed
            return value
        if new is not None:
            kind.unverified.remove(new)
            kind.tapes.append(new)
        self.num_replays += 1
        return compared.results.build(arrays)

    def _record(self, arguments: Arguments, inputs: list[np.ndarray], outcome: _Outcome) -> Any:
        """Compute the step, recorded; None if a branch was not taken, which the next call may take."""
        for to, x in zip(inputs, arguments.arrays, strict=True):
            np.copyto(to, x)
        with recording() as recorder:
            args, kwargs = arguments.replaced([recorder.wrap(x) for x in inputs])
            before = contents((args, kwargs))
            with recorder.surroundings.listening():
                value = self.step(*args, **kwargs)
                outcome.set(value)
            check_contents(before, (args, kwargs))
            if recorder.problem is not None:
                raise recorder.problem
            if recorder.is_void:
                outcome.set(without_traces(value))
                return None
            owners = {id(owner(x)) for x in inputs}
            results = Results(value, lambda x: recorder.memory.is_born(x) or id(owner(x)) in owners)
            outputs, given = ([recorder.place(x) for x in some] for some in (results.arrays, inputs))
        del args, kwargs, before
        watched = list(recorder.surroundings.watched)
        watched += [each for each in recorder.surroundings.arrays if not recorder.memory.knows(each.anchor)]
        check_unchanged(watched)
        if recorder.communicators and self._ranks is None:
            raise CaptureError(
                "capture: the step communicates with other ranks, and its first call did not; capture what "
                "communicates as a step of its own"
            )
        _check_graphs(value)
        record = Record(recorder, outputs, given)
        copies = copier(results.take_arrays())()
        del value
        outcome.set(results.build(copies))
        record.settle(recorder)
        return record, Conditions(recorder, watched), results

    def _count_tape(self, kind: Kind, arguments: Arguments) -> None:
        known = [each.conditions for each in kind.firsts]
        known += [each.conditions for each in (*kind.unverified, *kind.tapes)]
        changed = known[-1].broken() if known else None
        reason = f", where {changed}" if changed else ""
        self._made.append(arguments.describe() + reason)
        if len(self._made) > _MAX_TAPES:
            raise CaptureError(
                f"capture: {_MAX_TAPES} tapes were made, and another is asked for, for {self._made[-1]}; "
                f"before came {'; '.join(self._made[:-1])}. Pass what changes as a tensor of one shape, pad "
                "batches, or leave out a smaller last one (drop_last=True)"
            )

    def explain(self) -> str:
        """What was recorded: for each tape its instructions, guards, memory, and what led to them."""
        lines = [f"{self.num_eager} calls eager, {self.num_replays} replayed"]
        for kind in self._kinds.values():
            for tape in kind.tapes:
                lines += describe_tape(tape)
        return "\n".join(lines)


def _standing(tapes: list[Tape]) -> Tape | None:
    """The first of some tapes whose conditions hold."""
    for tape in tapes:
        if tape.conditions.broken() is None:
            return tape
    return None


def _check_graphs(value: Any) -> None:
    alive = graphs_alive(value)
    if alive:
        raise AliveGraphError(
            f"capture: the step returns a tensor of shape {list(alive[0].shape)} with its graph, which a "
            "replay does not make; call backward() inside the step, return x.detach(), or call it under "
            "dg.no_grad()"
        )


def capture(step: Callable[..., Any] | None = None, *, mode: str = "loops", verify_every: int = 1000) -> Any:
    """Record what a function computes in its first calls, and replay that in later ones, without the engine.

    For what is called again and again: a training step, or a model under ``no_grad``. The first two calls run
    as they are; the next two are recorded and must agree; in the fifth an eager step and a replay from the
    same state must leave the same bytes. What cannot be captured is an error that names the line. Arguments
    are copied in; results are new tensors outside the graph. Arguments of other shapes or dtypes, other modes
    of modules, numbers of threads and the like have a tape of their own, up to eight.

    Args:
        step: the function, or a module; left out, this is a decorator.
        mode: ``loops``, where one compiled loop runs NumPy's own inner loops for all calls for which it gives
            the bits of the call; or ``calls``, where a replay calls NumPy's functions.
        verify_every: every so many replays are compared with an eager step, which finds what no look at the
            first calls can see (a branch that is rarely taken); 0 never.

    Returns:
        A :class:`Captured`, called as ``step`` is.

    Raises:
        OptionError: a negative ``verify_every``, or another mode.
        MissingDependencyError: ``loops`` without Numba.
        CaptureError: (by its calls) what the step does cannot be replayed, or a replay differed; the state is
            then what an eager step leaves, or what was before it.
    """
    if verify_every < 0:
        raise OptionError(f"capture: verify_every must be at least 0, got {verify_every}")
    if mode not in ("loops", "calls"):
        raise OptionError(f"capture: mode must be 'loops' or 'calls', got {mode!r}")
    if mode == "loops" and not has_numba():
        raise MissingDependencyError(
            "capture: mode='loops' needs Numba; pip install numba, or pass mode='calls'"
        )
    if step is None:
        return functools.partial(capture, mode=mode, verify_every=verify_every)
    return Captured(step, mode, verify_every)
