"""What is known of, or done to, the elements of many arrays at once: norms, scaling, a search for overflow.

The arrays are contiguous pieces of flat buffers, or gradients as they are, all on one device. On a GPU each
function is one launch an array, and the host waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import follow
from distgrad.backend.kernels.table import accelerated
from distgrad.backend.recording import as_one_call

__all__ = ["BLOCK", "all_finite", "clip_by_norm", "norm_of", "scale", "unscale"]


#: Elements whose squares are summed at a time; the sums of blocks are added without rounding, in any order.
#: Above 10,000 OpenBLAS divides them among its threads, and the bits would depend on their number.
BLOCK = 1 << 13

Arrays = tuple[Any, ...]
#: Gives the numbers of every rank for this one's.
Exchange = Callable[[np.ndarray], Sequence[np.ndarray]]


def _alone(numbers: np.ndarray) -> Sequence[np.ndarray]:
    return [numbers]


def _sum_squares_formula(xp: Any, arrays: Arrays) -> Any:
    return xp.sum(xp.stack([xp.sum(xp.square(x.astype(np.float64))) for x in arrays]))


def _clip_formula(xp: Any, arrays: Arrays, norm: Any, most: float) -> Arrays:
    factor = xp.minimum(most / (norm + 1e-6), 1.0)
    for x in arrays:
        x[...] = xp.where(x != 0, x * factor.astype(x.dtype), x)
    return arrays


def _unscale_formula(xp: Any, arrays: Arrays, factor: float) -> Any:
    lost = []
    for x in arrays:
        lost.append(xp.sum(xp.logical_not(xp.isfinite(x)), dtype=np.float64))
        x *= x.dtype.type(factor)
    return xp.sum(xp.stack(lost))


_sum_squares = accelerated("sum_squares", _sum_squares_formula)
_clip = accelerated("clip_by_norm", _clip_formula)
_unscale = accelerated("unscale", _unscale_formula)


@as_one_call()
def norm_of(arrays: Arrays, order: float = 2.0, pieces: Arrays = (), exchange: Exchange = _alone) -> Any:
    """The norm of all elements as one vector, computed in float64; without axes.

    Args:
        arrays: at least one, or a piece. Those on the host are summed in blocks of ``BLOCK`` elements from
            each array's start, so that pieces cut at such places have the norm of the whole, to the bit.
        order: p of the p-norm; ``inf`` for the largest size; 0 counts the arrays that hold another number.
        pieces: what this rank has of further arrays, the same ones on every rank; also empty.
        exchange: gives every rank's numbers where there are pieces.
    """
    follow((arrays or pieces)[0])
    xp = get_array_module((arrays or pieces)[0])
    if xp.array_type is np.ndarray:
        return np.asarray(_norm_on_host(arrays, order, pieces, exchange))
    if pieces:
        return _norm_on_devices(xp, arrays, order, pieces, exchange)
    if order == 2.0:
        return xp.sqrt(_sum_squares(xp, arrays))
    sizes = [xp.abs(array.reshape(-1).astype(np.float64)) for array in arrays]
    if order == math.inf:
        return xp.stack([each.max() for each in sizes]).max()
    if order == 0.0:
        return xp.sum(xp.stack([xp.any(each != 0) for each in sizes]), dtype=np.float64)
    return xp.sum(xp.stack([xp.sum(each**order) for each in sizes])) ** (1.0 / order)


def _norm_on_devices(xp: Any, arrays: Arrays, order: float, pieces: Arrays, exchange: Exchange) -> Any:
    """The norm where every rank's device has a part; the hosts wait for it."""
    if order == 0.0:
        own = [bool(piece.size and xp.any(piece != 0)) for piece in pieces]
        found = [float(np.sum(np.any(exchange(np.array(own)), axis=0)))]
    else:
        filled = tuple(piece for piece in pieces if piece.size)
        own_norm = np.array([float(norm_of(filled, order)) if filled else 0.0])
        found = [float(each[0]) for each in exchange(own_norm)]
    found += [float(norm_of(arrays, order))] if arrays else []
    if order == math.inf or order == 0.0:
        return xp.asarray(max(found) if order else sum(found))
    return xp.asarray(math.fsum(each**order for each in found) ** (1.0 / order))


def _norm_on_host(arrays: Arrays, order: float, pieces: Arrays = (), exchange: Exchange = _alone) -> float:
    if order == math.inf:
        sizes = [[np.max(np.abs(array), initial=0.0) for array in group] for group in (arrays, pieces)]
        others = exchange(np.array([np.max(sizes[1])], np.float64)) if pieces else []
        return float(np.max([*sizes[0], *(each[0] for each in others)]))
    if order == 0.0:
        own = np.array([bool(piece.any()) for piece in pieces])
        anywhere = np.any(exchange(own), axis=0) if pieces else own
        return float(sum(bool(array.any()) for array in arrays) + anywhere.sum())
    with np.errstate(all="ignore"):
        total = _sum_powers(arrays, order, 1.0, pieces, exchange)
        if 1e-280 < total < math.inf:
            return float(total ** (1.0 / order))
        largest = _norm_on_host(arrays, math.inf, pieces, exchange)  # powers have left the range of float64
        if not 0.0 < largest < math.inf:
            return largest
        return float(largest * _sum_powers(arrays, order, largest, pieces, exchange) ** (1.0 / order))


def _sum_powers(arrays: Arrays, order: float, unit: float, pieces: Arrays, exchange: Exchange) -> float:
    """The sum of ``|x / unit|^order`` over all elements."""
    parts = _block_sums(arrays, order, unit)
    if pieces:
        parts += np.concatenate(exchange(np.array(_block_sums(pieces, order, unit)))).tolist()
    return math.fsum(parts) if math.isfinite(sum(parts)) else sum(parts)


def _block_sums(arrays: Arrays, order: float, unit: float) -> list[float]:
    parts = []
    for block in _blocks(arrays):
        if unit != 1.0:
            block /= unit
        parts.append(float(np.dot(block, block) if order == 2.0 else np.sum(np.abs(block) ** order)))
    return parts


def _blocks(arrays: Arrays) -> Iterator[Any]:
    """All elements in float64, a block at a time, which may be written over."""
    room = np.empty(BLOCK)
    for array in arrays:
        flat = array.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            block = room[: min(BLOCK, flat.size - start)]
            block[:] = flat[start : start + BLOCK]
            yield block


def clip_by_norm(arrays: Arrays, norm: Any, most: float) -> None:
    """Scale arrays down in place so that a norm that was ``norm`` becomes ``most``.

    A NaN goes into all that is not zero: there are zeros between gradients, and these must stay.

    Args:
        arrays: at least one.
        norm: an array without axes, where they lie.
        most: what the norm may be at most.
    """
    follow(arrays[0])
    _clip(get_array_module(arrays[0]), arrays, norm, most)


def scale(arrays: Arrays, factor: float) -> None:
    """Multiply arrays in place, each by the factor rounded to its dtype; zeros stay, whatever the factor."""
    for array in arrays:
        follow(array)
        rounded = array.dtype.type(factor)
        if factor == factor:
            array *= rounded
        else:  # between gradients in one memory lie zeros, from which nothing would take a NaN away again
            array[...] = get_array_module(array).where(array != 0, array * rounded, array)


def all_finite(arrays: Arrays) -> Any:
    """Whether no element is infinite or NaN: a bool, or on a device an array without axes.

    On the host the sum is asked first, which is the cheaper test, but may overflow.
    """
    if not arrays or get_array_module(arrays[0]).array_type is np.ndarray:
        with np.errstate(all="ignore"):
            return all(bool(np.isfinite(array.sum()) or np.isfinite(array).all()) for array in arrays)
    follow(arrays[0])
    xp = get_array_module(arrays[0])
    return xp.all(xp.stack([xp.all(xp.isfinite(array)) for array in arrays]))


def unscale(arrays: Arrays, factor: float) -> Any:
    """Multiply arrays in place; returns whether all elements were finite, as :func:`all_finite` has it.

    Args:
        arrays: none are on a rank that owns no part of the gradients.
        factor: what they are multiplied by.
    """
    if not arrays:
        return True
    follow(arrays[0])
    xp = get_array_module(arrays[0])
    if xp.array_type is not np.ndarray:
        return _unscale(xp, arrays, factor) == 0
    finite = all_finite(arrays)
    with np.errstate(all="ignore"):
        scale(arrays, factor)
    return finite
