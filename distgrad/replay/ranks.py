"""Steps of several ranks: what communicates stands on the tape and is done again by the objects that did it.

A replay issues the collectives of an eager step, in its order, so that a rank may compute eagerly while the
others replay. The reducer of data parallelism and what spreads parameters are told what they would be told.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distgrad.autograd.nodes import next_number
from distgrad.autograd.tensor import Tensor
from distgrad.backend.recording import here
from distgrad.comm.base import Communicator
from distgrad.errors import CaptureError
from distgrad.parallel.ddp import DistributedDataParallel
from distgrad.parallel.passes import ForwardPasses
from distgrad.parallel.reducer import Reducer, current_weight
from distgrad.parallel.sharding import Sharding
from distgrad.replay.calls import LiveFloat
from distgrad.replay.traced import plain, plain_tree

__all__ = ["CHANGES", "failed", "parts_of", "settle"]

Swap = Callable[[Any, str, Any], None]

#: Verbs that change their first argument, those that give a new array, and the rest.
_IN_PLACE, _NEW = ("all_reduce", "broadcast", "recv"), ("all_gather", "reduce_scatter", "all_to_all")
_REFUSED = (
    *("all_gather_object", "all_gather_v", "all_to_all_v", "allocate", "broadcast_object", "gather"),
    *("gather_object", "gather_v", "has_message", "scan", "scatter", "scatter_object", "scatter_v", "split"),
    "submit",
)


def _recorder() -> Any:
    return here.listener


def _refuse(what: str, instead: str) -> None:
    _recorder().refuse(f"the step {what} at {_recorder().where()}; {instead}")


def _unheard(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with _recorder().paused():
        return call(*plain_tree(args), **plain_tree(kwargs))


# -- verbs


def _change_verbs(swap: Swap) -> None:
    for verb in (*_IN_PLACE, *_NEW, "barrier", "send"):
        swap(Communicator, verb, _recorded(verb, getattr(Communicator, verb)))
    for verb in _REFUSED:
        swap(Communicator, verb, _refused(verb, getattr(Communicator, verb)))


def _recorded(verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = _recorder()
        if recorder is None:
            return call(self, *args, **kwargs)
        if kwargs.get("async_op") or any(each is True for each in args):
            _refuse(f"calls {verb} with async_op=True", "call it without, or outside the captured step")
            return _unheard(call, (self, *args), kwargs)
        out, x = kwargs.get("out"), args[0] if args else kwargs.get("x")
        if out is not None or verb not in _NEW:
            changed = out if out is not None else x if verb in _IN_PLACE else None
            recorder.live(call, (self, *args), kwargs, [] if changed is None else [plain(changed)])
            return changed
        return recorder.whole(call, (self, *args), kwargs, ())

    return called


def _refused(verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _recorder() is not None:
            _refuse(f"calls {verb}", "a replay calls verbs of arrays of one shape alone; call it outside")
            return _unheard(call, (self, *args), kwargs)
        return call(self, *args, **kwargs)

    return called


# -- data parallelism


@contextlib.contextmanager
def _set(reducer: Any, enabled: bool) -> Iterator[None]:
    """As inside or outside ``no_sync``, whatever the step was when it was recorded."""
    before, reducer.enabled = reducer.enabled, enabled
    try:
        yield
    finally:
        reducer.enabled = before


def prepare(ddp: Any, reducer: Any, enabled: bool, buffers: Any) -> None:
    """What precedes a forward pass of a module that is as it was, with these buffers."""
    with _set(reducer, enabled):
        ddp._join(lambda: buffers)
    _settle(reducer)


def _settle(reducer: Any) -> None:
    for flat in reducer.storage:
        if flat.shares is not None:
            flat.shares.settle()


def end_pass(passes: Any, samples: float) -> None:
    """A forward pass is over."""
    passes.add(next_number(), samples)


def start(reducer: Any, enabled: bool, leaves: Any, had: Any, reached: Any, passes: Any, scales: Any) -> None:
    """A backward pass begins."""
    for leaf, has_gradient in zip(leaves, had, strict=True):
        if not has_gradient:
            leaf.grad = None
    with _set(reducer, enabled):
        reducer.begin(set(reached), passes)
    for leaf, scale in zip(leaves, scales, strict=True):
        scale.cell[0] = leaf.scale


def gather(reducer: Any, enabled: bool, leaf: Any, has_gradient: bool) -> None:
    """A leaf has its gradient."""
    if has_gradient and leaf.grad is None:
        leaf.grad = Tensor(leaf.buffer)
    if reducer.enabled is enabled:
        reducer.gradient_ready(leaf)
    else:
        with _set(reducer, enabled):
            reducer.gradient_ready(leaf)


def agree(reducer: Any, enabled: bool, weight: float) -> None:
    """Buckets that are full on all ranks are started."""
    if current_weight() != weight:
        raise CaptureError(
            f"capture: a batch counts {current_weight():g}, and counted {weight:g} when the step was "
            "recorded, by which synchronised batch norm multiplies; leave batch_weight as it is, or the step "
            "eager"
        )
    with _set(reducer, enabled):
        reducer._launch_agreed(False)


def end(reducer: Any, enabled: bool, leaves: Any, has: Any) -> None:
    """A backward pass is over, and all gradients are in."""
    with _set(reducer, enabled):
        reducer.backward_ended()
    if has != tuple(leaf.grad is not None for leaf in leaves):
        raise CaptureError(
            "capture: the ranks together use other parameters than when the step was recorded, which has "
            "changed gradients by now; leave the step eager, or use all parameters in every step"
        )


def _leaves(reducer: Any) -> tuple[Any, ...]:
    return tuple(leaf for bucket in reducer.buckets for leaf in bucket.leaves)


def _gradients(reducer: Any) -> list[np.ndarray]:
    return [bucket.gradients for bucket in reducer.buckets]


def _change_forward(swap: Swap) -> None:
    own, weigh = DistributedDataParallel._prepare, ForwardPasses.weigh_last
    add, reduce, all_finite = ForwardPasses.add, Reducer.reduce, DistributedDataParallel.all_finite

    def prepared(self: Any) -> None:
        recorder = _recorder()
        if recorder is None:
            own(self)
            return
        _check(self)
        buffers = tuple(self.module.buffers())
        with recorder.paused():
            own(self)
            _settle(self.reducer)
        changed = [plain(each._data) for each in buffers]
        recorder.add_live(prepare, (self, self.reducer, self.reducer.enabled, buffers), changed)

    def added(self: Any, first: int, weight: float) -> None:
        add(self, first, weight)
        if _recorder() is not None:
            _recorder().add_live(end_pass, (self, weight), [])

    def weighed(self: Any, weight: Any) -> None:
        if _recorder() is None:
            weigh(self, weight)
        else:
            _recorder().live(weigh, (self, getattr(weight, "_data", weight)), {}, [])

    def reduced(self: Any, weight: float = 0.0) -> None:
        if _recorder() is not None:
            _refuse("calls reduce_gradients()", "call it outside the captured step")
        reduce(self, weight)

    def asked(self: Any) -> bool:
        if _recorder() is not None:
            _refuse("calls all_finite()", "ask outside the captured step, after it")
        return all_finite(self)

    swap(DistributedDataParallel, "_prepare", prepared)
    swap(DistributedDataParallel, "all_finite", asked)
    swap(ForwardPasses, "add", added)
    swap(ForwardPasses, "weigh_last", weighed)
    swap(Reducer, "reduce", reduced)


def _check(ddp: Any) -> None:
    """Refuse what a replay cannot do."""
    if ddp._shards is not None:
        _refuse("computes with exact=True", "a loop over shards is not captured: call the step as it is")
    if ddp.shard == "parameters":
        _refuse("has shard='parameters', whose blocks come and go", "take shard='gradients', or no capture")
    if any(getattr(flat.shares, "masters", None) is not None for flat in ddp.reducer.storage):
        _refuse("keeps masters of sharded parameters", "leave their dtype as it is, or the step eager")
    if ddp._tuner is not None and ddp.tuned is None:
        _refuse("is being tuned (tune=True)", "capture it after the first hundred steps")
    if ddp._device.kind != "cpu":
        _refuse("has parameters on a device", "only those on the CPU are captured yet")


def _change_backward(swap: Swap) -> None:
    started, ready = Reducer.backward_started, Reducer.gradient_ready

    def start_recorded(self: Any, leaves: Any, order: Any) -> None:
        recorder = _recorder()
        if recorder is None:
            started(self, leaves, order)
            return
        recorder.reducers[id(self)] = self
        all_leaves = _leaves(self)
        had = tuple(leaf.grad is not None for leaf in all_leaves)
        passes = self.passes.within(order)
        with recorder.paused():
            started(self, leaves, order)
        scales = tuple(LiveFloat.of(leaf.scale) for leaf in all_leaves)
        for leaf, scale in zip(all_leaves, scales, strict=True):
            leaf.scale = scale
        reached = tuple(leaf for leaf in all_leaves if leaf in leaves)
        args = (self, self.enabled, all_leaves, had, reached, passes, scales)
        recorder.add_live(start, args, _gradients(self))

    def ready_recorded(self: Any, leaf: Any) -> None:
        recorder = _recorder()
        if recorder is None:
            ready(self, leaf)
            return
        has_gradient = leaf.grad is not None
        with recorder.paused():
            ready(self, leaf)
        recorder.add_live(gather, (self, self.enabled, leaf, has_gradient), [])

    swap(Reducer, "backward_started", start_recorded)
    swap(Reducer, "gradient_ready", ready_recorded)


def _change_reductions(swap: Swap) -> None:
    launched, ended = Reducer._launch_agreed, Reducer.backward_ended

    def agree_recorded(self: Any, failed: bool) -> None:
        recorder = _recorder()
        if recorder is None:
            launched(self, failed)
            return
        with recorder.paused():
            launched(self, failed)
        recorder.add_live(agree, (self, self.enabled, current_weight()), [])

    def end_recorded(self: Any) -> None:
        recorder = _recorder()
        if recorder is None:
            ended(self)
            return
        with recorder.paused():
            ended(self)
        leaves = _leaves(self)
        has = tuple(leaf.grad is not None for leaf in leaves)
        recorder.add_live(end, (self, self.enabled, leaves, has), _gradients(self))

    swap(Reducer, "_launch_agreed", agree_recorded)
    swap(Reducer, "backward_ended", end_recorded)


def _change_shares(swap: Swap) -> None:
    hand_out, settle = Sharding.hand_out, Sharding.settle

    def handed(self: Any, parameters: Any) -> None:
        recorder = _recorder()
        if recorder is None:
            hand_out(self, parameters)
        else:
            recorder.live(hand_out, (self, tuple(parameters)), {}, [plain(self.buffer.data)])

    def settled(self: Any, *parameters: Any) -> None:
        recorder = _recorder()
        if recorder is None:
            settle(self, *parameters)
        else:
            given = [tuple(each) for each in parameters]
            recorder.live(settle, (self, *given), {}, [plain(self.buffer.data)])

    swap(Sharding, "hand_out", handed)
    swap(Sharding, "settle", settled)


#: What is changed in the classes of communicators and of data parallelism while a step is recorded.
CHANGES = (_change_verbs, _change_forward, _change_backward, _change_reductions, _change_shares)


# -- what they remember


def parts_of(thing: Any) -> list[Any]:
    """The objects that change along with one."""
    if not isinstance(thing, Reducer):
        return [thing]
    hooks = {id(each._hook): each._hook for each in thing.buckets}.values()
    return [thing, thing.statistics, *thing.buckets, *hooks]


def settle(objects: list[Any]) -> None:
    """Wait until what was handed out is in."""
    for shares in objects:
        if isinstance(shares, Sharding):
            shares.settle()


def failed(objects: list[Any]) -> None:
    """An exception has ended a replay: let the other ranks hear of it that wait for this one's gradients."""
    for each in objects:
        if isinstance(each, Reducer) and each.active:
            each.backward_failed()
