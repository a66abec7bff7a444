"""Convolution over one or two axes, an image and a tile of its rows at a time.

A tile's patches are unrolled into a block that stays in the cache, along the columns of the kernel only: the
kernel's rows then are products with one and the same block, shifted by whole rows. Where rows cannot be
shifted (a stride) or channels are few, all of the kernel is unrolled; a kernel of 1 × 1 with stride 1 needs
no block at all. Groups are products of their own; for depthwise ones sums of shifted rows were no faster.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.kernels.product import product, product_address
from distgrad.backend.kernels.support import is_plain, jit
from distgrad.backend.threads import run_products

_TILE_BYTES = 1 << 16  # of unrolled patches; of 2^16 … 2^21 the fastest for 32 → 64 channels on 26 × 26
_FEW = 24  # below so many terms a product is not worth its call; measured on 64 images of 28 × 28


class Plan(NamedTuple):
    """How the kernels go over an image.

    Args:
        groups: of channels.
        kernel, stride, padding, dilation: two numbers each, for rows and columns.
        shifted: whether the kernel's rows are shifts of one block.
        tile: rows of the output to a block.
        bare: whether an image is its own block.
    """

    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    shifted: bool
    tile: int
    bare: bool


@jit
def _clip(start: int, step: int, count: int, length: int) -> Any:
    """The places 0 … count at which ``start + step place`` lies inside ``length``: (first, one past last)."""
    low = 0 if start >= 0 else (-start + step - 1) // step
    high = 0 if start >= length else (length - start + step - 1) // step
    high = min(high, count)
    return min(low, high), high


@jit
def _unroll(x: Any, first: int, count: int, width: int, plan: Any, block: Any) -> Any:
    """Patches of the output rows from ``first`` on into ``block``, ``[terms, rows, width]``."""
    _, kernel, stride, padding, dilation, shifted, _, _ = plan
    rows = 1 if shifted else kernel[0]
    step = 1 if shifted else stride[0]
    lines = count + dilation[0] * (kernel[0] - 1) if shifted else count
    term = 0
    for c in range(x.shape[0]):
        for a in range(rows):
            for b in range(kernel[1]):
                start = b * dilation[1] - padding[1]
                low, high = _clip(start, stride[1], width, x.shape[2])
                for i in range(lines):
                    to = block[term, i]
                    at = (first + i) * step + a * dilation[0] - padding[0]
                    if at < 0 or at >= x.shape[1] or low >= high:
                        for j in range(width):
                            to[j] = 0
                        continue
                    for j in range(low):
                        to[j] = 0
                    for j in range(high, width):
                        to[j] = 0
                    row, into = x[c, at, low * stride[1] + start :], to[low:high]
                    if stride[1] == 1:
                        for j in range(into.size):
                            into[j] = row[j]
                    else:
                        for j in range(into.size):
                            into[j] = row[j * stride[1]]
                term += 1


@jit
def _fold(block: Any, first: int, count: int, width: int, plan: Any, x: Any) -> Any:
    """The transpose of :func:`_unroll`: adds the block to the elements of ``x`` that it came from."""
    _, kernel, stride, padding, dilation, shifted, _, _ = plan
    rows = 1 if shifted else kernel[0]
    step = 1 if shifted else stride[0]
    lines = count + dilation[0] * (kernel[0] - 1) if shifted else count
    term = 0
    for c in range(x.shape[0]):
        for a in range(rows):
            for b in range(kernel[1]):
                start = b * dilation[1] - padding[1]
                low, high = _clip(start, stride[1], width, x.shape[2])
                for i in range(lines):
                    at = (first + i) * step + a * dilation[0] - padding[0]
                    if at < 0 or at >= x.shape[1] or low >= high:
                        continue
                    row, up = x[c, at, low * stride[1] + start :], block[term, i, low:high]
                    if stride[1] == 1:
                        for j in range(up.size):
                            row[j] += up[j]
                    else:
                        for j in range(up.size):
                            row[j * stride[1]] += up[j]
                term += 1


@jit
def _forward(address: int, one: Any, x: Any, w: Any, plan: Any, y: Any) -> None:
    """``y[n, o, rows, width]`` from ``x[n, c, h, w]`` and ``w[groups, shifts, o / groups, terms]``."""
    groups, shifts, outputs, terms = w.shape
    inputs = x.shape[1] // groups
    height, width, tile = y.shape[2], y.shape[3], plan[6]
    lines = tile + (plan[4][0] * (shifts - 1))
    block = np.empty((terms, lines, width), x.dtype)
    size = x.itemsize
    for n in range(x.shape[0]):
        for group in range(groups):
            image = x[n, group * inputs : (group + 1) * inputs]
            for first in range(0, height, tile):
                count = min(tile, height - first)
                source, row = block.ctypes.data, lines * width
                if plan[7]:
                    source, row = image[0, first].ctypes.data, height * width
                else:
                    _unroll(image, first, count, width, plan, block)
                to = (y[n, group * outputs, first].ctypes.data, height * width)
                for a in range(shifts):
                    left = (w[group, a].ctypes.data, terms)
                    right = (source + a * plan[4][0] * width * size, row)
                    beta = one * 0 if a == 0 else one
                    product(
                        address, (False, False), outputs, count * width, terms, one, left, right, beta, to
                    )


@jit
def _input(address: int, one: Any, g: Any, w: Any, plan: Any, x: Any) -> None:
    """The transpose of :func:`_forward` in ``x``."""
    groups, shifts, outputs, terms = w.shape
    inputs = x.shape[1] // groups
    height, width, tile = g.shape[2], g.shape[3], plan[6]
    lines = tile + (plan[4][0] * (shifts - 1))
    block = np.empty((terms, lines, width), x.dtype)
    size = x.itemsize
    for n in range(x.shape[0]):
        if not plan[7]:
            x[n] = 0
        for group in range(groups):
            image = x[n, group * inputs : (group + 1) * inputs]
            for first in range(0, height, tile):
                count = min(tile, height - first)
                source, row = block.ctypes.data, lines * width
                if plan[7]:
                    source, row = image[0, first].ctypes.data, height * width
                elif shifts > 1:
                    block[:] = 0
                up = (g[n, group * outputs, first].ctypes.data, height * width)
                for a in range(shifts):
                    left = (w[group, a].ctypes.data, terms)
                    to = (source + a * plan[4][0] * width * size, row)
                    beta = one if shifts > 1 else one * 0
                    product(address, (True, False), terms, count * width, outputs, one, left, up, beta, to)
                if not plan[7]:
                    _fold(block, first, count, width, plan, image)


@jit
def _weight(address: int, one: Any, g: Any, x: Any, plan: Any, w: Any) -> None:
    """The transpose of :func:`_forward` in ``w``, added to what ``w`` holds."""
    groups, shifts, outputs, terms = w.shape
    inputs = x.shape[1] // groups
    height, width, tile = g.shape[2], g.shape[3], plan[6]
    lines = tile + (plan[4][0] * (shifts - 1))
    block = np.empty((terms, lines, width), x.dtype)
    size = x.itemsize
    for n in range(x.shape[0]):
        for group in range(groups):
            image = x[n, group * inputs : (group + 1) * inputs]
            for first in range(0, height, tile):
                count = min(tile, height - first)
                source, row = block.ctypes.data, lines * width
                if plan[7]:
                    source, row = image[0, first].ctypes.data, height * width
                else:
                    _unroll(image, first, count, width, plan, block)
                up = (g[n, group * outputs, first].ctypes.data, height * width)
                for a in range(shifts):
                    right = (source + a * plan[4][0] * width * size, row)
                    to = (w[group, a].ctypes.data, terms)
                    product(address, (False, True), outputs, terms, count * width, one, up, right, one, to)


def _plan(
    weight: tuple[int, ...], width: int, itemsize: int, stride: Any, padding: Any, dilation: Any, groups: int
) -> Plan:
    """The plan for a weight ``[O, C / groups, *kernel]`` with two spatial axes, and rows of ``width``."""
    terms = weight[1] * weight[3]
    shifted = stride[0] == 1 and terms >= _FEW and weight[2] > 1
    if not shifted:
        terms *= weight[2]
    rows = _TILE_BYTES // (terms * width * itemsize)
    tile = max(1, rows - dilation[0] * (weight[2] - 1) if shifted else rows)
    bare = (*weight[2:], *stride, *padding) == (1, 1, 1, 1, 0, 0)
    sizes = (weight[2:], tuple(stride), tuple(padding), tuple(dilation))
    return Plan(groups, *sizes, shifted, tile, bare)  # type: ignore[arg-type]


def _to_products(weight: Any, plan: Plan) -> Any:
    """``[O, C / groups, *kernel]`` as ``[groups, shifts, O / groups, terms]``."""
    outputs, inputs, rows, columns = weight.shape
    if plan.shifted:
        w = weight.reshape(plan.groups, outputs // plan.groups, inputs, rows, columns)
        w = np.ascontiguousarray(w.transpose(0, 3, 1, 2, 4))
        return w.reshape(plan.groups, rows, outputs // plan.groups, inputs * columns)
    return weight.reshape(plan.groups, 1, outputs // plan.groups, inputs * rows * columns)


def _from_products(w: Any, shape: tuple[int, ...], plan: Plan) -> Any:
    if plan.shifted:
        outputs, inputs, rows, columns = shape
        w = w.reshape(plan.groups, rows, outputs // plan.groups, inputs, columns).transpose(0, 2, 3, 1, 4)
    return w.reshape(shape)


class _Setting(NamedTuple):
    """A convolution brought to two spatial axes."""

    address: int
    plan: Plan
    x: tuple[int, ...]
    weight: tuple[int, ...]
    y: tuple[int, ...]


def _setting(x: Any, weight: Any, dtype: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """The setting for shapes ``x`` and ``weight``; None where the kernels do not apply."""
    address = product_address(dtype)
    if not address or len(x) not in (3, 4) or len(weight) != len(x):
        return None
    if len(x) == 3:
        x, weight = (*x[:2], 1, x[2]), (*weight[:2], 1, weight[2])
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    if 0 in x or 0 in weight or x[1] != weight[1] * groups or weight[0] % groups:
        return None
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x[2:], weight[2:], stride, padding, dilation, strict=True)
    ]
    if min(out) < 1:
        return None
    plan = _plan(weight, out[1], dtype.itemsize, stride, padding, dilation, groups)
    plan = plan._replace(tile=min(plan.tile, out[0]))
    return _Setting(address, plan, x, weight, (x[0], weight[0], *out))


def convolution(x: Any, weight: Any, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Forward."""
    if not is_plain(x, weight):
        return None
    setting = _setting(x.shape, weight.shape, x.dtype, stride, padding, dilation, groups)
    if setting is None:
        return None
    y = np.empty(setting.y, x.dtype)
    w = _to_products(weight.reshape(setting.weight), setting.plan)
    images, one = x.reshape(setting.x), x.dtype.type(1)

    def run(start: int, stop: int) -> None:
        _forward(setting.address, one, images[start:stop], w, tuple(setting.plan), y[start:stop])

    run_products(run, len(x), 1)
    return y.reshape(*y.shape[:2], *y.shape[6 - x.ndim :])


def convolution_input(
    cotangent: Any, weight: Any, *, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """The transpose in x."""
    if not is_plain(cotangent, weight):
        return None
    setting = _setting(tuple(shape), weight.shape, weight.dtype, stride, padding, dilation, groups)
    if setting is None or cotangent.size != np.prod(setting.y):
        return None
    x = np.empty(setting.x, weight.dtype)
    w = _to_products(weight.reshape(setting.weight), setting.plan)
    g, one = cotangent.reshape(setting.y), weight.dtype.type(1)

    def run(start: int, stop: int) -> None:
        _input(setting.address, one, g[start:stop], w, tuple(setting.plan), x[start:stop])

    run_products(run, len(x), 1)
    return x.reshape(shape)


def convolution_weight(
    cotangent: Any, x: Any, *, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """The transpose in weight; images are summed in runs whose borders do not depend on the threads."""
    if not is_plain(cotangent, x):
        return None
    setting = _setting(x.shape, tuple(shape), x.dtype, stride, padding, dilation, groups)
    if setting is None or cotangent.size != np.prod(setting.y):
        return None
    g, images, one = cotangent.reshape(setting.y), x.reshape(setting.x), x.dtype.type(1)
    like = _to_products(np.empty(setting.weight, x.dtype), setting.plan)
    runs = min(len(x), 8)
    parts = np.zeros((runs, *like.shape), x.dtype)
    edges = [len(x) * i // runs for i in range(runs + 1)]

    def run(start: int, stop: int) -> None:
        for i in range(start, stop):
            part = slice(edges[i], edges[i + 1])
            _weight(setting.address, one, g[part], images[part], tuple(setting.plan), parts[i])

    run_products(run, runs, 1)
    return _from_products(parts.sum(axis=0), setting.weight, setting.plan).reshape(shape)
