"""Adasum: gradients are added where they are orthogonal and averaged where they are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.array_module import get_array_module
from distgrad.comm.work import Work
from distgrad.parallel.buckets import Bucket

__all__ = ["adasum"]

Array = NDArray[Any]


def adasum(bucket: Bucket) -> Work:
    """Replace the mean over the ranks by their Adasum, a hook for any number of ranks.

    ``Adasum(a, b) = (1 - a·b / 2 a·a) a + (1 - a·b / 2 b·b) b`` for each parameter, of neighbouring ranks,
    then of neighbouring pairs, and so on; one without a partner goes on as it is. Each rank counts by its own
    mean gradient, whatever its weight; weight 0 is a gradient of 0, which changes nothing.

    Collective: yes; blocks: no.

    Source: Maleki et al., MLSys 2021; ranks in other numbers than powers of 2 are not theirs.
    """
    return bucket.comm.submit(lambda: _reduce(bucket), "adasum")


def _reduce(bucket: Bucket) -> None:
    comm, gradients = bucket.comm, bucket.gradients
    xp = get_array_module(gradients)
    dtype = np.result_type(gradients.dtype, np.float32)
    length = -(-gradients.size // comm.size)
    rows = xp.zeros((comm.size, length), dtype)
    if bucket.weight:
        xp.divide(gradients, bucket.weight, out=rows.reshape(-1)[: gradients.size])
    rows = comm.all_to_all(rows)  # this rank's part of everyone's gradients
    first = comm.rank * length
    parts = [slice(max(s.start - first, 0), max(s.stop - first, 0)) for s in bucket.slices]
    while len(rows) > 1:
        rows = _combine(bucket, rows, parts)
    result = comm.all_gather(rows[0]).reshape(-1)[: gradients.size]
    gradients[...] = result * bucket.total  # what the reducer divides by


def _combine(bucket: Bucket, rows: Array, parts: list[slice]) -> Array:
    """Make one row of every two.

    Args:
        bucket: what they are of.
        rows: ``[k, n]``, a part of k gradients.
        parts: the parameters' places in a row, here and there empty.

    Returns:
        ``[ceil(k / 2), n]``.
    """
    xp, count = get_array_module(rows), len(rows) // 2
    x, y = rows[: 2 * count : 2], rows[1 : 2 * count : 2]
    dots = xp.stack(
        [
            xp.sum(a[:, w] * b[:, w], axis=1, dtype=np.float64)
            for a, b in ((x, y), (x, x), (y, y))
            for w in parts
        ]
    )
    xy, xx, yy = bucket.comm.all_reduce(dots).reshape(3, len(parts), count)
    scale_x, scale_y = (
        xp.where(own > 0.0, 1.0 - xy / (2.0 * xp.where(own > 0.0, own, 1.0)), 0.0).astype(rows.dtype)
        for own in (xx, yy)
    )
    out = xp.zeros((len(rows) - count, rows.shape[1]), rows.dtype)
    for place, where in enumerate(parts):
        part = scale_x[place][:, None] * x[:, where] + scale_y[place][:, None] * y[:, where]
        out[:count, where] = part
    if len(rows) % 2:
        out[-1] = rows[-1]
    return out
