"""Softmax and the losses built on it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.shape_rules import Before, Shape, added, highest, in_float32, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand, plain, widened
from distgrad.errors import DTypeError, OutOfBoundsError, ShapeError

_SAMPLES = [
    Sample(((3, 4),)),
    Sample(((2, 3, 4),), {"axis": 1}),
    Sample(((3, 0),), note="over nothing"),
    Sample((np.array([[800.0, 0.0, -800.0]]),), note="tails", grad=False),
]


@primitive(math="y = e^x / Σ e^x", shape=same_shape, dtypes="real floating-point", samples=_SAMPLES)
def softmax(xp: Any, x: Array, /, axis: int = -1) -> Array:
    """Exponentials that sum to one along an axis."""
    return in_float32(functools.partial(_softmax, xp), x, axis=axis)


def _softmax(xp: Any, x: Array, axis: int) -> Array:
    e = xp.exp(x - highest(xp, x, axis))
    e /= xp.sum(e, axis=axis, keepdims=True)
    return e


@softmax.vjp("x")
def _(xp: Any, g: Array, y: Array, axis: int, before: Before) -> Array:
    weighted = g * y
    return added(weighted - y * xp.sum(weighted, axis=axis, keepdims=True), before[0])


@primitive(math="y = x - log Σ e^x", shape=same_shape, dtypes="real floating-point", samples=_SAMPLES)
def log_softmax(xp: Any, x: Array, /, axis: int = -1) -> Array:
    """Logarithm of the softmax, without its over- and underflow."""
    return in_float32(functools.partial(_log_softmax, xp), x, axis=axis)


def _log_softmax(xp: Any, x: Array, axis: int) -> Array:
    shifted = x - highest(xp, x, axis)
    if not x.size:
        return shifted  # rather than the logarithm of nothing
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


@log_softmax.vjp("x")
def _(xp: Any, g: Array, y: Array, axis: int) -> Array:
    g, y = widened(g, y)  # the engine brings it to the input's dtype
    return g - xp.exp(y) * xp.sum(g, axis=axis, keepdims=True)


def check_classes(where: str, logits: Shape, target: Any, counted: Any = None) -> None:
    """Targets must be whole numbers, one a row of logits, that name a class where they are ``counted``.

    Raises:
        ShapeError: rows and targets differ in number.
        DTypeError: targets that are no integers.
        OutOfBoundsError: a class outside 0 … C−1.
    """
    if len(logits) != 2 or tuple(target.shape) != logits[:1]:
        raise ShapeError(
            f"{where}: logits are {list(logits)} and target {list(target.shape)}; expected [N, C] and [N]"
        )
    if target.dtype.kind not in "iu":
        raise DTypeError(f"{where}: target must hold class numbers (integers), got {target.dtype}")
    if not at_hand(target):
        return
    target = target if counted is None else np.where(counted, target, 0)
    if target.size and (target.min() < 0 or target.max() >= logits[1]):
        bad = target[(target < 0) | (target >= logits[1])][0]
        raise OutOfBoundsError(f"{where}: target holds class {bad}, but logits have {logits[1]} classes")


_TARGET = np.array([1, 0, 3])
_PART = {"target": np.array([1, -100, 3]), "ignore_index": -100}


def _counted(xp: Any, logits: Array, target: Any, ignore_index: int | None) -> tuple[Any, Array, Any]:
    """Which rows count (None: all), and logits and classes with zeros in place of the others'."""
    if ignore_index is None:
        return None, logits, target
    counted = target != ignore_index
    return counted, xp.where(xp.expand_dims(counted, axis=1), logits, 0.0), target * counted


@primitive(
    math="y[n] = log Σ_c e^logits[n, c] - logits[n, target[n]]",
    shape=lambda logits, target, ignore_index=None: logits[:1],
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4),), {"target": _TARGET}),
        Sample(((0, 4),), {"target": _TARGET[:0]}, note="empty"),
        Sample((np.array([[800.0, -800.0]]),), {"target": _TARGET[:1]}, note="tails", grad=False),
        Sample(((3, 4),), _PART, note="a row that does not count"),
    ],
    rejects=[
        Reject(((3, 4),), ShapeError, "expected [N, C] and [N]", {"target": _TARGET[:2]}),
        Reject(((3, 4),), DTypeError, "class numbers", {"target": np.ones(3)}),
        Reject(((3, 3),), OutOfBoundsError, "holds class 3", {"target": _TARGET}),
    ],
)
def softmax_cross_entropy(
    xp: Any, logits: Array, /, *, target: Any, ignore_index: int | None = None
) -> Array:
    """Cross entropy of each row's softmax with a class.

    Args:
        logits: ``[N, C]``.
        target: class numbers, an integer array ``[N]``.
        ignore_index: a target whose row gives 0 and gets no gradient, whatever its logits are; None: none.

    Returns:
        ``[N]``, in nats.
    """
    counted = None if ignore_index is None else target != ignore_index
    check_classes("softmax_cross_entropy", logits.shape, target, counted)
    counted, logits, classes = _counted(xp, logits, target, ignore_index)
    (wide,) = widened(logits)
    top = highest(xp, wide, 1)
    total = xp.log(xp.sum(xp.exp(wide - top), axis=1)) + top[:, 0]
    y = total - wide[xp.arange(logits.shape[0]), classes]
    y = y if counted is None else xp.where(counted, y, 0.0)
    return y.astype(logits.dtype, copy=False)


@softmax_cross_entropy.vjp("logits")
def _(xp: Any, g: Array, logits: Array, target: Any, ignore_index: int | None) -> Array:
    counted, logits, classes = _counted(xp, logits, target, ignore_index)
    g = xp.expand_dims(g if counted is None else xp.where(counted, g, 0.0), axis=1)
    picked = (plain(xp.arange(logits.shape[0])), classes)
    return xp.softmax(logits, axis=1) * g - xp.put_zeros(g[:, 0], picked, logits.shape)


@primitive(
    math="y = Σ losses[n] over n with target[n] ≠ ignore_index, / how many these are",
    shape=lambda losses, target, ignore_index: (),
    dtypes="real floating-point",
    samples=[
        Sample(((3,),), {"target": _TARGET, "ignore_index": -100}),
        Sample(((3,),), _PART, note="a row that does not count"),
    ],
    rejects=[Reject(((3,),), ShapeError, "one target a loss", {"target": _TARGET[:2], "ignore_index": 0})],
)
def counted_mean(xp: Any, losses: Array, /, *, target: Any, ignore_index: int) -> Array:
    """Mean of the losses of rows that count; of none it is NaN with a gradient of 0.

    Args:
        losses: ``[N]``.
        target: class numbers ``[N]``.
        ignore_index: the target of rows that do not count.
    """
    if tuple(losses.shape) != tuple(target.shape):
        raise ShapeError(
            f"counted_mean: losses are {list(losses.shape)} and target {list(target.shape)}; expected one "
            "target a loss"
        )
    counted, share = _shares(target, ignore_index)
    (wide,) = widened(losses)
    total = xp.sum(xp.where(counted, wide, 0.0)) * share.astype(wide.dtype)
    nothing = xp.where(counted.any(), 0.0, float("nan"))
    return (total + nothing).astype(losses.dtype, copy=False)


@counted_mean.vjp("losses")
def _(xp: Any, g: Array, target: Any, ignore_index: int) -> Array:
    counted, share = _shares(target, ignore_index)
    return g * (counted * share).astype(g.dtype)


def _shares(target: Any, ignore_index: int) -> tuple[Any, Any]:
    """Which rows count, and what each of them is of the mean."""
    counted = target != ignore_index
    number = counted.sum(dtype=np.float64)
    return counted, 1.0 / (number + (number == 0))
