"""Signatures for type checkers and editors; written by tests/write_stubs.py."""

# fmt: off
# ruff: noqa
from builtins import bool as _bool
from collections.abc import Sequence as _Sequence
from typing import Any as _Any

import numpy as _np

from distgrad.autograd.tensor import Tensor as _Tensor
from distgrad.backend.rng import Generator as _Generator

_Array = _Tensor | _np.ndarray[_Any, _Any] | _np.generic | complex
_Lengths = int | _Sequence[int]

from distgrad.autograd.creation import fftfreq as fftfreq
from distgrad.autograd.creation import rfftfreq as rfftfreq

__all__ = [
    "fft",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfftn",
    "rfft",
    "rfftfreq",
    "rfftn",
    "fft2",
    "hfft2",
    "hfftn",
    "ifft2",
    "ihfft2",
    "ihfftn",
    "irfft2",
    "rfft2",
]

def fft(x: _Array, /, n: int | None = ..., axis: int = ..., norm: str = ...) -> _Tensor:
    """The discrete Fourier transform along an axis."""
def fft2(x: _Array, /, s: _Lengths | None = ..., axes: _Sequence[int] = ..., norm: _Any = ...) -> _Tensor:
    """The discrete Fourier transform along two axes; arguments as in ``fftn``."""
def fftn(x: _Array, /, s: _Lengths | None = ..., axes: _Lengths | None = ..., norm: str = ...) -> _Tensor:
    """The discrete Fourier transform along several axes."""
def fftshift(x: _Array, /, axes: int | _Lengths | None = ...) -> _Tensor:
    """Frequency 0 moved to the middle, along ``axes`` (all for None)."""
def hfft(x: _Array, /, n: int | None = ..., axis: int = ..., norm: str = ...) -> _Tensor:
    """The real transform of a signal with Hermitian symmetry; arguments as in ``irfft``."""
def hfft2(x: _Array, /, s: _Lengths | None = ..., axes: _Sequence[int] = ..., norm: _Any = ...) -> _Tensor:
    """The real transform of a signal with Hermitian symmetry along two axes; arguments as in ``hfftn``."""
def hfftn(x: _Array, /, s: _Lengths | None = ..., axes: _Lengths | None = ..., norm: _Any = ...) -> _Tensor:
    """The real transform of a signal with Hermitian symmetry, given by half of its last axis."""
def ifft(x: _Array, /, n: int | None = ..., axis: int = ..., norm: str = ...) -> _Tensor:
    """The inverse of ``fft``; arguments as there."""
def ifft2(x: _Array, /, s: _Lengths | None = ..., axes: _Sequence[int] = ..., norm: _Any = ...) -> _Tensor:
    """The inverse of ``fft2``; arguments as in ``fftn``."""
def ifftn(x: _Array, /, s: _Lengths | None = ..., axes: _Lengths | None = ..., norm: str = ...) -> _Tensor:
    """The inverse of ``fftn``; arguments as there."""
def ifftshift(x: _Array, /, axes: int | _Lengths | None = ...) -> _Tensor:
    """The inverse of ``fftshift``."""
def ihfft(x: _Array, /, n: int | None = ..., axis: int = ..., norm: str = ...) -> _Tensor:
    """The inverse of ``hfft``; arguments as in ``rfft``."""
def ihfft2(x: _Array, /, s: _Lengths | None = ..., axes: _Sequence[int] = ..., norm: _Any = ...) -> _Tensor:
    """The inverse of ``hfft2``; arguments as in ``hfftn``."""
def ihfftn(x: _Array, /, s: _Lengths | None = ..., axes: _Lengths | None = ..., norm: _Any = ...) -> _Tensor:
    """The inverse of ``hfftn``; arguments as in ``fftn``."""
def irfft(x: _Array, /, n: int | None = ..., axis: int = ..., norm: str = ...) -> _Tensor:
    """The inverse of ``rfft``, a real array of length ``n``, by default 2 (m - 1)."""
def irfft2(x: _Array, /, s: _Lengths | None = ..., axes: _Sequence[int] = ..., norm: _Any = ...) -> _Tensor:
    """The inverse of ``rfft2``, a real array; arguments as in ``fftn``."""
def irfftn(x: _Array, /, s: _Lengths | None = ..., axes: _Lengths | None = ..., norm: str = ...) -> _Tensor:
    """The inverse of ``rfftn``, a real array; arguments as in ``fftn``."""
def rfft(x: _Array, /, n: int | None = ..., axis: int = ..., norm: str = ...) -> _Tensor:
    """The half of ``fft`` that tells all about a real array; arguments as there."""
def rfft2(x: _Array, /, s: _Lengths | None = ..., axes: _Sequence[int] = ..., norm: _Any = ...) -> _Tensor:
    """The half of ``fft2`` that tells all about a real array; arguments as in ``fftn``."""
def rfftn(x: _Array, /, s: _Lengths | None = ..., axes: _Lengths | None = ..., norm: str = ...) -> _Tensor:
    """``rfft`` along the last axis and ``fft`` along the others; arguments as in ``fftn``."""
