"""Order statistics, extrema by NumPy's names, and reductions that leave NaN out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.ops.shape_rules import Axis, count_over, normalize_axes, reduced_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import widened
from distgrad.errors import AxisError, OptionError, ShapeError

_SAMPLES = [
    Sample(((3, 4),)),
    Sample(((3, 4),), {"axis": 1}),
    Sample(((2, 3, 4),), {"axis": (0, -1), "keepdims": True}),
    Sample(((),), note="no axes"),
]
_REJECTS = [Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})]


# -- order


def _sorted_last(xp: Any, x: Array, axis: Axis, where: str) -> Array:
    """The elements reduced over as one sorted axis, the last."""
    axes = normalize_axes(axis, len(x.shape), where)
    if count_over(x.shape, axis) == 0:
        raise ShapeError(f"{where}: no elements to choose from in {list(x.shape)} over axis {axis}")
    kept = [i for i in range(len(x.shape)) if i not in axes]
    x = xp.permute_dims(x, (*kept, *axes))
    return xp.sort(xp.reshape(x, (*x.shape[: len(kept)], math.prod(x.shape[len(kept) :]))), axis=-1)


def _at_rank(ranked: Array, rank: float, method: str) -> Array:
    """The element at a rank that may lie between two."""
    below, above = math.floor(rank), math.ceil(rank)
    part = {"lower": 0.0, "higher": 1.0, "midpoint": 0.5, "linear": rank - below}.get(method, rank - below)
    if method == "nearest":
        part = float(round(rank) - below)  # halves to the even one, as NumPy does
    if below == above or part == 0.0:
        return ranked[..., below]
    if part == 1.0:
        return ranked[..., above]
    return ranked[..., below] * (1.0 - part) + ranked[..., above] * part


_METHODS = ("linear", "lower", "higher", "midpoint", "nearest")


@composite(
    math="y = sorted(x)[q (n - 1)], between neighbours by method",
    source="Hyndman and Fan, The American Statistician, 1996 (their seventh, for linear)",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4), 0.3)),
        Sample(((3, 4), 0.7), {"axis": 1}),
        Sample(((2, 3, 4), 0.25), {"axis": (0, -1), "keepdims": True}),
        Sample(((5, 2), np.array([0.0, 0.4, 1.0])), {"axis": 0}, grad=False, note="several"),
        *[Sample(((3, 4), 0.3), {"axis": 1, "method": method}) for method in _METHODS[1:]],
    ],
    rejects=[
        Reject(((3, 4), 1.5), OptionError, "q must be in [0, 1]"),
        Reject(((3, 4), 0.5), OptionError, "method must be one of", {"method": "best"}),
        Reject(((0, 4), 0.5), ShapeError, "no elements", {"axis": 0}),
        Reject(((3, 4), 0.5), AxisError, "axis 2", {"axis": 2}),
    ],
)
def quantile(
    xp: Any, x: Array, /, q: Any, axis: Axis = None, keepdims: bool = False, *, method: str = "linear"
) -> Array:
    """The element below which a part of the elements lies; NaN if one of them is.

    Args:
        x: any shape.
        q: the part, in [0, 1]; a sequence of parts gives a first axis.
        axis: the axes to reduce over; None means all.
        keepdims: keep the axes reduced over, with length 1.
        method: between two elements, ``"linear"`` interpolates, ``"midpoint"`` takes the mean, and
            ``"lower"``, ``"higher"`` and ``"nearest"`` take one of them.
    """
    if method not in _METHODS:
        raise OptionError(f"quantile: method must be one of {_METHODS}, got {method!r}")
    parts = np.asarray(q.tolist() if hasattr(q, "tolist") else q, dtype=np.float64)
    if parts.ndim > 1 or not np.all((parts >= 0) & (parts <= 1)):
        raise OptionError(
            f"quantile: q must be in [0, 1], a number or one axis of them, got {parts.tolist()}"
        )
    ranked = _sorted_last(xp, x, axis, "quantile")
    last = ranked.shape[-1] - 1
    poisoned = xp.isnan(ranked[..., last])  # NaN sorts to the end
    shape = reduced_shape(x.shape, axis=axis, keepdims=keepdims)
    found = [
        xp.reshape(xp.where(poisoned, math.nan, _at_rank(ranked, part * last, method)), shape)
        for part in parts.reshape(-1).tolist()
    ]
    return found[0] if parts.ndim == 0 else xp.stack(found, axis=0)


@composite(
    math="y = the middle of sorted x, or the mean of the two",
    dtypes="real floating-point",
    samples=_SAMPLES,
    rejects=_REJECTS,
)
def median(xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """The element in the middle; NaN if one of them is."""
    return xp.quantile(x, 0.5, axis=axis, keepdims=keepdims)


@composite(math="y = max x", dtypes="real numeric", samples=_SAMPLES, rejects=_REJECTS)
def amax(xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Largest element over axes; elements that tie share the gradient evenly."""
    return xp.max(x, axis=axis, keepdims=keepdims)


@composite(math="y = min x", dtypes="real numeric", samples=_SAMPLES, rejects=_REJECTS)
def amin(xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Smallest element over axes; elements that tie share the gradient evenly."""
    return xp.min(x, axis=axis, keepdims=keepdims)


# -- without NaN

_HOLES = np.array([[1.0, np.nan, -2.0], [np.nan, np.nan, 0.5], [3.0, 4.0, 7.0]])
_NAN_SAMPLES = [*_SAMPLES, Sample((_HOLES,), {"axis": 1}, note="NaN", grad=False)]
_NOTHING = Sample((np.array([[np.nan, 1.0], [np.nan, 2.0]]),), {"axis": 0}, note="NaN alone", grad=False)
_NAN_OPTIONS: dict[str, Any] = {
    "dtypes": "real floating-point",
    "samples": [*_NAN_SAMPLES, _NOTHING],
    "rejects": _REJECTS,
}


def _count(xp: Any, x: Array, axis: Axis) -> Array:
    """How many elements are numbers, as one."""
    return xp.sum(xp.astype(xp.logical_not(xp.isnan(x)), x.dtype), axis=axis, keepdims=True)


def _finish(xp: Any, y: Array, x: Array, axis: Axis, keepdims: bool) -> Array:
    """A result with its axes kept, as the caller wants it."""
    y = y.astype(x.dtype, copy=False)
    return y if keepdims else xp.reshape(y, reduced_shape(x.shape, axis=axis))


@composite(math="y = Σ x over the x that are numbers", **_NAN_OPTIONS)
def nansum(xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Sum over axes; NaN counts as 0."""
    return xp.sum(xp.where(xp.isnan(x), 0.0, x), axis=axis, keepdims=keepdims)


@composite(math="y = Σ x / n over the n x that are numbers", **_NAN_OPTIONS)
def nanmean(xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Mean over axes without NaN; NaN where there is nothing else."""
    (wide,) = widened(x)
    count = _count(xp, wide, axis)
    y = xp.nansum(wide, axis=axis, keepdims=True) / xp.where(count == 0, math.nan, count)
    return _finish(xp, y, x, axis, keepdims)


@composite(
    math="y = Σ (x - mean x)² / (n - correction) over the n x that are numbers",
    **(
        _NAN_OPTIONS | {"samples": [*_NAN_SAMPLES, _NOTHING, Sample(((3, 4),), {"correction": 1, "axis": 0})]}
    ),
)
def nanvar(
    xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False, *, correction: float = 0.0
) -> Array:
    """Variance over axes without NaN; NaN where too few numbers are left.

    Args:
        x: any shape.
        axis: the axes to reduce over; None means all.
        keepdims: keep the axes reduced over, with length 1.
        correction: taken from the count in the divisor: 0 for a population, 1 for a sample.
    """
    hole = xp.isnan(x)
    (wide,) = widened(x)
    mean = xp.nanmean(wide, axis=axis, keepdims=True)
    deviation = xp.where(hole, 0.0, wide - xp.where(hole, 0.0, mean))
    freedom = _count(xp, wide, axis) - correction
    y = xp.sum(xp.square(deviation), axis=axis, keepdims=True) / xp.where(freedom <= 0, math.nan, freedom)
    return _finish(xp, y, x, axis, keepdims)


@composite(math="y = √(Σ (x - mean x)² / (n - correction)) over the n x that are numbers", **_NAN_OPTIONS)
def nanstd(
    xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False, *, correction: float = 0.0
) -> Array:
    """Standard deviation over axes without NaN, with gradient 0 where it is 0; arguments as in nanvar."""
    y = xp.nanvar(x, axis=axis, keepdims=keepdims, correction=correction)
    return xp.where(y == 0, 0.0, xp.sqrt(xp.where(y == 0, 1.0, y)))


def _extremum(xp: Any, x: Array, axis: Axis, keepdims: bool, sign: float) -> Array:
    hole = xp.isnan(x)
    filled = xp.where(hole, -sign * math.inf, x)
    y = (xp.max if sign > 0 else xp.min)(filled, axis=axis, keepdims=True)
    return _finish(xp, xp.where(xp.all(hole, axis=axis, keepdims=True), math.nan, y), x, axis, keepdims)


@composite(math="y = max x over the x that are numbers", **_NAN_OPTIONS)
def nanmax(xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Largest element over axes without NaN; NaN where there is nothing else."""
    return _extremum(xp, x, axis, keepdims, 1.0)


@composite(math="y = min x over the x that are numbers", **_NAN_OPTIONS)
def nanmin(xp: Any, x: Array, /, axis: Axis = None, keepdims: bool = False) -> Array:
    """Smallest element over axes without NaN; NaN where there is nothing else."""
    return _extremum(xp, x, axis, keepdims, -1.0)
