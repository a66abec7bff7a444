"""Statistics in PyTorch's words: covariances, the k-th and the most frequent value, log-sums, distances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.arrange import along, one_axis
from distgrad.autograd.ops.shape_rules import reduced_shape, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand, plain
from distgrad.errors import AxisError, DTypeError, OptionError, ShapeError

_AXIS = Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})


# -- covariance


def _weights(xp: Any, x: Array, fweights: Any, aweights: Any) -> Any:
    """The weight of each observation, or None; whole and fractional weights multiplied."""
    given = [w for w in (fweights, aweights) if w is not None]
    for w in given:
        if tuple(w.shape) != tuple(x.shape[-1:]):
            raise ShapeError(f"cov: expected a weight for each of {x.shape[-1]} columns, got {list(w.shape)}")
        if at_hand(w) and (plain(w) < 0).any():
            raise OptionError("cov: weights must be 0 or more")
    if fweights is not None and plain(fweights).dtype.kind not in "iu":
        raise DTypeError(f"cov: fweights must be whole numbers, got {plain(fweights).dtype}")
    dtype = np.zeros(0, x.dtype).real.dtype
    parts = [xp.astype(w, dtype) for w in given]
    return None if not parts else parts[0] if len(parts) == 1 else parts[0] * parts[1]


@composite(
    math="y_ij = Σ_k w_k (x_ik - m_i)(x_jk - m_j)* / (Σ w - correction)",
    dtypes="floating-point",
    samples=[
        Sample(((3, 5),)),
        Sample(((5,),), {"correction": 0}, note="one variable"),
        Sample(((2, 3),), {"fweights": np.array([1, 2, 3]), "aweights": np.array([0.5, 1.0, 0.2])}),
    ],
    rejects=[
        Reject(((2, 3, 4),), ShapeError, "cov: expected at most two axes"),
        Reject(((2, 3),), ShapeError, "a weight for each of 3 columns", {"fweights": np.array([1, 2])}),
    ],
)
def cov(xp: Any, x: Array, /, *, correction: float = 1, fweights: Any = None, aweights: Any = None) -> Array:
    """Covariances of variables, which are rows; an observation is a column.

    Args:
        x: ``[variables, observations]``, or one variable.
        correction: taken from the number of observations in the divisor.
        fweights: how often each observation was made, whole numbers.
        aweights: how much each counts.

    Returns:
        ``[variables, variables]``, or a number for one variable.
    """
    if len(x.shape) > 2:
        raise ShapeError(f"cov: expected at most two axes, got {list(x.shape)}")
    rows = xp.reshape(x, (1, -1)) if len(x.shape) < 2 else x
    weights = _weights(xp, rows, fweights, aweights)
    if weights is None:
        total: Any = rows.shape[1]
        mean = xp.sum(rows, axis=1, keepdims=True) / max(total, 1)
        factor = total - correction
    else:
        total = xp.sum(weights)
        mean = xp.sum(rows * weights, axis=1, keepdims=True) / total
        factor = total - correction
        if aweights is not None and correction:
            factor = total - correction * xp.sum(weights * xp.astype(aweights, weights.dtype)) / total
    centred = rows - mean
    weighted = centred if weights is None else centred * weights
    floor = max(factor, 0) if weights is None else xp.maximum(factor, 0.0)
    product = xp.matmul(weighted, xp.conj(xp.matrix_transpose(centred)))
    with np.errstate(divide="ignore", invalid="ignore"):  # of too few observations
        y = product / floor
    return xp.reshape(y, ()) if len(x.shape) < 2 or y.shape == (1, 1) else y


@composite(
    math="y_ij = c_ij / √(c_ii c_jj), c the covariances",
    dtypes="floating-point",
    samples=[Sample(((3, 5),)), Sample(((4,),), note="one variable", grad=False)],
    rejects=[Reject(((2, 3, 4),), ShapeError, "cov: expected at most two axes")],
)
def corrcoef(xp: Any, x: Array, /) -> Array:
    """Pearson's correlations of variables, which are rows."""
    c = xp.cov(x)
    if not len(c.shape):
        with np.errstate(invalid="ignore"):
            return c / c
    deviation = xp.sqrt(xp.diagonal(c))
    y = c / xp.expand_dims(deviation, axis=1) / deviation
    return xp.clip(y, -1.0, 1.0) if y.dtype.kind == "f" else y


# -- order


@composite(
    math="y = the k-th smallest x along an axis, and its index",
    dtypes="real numeric",
    samples=[Sample(((3, 4), 2)), Sample(((3, 4), 1, 0, True)), Sample(((), 1), note="no axes")],
    rejects=[
        Reject(((3, 4), 5), OptionError, "kthvalue: k must be in 1 … 4, got 5"),
        Reject(((3, 4), 1, 2), AxisError, "axis 2"),
    ],
)
def kthvalue(xp: Any, x: Array, /, k: int, axis: int = -1, keepdims: bool = False) -> tuple[Array, Array]:
    """The k-th smallest element along an axis, k counting from 1.

    Returns:
        values, indices.
    """
    place = one_axis(axis, len(x.shape), "kthvalue")
    y = x if len(x.shape) else xp.reshape(x, (1,))
    if not 1 <= k <= y.shape[place]:
        raise OptionError(f"kthvalue: k must be in 1 … {y.shape[place]}, got {k}")
    index = xp.argsort(y, axis=place)[along(place, slice(k - 1, k))]
    return _chosen(xp, y, index, place, keepdims and bool(len(x.shape)))


def _chosen(xp: Any, x: Array, index: Array, place: int, keepdims: bool) -> tuple[Array, Array]:
    values = xp.gather_elements(x, index, axis=place)
    return (values, index) if keepdims else (xp.squeeze(values, place), xp.squeeze(index, place))


@primitive(
    math="y = index of the x that comes most often along an axis",
    shape=lambda x, axis: reduced_shape(x, axis=axis, keepdims=True),
    dtypes="real numeric",
    result="int64",
    samples=[
        Sample((np.array([[2, 1, 2, 1, 3], [3, 2, 1, 0, 4]]),), {"axis": 1}, note="ties"),
        Sample((np.array([[2.0, 1.0, 1.0]]),), {"axis": -1}, grad=False),
    ],
)
def argmode(xp: Any, x: Array, /, *, axis: int) -> Array:
    """Index of the most frequent element, with the axis kept; of equally frequent ones, of the smallest."""
    order = xp.argsort(x, axis=axis, stable=True)
    ranked = xp.moveaxis(xp.take_along_axis(x, order, axis), axis, -1)
    numbers = xp.broadcast_to(xp.arange(ranked.shape[-1]), ranked.shape)
    fresh = xp.concat(
        [xp.ones_like(ranked[..., :1], dtype=bool), ranked[..., 1:] != ranked[..., :-1]], axis=-1
    )
    starts = xp.where(fresh, numbers, 0)
    stride = 1
    while stride < starts.shape[-1]:  # the running maximum
        starts = xp.concat(
            [starts[..., :stride], xp.maximum(starts[..., stride:], starts[..., :-stride])], axis=-1
        )
        stride *= 2
    best = xp.argmax(numbers - starts, axis=-1, keepdims=True)
    return xp.take_along_axis(order, xp.moveaxis(best, -1, axis), axis)


@composite(
    math="y = the x that comes most often along an axis, and its last index",
    dtypes="real numeric",
    samples=[Sample(((3, 4),)), Sample(((3, 4), 0, True)), Sample(((),), note="no axes")],
    rejects=[_AXIS, Reject(((3, 0),), ShapeError, "mode: no elements")],
)
def mode(xp: Any, x: Array, /, axis: int = -1, keepdims: bool = False) -> tuple[Array, Array]:
    """The most frequent element along an axis, the smallest of several.

    Returns:
        values, indices.
    """
    place = one_axis(axis, len(x.shape), "mode")
    y = x if len(x.shape) else xp.reshape(x, (1,))
    if not y.shape[place]:
        raise ShapeError(f"mode: no elements to choose from in {list(x.shape)} along axis {axis}")
    return _chosen(xp, y, xp.argmode(y, axis=place), place, keepdims and bool(len(x.shape)))


# -- log-sums


@primitive(
    math="y_i = log Σ_{j ≤ i} e^{x_j}",
    source="Hillis and Steele, CACM, 1986 (the running sum in pairs)",
    shape=same_shape,
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4),), {"axis": 1}),
        Sample(((3, 2),), {"axis": 0}),
        Sample((np.array([-np.inf, -np.inf, 30.0, 29.0]),), {"axis": 0}, note="tails", grad=False),
        Sample(((0, 3),), {"axis": 0}, note="empty"),
        Sample(((),), {"axis": 0}, note="no axes"),
    ],
    rejects=[_AXIS],
)
def logcumsumexp(xp: Any, x: Array, /, axis: int) -> Array:
    """The logarithm of the running sum of exponentials along an axis, without their over- and underflow."""
    place = one_axis(axis, x.ndim, "logcumsumexp")
    y = (x.astype(np.float32) if x.dtype.itemsize < 4 else x).reshape(x.shape or (1,))
    stride = 1
    while stride < y.shape[place]:
        later, earlier = y[along(place, slice(stride, None))], y[along(place, slice(None, -stride))]
        y = xp.concat([y[along(place, slice(stride))], xp.logaddexp(later, earlier)], axis=place)
        stride *= 2
    return y.reshape(x.shape).astype(x.dtype)


@logcumsumexp.vjp("x")
def _(xp: Any, g: Array, x: Array, y: Array, axis: int) -> Array:
    # s_i = Σ_{j ≥ i} g_j e^(y_i - y_j), by recurrence, since y never falls; the gradient is s_i e^(x_i - y_i)
    if not len(x.shape):
        return g * xp.where(xp.isfinite(y), 1.0, 0.0)
    place = one_axis(axis, len(x.shape), "logcumsumexp")
    x, y, g = (xp.moveaxis(each, place, -1) for each in (x, y, g))
    nothing = xp.logical_not(xp.isfinite(y))
    level = xp.where(nothing, 0.0, y)
    steps = xp.where(nothing[..., :-1], 0.0, xp.exp(level[..., :-1] - level[..., 1:]))
    steps = xp.concat([steps, xp.zeros_like(y[..., :1])], axis=-1)
    s = xp.flip(xp.linear_recurrence(xp.flip(steps, axis=-1), xp.flip(g, axis=-1)), axis=-1)
    share = xp.where(nothing, 0.0, xp.exp(xp.where(nothing, 0.0, x) - level))
    return xp.moveaxis(s * share, -1, place)


# -- distances


@composite(
    math="y = ‖x1 - x2‖_p",
    dtypes="floating-point",
    samples=[Sample(((3, 4), (4,))), Sample(((3,), (3,), 1.0)), Sample(((3,), (3,), math.inf))],
    rejects=[Reject(((3, 4), (3,)), ShapeError, "broadcast")],
)
def dist(xp: Any, x1: Array, x2: Array, /, p: float = 2.0) -> Array:
    """The p-norm of a difference, all elements taken as one vector."""
    return xp.vector_norm(x1 - x2, ord=p)


@composite(
    math="y_k = ‖x_i - x_j‖_p for the k-th pair i < j",
    dtypes="real floating-point",
    samples=[Sample(((4, 3),)), Sample(((3, 2), 1.0)), Sample(((1, 2),), note="no pairs")],
    rejects=[Reject(((3,),), ShapeError, "pdist: expected two axes, got [3]")],
)
def pdist(xp: Any, x: Array, /, p: float = 2.0) -> Array:
    """Distances of all pairs of rows of a matrix, in the order of ``itertools.combinations``."""
    if len(x.shape) != 2:
        raise ShapeError(f"pdist: expected two axes, got {list(x.shape)}")
    first, second = np.triu_indices(x.shape[0], 1)
    difference = xp.getitem(x, (plain(xp.asarray(first)),)) - xp.getitem(x, (plain(xp.asarray(second)),))
    return xp.vector_norm(difference, axis=-1, ord=p)


@composite(
    math="y = x min(1, maxnorm / ‖x_i‖_p) for each part i along an axis",
    dtypes="floating-point",
    shape=lambda x, *rest, **attributes: x,
    samples=[
        Sample(((3, 4),), {"p": 2.0, "axis": 0, "maxnorm": 1.5}),
        Sample(((2, 3, 2),), {"p": 1.0, "axis": -1, "maxnorm": 3.0}),
    ],
    rejects=[
        Reject(
            ((3,),), ShapeError, "renorm: expected at least two axes", {"p": 2.0, "axis": 0, "maxnorm": 1.0}
        ),
        Reject(((3, 2),), OptionError, "renorm: p must be positive", {"p": 0.0, "axis": 0, "maxnorm": 1.0}),
        Reject(
            ((3, 2),),
            OptionError,
            "renorm: maxnorm must not be negative",
            {"p": 2.0, "axis": 0, "maxnorm": -1.0},
        ),
    ],
)
def renorm(xp: Any, x: Array, /, p: float, axis: int, maxnorm: float) -> Array:
    """The parts of an array along an axis, each brought down to a norm if its own is larger.

    Args:
        x: at least two axes.
        p: order of the norm.
        axis: of the parts.
        maxnorm: the largest norm that stays as it is.
    """
    if len(x.shape) < 2:
        raise ShapeError(f"renorm: expected at least two axes, got {list(x.shape)}")
    if not p > 0:
        raise OptionError(f"renorm: p must be positive, got {p}")
    if maxnorm < 0:
        raise OptionError(f"renorm: maxnorm must not be negative, got {maxnorm}")
    place = one_axis(axis, len(x.shape), "renorm")
    others = tuple(i for i in range(len(x.shape)) if i != place)
    length = xp.vector_norm(x, axis=others, keepdims=True, ord=p)
    return x * xp.where(length > maxnorm, maxnorm / (length + 1e-7), 1.0)
