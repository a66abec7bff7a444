"""The double of Thrust, CuPy's sorting: NumPy does it in the device's memory, in the stream's order."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gpu_double.runtime import Runtime


def replace_sorting(double: Runtime) -> None:
    """Let ``cupy.cuda.thrust`` sort on the double's streams; rows of the last axis, equal ones in order."""
    from cupy.cuda import get_current_stream, thrust

    def view(pointer: int, dtype: Any, shape: Sequence[int]) -> np.ndarray:
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        double.memory.check(pointer, num_bytes, double.get_device(), "a sort")
        raw = (ctypes.c_ubyte * num_bytes).from_address(pointer)
        return np.frombuffer(raw, dtype).reshape(shape)

    def enqueue(work: Callable[[], None]) -> None:
        def step() -> bool:
            work()
            return True

        double.scheduler.enqueue(get_current_stream().ptr, double.get_device(), "a sort", step)

    def sort(dtype: Any, data: int, _keys: int, shape: Sequence[int]) -> None:
        rows = view(data, dtype, shape)
        enqueue(lambda: rows.sort(axis=-1, kind="stable"))

    def argsort(dtype: Any, indices: int, data: int, _keys: int, shape: Sequence[int]) -> None:
        rows, order = view(data, dtype, shape), view(indices, np.intp, shape)

        def work() -> None:
            order[...] = np.argsort(rows, axis=-1, kind="stable")
            rows.sort(axis=-1, kind="stable")

        enqueue(work)

    thrust.sort, thrust.argsort = sort, argsort
