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


__all__ = [
    "erf",
    "erfc",
    "erfinv",
    "logit",
    "logsumexp",
    "ndtr",
    "xlogy",
    "digamma",
    "entr",
    "erfcx",
    "gammainc",
    "gammaincc",
    "gammaln",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "log_ndtr",
    "multigammaln",
    "ndtri",
    "polygamma",
    "xlog1py",
    "zeta",
]

def digamma(x: _Array, /) -> _Tensor:
    """The logarithmic derivative of the gamma function; NaN at negative whole numbers, ∓∞ at ±0."""
def entr(x: _Array, /) -> _Tensor:
    """An element's part of an entropy; at 0 and below the gradient is infinite."""
def erf(x: _Array, /) -> _Tensor:
    """The error function."""
def erfc(x: _Array, /) -> _Tensor:
    """The complementary error function, exact in the upper tail."""
def erfcx(x: _Array, /) -> _Tensor:
    """The complementary error function, scaled so that its tail does not vanish."""
def erfinv(x: _Array, /) -> _Tensor:
    """The inverse of the error function; ±∞ at ±1, NaN beyond."""
def gammainc(x1: _Array, x2: _Array, /) -> _Tensor:
    """The regularized lower incomplete gamma function of order ``x1``; the gradient is that of ``x2``."""
def gammaincc(x1: _Array, x2: _Array, /) -> _Tensor:
    """The regularized upper incomplete gamma function of order ``x1``; the gradient is that of ``x2``."""
def gammaln(x: _Array, /) -> _Tensor:
    """The logarithm of the gamma function's magnitude; ∞ at 0 and negative whole numbers."""
def i0(x: _Array, /) -> _Tensor:
    """The modified Bessel function of order 0."""
def i0e(x: _Array, /) -> _Tensor:
    """The modified Bessel function of order 0, scaled."""
def i1(x: _Array, /) -> _Tensor:
    """The modified Bessel function of order 1."""
def i1e(x: _Array, /) -> _Tensor:
    """The modified Bessel function of order 1, scaled."""
def log_ndtr(x: _Array, /) -> _Tensor:
    """The logarithm of the normal distribution's cumulative function, exact in both tails."""
def logit(x: _Array, /) -> _Tensor:
    """The inverse of the logistic function."""
def logsumexp(x: _Array, /, axis: _Lengths | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Logarithm of the sum of exponentials, without their over- and underflow."""
def multigammaln(x: _Array, /, p: int) -> _Tensor:
    """The logarithm of the multivariate gamma function of dimension ``p``, for x > (p - 1) / 2."""
def ndtr(x: _Array, /) -> _Tensor:
    """The normal distribution's cumulative function, exact in the lower tail."""
def ndtri(x: _Array, /) -> _Tensor:
    """The normal distribution's quantiles; ∓∞ at 0 and 1, NaN outside."""
def polygamma(n: int, x: _Array, /) -> _Tensor:
    """The n-th derivative of the digamma function."""
def xlog1py(x1: _Array, x2: _Array, /) -> _Tensor:
    """A number times the logarithm of one more than another; 0 log 0 is 0."""
def xlogy(x1: _Array, x2: _Array, /) -> _Tensor:
    """A number times a logarithm, as entropies need it: 0 log 0 is 0."""
def zeta(x1: _Array, x2: _Array, /) -> _Tensor:
    """Hurwitz's zeta function of order ``x1`` > 1 from ``x2`` > 0 on; the gradient is that of ``x2``."""
