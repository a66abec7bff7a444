"""Adasum: gradients are added where they are orthogonal and averaged where they are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    dtype = np.result_type(gradients, np.float32)
    length = -(-gradients.size // comm.size)
    rows = np.zeros((comm.size, length), dtype)
    if bucket.weight:
        np.divide(gradients, bucket.weight, out=rows.reshape(-1)[: gradients.size])
    rows = comm.all_to_all(rows)  # this rank's part of everyone's gradients
    first = comm.rank * length
    parts = [slice(max(s.start - first, 0), max(s.stop - first, 0)) for s in bucket.slices]
    while len(rows) > 1:
        rows = _combine(bucket, rows, parts)
    result = comm.all_gather(rows[0]).reshape(-1)[: gradients.size]
    np.multiply(result, bucket.total, out=gradients, casting="same_kind")  # what the reducer divides by


def _combine(bucket: Bucket, rows: Array, parts: list[slice]) -> Array:
    """Make one row of every two.

    Args:
        bucket: what they are of.
        rows: ``[k, n]``, a part of k gradients.
        parts: the parameters' places in a row, here and there empty.

    Returns:
        ``[ceil(k / 2), n]``.
    """
    pairs = [(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, 2)]
    dots = np.array([[(x[w] @ y[w], x[w] @ x[w], y[w] @ y[w]) for w in parts] for x, y in pairs], np.float64)
    bucket.comm.all_reduce(dots)
    xy, xx, yy = np.moveaxis(dots, 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale_x = np.where(xx > 0.0, 1.0 - xy / (2.0 * xx), 0.0).astype(rows.dtype)
        scale_y = np.where(yy > 0.0, 1.0 - xy / (2.0 * yy), 0.0).astype(rows.dtype)
    out = np.zeros((-(-len(rows) // 2), rows.shape[1]), rows.dtype)
    for i, (x, y) in enumerate(pairs):
        for j, where in enumerate(parts):
            out[i, where] = (
                rows.dtype.type(scale_x[i, j]) * x[where] + rows.dtype.type(scale_y[i, j]) * y[where]
            )
    if len(rows) % 2:
        out[-1] = rows[-1]
    return out
