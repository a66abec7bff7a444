"""Windows that move over up to three axes, as the kernels take them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["windows"]

_MOST = (1 << 31) - 1  # elements of a plane, which kernels count in 32 bits


def windows(spatial: Any, out: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """The struct ``Windows`` of windows.cuh, in an array of one; None for too many axes, or huge ones."""
    if not 1 <= len(spatial) <= 3 or max(map(math.prod, (spatial, out, kernel))) > _MOST:
        return None
    rows = ((spatial, 1), (out, 1), (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    numbers = np.array([(*(fill,) * (3 - len(row)), *row) for row, fill in rows], dtype=np.int64)
    return numbers.reshape(-1).view([("numbers", np.int64, numbers.size)])
