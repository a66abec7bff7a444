"""Operations that move elements without computing: reshape, transpose, flip, join, convert."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.casting import meet
from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops import rearrange_rules
from distgrad.autograd.ops.rearrange_rules import repeat_counts
from distgrad.autograd.ops.shape_rules import Shape, along_axis, normalize_axes, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand, device_of, plain, resolve
from distgrad.backend.neighbours import as_one
from distgrad.errors import AxisError, DeviceError, DTypeError, OptionError, ShapeError


@primitive(
    math="y = x with another shape",
    shape=rearrange_rules.reshaped,
    view=True,
    samples=[Sample(((3, 4),), {"shape": (2, 6)}), Sample(((2, 3, 4),), {"shape": (6, -1)})],
    rejects=[Reject(((3, 4),), ShapeError, "reshape", {"shape": (5, 5)})],
)
def reshape(xp: Any, x: Array, /, shape: Shape, *, copy: bool | None = None) -> Array:
    """The same elements in the same order, in another shape; a view where it can be.

    Args:
        x: any shape.
        shape: the new lengths; one of them may be −1.
        copy: True always copies, False never does (an error where a copy is needed), None as needed.
    """
    return xp.reshape(x, shape, copy=copy)


@reshape.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape) -> Array:
    return xp.reshape(g, x_shape)


@primitive(
    math="y[i, j, …] = x[axes]",
    shape=rearrange_rules.permuted,
    view=True,
    samples=[Sample(((2, 3, 4),), {"axes": (2, 0, 1)}), Sample(((3, 4),), {"axes": (-1, 0)})],
    rejects=[Reject(((3, 4),), ShapeError, "axes", {"axes": (0,)})],
)
def permute_dims(xp: Any, x: Array, /, axes: tuple[int, ...]) -> Array:
    """The axes in another order, as a view."""
    return xp.permute_dims(x, axes)


@permute_dims.vjp("x")
def _(xp: Any, g: Array, axes: tuple[int, ...]) -> Array:
    return xp.permute_dims(g, tuple(int(i) for i in np.argsort([axis % len(axes) for axis in axes])))


@primitive(
    math="y = xᵀ over the last two axes",
    shape=rearrange_rules.turned,
    view=True,
    samples=[Sample(((3, 4),)), Sample(((2, 3, 4),))],
    rejects=[Reject(((3,),), ShapeError, "matrix_transpose")],
)
def matrix_transpose(xp: Any, x: Array, /) -> Array:
    """Matrices turned over, as a view."""
    return xp.matrix_transpose(x)


@matrix_transpose.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return xp.matrix_transpose(g)


@primitive(
    math="y = x broadcast to shape",
    shape=rearrange_rules.broadcast,
    view=True,
    samples=[Sample(((3, 1),), {"shape": (2, 3, 4)}), Sample(((),), {"shape": (2,)})],
    rejects=[Reject(((3,),), ShapeError, "broadcast", {"shape": (2, 4)})],
)
def broadcast_to(xp: Any, x: Array, /, shape: Shape) -> Array:
    """The array repeated along new axes and axes of length 1, as a view that cannot be written."""
    return xp.broadcast_to(x, shape)


@broadcast_to.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return g  # the engine undoes the broadcasting


@primitive(
    math="y = x with an axis of length 1",
    view=True,
    shape=rearrange_rules.expanded,
    samples=[Sample(((3, 4),), {"axis": 1}), Sample(((3,),), {"axis": -1})],
    rejects=[Reject(((3, 4),), AxisError, "axis 4", {"axis": 4})],
)
def expand_dims(xp: Any, x: Array, /, axis: int | tuple[int, ...] = 0) -> Array:
    """New axes of length 1, as a view; ``axis`` counts in the result."""
    return xp.expand_dims(x, axis)


@expand_dims.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape) -> Array:
    return xp.reshape(g, x_shape)


@primitive(
    math="y = x without axes of length 1",
    view=True,
    shape=rearrange_rules.squeezed,
    samples=[Sample(((3, 1, 4),), {"axis": 1}), Sample(((1, 3, 1),), {"axis": (0, 2)})],
    rejects=[
        Reject(((3, 4),), ShapeError, "squeeze", {"axis": 1}),
        Reject(((3, 4),), AxisError, "axis 2", {"axis": 2}),
    ],
)
def squeeze(xp: Any, x: Array, /, axis: int | tuple[int, ...]) -> Array:
    """Without the named axes, which must have length 1, as a view."""
    return xp.squeeze(x, axis)


@squeeze.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape) -> Array:
    return xp.reshape(g, x_shape)


@composite(
    math="y[…, destination, …] = x[…, source, …]",
    samples=[Sample(((2, 3, 4), 0, -1)), Sample(((2, 3, 4), [0, 2], [1, 0])), Sample(((0, 3), 0, 1))],
    rejects=[
        Reject(((2, 3), 2, 0), AxisError, "axis 2"),
        Reject(((2, 3), [0, 1], 0), ShapeError, "moveaxis: 2 source axes but 1 destination"),
    ],
)
def moveaxis(
    xp: Any, x: Array, source: int | tuple[int, ...], destination: int | tuple[int, ...], /
) -> Array:
    """Some axes moved to other places, the rest in their order, as a view.

    Args:
        x: any shape.
        source: the axis or axes to move.
        destination: where each shall stand.
    """
    moving, places = _axes(source, len(x.shape)), _axes(destination, len(x.shape))
    if len(moving) != len(places):
        raise ShapeError(
            f"moveaxis: {len(moving)} source axes but {len(places)} destination{'s'[: len(places) != 1]}"
        )
    order = [i for i in range(len(x.shape)) if i not in moving]
    for place, axis in sorted(zip(places, moving, strict=True)):
        order.insert(place, axis)
    return xp.permute_dims(x, tuple(order))


def _axes(axis: int | tuple[int, ...], ndim: int) -> list[int]:
    """Axes as non-negative numbers in the order given."""
    normalize_axes(axis, ndim, "moveaxis")
    return [each % ndim for each in ((axis,) if isinstance(axis, int | np.integer) else axis)]


@primitive(
    math="y_i = x_{n-1-i}",
    shape=along_axis,
    view=True,
    samples=[
        Sample(((3, 4),)),
        Sample(((3, 4),), {"axis": 1}),
        Sample(((2, 3, 4),), {"axis": (0, -1)}),
        Sample(((),), note="no axes"),
    ],
    rejects=[Reject(((3, 4),), AxisError, "axis 2", {"axis": 2})],
)
def flip(xp: Any, x: Array, /, axis: int | tuple[int, ...] | None = None) -> Array:
    """The order turned along axes (all for None), as a view."""
    return xp.flip(x, axis=axis)


@flip.vjp("x")
def _(xp: Any, g: Array, axis: int | tuple[int, ...] | None) -> Array:
    return xp.flip(g, axis=axis)


@primitive(
    math="y_i = x_{(i - shift) mod n}",
    shape=along_axis,
    samples=[
        Sample(((3, 4),), {"shift": 2}),
        Sample(((3, 4),), {"shift": -1, "axis": 1}),
        Sample(((2, 3, 4),), {"shift": (1, 5), "axis": (0, -1)}),
        Sample(((0, 3),), {"shift": 1, "axis": 0}, note="empty"),
    ],
    rejects=[Reject(((3, 4),), AxisError, "axis 2", {"shift": 1, "axis": 2})],
)
def roll(
    xp: Any, x: Array, /, shift: int | tuple[int, ...], axis: int | tuple[int, ...] | None = None
) -> Array:
    """Elements moved on along axes; those that leave at the end come in at the start.

    Args:
        x: any shape.
        shift: by how many places, a number for each axis.
        axis: the axes; None rolls the flattened array.
    """
    return xp.roll(x, shift, axis=axis)


@roll.vjp("x")
def _(xp: Any, g: Array, shift: int | tuple[int, ...], axis: int | tuple[int, ...] | None) -> Array:
    back = tuple(-each for each in shift) if isinstance(shift, tuple | list) else -shift
    return xp.roll(g, back, axis=axis)


@primitive(
    math="y = every x_i repeats_i times",
    shape=rearrange_rules.repeated,
    samples=[
        Sample(((2, 3), 2)),
        Sample(((2, 3), 3), {"axis": 1}),
        Sample(((2, 3), np.array([1, 0, 2])), {"axis": -1}),
        Sample(((3,), np.array([0, 2, 1]))),
        Sample(((0, 3), 2), {"axis": 0}, note="empty"),
    ],
    rejects=[
        Reject(((2, 3), 2), AxisError, "axis 2", {"axis": 2}),
        Reject(((3,), np.array([1, 2])), ShapeError, "repeat"),
    ],
)
def repeat(xp: Any, x: Array, repeats: Any, /, axis: int | None = None) -> Array:
    """Each element repeated where it stands.

    Args:
        x: any shape.
        repeats: how often: a number, or an array with one for each element along the axis.
        axis: the axis to repeat along; None flattens first.
    """
    counts = repeat_counts(repeats)
    return xp.repeat(x, counts if at_hand(x) else counts.tolist(), axis=axis)


@repeat.vjp("x")
def _(xp: Any, g: Array, x_shape: Shape, repeats: Any, axis: int | None) -> Array:
    where = 0 if axis is None else axis % len(x_shape)
    length = math.prod(x_shape) if axis is None else x_shape[where]
    flat = (length,) if axis is None else x_shape
    came_from = plain(xp.asarray(np.repeat(np.arange(length), repeat_counts(repeats))))
    return xp.reshape(xp.put_zeros(g, (*(slice(None),) * where, came_from), flat), x_shape)


@composite(
    math="y_i = x_{i mod n}",
    samples=[
        Sample(((2, 3), [2, 1])),
        Sample(((3,), [2, 2]), note="more repetitions than axes"),
        Sample(((2, 3), [2]), note="fewer repetitions than axes"),
        Sample(((2, 3), [0, 1]), note="empty"),
    ],
    rejects=[Reject(((3,), [-1]), ShapeError, "tile")],
)
def tile(xp: Any, x: Array, repetitions: tuple[int, ...], /) -> Array:
    """The whole array repeated along its axes, the last of them first.

    Args:
        x: any shape.
        repetitions: how often along each axis; missing ones in front are 1, as are missing axes.
    """
    if any(count < 0 for count in repetitions):
        raise ShapeError(f"tile: repetitions must be 0 or more, got {tuple(repetitions)}")
    ndim = max(len(x.shape), len(repetitions))
    counts = (1,) * (ndim - len(repetitions)) + tuple(repetitions)
    lengths = (1,) * (ndim - len(x.shape)) + x.shape
    spread = xp.reshape(x, tuple(n for length in lengths for n in (1, length)))
    pairs = tuple(n for pair in zip(counts, lengths, strict=True) for n in pair)
    return xp.reshape(
        xp.broadcast_to(spread, pairs), tuple(map(math.prod, zip(counts, lengths, strict=True)))
    )


@composite(
    math="y_1, y_2, … = x broadcast to the shape that all fit",
    samples=[Sample(((3, 1), (4,))), Sample(((2, 3),)), Sample(((), (0, 2)), note="empty")],
    rejects=[Reject(((3, 4), (3,)), ShapeError, "broadcast")],
    result="any",
)
def broadcast_arrays(xp: Any, *arrays: Array) -> list[Array]:
    """The arrays, each broadcast to the shape that all of them fit, as views that cannot be written."""
    try:
        shape = np.broadcast_shapes(*[x.shape for x in arrays])
    except ValueError as error:
        raise ShapeError(f"broadcast_arrays: {error}; got {[list(x.shape) for x in arrays]}") from None
    return [xp.broadcast_to(x, shape) for x in arrays]


@composite(
    math="y_k[i, j, …] = x_k at its own index",
    samples=[
        Sample(((3,), (4,))),
        Sample(((3,), (4,), (2,)), {"indexing": "ij"}),
        Sample(((3,),), note="one axis"),
        Sample(((), (2,)), note="a number"),
    ],
    rejects=[
        Reject(((3,), (4,)), OptionError, "indexing", {"indexing": "yx"}),
        Reject(((3, 4), (4,)), ShapeError, "meshgrid: expected arrays with one axis"),
    ],
    result="any",
)
def meshgrid(xp: Any, *arrays: Array, indexing: str = "xy") -> list[Array]:
    """Coordinate arrays of a grid.

    Args:
        *arrays: the coordinates along each axis of the grid.
        indexing: ``"ij"``: array k varies along axis k; ``"xy"``: the first two axes change places.
    """
    if indexing not in ("xy", "ij"):
        raise OptionError(f"meshgrid: indexing must be 'xy' or 'ij', got {indexing!r}")
    if any(len(x.shape) > 1 for x in arrays):
        raise ShapeError(f"meshgrid: expected arrays with one axis, got {[list(x.shape) for x in arrays]}")
    order = list(range(len(arrays)))
    if indexing == "xy":
        order[:2] = order[:2][::-1]
    places = [tuple(-1 if place == i else 1 for i in range(len(arrays))) for place in order]
    return xp.broadcast_arrays(*[xp.reshape(x, s) for x, s in zip(arrays, places, strict=True)])


@primitive(
    math="y_1, y_2, … = x[0], x[1], … along an axis",
    shape=rearrange_rules.unstacked,
    view=True,
    outputs=0,
    samples=[
        Sample(((2, 3),)),
        Sample(((2, 3, 4),), {"axis": -2}),
        Sample(((3,),), note="numbers"),
        Sample(((2, 0),), note="empty parts"),
        Sample(((0, 2),), note="no parts"),
    ],
    rejects=[
        Reject(((2, 3),), AxisError, "axis 2", {"axis": 2}),
        Reject(((),), AxisError, "axis 0"),
    ],
)
def unstack(xp: Any, x: Array, /, axis: int = 0) -> tuple[Array, ...]:
    """The parts of an array along an axis, without that axis, as views."""
    before = (slice(None),) * normalize_axes(axis, len(x.shape), "unstack")[0]
    return tuple([x[(*before, i, ...)] for i in range(x.shape[len(before)])])


@unstack.vjp("x")
def _(xp: Any, g: tuple[Array, ...], axis: int) -> Array:
    whole = as_one(g, axis)  # a kernel may have written the parts where they belong
    return xp.stack(g, axis=axis) if whole is None else whole


@primitive(
    math="y_ij = x_ij where j - i ≤ k, else 0",
    shape=same_shape,
    samples=[Sample(((3, 4),)), Sample(((2, 3, 3),), {"k": 1}), Sample(((4, 3),), {"k": -1})],
    rejects=[Reject(((3,),), ShapeError, "tril: expected at least two axes")],
)
def tril(xp: Any, x: Array, /, k: int = 0) -> Array:
    """The lower triangle of matrices, with the diagonals up to the k-th above the main one."""
    _check_matrix(x, "tril")
    return xp.tril(x, k)


@tril.vjp("x")
def _(xp: Any, g: Array, k: int) -> Array:
    return xp.tril(g, k=k)


@primitive(
    math="y_ij = x_ij where j - i ≥ k, else 0",
    shape=same_shape,
    samples=[Sample(((3, 4),)), Sample(((2, 3, 3),), {"k": 1}), Sample(((4, 3),), {"k": -1})],
    rejects=[Reject(((3,),), ShapeError, "triu: expected at least two axes")],
)
def triu(xp: Any, x: Array, /, k: int = 0) -> Array:
    """The upper triangle of matrices, with the diagonals from the k-th above the main one on."""
    _check_matrix(x, "triu")
    return xp.triu(x, k)


@triu.vjp("x")
def _(xp: Any, g: Array, k: int) -> Array:
    return xp.triu(g, k=k)


def _check_matrix(x: Array, where: str) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{where}: expected at least two axes, got {list(x.shape)}")


@primitive(
    math="y = x1, x2, … one after another along an axis",
    shape=rearrange_rules.concatenated,
    samples=[
        Sample(([(2, 3), (4, 3)],)),
        Sample(([(2, 3), (2, 1), (2, 0)],), {"axis": 1}, note="empty"),
        Sample(([(2, 3), (4,)],), {"axis": None}, note="flattened"),
    ],
    rejects=[Reject(([(2, 3), (2, 4)],), ShapeError, "concat")],
)
def concat(xp: Any, *arrays: Array, axis: int | None = 0) -> Array:
    """Arrays joined along an axis that they have; ``axis=None`` flattens them first."""
    return xp.concat(arrays, axis=axis)


@concat.vjp("arrays")
def _(xp: Any, g: Array, arrays_shape: Any, axis: int | None, needs: Any) -> list[Array | None]:
    where = normalize_axes(axis, len(g.shape), "concat")[0] if axis is not None else 0
    out: list[Array | None] = []
    start = 0
    for shape, needed in zip(arrays_shape, needs, strict=True):
        stop = start + (math.prod(shape) if axis is None else shape[where])
        part = xp.getitem(g, (slice(None),) * where + (slice(start, stop),)) if needed else None
        out.append(xp.reshape(part, shape) if needed and axis is None else part)
        start = stop
    return out


@primitive(
    math="y = x1, x2, … along a new axis",
    shape=rearrange_rules.stacked,
    samples=[Sample(([(2, 3), (2, 3)],)), Sample(([(2, 3)] * 3,), {"axis": -1})],
    rejects=[Reject(([(2, 3), (3, 2)],), ShapeError, "stack")],
)
def stack(xp: Any, *arrays: Array, axis: int = 0) -> Array:
    """Arrays of one shape joined along a new axis."""
    return xp.stack(arrays, axis=axis)


@stack.vjp("arrays")
def _(xp: Any, g: Array, axis: int, needs: Any) -> list[Array | None]:
    before = (slice(None),) * (axis % len(g.shape))
    return [xp.getitem(g, (*before, i)) if needed else None for i, needed in enumerate(needs)]


@primitive(
    math="y = x as another dtype",
    shape=same_shape,
    result="any",
    view=True,
    samples=[Sample(((3, 4), np.dtype(np.float64)))],
    rejects=[Reject((np.array([1j]), np.dtype(np.float64)), DTypeError, "astype: complex128 to float64")],
)
def astype(xp: Any, x: Array, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Array:
    """The array converted.

    Args:
        x: any shape.
        dtype: of the result.
        copy: False returns the same memory where the dtype is the same.
        device: where ``x`` lies; ``to`` moves it.
    """
    if device is not None and resolve(device) != device_of(x):
        raise DeviceError(f"astype: x lies on {device_of(x)}, got device {str(device)!r}; move it with .to")
    wanted = np.dtype(dtype)
    if x.dtype.kind == "c" and wanted.kind not in "cb":
        raise DTypeError(f"astype: {x.dtype} to {wanted} would drop the imaginary part; take dg.real")
    if wanted.itemsize == 2:
        meet(wanted)
    return x.astype(wanted if wanted.isnative else wanted.newbyteorder("="), copy=copy)


@astype.vjp("x")
def _(xp: Any, g: Array) -> Array:
    return g  # the engine brings it to the input's dtype
