"""Products of arrays under NumPy's and PyTorch's names, and arrays cut into parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.ops.shape_rules import normalize_axes
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError, ShapeError


@composite(
    math="y[b, i, j] = Σ_k x1[b, i, k] x2[b, k, j]",
    dtypes="numeric",
    samples=[Sample(((2, 3, 4), (2, 4, 5))), Sample(((0, 3, 4), (0, 4, 5)), note="empty")],
    rejects=[
        Reject(((2, 3, 4), (3, 4, 5)), ShapeError, "bmm: expected [B, N, K] and [B, K, M]"),
        Reject(((3, 4), (4, 5)), ShapeError, "bmm: expected [B, N, K] and [B, K, M]"),
    ],
)
def bmm(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Matrix products of two stacks of one length, ``[B, N, K]`` and ``[B, K, M]``."""
    shapes = (tuple(x1.shape), tuple(x2.shape))
    if [len(shape) for shape in shapes] != [3, 3] or shapes[0][::2] != shapes[1][:2]:
        raise ShapeError(f"bmm: expected [B, N, K] and [B, K, M], got {list(x1.shape)} and {list(x2.shape)}")
    return xp.matmul(x1, x2)


@composite(
    math="y[i k + a, j l + b] = x1[i, j] x2[a, b], x2 being [k, l]",
    dtypes="numeric",
    samples=[
        Sample(((2, 3), (4, 2))),
        Sample(((3,), (2,)), note="vectors"),
        Sample(((2, 3), (4,)), note="fewer axes"),
        Sample(((), (2, 3)), note="no axes"),
    ],
)
def kron(xp: Any, x1: Array, x2: Array, /) -> Array:
    """Kronecker product: each element of the first times the whole second."""
    ndim = max(len(x1.shape), len(x2.shape))
    outer = (1,) * (ndim - len(x1.shape)) + tuple(x1.shape)
    inner = (1,) * (ndim - len(x2.shape)) + tuple(x2.shape)
    spread = tuple(n for length in outer for n in (length, 1))
    tiled = tuple(n for length in inner for n in (1, length))
    product = xp.reshape(x1, spread) * xp.reshape(x2, tiled)
    return xp.reshape(product, tuple(n * m for n, m in zip(outer, inner, strict=True)))


@composite(
    math="y1, y2, … = x cut along an axis",
    samples=[
        Sample(((5, 3), 2)),
        Sample(((3, 6),), {"split_size_or_sections": [1, 0, 5], "axis": 1}),
    ],
    rejects=[
        Reject(((5, 3),), ShapeError, "add up to 4", {"split_size_or_sections": [1, 3]}),
        Reject(((5, 3), 0), ShapeError, "at least 1"),
        Reject(((5, 3), 1), AxisError, "axis 2", {"axis": 2}),
    ],
)
def split(
    xp: Any, x: Array, /, split_size_or_sections: int | Sequence[int], axis: int = 0
) -> tuple[Array, ...]:
    """An array cut into parts along an axis, as views; PyTorch's function, not NumPy's.

    Args:
        x: any shape.
        split_size_or_sections: the length of the parts, the last may be shorter; or each part's length.
        axis: the axis that is cut.
    """
    place = normalize_axes(axis, len(x.shape), "split")[0]
    length = x.shape[place]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 1:
            raise ShapeError(f"split: the length of a part must be at least 1, got {size}")
        sizes = [min(size, length - start) for start in range(0, length, size)] or [0]
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != length or min(sizes, default=0) < 0:
            raise ShapeError(
                f"split: parts {sizes} add up to {sum(sizes)}, but axis {axis} of {list(x.shape)} is {length}"
            )
    before = (slice(None),) * place
    parts, start = [], 0
    for size in sizes:
        parts.append(x[(*before, slice(start, start + size))])
        start += size
    return tuple(parts)


@composite(
    math="y1, y2, … = x cut along an axis",
    samples=[Sample(((5, 3), 2)), Sample(((3, 7), 3), {"axis": 1}), Sample(((2, 3), 4), note="fewer parts")],
    rejects=[Reject(((5, 3), 0), ShapeError, "at least 1")],
)
def chunk(xp: Any, x: Array, /, chunks: int, axis: int = 0) -> tuple[Array, ...]:
    """An array cut into at most ``chunks`` parts of one length along an axis; the last may be shorter."""
    if chunks < 1:
        raise ShapeError(f"chunk: chunks must be at least 1, got {chunks}")
    place = normalize_axes(axis, len(x.shape), "chunk")[0]
    return xp.split(x, max(-(-x.shape[place] // chunks), 1), axis=axis)
