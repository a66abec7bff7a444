"""Fourier transforms along two axes, of Hermitian signals along several, and of signals window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.ops.fft import SWAPPED, Lengths
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import DTypeError, OptionError, ShapeError

_PAIR = (-2, -1)
_WAVE = np.exp(1j * np.arange(12.0)).reshape(3, 4)
_COMPLEX = [Sample((_WAVE,)), Sample((_WAVE,), {"s": (2, 6), "axes": (1, 0), "norm": "ortho"})]
_REAL = [Sample(((3, 4),)), Sample(((2, 3, 4),), {"s": (4, 2), "axes": (2, 0), "norm": "forward"})]


@composite(math="y = fft along two axes", dtypes="floating-point", result="any", samples=_COMPLEX[:1])
def fft2(xp: Any, x: Array, /, s: Lengths = None, axes: Sequence[int] = _PAIR, norm: Any = None) -> Array:
    """The discrete Fourier transform along two axes; arguments as in ``fftn``."""
    return xp.fftn(x, s=s, axes=axes, norm=norm)


@composite(math="y = ifft along two axes", dtypes="floating-point", result="any", samples=_COMPLEX[:1])
def ifft2(xp: Any, x: Array, /, s: Lengths = None, axes: Sequence[int] = _PAIR, norm: Any = None) -> Array:
    """The inverse of ``fft2``; arguments as in ``fftn``."""
    return xp.ifftn(x, s=s, axes=axes, norm=norm)


@composite(math="y = rfftn along two axes", dtypes="real floating-point", result="any", samples=_REAL[:1])
def rfft2(xp: Any, x: Array, /, s: Lengths = None, axes: Sequence[int] = _PAIR, norm: Any = None) -> Array:
    """The half of ``fft2`` that tells all about a real array; arguments as in ``fftn``."""
    return xp.rfftn(x, s=s, axes=axes, norm=norm)


@composite(math="x with rfft2(x) = y", dtypes="floating-point", result="any", samples=_COMPLEX[:1])
def irfft2(xp: Any, x: Array, /, s: Lengths = None, axes: Sequence[int] = _PAIR, norm: Any = None) -> Array:
    """The inverse of ``rfft2``, a real array; arguments as in ``fftn``."""
    return xp.irfftn(x, s=s, axes=axes, norm=norm)


@composite(math="y = hfft along several axes", dtypes="floating-point", result="any", samples=_COMPLEX)
def hfftn(xp: Any, x: Array, /, s: Lengths = None, axes: Lengths = None, norm: Any = None) -> Array:
    """The real transform of a signal with Hermitian symmetry, given by half of its last axis.

    Args:
        x: at least one axis.
        s, axes, norm: as in ``fftn``; a length is the result's.
    """
    return xp.irfftn(xp.conj(x), s=s, axes=axes, norm=SWAPPED[norm])


@composite(math="x with hfftn(x) = y", dtypes="real floating-point", result="any", samples=_REAL)
def ihfftn(xp: Any, x: Array, /, s: Lengths = None, axes: Lengths = None, norm: Any = None) -> Array:
    """The inverse of ``hfftn``; arguments as in ``fftn``."""
    return xp.conj(xp.rfftn(x, s=s, axes=axes, norm=SWAPPED[norm]))


@composite(math="y = hfftn along two axes", dtypes="floating-point", result="any", samples=_COMPLEX[:1])
def hfft2(xp: Any, x: Array, /, s: Lengths = None, axes: Sequence[int] = _PAIR, norm: Any = None) -> Array:
    """The real transform of a signal with Hermitian symmetry along two axes; arguments as in ``hfftn``."""
    return xp.hfftn(x, s=s, axes=axes, norm=norm)


@composite(math="x with hfft2(x) = y", dtypes="real floating-point", result="any", samples=_REAL[:1])
def ihfft2(xp: Any, x: Array, /, s: Lengths = None, axes: Sequence[int] = _PAIR, norm: Any = None) -> Array:
    """The inverse of ``hfft2``; arguments as in ``hfftn``."""
    return xp.ihfftn(x, s=s, axes=axes, norm=norm)


# -- window by window


def _window(xp: Any, x: Array, window: Any, n_fft: int, win_length: int | None, where: str) -> Array:
    """The window, with zeros on both sides up to the transform's length."""
    length = n_fft if win_length is None else win_length
    if not 0 < length <= n_fft:
        raise OptionError(f"{where}: win_length must be in 1 … n_fft={n_fft}, got {length}")
    dtype = np.zeros(0, x.dtype).real.dtype
    if window is None:
        window = xp.ones((length,), dtype=dtype)
    if tuple(window.shape) != (length,):
        raise ShapeError(f"{where}: window must be [{length}], got {list(window.shape)}")
    before = (n_fft - length) // 2
    return xp.pad(window, [(before, n_fft - length - before)]) if length < n_fft else window


def _step(hop_length: int | None, n_fft: int, where: str) -> int:
    step = n_fft // 4 if hop_length is None else hop_length
    if step < 1:
        raise OptionError(f"{where}: hop_length must be at least 1, got {step}")
    return step


@composite(
    math="y[k, t] = Σ_j window_j x[t hop_length + j] e^(-2πi jk/n_fft)",
    dtypes="floating-point",
    result="any",
    samples=[
        Sample(((12,), 4)),
        Sample(((2, 11), 5), {"hop_length": 2, "win_length": 3, "center": False, "normalized": True}),
        Sample(((12,), 4), {"onesided": False, "window": np.array([0.2, 1.0, 0.9, 0.3])}),
    ],
    rejects=[
        Reject(((2, 2, 12), 4), ShapeError, "stft: expected one or two axes"),
        Reject(((12,), 13), OptionError, "stft: n_fft must be in 1 … 12, got 13", {"center": False}),
        Reject(((12,), 4), ShapeError, "stft: window must be [4], got [3]", {"window": np.ones(3)}),
        Reject(((12,), 4), OptionError, "stft: hop_length must be at least 1", {"hop_length": 0}),
    ],
)
def stft(
    xp: Any,
    x: Array,
    /,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    *,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
) -> Array:
    """The short-time Fourier transform: of one window after another.

    Args:
        x: ``[time]`` or ``[batch, time]``.
        n_fft: length of the transform.
        hop_length: step from window to window; None is a quarter of ``n_fft``.
        win_length: length of the window, zeros around it; None is ``n_fft``.
        window: what a window's elements are multiplied by; None is 1.
        center: pad, so that window t is around the element t hop_length.
        pad_mode: how, as in ``pad``.
        normalized: divide by √n_fft.
        onesided: the half that tells all about a real signal; None where it is real.

    Returns:
        ``[batch, frequency, window]``, complex.
    """
    if len(x.shape) not in (1, 2):
        raise ShapeError(f"stft: expected one or two axes, got {list(x.shape)}")
    rows = x if len(x.shape) == 2 else xp.reshape(x, (1, -1))
    step = _step(hop_length, n_fft, "stft")
    weights = _window(xp, x, window, n_fft, win_length, "stft")
    if center:
        rows = xp.pad(rows, [(0, 0), (n_fft // 2, n_fft // 2)], pad_mode)
    if not 0 < n_fft <= rows.shape[1]:
        raise OptionError(f"stft: n_fft must be in 1 … {rows.shape[1]}, got {n_fft}")
    frames = xp.windows(rows, window=(n_fft,), axes=(1,), stride=(step,), dilation=(1,)) * weights
    whole = x.dtype.kind == "c" or getattr(weights, "dtype", x.dtype).kind == "c"
    half = not whole if onesided is None else onesided
    norm = "ortho" if normalized else "backward"
    y = xp.rfft(frames, axis=-1, norm=norm) if half else xp.fftn(frames, axes=(-1,), norm=norm)
    y = xp.matrix_transpose(y)
    return y if len(x.shape) == 2 else y[0]


@composite(
    math="x with stft(x) = y, nearest by least squares",
    source="Griffin and Lim, IEEE Transactions on Acoustics, Speech, and Signal Processing, 1984",
    dtypes="complex floating-point",
    result="any",
    samples=[
        Sample((np.exp(1j * np.arange(15.0)).reshape(3, 5), 4)),
        Sample((np.exp(1j * np.arange(16.0)).reshape(4, 4), 4, 2), {"onesided": False, "length": 5}),
    ],
    rejects=[
        Reject((np.ones((5, 5), complex), 4), ShapeError, "istft: expected 3 frequencies for n_fft=4"),
        Reject((np.ones(3, complex), 4), ShapeError, "istft: expected two or three axes"),
    ],
)
def istft(
    xp: Any,
    x: Array,
    /,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Array:
    """The inverse of ``stft``: windows transformed back and added up.

    Args:
        x: ``[frequency, window]`` or ``[batch, frequency, window]``, complex.
        n_fft, hop_length, win_length, window, center, normalized: as in ``stft``.
        onesided: whether ``x`` holds half of the frequencies; None tells by their number.
        length: of the signal; None is what the windows cover.
        return_complex: the signal is complex, and ``x`` holds all frequencies.
    """
    if x.dtype.kind != "c":
        raise DTypeError(f"istft: expected complex numbers, got {x.dtype}")
    if len(x.shape) not in (2, 3):
        raise ShapeError(f"istft: expected two or three axes, got {list(x.shape)}")
    stack = x if len(x.shape) == 3 else xp.expand_dims(x, axis=0)
    half = (stack.shape[1] != n_fft) if onesided is None else onesided
    count = n_fft // 2 + 1 if half else n_fft
    if stack.shape[1] != count:
        raise ShapeError(f"istft: expected {count} frequencies for n_fft={n_fft}, got {list(x.shape)}")
    step = _step(hop_length, n_fft, "istft")
    weights = _window(xp, x, window, n_fft, win_length, "istft")
    norm = "ortho" if normalized else "backward"
    columns = xp.matrix_transpose(stack)
    if return_complex and not half:
        frames = xp.ifftn(columns, axes=(-1,), norm=norm)
    else:  # of a real signal half of the frequencies tells all
        frames = xp.irfft(columns[..., : n_fft // 2 + 1], n=n_fft, axis=-1, norm=norm)
    y = _overlapped(xp, frames * weights, step)
    envelope = _overlapped(xp, xp.broadcast_to(weights * weights, (1, *frames.shape[1:])), step)
    start = n_fft // 2 if center else 0
    stop = y.shape[1] - start if length is None else start + length
    inside = slice(start, min(stop, y.shape[1]))
    y = y[:, inside] / envelope[:, inside]
    if length is not None and y.shape[1] < length:
        y = xp.pad(y, [(0, 0), (0, length - y.shape[1])])
    return y if len(x.shape) == 3 else y[0]


def _overlapped(xp: Any, frames: Array, step: int) -> Array:
    """Windows ``[batch, window, element]`` added up where they overlap."""
    batch, count, size = frames.shape
    shape = (batch, size + step * (count - 1))
    return xp.overlap_add(frames, shape=shape, window=(size,), axes=(1,), stride=(step,), dilation=(1,))
