"""Discrete Fourier transforms.

Their results or inputs are complex, so that no gradient goes through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.composite import composite
from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.parts import through_complex
from distgrad.autograd.ops.rules import normalize_axes, same_shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import AxisError, ShapeError

Lengths = Sequence[int] | None

_WAVE = np.exp(1j * np.arange(12.0)).reshape(3, 4)
_ONE = [
    Sample((_WAVE,), grad=False),
    Sample((_WAVE,), {"n": 5, "axis": 0, "norm": "ortho"}, note="padded", grad=False),
    Sample((_WAVE,), {"n": 3, "norm": "forward"}, note="cut", grad=False),
]
_MANY = [
    Sample((_WAVE,), grad=False),
    Sample((_WAVE,), {"s": (2, 6), "axes": (1, 0), "norm": "ortho"}, note="cut and padded", grad=False),
]
_REJECTS = [
    Reject((_WAVE,), ShapeError, "fft: Invalid norm value none", {"norm": "none"}),
    Reject((np.array(1.0 + 0j),), IndexError, "fft"),
]


def _axes(x: Array, s: Lengths, axes: Lengths) -> Lengths:
    """The axes that lengths without axes belong to: the last ones."""
    return tuple(range(-len(s), 0)) if s is not None and axes is None and len(s) <= x.ndim else axes


@primitive(
    math="y_k = Σ_j x_j e^(-2πi jk/n)",
    dtypes="floating-point",
    result="any",
    samples=_ONE,
    rejects=_REJECTS,
)
def fft(xp: Any, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The discrete Fourier transform along an axis.

    Args:
        x: at least one axis.
        n: length along the axis, which is cut or padded with zeros; None keeps it.
        axis: the axis to transform.
        norm: where to divide by n: ``"backward"`` (the inverse does), ``"forward"``, or by √n in both
            directions, ``"ortho"``.
    """
    return xp.fft.fft(x, n=n, axis=axis, norm=norm)


fft.vjp("x")(through_complex)


@primitive(
    math="y_j = Σ_k x_k e^(2πi jk/n) / n",
    dtypes="floating-point",
    result="any",
    samples=_ONE,
)
def ifft(xp: Any, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse of ``fft``; arguments as there."""
    return xp.fft.ifft(x, n=n, axis=axis, norm=norm)


ifft.vjp("x")(through_complex)


@primitive(
    math="y = fft along several axes",
    dtypes="floating-point",
    result="any",
    samples=_MANY,
)
def fftn(xp: Any, x: Array, /, *, s: Lengths = None, axes: Lengths = None, norm: str = "backward") -> Array:
    """The discrete Fourier transform along several axes.

    Args:
        x: at least one axis.
        s: lengths along the axes, which are cut or padded with zeros; None keeps them.
        axes: the axes to transform; None means the last ones that ``s`` gives lengths for, or all.
        norm: as in ``fft``.
    """
    return xp.fft.fftn(x, s=s, axes=_axes(x, s, axes), norm=norm)


fftn.vjp("x")(through_complex)


@primitive(
    math="y = ifft along several axes",
    dtypes="floating-point",
    result="any",
    samples=_MANY,
)
def ifftn(xp: Any, x: Array, /, *, s: Lengths = None, axes: Lengths = None, norm: str = "backward") -> Array:
    """The inverse of ``fftn``; arguments as there."""
    return xp.fft.ifftn(x, s=s, axes=_axes(x, s, axes), norm=norm)


ifftn.vjp("x")(through_complex)


@primitive(
    math="y_k = Σ_j x_j e^(-2πi jk/n), k ≤ n/2",
    dtypes="real floating-point",
    result="any",
    samples=[Sample(((3, 4),), grad=False), Sample(((3, 4),), {"n": 5, "axis": 0}, grad=False)],
)
def rfft(xp: Any, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The half of ``fft`` that tells all about a real array; arguments as there."""
    return xp.fft.rfft(x, n=n, axis=axis, norm=norm)


rfft.vjp("x")(through_complex)


@primitive(
    math="x with rfft(x) = y",
    dtypes="floating-point",
    result="any",
    samples=_ONE,
)
def irfft(xp: Any, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse of ``rfft``, a real array of length ``n``, by default 2 (m - 1)."""
    return xp.fft.irfft(x, n=n, axis=axis, norm=norm)


irfft.vjp("x")(through_complex)


@primitive(
    math="y = fftn of a real array, half of the last axis",
    dtypes="real floating-point",
    result="any",
    samples=[Sample(((3, 4),), grad=False), Sample(((3, 4),), {"s": (2, 6), "axes": (1, 0)}, grad=False)],
)
def rfftn(xp: Any, x: Array, /, *, s: Lengths = None, axes: Lengths = None, norm: str = "backward") -> Array:
    """``rfft`` along the last axis and ``fft`` along the others; arguments as in ``fftn``."""
    return xp.fft.rfftn(x, s=s, axes=_axes(x, s, axes), norm=norm)


rfftn.vjp("x")(through_complex)


@primitive(
    math="x with rfftn(x) = y",
    dtypes="floating-point",
    result="any",
    samples=_MANY,
)
def irfftn(xp: Any, x: Array, /, *, s: Lengths = None, axes: Lengths = None, norm: str = "backward") -> Array:
    """The inverse of ``rfftn``, a real array; arguments as in ``fftn``."""
    return xp.fft.irfftn(x, s=s, axes=_axes(x, s, axes), norm=norm)


irfftn.vjp("x")(through_complex)


@primitive(
    math="y = fft of a Hermitian signal given by its first half",
    dtypes="floating-point",
    result="any",
    samples=_ONE,
)
def hfft(xp: Any, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The real transform of a signal with Hermitian symmetry; arguments as in ``irfft``."""
    return xp.fft.hfft(x, n=n, axis=axis, norm=norm)


hfft.vjp("x")(through_complex)


@primitive(
    math="x with hfft(x) = y",
    dtypes="real floating-point",
    result="any",
    samples=[Sample(((3, 4),), grad=False), Sample(((3, 4),), {"n": 5, "axis": 0}, grad=False)],
)
def ihfft(xp: Any, x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse of ``hfft``; arguments as in ``rfft``."""
    return xp.fft.ihfft(x, n=n, axis=axis, norm=norm)


ihfft.vjp("x")(through_complex)


_SHIFTS = [
    Sample(((5,),)),
    Sample(((3, 4),), {"axes": 1}),
    Sample(((3, 4),)),
    Sample(((0, 3),), note="empty"),
]
_AXIS = [Reject(((3, 4),), AxisError, "axis 2", {"axes": 2})]


@composite(math="y = x rolled by ⌊n/2⌋", shape=same_shape, samples=_SHIFTS, rejects=_AXIS)
def fftshift(xp: Any, x: Array, /, *, axes: int | Lengths = None) -> Array:
    """Frequency 0 moved to the middle, along ``axes`` (all for None)."""
    where = normalize_axes(axes, len(x.shape), "fftshift")
    return xp.roll(x, tuple(x.shape[i] // 2 for i in where), axis=where)


@composite(math="y = x rolled by -⌊n/2⌋", shape=same_shape, samples=_SHIFTS, rejects=_AXIS)
def ifftshift(xp: Any, x: Array, /, *, axes: int | Lengths = None) -> Array:
    """The inverse of ``fftshift``."""
    where = normalize_axes(axes, len(x.shape), "ifftshift")
    return xp.roll(x, tuple(-(x.shape[i] // 2) for i in where), axis=where)
