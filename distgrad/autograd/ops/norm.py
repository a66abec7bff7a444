"""Normalisation: batch, layer, instance, group and root-mean-square norm, each with scale and shift.

All but the last subtract the mean and divide by the deviation over some axes; they differ in the axes, and in
how channels are divided. A :class:`Layout` says which, and two functions do the rest.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.casting import limits
from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Before, Into, Shape, added, mixed_dtypes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import widened
from distgrad.errors import DTypeError, ShapeError

Gradients = tuple[Array | None, ...]


class Layout(NamedTuple):
    """How an input is normalised.

    Args:
        shape: that the input is brought to first.
        axes: normalised over, in that shape.
        affine: shape of weight and bias against it.
        parameters: shape of weight and bias themselves.
    """

    shape: Shape
    axes: tuple[int, ...]
    affine: Shape
    parameters: Shape


def _mean(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """Mean over axes, kept; of no elements it is 0, so that a rank without data has gradients of 0."""
    count = math.prod(x.shape[axis] for axis in axes)
    return xp.sum(x, axis=axes, keepdims=True) * (1.0 / max(count, 1))


def _normalized(xp: Any, x: Array, layout: Layout, eps: float) -> tuple[Array, Array, Array, Array]:
    """The input less its mean over its deviation; one over the deviation; the mean; and the variance.

    All in the layout's shape, those of what was averaged with length 1 there.
    """
    x = xp.reshape(x, layout.shape)
    mean = _mean(xp, x, layout.axes)
    centred = x - mean
    variance = _mean(xp, xp.square(centred), layout.axes)
    rate = 1.0 / xp.sqrt(variance + eps)
    return centred * rate, rate, mean, variance


def _affine(xp: Any, y: Array, weight: Array | None, bias: Array | None, shape: Shape) -> Array:
    if weight is not None:
        y = y * xp.reshape(weight, shape)
    if bias is not None:
        y = y + xp.reshape(bias, shape)
    return y


def _check(where: str, x: Array, layout: Layout, **parameters: Array | None) -> None:
    """Refuse parameters of another shape than the layout's, or of another dtype than the input's."""
    for name, each in parameters.items():
        if each is None:
            continue
        if each.shape != layout.parameters:
            raise ShapeError(f"{where}: {name} is {list(each.shape)}, expected {list(layout.parameters)}")
        if each.dtype != x.dtype:
            raise mixed_dtypes(where, x, each, name)


def _forward(
    xp: Any, where: str, x: Array, weight: Array | None, bias: Array | None, layout: Layout, eps: float
) -> tuple[Array, Array, Array]:
    """The result, and the mean and variance that were taken out."""
    _check(where, x, layout, weight=weight, bias=bias)
    dtype = x.dtype
    x, weight, bias = widened(x, weight, bias)
    y, _, mean, variance = _normalized(xp, x, layout, eps)
    y = xp.reshape(_affine(xp, y, weight, bias, layout.affine), x.shape)
    with np.errstate(over="ignore"):  # a variance may be more than float16 holds, and be of no further use
        return (
            y.astype(dtype, copy=False),
            mean.astype(dtype, copy=False),
            variance.astype(dtype, copy=False),
        )


def _backward(
    xp: Any,
    g: Array,
    x: Array,
    weight: Array | None,
    layout: Layout,
    eps: float,
    needs: Any,
    g_mean: Any = 0.0,
    g_variance: Any = 0.0,
) -> Gradients:
    """The gradients of input, weight and bias; those of mean and variance broadcast against the layout.

    Source: Ioffe and Szegedy, ICML 2015, for the input's.
    """
    g, x, weight = widened(g, x, weight)  # the engine brings gradients to the inputs' dtypes
    g = xp.reshape(g, layout.shape)
    y, rate, _, _ = _normalized(xp, x, layout, eps)
    g_x = None
    if needs[0]:
        inner = g if weight is None else g * xp.reshape(weight, layout.affine)
        share = 1.0 / max(math.prod(layout.shape[axis] for axis in layout.axes), 1)
        slope = g_variance * (2.0 * share) / rate - rate * _mean(xp, inner * y, layout.axes)
        level = g_mean * share - rate * _mean(xp, inner, layout.axes)
        g_x = xp.reshape(inner * rate + y * slope + level, x.shape)
    g_weight = _collected(xp, g * y, layout) if needs[1] else None
    return g_x, g_weight, _collected(xp, g, layout) if needs[2] else None


def _collected(xp: Any, g: Array, layout: Layout) -> Array:
    """A gradient summed over all elements that one weight scales."""
    lengths = (1,) * (len(layout.shape) - len(layout.affine)) + layout.affine
    surplus = tuple(i for i, n in enumerate(lengths) if n == 1)
    return xp.reshape(xp.sum(g, axis=surplus) if surplus else g, layout.parameters)


# -- over the last axes


def _last_axes(where: str, x: Shape, normalized_shape: Shape) -> Layout:
    count = len(normalized_shape)
    if count == 0 or tuple(x[-count:]) != tuple(normalized_shape):
        raise ShapeError(
            f"{where}: x is {list(x)} but its last axes must be normalized_shape={list(normalized_shape)}"
        )
    shape = tuple(normalized_shape)
    return Layout(x, tuple(range(len(x) - count, len(x))), shape, shape)


_LAST_SAMPLES = [
    Sample(((2, 3, 4), (4,), (4,)), {"normalized_shape": (4,)}),
    Sample(((2, 3, 4), (3, 4), (3, 4)), {"normalized_shape": (3, 4)}, note="two axes"),
    Sample(((5, 4),), {"normalized_shape": (4,)}, note="no weight"),
    Sample(((0, 4), (4,), (4,)), {"normalized_shape": (4,)}, note="empty"),
]
_LAST_REJECTS = [
    Reject(((2, 3),), ShapeError, "normalized_shape=[4]", {"normalized_shape": (4,)}),
    Reject(((2, 4), (3,)), ShapeError, "weight is [3], expected [4]", {"normalized_shape": (4,)}),
    Reject(
        ((2, 4), np.ones(4, np.float32)),
        DTypeError,
        "x is float64 but weight float32",
        {"normalized_shape": (4,)},
    ),
]


@primitive(
    math="y = (x - mean x) / √(var x + eps) weight + bias, over the last axes",
    source="Ba et al., arXiv:1607.06450, 2016",
    shape=lambda x, *rest, **attributes: x,
    dtypes="real floating-point",
    samples=_LAST_SAMPLES,
    rejects=_LAST_REJECTS,
)
def layer_norm(
    xp: Any,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    normalized_shape: Shape,
    eps: float = 1e-5,
) -> Array:
    """Each sample's last axes brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        x: ``[*, *normalized_shape]``.
        weight, bias: ``normalized_shape``, or None.
        normalized_shape: lengths of the axes normalised over.
        eps: added to the variance.
    """
    layout = _last_axes("layer_norm", x.shape, normalized_shape)
    return _forward(xp, "layer_norm", x, weight, bias, layout, eps)[0]


@layer_norm.vjp("x", "weight", "bias")
def _(
    xp: Any,
    g: Array,
    x: Array,
    weight: Array | None,
    normalized_shape: Shape,
    eps: float,
    needs: Any,
    into: Into,
    before: Before,
) -> Gradients:  # here and below the kernel alone writes home
    layout = _last_axes("layer_norm", x.shape, normalized_shape)
    g_x, *parameters = _backward(xp, g, x, weight, layout, eps, needs)
    return (added(g_x, before[0]) if needs[0] else None, *parameters)


def _root_mean_square_rate(xp: Any, x: Array, layout: Layout, eps: float | None) -> Array:
    """One over the root of the mean square."""
    eps = float(limits(x.dtype).eps) if eps is None else eps
    (x,) = widened(x)
    return 1.0 / xp.sqrt(_mean(xp, xp.square(x), layout.axes) + eps)


@primitive(
    math="y = x / √(mean x² + eps) weight, over the last axes",
    source="Zhang and Sennrich, NeurIPS 2019",
    shape=lambda x, *rest, **attributes: x,
    dtypes="real floating-point",
    samples=[*(Sample(s.args[:2], s.attributes, s.note) for s in _LAST_SAMPLES)],
    rejects=_LAST_REJECTS,
)
def rms_norm(
    xp: Any, x: Array, weight: Array | None = None, /, *, normalized_shape: Shape, eps: float | None = None
) -> Array:
    """Each sample's last axes divided by their root mean square, then scaled.

    Args:
        x: ``[*, *normalized_shape]``.
        weight: ``normalized_shape``, or None.
        normalized_shape: lengths of the axes normalised over.
        eps: added to the mean square; None means the dtype's own.
    """
    layout = _last_axes("rms_norm", x.shape, normalized_shape)
    _check("rms_norm", x, layout, weight=weight)
    rate = _root_mean_square_rate(xp, x, layout, eps)
    wide, scale = widened(x, weight)
    return _affine(xp, wide * rate, scale, None, layout.affine).astype(x.dtype, copy=False)


@rms_norm.vjp("x", "weight")
def _(
    xp: Any,
    g: Array,
    x: Array,
    weight: Array | None,
    normalized_shape: Shape,
    eps: float | None,
    needs: Any,
    into: Into,
    before: Before,
) -> Gradients:
    layout = _last_axes("rms_norm", x.shape, normalized_shape)
    rate = _root_mean_square_rate(xp, x, layout, eps)
    g, x, weight = widened(g, x, weight)
    y = x * rate
    inner = g if weight is None else g * weight
    g_x = None
    if needs[0]:
        g_x = added(rate * (inner - y * _mean(xp, inner * y, layout.axes)), before[0])
    return g_x, _collected(xp, g * y, layout) if needs[1] else None


# -- with channels on axis 1


def _batch(where: str, x: Shape) -> Layout:
    if len(x) < 2:
        raise ShapeError(f"{where}: x is {list(x)}, expected [N, C, *]")
    spatial = tuple(range(2, len(x)))
    return Layout(x, (0, *spatial), (x[1], *(1,) * len(spatial)), x[1:2])


def _groups(where: str, x: Shape, num_groups: int) -> Layout:
    if len(x) < 2 or x[1] % num_groups:
        raise ShapeError(
            f"{where}: x is {list(x)}, expected [N, C, *] with C a multiple of num_groups={num_groups}"
        )
    part = x[1] // num_groups
    ones = (1,) * (len(x) - 2)
    shape = (x[0], num_groups, part, *x[2:])
    return Layout(shape, tuple(range(2, len(shape))), (num_groups, part, *ones), x[1:2])


_CHANNEL_SAMPLES = [
    Sample(((3, 4), (4,), (4,))),
    Sample(((2, 4, 3, 2), (4,), (4,)), note="images"),
    Sample(((2, 4, 3),), note="no weight"),
    Sample(((2, 4, 3), None, (4,)), note="bias alone"),
    Sample(((0, 4, 3), (4,), (4,)), note="empty"),
]
_CHANNEL_REJECTS = [
    Reject(((3,),), ShapeError, "expected [N, C, *]"),
    Reject(((3, 4), (3,)), ShapeError, "weight is [3], expected [4]"),
    Reject(((3, 4), np.ones(4, np.float32)), DTypeError, "x is float64 but weight float32"),
]


@primitive(
    math="y, mean, var = batch_norm(x), mean x[:, c], var x[:, c]",
    source="Ioffe and Szegedy, ICML 2015",
    shape=lambda x, *rest, **attributes: [x, x[1:2], x[1:2]],
    dtypes="real floating-point",
    outputs=3,
    sparse=True,
    samples=_CHANNEL_SAMPLES,
    rejects=_CHANNEL_REJECTS,
)
def batch_norm_with_statistics(
    xp: Any, x: Array, weight: Array | None = None, bias: Array | None = None, /, *, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """As :func:`batch_norm`, with the mean and variance that it took out, for running ones.

    Args:
        x: ``[N, C, *]``.
        weight, bias: ``[C]``, or None.
        eps: added to the variance.

    Returns:
        The result, of the shape of ``x``; mean and variance, ``[C]`` each.
    """
    layout = _batch("batch_norm", x.shape)
    y, mean, variance = _forward(xp, "batch_norm", x, weight, bias, layout, eps)
    return y, xp.reshape(mean, layout.parameters), xp.reshape(variance, layout.parameters)


@batch_norm_with_statistics.vjp("x", "weight", "bias")
def _(
    xp: Any, g: tuple[Any, ...], x: Array, weight: Array | None, eps: float, needs: Any, into: Into
) -> Gradients:
    layout = _batch("batch_norm", x.shape)
    g_y = xp.zeros_like(x) if g[0] is None else g[0]
    g_mean, g_variance = (0.0 if each is None else xp.reshape(each, layout.affine) for each in g[1:])
    return _backward(xp, g_y, x, weight, layout, eps, needs, g_mean, g_variance)


@composite(
    math="y[:, c] = (x[:, c] - mean x[:, c]) / √(var x[:, c] + eps) weight[c] + bias[c]",
    source="Ioffe and Szegedy, ICML 2015",
    shape=lambda x, *rest, **attributes: x,
    dtypes="real floating-point",
    samples=_CHANNEL_SAMPLES,
    rejects=_CHANNEL_REJECTS,
)
def batch_norm(
    xp: Any, x: Array, weight: Array | None = None, bias: Array | None = None, /, *, eps: float = 1e-5
) -> Array:
    """Each channel brought to mean 0 and variance 1 over the batch, then scaled and shifted.

    Args:
        x: ``[N, C, *]``.
        weight, bias: ``[C]``, or None.
        eps: added to the variance.
    """
    return xp.batch_norm_with_statistics(x, weight, bias, eps=eps)[0]


@composite(
    math="y[:, c] = (x[:, c] - mean[c]) / √(var[c] + eps) weight[c] + bias[c]",
    source="Ioffe and Szegedy, ICML 2015",
    dtypes="real floating-point",
    domain=(0.5, 2.0),
    samples=[
        Sample(((2, 4, 3), (4,), (4,), (4,), (4,))),
        Sample(((2, 4), (4,), (4,)), note="no weight"),
    ],
    rejects=[Reject(((2, 4, 3), (3,), (3,)), ShapeError, "mean is [3], expected [4]")],
)
def batch_norm_inference(
    xp: Any,
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    eps: float = 1e-5,
) -> Array:
    """Batch norm with a given mean and variance.

    Args:
        x: ``[N, C, *]``.
        mean, var: ``[C]``.
        weight, bias: ``[C]``, or None.
        eps: added to the variance.
    """
    layout = _batch("batch_norm_inference", x.shape)
    _check("batch_norm_inference", x, layout, mean=mean, var=var, weight=weight, bias=bias)
    rate = 1.0 / xp.sqrt(var + eps)
    scale = rate if weight is None else rate * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return _affine(xp, x, scale, shift, layout.affine)


@primitive(
    math="y = (x - mean x) / √(var x + eps) weight + bias, over groups of channels",
    source="Wu and He, ECCV 2018",
    shape=lambda x, *rest, **attributes: x,
    dtypes="real floating-point",
    samples=[Sample(s.args, {"num_groups": 2}, s.note) for s in _CHANNEL_SAMPLES],
    rejects=[
        *(Reject(r.args, r.error, r.message, {"num_groups": 2}) for r in _CHANNEL_REJECTS),
        Reject(((3, 4),), ShapeError, "multiple of num_groups=3", {"num_groups": 3}),
    ],
)
def group_norm(
    xp: Any,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    num_groups: int,
    eps: float = 1e-5,
) -> Array:
    """Each sample's groups of channels brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        x: ``[N, C, *]``.
        weight, bias: ``[C]``, or None.
        num_groups: parts that the channels are divided into.
        eps: added to the variance.
    """
    return _forward(xp, "group_norm", x, weight, bias, _groups("group_norm", x.shape, num_groups), eps)[0]


@group_norm.vjp("x", "weight", "bias")
def _(
    xp: Any, g: Array, x: Array, weight: Array | None, num_groups: int, eps: float, needs: Any, into: Into
) -> Gradients:
    return _backward(xp, g, x, weight, _groups("group_norm", x.shape, num_groups), eps, needs)


def _instances(x: Shape) -> Layout:
    layout = _batch("instance_norm", x)
    return layout._replace(axes=layout.axes[1:])


@primitive(
    math="y[n, c] = (x[n, c] - mean x[n, c]) / √(var x[n, c] + eps) weight[c] + bias[c]",
    source="Ulyanov et al., arXiv:1607.08022, 2016",
    shape=lambda x, *rest, **attributes: x,
    dtypes="real floating-point",
    samples=_CHANNEL_SAMPLES[1:],
    rejects=_CHANNEL_REJECTS,
)
def instance_norm(
    xp: Any, x: Array, weight: Array | None = None, bias: Array | None = None, /, *, eps: float = 1e-5
) -> Array:
    """Each sample's channels brought to mean 0 and variance 1, then scaled and shifted.

    Args:
        x: ``[N, C, *]``.
        weight, bias: ``[C]``, or None.
        eps: added to the variance.
    """
    return _forward(xp, "instance_norm", x, weight, bias, _instances(x.shape), eps)[0]


@instance_norm.vjp("x", "weight", "bias")
def _(xp: Any, g: Array, x: Array, weight: Array | None, eps: float, needs: Any, into: Into) -> Gradients:
    return _backward(xp, g, x, weight, _instances(x.shape), eps, needs)
