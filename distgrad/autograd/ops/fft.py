"""Discrete Fourier transforms.

Each is linear, and the gradient is its transpose: a transform again, of a gradient that is padded where the
input was cut, and cut where it was padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.ops.shape_rules import Shape, complex_dtype, normalize_axes, real_dtype, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import plain
from distgrad.errors import AxisError, OutOfBoundsError, ShapeError

Lengths = Sequence[int] | None

_WAVE = np.exp(1j * np.arange(12.0)).reshape(3, 4)
_ONE = [
    Sample((_WAVE,)),
    Sample((_WAVE,), {"n": 5, "axis": 0, "norm": "ortho"}, note="padded"),
    Sample((_WAVE,), {"n": 3, "norm": "forward"}, note="cut"),
]
_MANY = [
    Sample((_WAVE,)),
    Sample((_WAVE,), {"s": (2, 6), "axes": (1, 0), "norm": "ortho"}, note="cut and padded"),
]
_REJECTS = [
    Reject((_WAVE,), ShapeError, "fft: Invalid norm value none", {"norm": "none"}),
    Reject((np.array(1.0 + 0j),), OutOfBoundsError, "fft"),
]


#: Which norm undoes the factor of the other direction's.
SWAPPED = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}


def _resized(xp: Any, g: Array, axis: int, length: int) -> Array:
    """Cut, or padded with zeros, to a length along an axis."""
    place = axis % len(g.shape)
    before = (slice(None),) * place
    if g.shape[place] > length:
        return xp.getitem(g, (*before, slice(0, length)))
    if g.shape[place] < length:
        shape = (*g.shape[:place], length, *g.shape[place + 1 :])
        return xp.put_zeros(g, (*before, slice(0, g.shape[place])), shape)
    return g


def _as_input(xp: Any, g: Array, shape: Sequence[int]) -> Array:
    """A gradient in the input's shape."""
    for axis, length in enumerate(shape):
        g = _resized(xp, g, axis, length)
    return g


def _halved(xp: Any, g: Array, axis: int, length: int, norm: Any, others: Any = ()) -> Array:
    """The gradient of a half spectrum from that of a real signal of some length.

    All but the first frequency, and the last of an even length, stand for their mirror images too.
    """
    y = xp.rfftn(g, s=[*(g.shape[i] for i in others), length], axes=(*others, axis), norm=SWAPPED[norm])
    count = y.shape[axis]
    twice = 2.0 - (plain(xp.arange(count)) % length == 0)
    if length % 2 == 0:
        twice = twice - (plain(xp.arange(count)) == length // 2)
    column = twice.reshape((-1, *(1,) * (len(g.shape) - axis % len(g.shape) - 1)))
    return y * column.astype(plain(y).real.dtype)


def _axes(x: Array, s: Lengths, axes: Lengths) -> Lengths:
    """The axes that lengths without axes belong to: the last ones."""
    return tuple(range(-len(s), 0)) if s is not None and axes is None and len(s) <= x.ndim else axes


def _transformed(g: Array, s: Lengths, axes: Lengths) -> tuple[int, ...]:
    """The axes of a transform, in its order."""
    if axes is not None:
        return tuple(axes)
    return tuple(range(-len(s), 0)) if s is not None else tuple(range(len(g.shape)))


def _lengths(x: Shape, s: Lengths, axes: Lengths) -> tuple[list[int], list[int]]:
    """The axes of a transform, and the lengths that its input is brought to along them."""
    places = axes if axes is not None else range(len(x)) if s is None else range(-len(s), 0)
    return list(places), [x[i] for i in places] if s is None else list(s)


def _whole(x: Shape, s: Lengths = None, axes: Lengths = None, **attributes: Any) -> Shape:
    out = list(x)
    for place, length in zip(*_lengths(x, s, axes), strict=True):
        out[place] = length
    return tuple(out)


def _half(x: Shape, **attributes: Any) -> Shape:
    out = list(_whole(x, **attributes))
    last = _lengths(x, attributes.get("s"), attributes.get("axes"))[0][-1]
    out[last] = out[last] // 2 + 1
    return tuple(out)


def _from_half(x: Shape, s: Lengths = None, axes: Lengths = None, **attributes: Any) -> Shape:
    places, lengths = _lengths(x, s, axes)
    if s is None:
        lengths[-1] = 2 * (lengths[-1] - 1)
    return _whole(x, lengths, places)


def _along(rule: Callable[..., Shape]) -> Callable[..., Shape]:
    """The rule of several axes for one."""

    def shape(x: Shape, n: int | None = None, axis: int = -1, **attributes: Any) -> Shape:
        return rule(x, s=None if n is None else (n,), axes=(axis,))

    return shape


@primitive(
    math="y_k = Σ_j x_j e^(-2πi jk/n)",
    shape=_along(_whole),
    dtypes="floating-point",
    result=complex_dtype,
    samples=_ONE,
    rejects=_REJECTS,
)
def fft(xp: Any, x: Array, /, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The discrete Fourier transform along an axis.

    Args:
        x: at least one axis.
        n: length along the axis, which is cut or padded with zeros; None keeps it.
        axis: the axis to transform.
        norm: where to divide by n: ``"backward"`` (the inverse does), ``"forward"``, or by √n in both
            directions, ``"ortho"``.
    """
    return xp.fft.fft(x, n=n, axis=axis, norm=norm)


@fft.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, axis: int, norm: str) -> Array:
    return _resized(xp, xp.fftn(g, axes=(axis,), norm=norm), axis, x_shape[axis])


@primitive(
    math="y_j = Σ_k x_k e^(2πi jk/n) / n",
    shape=_along(_whole),
    dtypes="floating-point",
    result=complex_dtype,
    samples=_ONE,
)
def ifft(xp: Any, x: Array, /, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse of ``fft``; arguments as there."""
    return xp.fft.ifft(x, n=n, axis=axis, norm=norm)


@ifft.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, axis: int, norm: str) -> Array:
    return _resized(xp, xp.ifftn(g, axes=(axis,), norm=norm), axis, x_shape[axis])


@primitive(
    math="y = fft along several axes",
    shape=_whole,
    dtypes="floating-point",
    result=complex_dtype,
    samples=_MANY,
)
def fftn(xp: Any, x: Array, /, s: Lengths = None, axes: Lengths = None, norm: str = "backward") -> Array:
    """The discrete Fourier transform along several axes.

    Args:
        x: at least one axis.
        s: lengths along the axes, which are cut or padded with zeros; None keeps them.
        axes: the axes to transform; None means the last ones that ``s`` gives lengths for, or all.
        norm: as in ``fft``.
    """
    return xp.fft.fftn(x, s=s, axes=_axes(x, s, axes), norm=norm)


@fftn.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, s: Lengths, axes: Lengths, norm: str) -> Array:
    return _as_input(xp, xp.fftn(g, axes=_transformed(g, s, axes), norm=norm), x_shape)


@primitive(
    math="y = ifft along several axes",
    shape=_whole,
    dtypes="floating-point",
    result=complex_dtype,
    samples=_MANY,
)
def ifftn(xp: Any, x: Array, /, s: Lengths = None, axes: Lengths = None, norm: str = "backward") -> Array:
    """The inverse of ``fftn``; arguments as there."""
    return xp.fft.ifftn(x, s=s, axes=_axes(x, s, axes), norm=norm)


@ifftn.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, s: Lengths, axes: Lengths, norm: str) -> Array:
    return _as_input(xp, xp.ifftn(g, axes=_transformed(g, s, axes), norm=norm), x_shape)


@primitive(
    math="y_k = Σ_j x_j e^(-2πi jk/n), k ≤ n/2",
    shape=_along(_half),
    dtypes="real floating-point",
    result=complex_dtype,
    samples=[Sample(((3, 4),)), Sample(((3, 4),), {"n": 5, "axis": 0})],
)
def rfft(xp: Any, x: Array, /, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The half of ``fft`` that tells all about a real array; arguments as there."""
    return xp.fft.rfft(x, n=n, axis=axis, norm=norm)


@rfft.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, n: int | None, axis: int, norm: str) -> Array:
    whole = _resized(xp, g, axis, x_shape[axis] if n is None else n)
    return _resized(xp, xp.fftn(whole, axes=(axis,), norm=norm), axis, x_shape[axis])


@primitive(
    math="x with rfft(x) = y",
    shape=_along(_from_half),
    dtypes="floating-point",
    result=real_dtype,
    samples=_ONE,
)
def irfft(xp: Any, x: Array, /, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse of ``rfft``, a real array of length ``n``, by default 2 (m - 1)."""
    return xp.fft.irfft(x, n=n, axis=axis, norm=norm)


@irfft.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, axis: int, norm: str) -> Array:
    return _resized(xp, _halved(xp, g, axis, g.shape[axis], norm), axis, x_shape[axis])


@primitive(
    math="y = fftn of a real array, half of the last axis",
    shape=_half,
    dtypes="real floating-point",
    result=complex_dtype,
    samples=[Sample(((3, 4),)), Sample(((3, 4),), {"s": (2, 6), "axes": (1, 0)})],
)
def rfftn(xp: Any, x: Array, /, s: Lengths = None, axes: Lengths = None, norm: str = "backward") -> Array:
    """``rfft`` along the last axis and ``fft`` along the others; arguments as in ``fftn``."""
    return xp.fft.rfftn(x, s=s, axes=_axes(x, s, axes), norm=norm)


@rfftn.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, s: Lengths, axes: Lengths, norm: str) -> Array:
    places = _transformed(g, s, axes)
    length = x_shape[places[-1]] if s is None else s[-1]
    whole = _resized(xp, g, places[-1], length)
    return _as_input(xp, xp.fftn(whole, axes=places, norm=norm), x_shape)


@primitive(
    math="x with rfftn(x) = y",
    shape=_from_half,
    dtypes="floating-point",
    result=real_dtype,
    samples=_MANY,
)
def irfftn(xp: Any, x: Array, /, s: Lengths = None, axes: Lengths = None, norm: str = "backward") -> Array:
    """The inverse of ``rfftn``, a real array; arguments as in ``fftn``."""
    return xp.fft.irfftn(x, s=s, axes=_axes(x, s, axes), norm=norm)


@irfftn.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, s: Lengths, axes: Lengths, norm: str) -> Array:
    *others, last = _transformed(g, s, axes)
    return _as_input(xp, _halved(xp, g, last, g.shape[last], norm, others), x_shape)


@primitive(
    math="y = fft of a Hermitian signal given by its first half",
    shape=_along(_from_half),
    dtypes="floating-point",
    result=real_dtype,
    samples=_ONE,
)
def hfft(xp: Any, x: Array, /, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The real transform of a signal with Hermitian symmetry; arguments as in ``irfft``."""
    return xp.fft.hfft(x, n=n, axis=axis, norm=norm)


@hfft.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, axis: int, norm: str) -> Array:
    half = _halved(xp, g, axis, g.shape[axis], SWAPPED[norm])
    return _resized(xp, xp.conj(half), axis, x_shape[axis])


@primitive(
    math="x with hfft(x) = y",
    shape=_along(_half),
    dtypes="real floating-point",
    result=complex_dtype,
    samples=[Sample(((3, 4),)), Sample(((3, 4),), {"n": 5, "axis": 0})],
)
def ihfft(xp: Any, x: Array, /, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse of ``hfft``; arguments as in ``rfft``."""
    return xp.fft.ihfft(x, n=n, axis=axis, norm=norm)


@ihfft.vjp("x")
def _(xp: Any, g: Array, x_shape: Any, n: int | None, axis: int, norm: str) -> Array:
    whole = _resized(xp, g, axis, x_shape[axis] if n is None else n)
    return _resized(xp, xp.ifftn(whole, axes=(axis,), norm=norm), axis, x_shape[axis])


_SHIFTS = [
    Sample(((5,),)),
    Sample(((3, 4),), {"axes": 1}),
    Sample(((3, 4),)),
    Sample(((0, 3),), note="empty"),
]
_AXIS = [Reject(((3, 4),), AxisError, "axis 2", {"axes": 2})]


@composite(math="y = x rolled by ⌊n/2⌋", shape=same_shape, samples=_SHIFTS, rejects=_AXIS)
def fftshift(xp: Any, x: Array, /, axes: int | Lengths = None) -> Array:
    """Frequency 0 moved to the middle, along ``axes`` (all for None)."""
    where = normalize_axes(axes, len(x.shape), "fftshift")
    return xp.roll(x, tuple(x.shape[i] // 2 for i in where), axis=where)


@composite(math="y = x rolled by -⌊n/2⌋", shape=same_shape, samples=_SHIFTS, rejects=_AXIS)
def ifftshift(xp: Any, x: Array, /, axes: int | Lengths = None) -> Array:
    """The inverse of ``fftshift``."""
    where = normalize_axes(axes, len(x.shape), "ifftshift")
    return xp.roll(x, tuple(-(x.shape[i] // 2) for i in where), axis=where)
