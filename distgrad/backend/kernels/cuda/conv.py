"""Convolution over up to three axes: patches as columns and products by cuBLAS, or directly if depthwise.

Images are taken in parts, so that patches hold no more memory than a limit. What cuDNN computes comes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from distgrad.backend import cudnn_conv
from distgrad.backend.cublas import matmul
from distgrad.backend.kernels.cuda.launch import (
    THREADS,
    arithmetic,
    empty,
    launch,
    over_planes,
    prepare,
    writable,
)
from distgrad.backend.kernels.cuda.windows import windows
from distgrad.backend.kernels.geometry import output_lengths

_PATCHES = 1 << 26  # elements at a time


class _Setting(NamedTuple):
    """A convolution's sizes.

    Args:
        windows: the kernels' struct.
        x, weight, y: shapes.
        groups: of channels.
        bare: whether an image is its own patches.
    """

    windows: Any
    x: tuple[int, ...]
    weight: tuple[int, ...]
    y: tuple[int, ...]
    groups: int
    bare: bool

    @property
    def depthwise(self) -> bool:
        """Whether each output sees one channel."""
        return self.weight[1] == 1 and self.groups > 1

    @property
    def size(self) -> int:
        """Elements of an output plane."""
        return math.prod(self.y[2:])

    @property
    def terms(self) -> int:
        """Products that an output is the sum of."""
        return math.prod(self.weight[1:])

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Images, channels and outputs."""
        return self.x[0], self.x[1], self.y[1]

    def parts(self) -> Iterator[slice]:
        """Images whose patches are held at a time."""
        step = max(1, _PATCHES // (self.groups * self.terms * self.size))
        for first in range(0, self.x[0], step):
            yield slice(first, min(first + step, self.x[0]))


def _setting(x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """The setting for shapes; None where the formula is to say what is wrong, or to do it."""
    x, weight = tuple(x), tuple(weight)
    if len(x) < 3 or len(weight) != len(x) or 0 in x or 0 in weight:
        return None
    if x[1] != weight[1] * groups or weight[0] % groups:
        return None
    geometry = (weight[2:], stride, padding, dilation)
    out = output_lengths(x[2:], *geometry)
    if min(out) < 1:
        return None
    found = windows(x[2:], out, *geometry)
    bare = {*weight[2:], *stride} == {1} and not any(padding)
    return None if found is None else _Setting(found, x, weight, (x[0], weight[0], *out), groups, bare)


def _patches(x: Any, setting: _Setting) -> Any:
    """Patches as columns, ``[images, groups, terms, outputs]``."""
    shape = (len(x), setting.groups, setting.terms, setting.size)
    if setting.bare:
        return x.reshape(shape)
    patches, planes = empty(x, shape), math.prod(x.shape[:2])
    count = math.prod(setting.weight[2:])
    arguments = (planes, setting.windows, x, patches)
    over_planes("conv", "unroll", planes * count, setting.size, x.dtype.char, *arguments)
    return patches


def _matrix(weight: Any, setting: _Setting) -> Any:
    """``[groups, outputs / groups, terms]``."""
    return weight.reshape(setting.groups, len(weight) // setting.groups, setting.terms)


def _rows(g: Any, setting: _Setting) -> Any:
    """``[images, groups, outputs / groups, places]``."""
    return g.reshape(len(g), setting.groups, setting.y[1] // setting.groups, setting.size)


def _across(g: Any, x: Any, setting: _Setting) -> tuple[Any, Any]:
    """``[groups, outputs / groups, N]`` and patches ``[groups, terms, N]``, N: all places of all images."""
    images, groups = len(x), setting.groups
    shapes = (groups, setting.y[1] // groups, -1), (groups, setting.terms, images * setting.size)
    if images == 1:
        return g.reshape(shapes[0]), _patches(x, setting).reshape(shapes[1])
    turned, patches = empty(g, g.size), empty(x, shapes[1])
    sizes = images, setting.x[1], setting.y[1]
    planes = patches.size // setting.size + images * setting.y[1]
    arguments = (*sizes, setting.windows, x, g, patches, turned)
    over_planes("conv", "unroll_across", planes, setting.size, x.dtype.char, *arguments)
    return turned.reshape(shapes[0]), patches


def convolution(
    x: Any, weight: Any, bias: Any = None, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """Forward."""
    setting = _setting(x.shape, weight.shape, stride, padding, dilation, groups)
    taken = prepare(x, weight, bias)
    if setting is None or taken is None or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    x, weight, bias = taken
    y, geometry = empty(x, setting.y), (stride, padding, dilation)
    if bias is not None and cudnn_conv.compute("forward", x, weight, y, *geometry, bias):
        return y
    if not cudnn_conv.compute("forward", x, weight, y, *geometry):
        _fill(y, x, weight, setting)
    if bias is not None:
        y += bias.reshape(-1, *(1,) * (y.ndim - 2))
    return y


def _fill(y: Any, x: Any, weight: Any, setting: _Setting) -> None:
    """Without the bias."""
    if setting.depthwise:
        planes, arguments = math.prod(setting.y[:2]), (*setting.sizes, setting.windows, x, weight, y)
        over_planes("conv", "depthwise", planes, setting.size, x.dtype.char, *arguments)
        return
    matrix, rows = _matrix(weight, setting), _rows(y, setting)
    for part in setting.parts():
        matmul(matrix, _patches(x[part], setting), rows[part])


def convolution_input(
    cotangent: Any, weight: Any, *, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """The transpose in x."""
    setting = _setting(shape, weight.shape, stride, padding, dilation, groups)
    taken = prepare(cotangent, weight)
    if setting is None or taken is None or cotangent.shape != setting.y:
        return None
    g, weight = taken
    x, char, length = empty(g, setting.x), g.dtype.char, math.prod(setting.x[2:])
    if cudnn_conv.compute("input", x, weight, g, stride, padding, dilation):
        return x
    if setting.depthwise:
        arguments = (*setting.sizes, setting.windows, g, weight, x)
        over_planes("conv", "depthwise_input", math.prod(setting.x[:2]), length, char, *arguments)
        return x
    matrix, rows = _matrix(weight, setting).swapaxes(-1, -2), _rows(g, setting)
    for part in setting.parts():
        if setting.bare:
            matmul(matrix, rows[part], x[part].reshape(len(x[part]), setting.groups, setting.terms, -1))
        else:
            columns = matmul(matrix, rows[part])
            planes = math.prod(x[part].shape[:2])
            over_planes("conv", "fold", planes, length, char, planes, setting.windows, columns, x[part])
    return x


def convolution_weight(
    cotangent: Any, x: Any, *, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """The transpose in weight."""
    return weight_into(cotangent, x, shape, stride, padding, dilation, groups, None)


def weight_into(
    cotangent: Any, x: Any, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int, home: Any
) -> Any:
    """The transpose in weight, written ``home`` where it can be."""
    setting = _setting(x.shape, shape, stride, padding, dilation, groups)
    taken = prepare(cotangent, x)
    if setting is None or taken is None or cotangent.shape != setting.y:
        return None
    g, x = taken
    weight = writable(home, g, setting.weight)
    if cudnn_conv.compute("weight", x, weight, g, stride, padding, dilation):
        return weight
    if setting.depthwise:
        arguments = (*setting.sizes, setting.windows, g, x, weight)
        launch("conv", "depthwise_weight", x.dtype.char, (weight.size,), THREADS, arguments)
        return weight
    wide, parts, out = arithmetic(g.dtype.char), list(setting.parts()), _matrix(weight, setting)
    total = out if len(parts) == 1 or weight.dtype.char == wide else empty(g, out.shape, wide)
    for number, part in enumerate(parts):
        rows, patches = _across(g[part], x[part], setting)
        matmul(rows, patches.swapaxes(-1, -2), total, add=number > 0)
    if total is not out:
        out[...] = total
    return weight
