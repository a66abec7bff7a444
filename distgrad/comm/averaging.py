"""Means over the ranks, by a backend's sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.comm.arrays import zeros
from distgrad.comm.pipeline import CallPipeline
from distgrad.comm.reduction import is_narrow

__all__ = ["Averaging"]


class Averaging(CallPipeline):
    """What makes a mean of what a backend adds up; a backend whose arrays lie elsewhere says where.

    Attributes:
        has_mean: whether the backend's "mean" divides while it adds, so that nothing is left to do behind it.
    """

    has_mean = False

    def _reduce_all(self, x: NDArray[Any], flat: NDArray[Any], op: str, weight: float | None) -> NDArray[Any]:
        if op == "mean" and is_narrow(flat.dtype):
            self._mean_of_narrow(flat, 1.0 if weight is None else weight)
        elif weight is not None:
            self._weighted_mean(flat, weight)
        elif op == "mean" and not self.has_mean:
            self._all_reduce(flat, "sum")
            self._divide(flat)
        else:
            self._all_reduce(flat, op)
        return x

    def _mean_of_narrow(self, flat: NDArray[Any], weight: float) -> None:
        """A mean of 16-bit floats: weighted, added and divided in float32, whose range holds the sum."""
        wide: NDArray[Any] = zeros(flat, (flat.size + 1,), np.dtype(np.float32))
        sums, total = wide[:-1], wide[-1:]  # the weights travel along
        if weight:
            sums[...] = flat
            sums *= np.float32(weight)
            total[...] = weight
        self._all_reduce(wide, "sum")
        with np.errstate(all="ignore"):
            sums /= total + (total == 0)
            flat[...] = sums.astype(flat.dtype)

    def _weighted_mean(self, flat: NDArray[Any], weight: float) -> None:
        total = np.array([float(weight)])
        self._all_reduce(total, "sum")
        share = weight / total[0] if total[0] else 0.0
        if share:
            np.multiply(flat, flat.dtype.type(share), out=flat)
        else:
            flat[...] = 0
        self._all_reduce(flat, "sum")

    def _divide(self, flat: NDArray[Any]) -> None:
        flat /= self.size

    def _reduce_part(self, x: NDArray[Any], out: NDArray[Any], op: str, edges: list[int]) -> None:
        """Reduce this rank's part of the flat ``x`` into ``out``."""
        if op == "mean" and is_narrow(x.dtype):
            self._narrow_part(x, out, edges)
        elif op == "mean" and not self.has_mean:
            self._reduce_scatter(x, out, "sum", edges)
            self._divide(out)
        else:
            self._reduce_scatter(x, out, op, edges)

    def _narrow_part(self, x: NDArray[Any], out: NDArray[Any], edges: list[int]) -> None:
        wide = x.astype(np.float32)
        part = wide[edges[self.rank] : edges[self.rank + 1]]
        self._reduce_scatter(wide, part, "sum", edges)
        with np.errstate(all="ignore"):
            part /= self.size
            out[...] = part.astype(out.dtype)
