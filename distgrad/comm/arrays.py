"""What the verbs take: plain, contiguous arrays, seen flat as a backend moves them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.array_module import HOST_ARRAYS
from distgrad.backend.device import owner_of
from distgrad.errors import CommError, DTypeError, ShapeError

__all__ = [
    "REDUCTIONS",
    "check_out",
    "check_part",
    "check_writeable",
    "cut",
    "empty",
    "flat_bytes",
    "flat_numbers",
    "label",
    "scale_edges",
    "zeros",
]

REDUCTIONS = ("sum", "mean", "min", "max", "prod")
_USUAL = (np.dtype(np.float32), np.dtype(np.float64))  # taken by every op


def _flat(verb: str, name: str, x: NDArray[Any]) -> NDArray[Any]:
    if not x.flags.c_contiguous:
        raise ShapeError(
            f"{verb}: {name} must be C-contiguous, got shape {list(x.shape)} with strides {list(x.strides)}; "
            f"pass np.ascontiguousarray({name}), or CuPy's on a GPU"
        )
    return x if x.ndim == 1 else x.reshape(-1)


def flat_bytes(verb: str, name: str, x: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of ``x``, as a view.

    Raises:
        ShapeError: it is not contiguous.
        DTypeError: it is no array of plain numbers.
    """
    flat = _flat(verb, name, x)
    if x.dtype.hasobject:
        raise DTypeError(f"{verb}: {name} must hold plain numbers, got {x.dtype}; use all_gather_object")
    return flat.view(np.uint8)


def flat_numbers(verb: str, x: NDArray[Any], op: str, *, overwritten: bool = False) -> NDArray[Any]:
    """The elements of ``x`` as the backends reduce them: booleans as bytes of 0 and 1.

    Raises:
        ShapeError: it is not contiguous.
        DTypeError: ``op`` does not take its dtype.
        CommError: there is no such ``op``, or ``x`` is to be ``overwritten`` and cannot be.
    """
    if x.__class__ in HOST_ARRAYS and x.dtype in _USUAL and op in REDUCTIONS:
        flags = x.flags
        if flags.c_contiguous and (flags.writeable or not overwritten):
            return x if x.ndim == 1 else x.reshape(-1)
    flat = _flat(verb, "x", x)
    if op not in REDUCTIONS:
        raise CommError(f"{verb}: op must be one of {', '.join(REDUCTIONS)}, got {op!r}")
    kind = x.dtype.kind
    if kind == "V" and x.dtype.name == "bfloat16":  # NumPy itself has no kind for it
        kind = "f"
    if kind not in "fiub" or x.dtype.itemsize > 8 or not x.dtype.isnative:
        raise DTypeError(
            f"{verb}: x must be float16, bfloat16, float32, float64, an integer or bool in native byte "
            f"order, got {x.dtype}"
        )
    if (kind == "b" and op in ("sum", "mean")) or (kind in "iu" and op == "mean"):
        raise DTypeError(
            f"{verb}: {op} does not take {x.dtype}; convert x, for example by x.astype(np.float32)"
        )
    if overwritten:
        check_writeable(verb, "x", x)
    return flat.view(np.uint8) if kind == "b" else flat


def check_writeable(verb: str, name: str, x: NDArray[Any]) -> None:
    """Raise CommError if ``x`` cannot be overwritten."""
    if not getattr(x.flags, "writeable", True):  # device arrays have no such flag
        raise CommError(f"{verb}: {name} is overwritten, but is read-only; pass a copy")


def cut(verb: str, name: str, x: NDArray[Any], size: int, counts: Sequence[int] | None) -> list[int]:
    """Where the ranks' parts of the first axis begin, and where the last one ends.

    Raises:
        ShapeError: it cannot be cut so.
    """
    length = x.shape[0] if x.ndim else 0
    if counts is None:
        if x.ndim == 0 or length % size:
            raise ShapeError(
                f"{verb}: {name} must have a first axis that {size} ranks can share evenly, got "
                f"{list(x.shape)}; pass counts"
            )
        counts = [length // size] * size
    if len(counts) != size or min(counts) < 0 or sum(counts) != length or x.ndim == 0:
        raise ShapeError(
            f"{verb}: counts must be {size} numbers from 0 that add up to the first axis of {name}, got "
            f"{list(counts)} for {list(x.shape)}"
        )
    return [0, *itertools.accumulate(counts)]


def scale_edges(edges: list[int], x: NDArray[Any]) -> list[int]:
    """Places of the first axis as places among the elements."""
    row = math.prod(x.shape[1:])
    return [edge * row for edge in edges]


def check_part(
    verb: str, name: str, part: NDArray[Any], shape: tuple[int, ...], whole: NDArray[Any], start: int
) -> None:
    """Raise unless ``part`` fits, and is the range of ``whole`` that begins there or lies elsewhere.

    Raises:
        ShapeError: it has another shape or dtype, or lies across the ranges of others.
    """
    if part.shape != shape or part.dtype != whole.dtype:
        raise ShapeError(
            f"{verb}: {name} must be {whole.dtype}{list(shape)} for this rank, got {part.dtype}"
            f"{list(part.shape)}"
        )
    if (
        isinstance(part, np.ndarray)
        and np.may_share_memory(part, whole)
        and part.ctypes.data != whole[start : start + shape[0]].ctypes.data
    ):
        raise ShapeError(
            f"{verb}: {name} must be this rank's own part, from {start} on, or share no memory; got one that "
            "overlaps others' parts"
        )


def check_out(verb: str, out: NDArray[Any], shape: tuple[int, ...], x: NDArray[Any]) -> None:
    """Raise unless ``out`` can receive results of that shape and of the dtype of ``x``, from which they come.

    Raises:
        ShapeError: it has another shape, dtype or order.
        CommError: it is read-only, or lies in the memory of ``x``, which is read meanwhile.
    """
    flat_bytes(verb, "out", out)
    if out.shape != shape or out.dtype != x.dtype:
        raise ShapeError(
            f"{verb}: out must be {x.dtype}{list(shape)} for x of {x.dtype}{list(x.shape)}, got {out.dtype}"
            f"{list(out.shape)}"
        )
    check_writeable(verb, "out", out)
    if isinstance(x, np.ndarray) and np.may_share_memory(x, out):
        raise CommError(f"{verb}: out must not lie in the memory of x, which is read meanwhile; pass another")


def empty(like: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """An array of any content where ``like`` lies."""
    return owner_of(like).xp.empty(shape, dtype)


def zeros(like: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Zeros where ``like`` lies."""
    return owner_of(like).xp.zeros(shape, dtype)


def label(x: NDArray[Any]) -> str:
    """dtype and shape, as messages between ranks carry them."""
    return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
