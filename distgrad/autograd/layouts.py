"""What the lines of :mod:`distgrad.names.functions` call where axes, parts and memory are concerned."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd import creation
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.inplace import overwrite
from distgrad.autograd.meanings import from_parts, kind
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import CPU, activated, to_device
from distgrad.errors import AxisError, DTypeError, OptionError, OutOfBoundsError, ShapeError

# -- shapes


def numbers(values: Any) -> tuple[Any, ...]:
    """Whole numbers, given one at a time or as one sequence."""
    if not isinstance(values, tuple | list):
        return (values,)
    if len(values) == 1 and (
        isinstance(values[0], tuple | list) or (hasattr(values[0], "ndim") and values[0].ndim)
    ):
        values = values[0]
    return tuple(values)


def place_of(x: Any, dim: int, where: str, more: int = 0) -> int:
    """An axis from 0 on.

    Args:
        x: the tensor; one without axes counts as one with one.
        dim: the axis, from the end if negative.
        where: the function, for messages.
        more: how many axes there will be beside those of ``x``.

    Raises:
        AxisError: no such axis.
    """
    count = max(x.ndim + more, 1)
    number = operator.index(dim)
    if not -count <= number < count:
        raise AxisError(f"{where}: axis {number} is outside an array with {x.ndim} axes")
    return number % count


def flattened(x: Any, start_dim: int, end_dim: int) -> Any:
    """The axes from ``start_dim`` to ``end_dim`` as one."""
    shape = x._data.shape
    first = start_dim + len(shape) if start_dim < 0 else start_dim
    last = end_dim + len(shape) if end_dim < 0 else end_dim
    if not 0 <= first <= last < len(shape):
        _refuse_ends(shape, start_dim, end_dim)
    return ops.reshape(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def _refuse_ends(shape: tuple[int, ...], start_dim: int, end_dim: int) -> None:
    """Raise, unless there are no axes, which count as one."""
    count = max(len(shape), 1)
    if not all(-count <= each < count for each in (start_dim, end_dim)):
        raise AxisError(f"flatten: axes {start_dim} to {end_dim} of a tensor {list(shape)}")
    if start_dim % count > end_dim % count:
        raise AxisError(f"flatten: start_dim={start_dim} lies behind end_dim={end_dim} in {list(shape)}")


def unflattened(x: Any, dim: int, sizes: Sequence[int]) -> Any:
    """One axis as several."""
    place = place_of(x, dim, "unflatten")
    known = math.prod(n for n in numbers(sizes) if n != -1)
    lengths = [x.shape[place] // known if n == -1 and known else n for n in numbers(sizes)]
    return ops.reshape(x, (*x.shape[:place], *lengths, *x.shape[place + 1 :]))


def squeezed(x: Any, dim: Any) -> Any:
    """Without axes of length 1: all of them, or those named that have it."""
    shape = x._data.shape
    if dim is None:
        axes = [place for place, n in enumerate(shape) if n == 1] if 1 in shape else []
    else:
        named = [place_of(x, each, "squeeze") for each in (dim if isinstance(dim, tuple | list) else (dim,))]
        axes = [place for place in named if shape and shape[place] == 1]
    return ops.squeeze(x, tuple(axes))


def exchanged(x: Any, dim0: int, dim1: int) -> Any:
    """Two axes in each other's place."""
    order = list(range(x._data.ndim))
    try:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    except IndexError:
        for each in (dim0, dim1):
            place_of(x, each, "transpose")
        return ops.reshape(x, ())  # without axes, which count as one
    return ops.permute_dims(x, tuple(order))


def turned(x: Any) -> Any:
    """A matrix with its axes exchanged; anything smaller as it is."""
    if x.ndim > 2:
        raise ShapeError(f"t: expected at most two axes, got {list(x.shape)}; use transpose or mT")
    return ops.matrix_transpose(x) if x.ndim == 2 else x


def turned_around(x: Any, k: int, dims: Sequence[int]) -> Any:
    """Turned by 90 degrees k times, from the first towards the second axis."""
    places = [place_of(x, each, "rot90") for each in dims]
    if len(places) != 2 or places[0] == places[1]:
        raise AxisError(f"rot90: expected two axes, got {list(dims)}")
    first, second = places
    if k % 4 == 0:
        return x
    if k % 4 == 2:
        return ops.flip(x, axis=(first, second))
    return (
        exchanged(ops.flip(x, axis=second), first, second)
        if k % 4 == 1
        else ops.flip(exchanged(x, first, second), axis=second)
    )


def spread_over(x: Any, sizes: Sequence[int]) -> Any:
    """Broadcast to a shape, in which −1 leaves a length as it is."""
    sizes = numbers(sizes)
    added = len(sizes) - x.ndim
    if added < 0 or any(n == -1 for n in sizes[:added]):
        raise ShapeError(f"expand: {list(x.shape)} cannot become {list(sizes)}")
    own = (*sizes[:added], *(x.shape[i] if n == -1 else n for i, n in enumerate(sizes[added:])))
    if own[added:] == x.shape and not {*own[:added]} - {1}:
        return ops.reshape(x, own)  # a view that can be written
    return ops.broadcast_to(x, own)


def tiled(x: Any, repeats: tuple[int, ...]) -> Any:
    """Copies beside each other along each axis."""
    if len(repeats) < x.ndim:
        raise ShapeError(
            f"repeat: expected a number for each axis of {list(x.shape)}, got {list(repeats)}; "
            "what NumPy calls repeat is repeat_interleave"
        )
    out = ops.tile(x, repeats)
    lengths = (1,) * (len(repeats) - x.ndim) + x.shape
    is_view = all(1 in pair for pair in zip(repeats, lengths, strict=True))
    return copied(out) if is_view else out


def summed_to(x: Any, size: tuple[int, ...]) -> Any:
    """Summed over the axes that broadcasting to its shape would have added or lengthened."""
    added = x.ndim - len(size)
    axes = [*range(added), *(added + i for i, n in enumerate(size) if n == 1 and x.shape[added + i] != 1)]
    if added < 0 or any(n not in (1, x.shape[added + i]) for i, n in enumerate(size)):
        raise ShapeError(f"sum_to_size: {list(x.shape)} cannot become {list(size)}")
    return ops.reshape(ops.sum(x, axis=tuple(axes)), size) if axes else x


def at_least(x: Any, ndim: int) -> Any:
    """With so many axes at least, as NumPy's functions add them."""
    if x.ndim >= ndim:
        return x
    if ndim == 3 and x.ndim == 2:
        return ops.expand_dims(x, axis=2)
    x = ops.reshape(x, (1,)) if x.ndim == 0 else x
    if ndim >= 2 and x.ndim == 1:
        x = ops.expand_dims(x, axis=0)
    return ops.expand_dims(x, axis=2) if ndim == 3 else x


def as_columns(x: Any) -> Any:
    """A vector as one column."""
    return ops.reshape(x, (-1, 1)) if x.ndim < 2 else x


def joined(tensors: Sequence[Any], dim: int) -> Any:
    """Along an axis; an empty tensor of one axis fits anything."""
    try:
        return ops.concat(tensors, axis=dim)
    except (AxisError, ShapeError):
        fitting = [each for each in tensors if each.shape != (0,)]
        if not 0 < len(fitting) < len(tensors):
            raise
    return ops.concat(fitting, axis=dim)


def copied(x: Any) -> Any:
    """A copy, through which gradients go."""
    return ops.astype(x, x.dtype)


# -- parts


def part(x: Any, dim: int, key: Any) -> Any:
    """One place, or a slice, along an axis."""
    place = place_of(x, dim, "select")
    if not isinstance(key, slice):
        key = operator.index(key)
        if not -x.shape[place] <= key < x.shape[place]:
            raise OutOfBoundsError(f"select: place {key} along axis {dim} of {list(x.shape)}")
    return x[(slice(None),) * place + (key,)]


def sliced(start: Any, end: Any, step: int) -> slice:
    """The key of a slice; whole numbers that are tensors count."""
    return slice(*(None if each is None else int(each) for each in (start, end, step)))


def filled(x: Any, value: Any) -> Any:
    """The tensor with one number everywhere."""
    if getattr(value, "ndim", 0):
        raise ShapeError(f"fill: value must be one number, got {list(value.shape)}")
    value = ops.astype(value, x.dtype) if isinstance(value, Tensor) else value
    return ops.masked_fill(x, np.ones((), bool), value)


def padded(x: Any, pad: Sequence[int], value: Any) -> Any:
    """Numbers around a tensor, pairs of widths from the last axis on."""
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ShapeError(f"pad: expected pairs for at most {x.ndim} axes, got {tuple(pad)}")
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    return ops.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1], constant_values=value)


def slice_of(x: Any, dim: int, start: Any, count: int) -> slice:
    """The slice of ``narrow``."""
    if not x.ndim:
        raise AxisError("narrow: a tensor without axes has no parts")
    size = x.shape[place_of(x, dim, "narrow")]
    first = operator.index(start)
    first = first + size if first < 0 else first
    if not 0 <= first <= size:
        raise OutOfBoundsError(f"narrow: place {start} along axis {dim} of {list(x.shape)}")
    if count < 0 or first + count > size:
        raise ShapeError(f"narrow: {count} places from {start} along axis {dim} of {list(x.shape)}")
    return slice(first, first + count)


def rolled(x: Any, shifts: Any, dims: Any) -> Any:
    """Elements moved on along axes, or in a row."""
    steps = numbers(shifts)
    axes = None if dims in (None, ()) else numbers(dims)
    if not steps or len(steps) != (1 if axes is None else len(axes)):
        raise OptionError(f"roll: expected a shift for each of dims, got shifts={shifts} and dims={dims}")
    return ops.roll(x, steps, axis=axes)


def masked(x: Any, mask: Any, value: Any) -> Any:
    """With one number where a mask holds.

    Raises:
        ShapeError, DTypeError: several numbers; a complex one among real numbers.
    """
    if getattr(value, "ndim", 0):
        raise ShapeError(f"masked_fill: value must be one number, got {list(value.shape)}")
    whole = x.dtype.kind in "biu"
    if value.__class__ is not float or whole:  # which fits the others as it is
        given = np.result_type(getattr(value, "_data", value))
        if given.kind == "c" != x.dtype.kind:
            raise DTypeError(f"masked_fill: the value {value} is complex, the tensor {x.dtype}")
        if isinstance(value, Tensor):
            value = value if given == x.dtype else ops.astype(value, x.dtype)
        elif whole and given.kind == "f":
            value = int(value) if x.dtype.kind != "b" else bool(value)
    return ops.masked_fill(x, mask, value)


def of_one_dtype(x: Any, source: Any, where: str) -> Any:
    """The second, which has the first one's dtype.

    Raises:
        DTypeError: it has another one.
    """
    if isinstance(source, Tensor) and source.dtype != x.dtype:
        raise DTypeError(f"{where}: src is {source.dtype} and the tensor {x.dtype}; convert one of them")
    return source


def cut(x: Any, where: Any, dim: int) -> Any:
    """In so many parts, of nearly one length, or before given places."""
    place = place_of(x, dim, "tensor_split")
    size = x.shape[place]
    if isinstance(where, Tensor):
        where = where.tolist()
    if isinstance(where, int):
        if where < 1:
            raise OptionError(f"tensor_split: expected at least one part, got {where}")
        each, more = divmod(size, where)
        ends = np.cumsum([each + (i < more) for i in range(where)]).tolist()[:-1]
    else:
        ends = list(where)
    starts, stops = [0, *ends], [*ends, size]
    return tuple(part(x, place, slice(*each)) for each in zip(starts, stops, strict=True))


def diagonal_of(x: Any, diagonal: int) -> Any:
    """The diagonal of a matrix, or a matrix with a vector as its diagonal."""
    if x.ndim == 2:
        return copied(ops.diagonal(x, offset=diagonal))
    if x.ndim != 1:
        raise ShapeError(f"diag: expected one or two axes, got {list(x.shape)}")
    size = x.shape[0] + abs(diagonal)
    rows = np.arange(x.shape[0]) + max(-diagonal, 0)
    columns = np.arange(x.shape[0]) + max(diagonal, 0)
    return ops.put_zeros(x, (rows, columns), (size, size))


def diagonal_along(x: Any, offset: int, dim1: int, dim2: int) -> Any:
    """The diagonal of the matrices that two axes form, as the last axis."""
    first, second = place_of(x, dim1, "diagonal"), place_of(x, dim2, "diagonal")
    if first == second:
        raise AxisError(f"diagonal: expected two axes, got {dim1} twice")
    others = [i for i in range(x.ndim) if i not in (first, second)]
    return ops.diagonal(ops.permute_dims(x, (*others, first, second)), offset=offset)


def taken_along(x: Any, indices: Any, dim: int | None) -> Any:
    """Elements at places along an axis, broadcast against each other."""
    if dim is None:
        return ops.take_along_axis(ops.reshape(x, (-1,)), ops.reshape(indices, (-1,)), axis=0)
    place = place_of(x, dim, "take_along_dim")
    whole = np.broadcast_shapes(_without(x.shape, place), _without(indices.shape, place))
    shapes = [(*whole[:place], each.shape[place], *whole[place:]) for each in (x, indices)]
    return ops.take_along_axis(
        ops.broadcast_to(x, shapes[0]), ops.broadcast_to(indices, shapes[1]), axis=place
    )


def _without(shape: tuple[int, ...], place: int) -> tuple[int, ...]:
    return (*shape[:place], *shape[place + 1 :])


def scattered(x: Any, dim: int, index: Any, src: Any, value: Any, reduce: str | None) -> Any:
    """``x`` with elements of ``src`` at places along an axis."""
    if reduce is not None:
        if value is not None or not isinstance(src, Tensor):
            src = ops.broadcast_to(creation.full_like(x, value if src is None else src), x.shape)
        if reduce == "add":
            return ops.scatter_add(x, dim, index, src)
        return ops.scatter_reduce(x, dim, index, src, "prod")
    place = place_of(x, dim, "scatter")
    key = _grid(index, place)
    source = value if src is None else of_one_dtype(x, src, "scatter")
    if isinstance(source, Tensor):
        source = source[tuple(slice(0, n) for n in index.shape)]
    return ops.setitem(x, source, key)


def _grid(index: Any, place: int) -> tuple[Any, ...]:
    """Arrays of indices for each axis, ``index`` along one and the element's own place along the others."""
    with activated(index.device):
        axes = list(get_array_module(index._data).indices(index.shape, sparse=True))
    axes[place] = index._data
    return tuple(axes)


def put_at(x: Any, indices: Sequence[Any], values: Any, accumulate: bool) -> Any:
    """``x`` with values at indices, added up if asked."""
    key = tuple(
        each._data if isinstance(each, Tensor) else slice(None) if each is None else each for each in indices
    )
    if not accumulate:
        return ops.setitem(x, values, key)
    shape = x._data[key].shape
    return ops.add(x, ops.put_zeros(ops.broadcast_to(values, shape), key, x.shape))


def put_in_place(x: Any, indices: Sequence[Any], values: Any, accumulate: bool) -> Any:
    """:func:`put_at`, written into the tensor."""
    return overwrite(x, put_at(x, indices, values, accumulate), "index_put_")


# -- complex numbers


def as_pairs(x: Any) -> Any:
    """Real and imaginary part as a last axis."""
    if x.dtype.kind != "c":
        raise DTypeError(f"view_as_real: expected complex numbers, got {x.dtype}")
    return ops.stack([ops.real(x), ops.imag(x)], axis=-1)


def from_pairs(x: Any) -> Any:
    """Complex numbers from a last axis of two."""
    if not x.ndim or x.shape[-1] != 2:
        raise ShapeError(f"view_as_complex: expected a last axis of 2, got {list(x.shape)}")
    return from_parts(x[..., 0], x[..., 1])


# -- memory


def with_diagonal(x: Any, value: Any, wrap: bool) -> Any:
    """The tensor itself with one number on its diagonal, which begins anew in tall matrices if wrapped."""
    if x.ndim < 2 or (x.ndim > 2 and len(set(x.shape)) > 1):
        raise ShapeError(f"fill_diagonal_: expected a matrix, or axes of one length, got {list(x.shape)}")
    mask = np.zeros(x.shape, bool)
    np.fill_diagonal(mask, True, wrap)
    return overwrite(x, ops.masked_fill(x, to_device(mask, x.device), value), "fill_diagonal_")


def device_number(x: Any) -> int:
    """The GPU's number; −1 for the CPU."""
    return -1 if x.device == CPU else x.device.index


def made_like(
    x: Any, name: str, size: Any, dtype: Any, device: Any, requires_grad: bool, value: Any = None
) -> Any:
    """A new tensor of that shape where ``x`` lies, in its dtype."""
    given = (numbers(size),) if name != "full" else (numbers(size), value)
    where = {"dtype": kind(dtype) or x.dtype, "device": x.device if device is None else device}
    return getattr(creation, name)(*given, **where, requires_grad=requires_grad)


def tensor_like(x: Any, data: Any, dtype: Any, device: Any, requires_grad: bool) -> Any:
    """New data where ``x`` lies, in its dtype."""
    place = x.device if device is None else device
    return creation.tensor(data, dtype=kind(dtype) or x.dtype, device=place, requires_grad=requires_grad)


def new_like(x: Any, args: tuple[Any, ...]) -> Any:
    """PyTorch's old ``new``: of data, or of lengths."""
    if len(args) == 1 and not isinstance(args[0], int):
        return tensor_like(x, args[0], None, None, False)
    return made_like(x, "empty", args or (0,), None, None, False)


def resized(x: Any, shape: tuple[int, ...]) -> Any:
    """The tensor itself with another shape; elements that were there stay, new ones are 0."""
    with activated(x.device) as xp:
        data = xp.zeros(shape, dtype=x.dtype)
    count = min(data.size, x._data.size)
    data.reshape(-1)[:count] = x._data.reshape(-1)[:count]
    x._data = data
    x.changed("resize_")
    return x


def with_memory_of(x: Any, source: Any) -> Any:
    """The tensor itself, from now on over the elements of another."""
    x._data = x._data[:0].reshape(-1) if source is None else source._data
    x.changed("set_")
    return x


def applied(x: Any, function: Callable[..., Any], other: Any = None) -> Any:
    """A Python function of each element, written into the tensor."""
    others = () if other is None else (np.broadcast_to(to_device(other._data, CPU), x.shape),)
    values = [
        function(*each)
        for each in zip(x._data.reshape(-1).tolist(), *[o.reshape(-1).tolist() for o in others], strict=True)
    ]
    return overwrite(
        x, creation.tensor(np.array(values, x.dtype).reshape(x.shape), device=x.device), "apply_"
    )
