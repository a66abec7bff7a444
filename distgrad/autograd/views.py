"""Other shapes and dtypes over the same memory, and how elements lie in it."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.layouts import numbers
from distgrad.autograd.meanings import kind
from distgrad.autograd.storages import memory_of
from distgrad.autograd.tensor import make_tensor, share
from distgrad.errors import ShapeError

__all__ = ["in_row_order", "strides", "viewed"]


def in_row_order(x: Any) -> Any:
    """Itself if its elements lie in row order, else a copy where they do."""
    if x._data.flags.c_contiguous:
        return x
    return ops.reshape(ops.reshape(x, (-1,)), x.shape)  # the first copies in row order


def strides(x: Any, dim: int | None) -> Any:
    """How many elements lie between neighbours along each axis, of a new one those of what lies within."""
    steps = [each // x._data.itemsize for each in x._data.strides]
    for i in reversed(range(x.ndim)):
        if not steps[i] and x.shape[i] == 1:
            steps[i] = x.shape[i + 1] * steps[i + 1] if i + 1 < x.ndim else 1
    return tuple(steps) if dim is None else steps[dim]


def viewed(x: Any, shape: tuple[Any, ...]) -> Any:
    """Another shape, or the same bytes as another dtype.

    Raises:
        ShapeError: a view of a tensor in row order which has no such shape in its memory.
    """
    if (
        len(shape) == 1
        and not isinstance(shape[0], tuple | list | int)
        and not hasattr(shape[0], "__index__")
    ):
        out = make_tensor(x._data.view(kind(shape[0])))
        share(out, x, x._data)
        return out
    out = ops.reshape(x, numbers(shape))
    if x._aliases is not None and x._aliases.first_owns and out._aliases is None and x.size > 1:
        first = memory_of(x._data)
        if first is not x._data and first.flags.c_contiguous:
            raise ShapeError(
                f"view: {list(x.shape)} with strides {list(strides(x, None))} does not lie in memory as "
                f"{list(out.shape)} does; use reshape(), or contiguous() first"
            )
    return out
