"""Convolution in any number of spatial dimensions, as patches times a matrix.

But for its bias, ``convolution`` is linear in each of its inputs, and the gradient of each is another such
product. So three primitives are each other's gradients, to any order:

* ``convolution(x, weight, bias)``: y from x and weight, and a number added to each output channel,
* ``convolution_input(cotangent, weight)``: its transpose in x (a transposed convolution),
* ``convolution_weight(cotangent, x)``: its transpose in weight.

Shapes: x ``[N, C, *spatial]``, weight ``[O, C / groups, *kernel]``, y ``[N, O, *out]``.
Source: Chellapilla et al., IWFHR 2006 (patches times a matrix).
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.shape_rules import Into, Shape, mixed_dtypes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import widened
from distgrad.errors import ShapeError

Sizes = tuple[int, ...]


class Geometry(NamedTuple):
    """How a kernel moves over the spatial axes, one number an axis.

    Args:
        kernel, stride, padding, dilation: as PyTorch's layers take them.
        ceil_mode: one more place for the kernel where the last one leaves elements over.
    """

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    ceil_mode: bool = False

    def out(self, spatial: Sizes) -> Sizes:
        """Lengths of the output's spatial axes; below 1 where the kernel does not fit."""
        lengths = []
        for n, k, s, p, d in zip(spatial, *self[:4], strict=True):
            free = n + 2 * p - d * (k - 1) - 1
            length = free // s + 1
            if self.ceil_mode and free % s and length * s < n + p:  # it must begin inside the input
                length += 1
            lengths.append(length)
        return tuple(lengths)

    def padded(self, spatial: Sizes) -> Sizes:
        """Lengths with the padding, and with what the kernel's last place reaches beyond it."""
        return tuple(
            max(n + 2 * p, (length - 1) * s + d * (k - 1) + 1)
            for n, length, k, s, p, d in zip(spatial, self.out(spatial), *self[:4], strict=True)
        )

    def offsets(self, out: Sizes) -> list[tuple[slice, ...]]:
        """For each place in the kernel, the elements of the padded input that it meets."""
        axes = [
            [slice(i * d, i * d + s * (n - 1) + 1, s) for i in range(k)]
            for n, k, s, d in zip(out, self.kernel, self.stride, self.dilation, strict=True)
        ]
        return list(itertools.product(*axes))


def pad(xp: Any, x: Array, geometry: Geometry, value: float = 0.0) -> Array:
    """x with ``geometry.padding`` on both ends of each spatial axis."""
    spatial = x.shape[2:]
    padded = geometry.padded(spatial)
    if padded == spatial:
        return x
    out = xp.full((*x.shape[:2], *padded), value, dtype=x.dtype)
    out[interior(geometry, spatial)] = x
    return out


def interior(geometry: Geometry, spatial: Sizes) -> tuple[Any, ...]:
    """The key of the unpadded part of a padded array."""
    return (..., *(slice(p, p + n) for p, n in zip(geometry.padding, spatial, strict=True)))


def _patches(xp: Any, x: Array, geometry: Geometry, groups: int) -> Array:
    """Patches as columns: ``[N, groups, C / groups · prod(kernel), prod(out)]``."""
    batch, channels = x.shape[:2]
    out = geometry.out(x.shape[2:])
    padded = pad(xp, x, geometry)
    places = math.prod(geometry.kernel)
    patches = xp.empty((batch, channels, places, *out), dtype=x.dtype)
    for place, offset in enumerate(geometry.offsets(out)):
        patches[:, :, place] = padded[(..., *offset)]
    return patches.reshape(batch, groups, channels // groups * places, math.prod(out))


def _matrix(weight: Array, groups: int) -> Array:
    """The weight as one matrix a group: ``[groups, O / groups, C / groups · prod(kernel)]``."""
    return weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))


def _output_shape(
    x: Shape,
    weight: Shape,
    bias: Shape | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Shape:
    return (x[0], weight[0], *Geometry(weight[2:], stride, padding, dilation).out(x[2:]))


def _check(x: Array, weight: Array, bias: Array | None, geometry: Geometry, groups: int) -> None:
    channels = weight.shape[1] * groups
    if x.ndim != weight.ndim or x.shape[1] != channels:
        raise ShapeError(
            f"convolution: x is {list(x.shape)} but weight {list(weight.shape)} with groups={groups} expects "
            f"[N, {channels}] and {weight.ndim - 2} spatial axes"
        )
    if x.dtype != weight.dtype:
        raise mixed_dtypes("convolution", x, weight)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"convolution: bias is {list(bias.shape)} but there are {weight.shape[0]} output channels"
        )
    if bias is not None and bias.dtype != x.dtype:
        raise mixed_dtypes("convolution", x, bias, "bias")
    if weight.shape[0] % groups:
        raise ShapeError(f"convolution: {weight.shape[0]} output channels do not divide into {groups} groups")
    if min(geometry.out(x.shape[2:])) < 1:
        raise ShapeError(
            f"convolution: kernel {list(geometry.kernel)} with dilation {list(geometry.dilation)} is larger "
            f"than the padded input {list(geometry.padded(x.shape[2:]))}; add padding"
        )


_PLAIN = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
_ODD = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
_LINE = {"stride": (2,), "padding": (1,), "dilation": (1,), "groups": 1}


@primitive(
    math="y[n, o, p] = Σ_c,k weight[o, c, k] x[n, c, stride p + dilation k - padding] + bias[o]",
    source="Chellapilla et al., IWFHR 2006",
    shape=_output_shape,
    dtypes="real floating-point",
    samples=[
        Sample(((2, 3, 5, 4), (4, 3, 3, 2)), _PLAIN),
        Sample(((2, 4, 5, 6), (4, 2, 3, 2), (4,)), _ODD, note="strides, padding, dilation, groups"),
        Sample(((2, 2, 6), (3, 2, 3), (3,)), _LINE, note="one dimension"),
        Sample(((0, 3, 5, 4), (4, 3, 3, 2), (4,)), _PLAIN, note="empty"),
    ],
    rejects=[
        Reject(((2, 3, 5, 4), (4, 3, 3, 2), (3,)), ShapeError, "bias is [3] but there are 4 output", _PLAIN),
        Reject(((2, 3, 5, 4), (4, 2, 3, 2)), ShapeError, "expects [N, 2", _PLAIN),
        Reject(((2, 3, 2, 4), (4, 3, 3, 2)), ShapeError, "larger than the padded input", _PLAIN),
    ],
)
def convolution(
    xp: Any,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Array:
    """Convolution (cross-correlation, as networks use it) in any number of dimensions.

    Args:
        x: ``[N, C, *spatial]``.
        weight: ``[O, C / groups, *kernel]``.
        bias: ``[O]``, or None.
        stride: step of the kernel, one number a spatial axis, as are the next two.
        padding: zeros added to both ends.
        dilation: distance of the kernel's elements.
        groups: parts that channels are divided into; each output part sees one input part.

    Returns:
        ``[N, O, *out]``.
    """
    geometry = Geometry(weight.shape[2:], stride, padding, dilation)
    _check(x, weight, bias, geometry, groups)
    y = xp.matmul(_matrix(weight, groups), _patches(xp, x, geometry, groups))
    y = y.reshape(x.shape[0], weight.shape[0], *geometry.out(x.shape[2:]))
    if bias is not None:
        y += bias.reshape(-1, *(1,) * (x.ndim - 2))
    return y


@convolution.vjp("x")
def _(
    xp: Any,
    g: Array,
    x_shape: Shape,
    weight: Array,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Array:
    return xp.convolution_input(
        g, weight, shape=x_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@convolution.vjp("weight")
def _(
    xp: Any,
    g: Array,
    x: Array,
    weight_shape: Shape,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    into: Into,
) -> Array:  # here and below the kernel alone writes home
    return xp.convolution_weight(
        g, x, shape=weight_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@convolution.vjp("bias")
def _(xp: Any, g: Array, into: Into) -> Array:
    return xp.sum(g, axis=(0, *range(2, len(g.shape))))


@primitive(
    math="the transpose of convolution in x",
    shape=lambda cotangent, weight, shape, **attributes: shape,
    dtypes="real floating-point",
    samples=[
        Sample(((2, 4, 3, 3), (4, 3, 3, 2)), {"shape": (2, 3, 5, 4), **_PLAIN}),
        Sample(((2, 4, 3, 8), (4, 2, 3, 2)), {"shape": (2, 4, 5, 6), **_ODD}, note="all options"),
        Sample(((2, 3, 3), (3, 2, 3)), {"shape": (2, 2, 6), **_LINE}, note="an output that could be shorter"),
    ],
    rejects=[
        Reject(
            ((2, 4, 3, 3), (4, 3, 3, 2)), ShapeError, "expect [2, 4, 3, 4]", {"shape": (2, 3, 5, 5), **_PLAIN}
        ),
        Reject(
            ((2, 4, 3, 3), (4, 3, 3, 2)),
            ShapeError,
            "an output [2, 2, 5, 4]",
            {"shape": (2, 2, 5, 4), **_PLAIN},
        ),
    ],
)
def convolution_input(
    xp: Any,
    cotangent: Array,
    weight: Array,
    /,
    *,
    shape: Shape,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Array:
    """What the outputs ``cotangent`` of a convolution sum up to at each element of its input.

    Args:
        cotangent: ``[N, O, *out]``.
        weight: ``[O, C / groups, *kernel]``.
        shape: of the result, ``[N, C, *spatial]``.
        stride, padding, dilation, groups: the convolution's.
    """
    geometry = Geometry(weight.shape[2:], stride, padding, dilation)
    out = geometry.out(shape[2:])
    expected = (shape[0], weight.shape[0], *out)
    if cotangent.shape != expected or shape[1] != weight.shape[1] * groups:
        raise ShapeError(
            f"convolution_input: x is {list(cotangent.shape)} but weight {list(weight.shape)} and an output "
            f"{list(shape)} with groups={groups} expect {list(expected)}"
        )
    dtype = cotangent.dtype
    cotangent, weight = widened(cotangent, weight)
    rows = cotangent.reshape(cotangent.shape[0], groups, weight.shape[0] // groups, math.prod(out))
    columns = xp.matmul(xp.matrix_transpose(_matrix(weight, groups)), rows)
    patches = columns.reshape(*shape[:2], math.prod(geometry.kernel), *out)
    padded = xp.zeros((*shape[:2], *geometry.padded(shape[2:])), dtype=columns.dtype)
    for place, offset in enumerate(geometry.offsets(out)):
        padded[(..., *offset)] += patches[:, :, place]
    return padded[interior(geometry, shape[2:])].astype(dtype, copy=False)


@convolution_input.vjp("cotangent")
def _(xp: Any, g: Array, weight: Array, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Array:
    return xp.convolution(g, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)


@convolution_input.vjp("weight")
def _(
    xp: Any,
    g: Array,
    cotangent: Array,
    weight_shape: Shape,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Array:
    return xp.convolution_weight(
        cotangent, g, shape=weight_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@primitive(
    math="the transpose of convolution in weight",
    shape=lambda cotangent, x, shape, **attributes: shape,
    dtypes="real floating-point",
    samples=[
        Sample(((2, 4, 3, 3), (2, 3, 5, 4)), {"shape": (4, 3, 3, 2), **_PLAIN}),
        Sample(((2, 4, 3, 8), (2, 4, 5, 6)), {"shape": (4, 2, 3, 2), **_ODD}, note="all options"),
    ],
)
def convolution_weight(
    xp: Any,
    cotangent: Array,
    x: Array,
    /,
    *,
    shape: Shape,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Array:
    """What a convolution's outputs ``cotangent`` and inputs ``x`` sum up to at each element of its weight.

    Args:
        cotangent: ``[N, O, *out]``.
        x: ``[N, C, *spatial]``.
        shape: of the result, ``[O, C / groups, *kernel]``.
        stride, padding, dilation, groups: the convolution's.
    """
    geometry = Geometry(shape[2:], stride, padding, dilation)
    patches = _patches(xp, x, geometry, groups)
    rows = cotangent.reshape(cotangent.shape[0], groups, shape[0] // groups, patches.shape[-1])
    return xp.sum(xp.matmul(rows, xp.matrix_transpose(patches)), axis=0).reshape(shape)


@convolution_weight.vjp("cotangent")
def _(xp: Any, g: Array, x: Array, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Array:
    return xp.convolution(x, g, stride=stride, padding=padding, dilation=dilation, groups=groups)


@convolution_weight.vjp("x")
def _(
    xp: Any,
    g: Array,
    cotangent: Array,
    x_shape: Shape,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Array:
    return xp.convolution_input(
        cotangent, g, shape=x_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
