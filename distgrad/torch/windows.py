"""Windows of signals: ``torch.signal.windows``, and their names in ``torch``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.casting import DEFAULTS
from distgrad.autograd.creation import asarray
from distgrad.autograd.meanings import kind
from distgrad.autograd.porting import Shape as Size
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError

__all__ = ["bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine", "general_hamming",
           "hamming", "hann", "kaiser", "nuttall"]  # fmt: skip

Shape = Callable[..., np.ndarray]


def _window(shape: Shape, count: int, sym: bool, dtype: Any, device: Any, grad: bool, *given: Any) -> Tensor:
    """``count`` numbers of a shape over 0 … last, which is ``count`` where the window is periodic."""
    if count < 0:
        raise OptionError(f"windows: expected a length from 0 on, got {count}")
    if dtype is not None and not np.issubdtype(kind(dtype), np.inexact):
        raise OptionError(f"windows: expected a floating-point dtype, got {dtype}")
    last = max(count - 1 if sym else count, 1)
    values = shape(np.arange(count, dtype=np.float64), last, *given) if count > 1 else np.ones(count)
    found = DEFAULTS[float] if dtype is None else kind(dtype)
    out = asarray(values.astype(found), device=device)
    return out.requires_grad_() if grad else out


def _cosines(n: np.ndarray, last: int, *weights: float) -> np.ndarray:
    if not weights:
        raise OptionError("general_cosine: expected at least one coefficient, got none")
    total = np.zeros_like(n)
    for order, weight in enumerate(weights):
        total = total + (-1) ** order * weight * np.cos(2 * np.pi * order * n / last)
    return total


def _made(name: str, shape: Shape, names: str = "", defaults: tuple[Any, ...] = ()) -> Callable[..., Tensor]:
    words = names.split()

    def window(
        M: int,
        *args: Any,
        sym: bool = True,
        dtype: Any = None,
        layout: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        **options: Any,
    ) -> Tensor:
        given = dict(zip(words, defaults, strict=False)) | dict(zip(words, args, strict=False)) | options
        unknown = set(given) - set(words)
        if unknown or len(args) > len(words) or len(given) < len(words):
            raise TypeError(f"{name}: expected {words or 'no further arguments'}, got {args} {options}")
        if layout not in (None, "strided"):
            raise OptionError(f"{name}: windows are dense, got layout={layout}; leave it out")
        return _window(shape, M, sym, dtype, device, requires_grad, *(given[word] for word in words))

    window.__name__ = window.__qualname__ = name
    window.__doc__ = f"The {name} window, symmetric unless ``sym=False``."
    return window


def _kaiser(n: np.ndarray, last: int, beta: float) -> np.ndarray:
    if beta < 0:
        raise OptionError(f"kaiser: beta must be 0 or more, got {beta}")
    return np.asarray(np.i0(beta * np.sqrt(np.maximum(1 - (2 * n / last - 1) ** 2, 0))) / np.i0(beta))


def _gaussian(n: np.ndarray, last: int, std: float) -> np.ndarray:
    if std <= 0:
        raise OptionError(f"gaussian: std must be above 0, got {std}")
    return np.exp(-(((n - last / 2) / std) ** 2) / 2)


def _exponential(n: np.ndarray, last: int, center: float | None, tau: float) -> np.ndarray:
    if tau <= 0:
        raise OptionError(f"exponential: tau must be above 0, got {tau}")
    return np.asarray(np.exp(-np.abs(n - (last / 2 if center is None else center)) / tau))


bartlett = _made("bartlett", lambda n, last: 1 - np.abs(2 * n / last - 1))
blackman = _made("blackman", lambda n, last: _cosines(n, last, 0.42, 0.5, 0.08))
cosine = _made("cosine", lambda n, last: np.sin(np.pi * (n + 0.5) / (last + 1)))
exponential = _made("exponential", _exponential, "center tau", (None, 1.0))
gaussian = _made("gaussian", _gaussian, "std", (1.0,))
general_cosine = _made("general_cosine", lambda n, last, a: _cosines(n, last, *a), "a")
general_hamming = _made("general_hamming", lambda n, last, a: _cosines(n, last, a, 1 - a), "alpha", (0.54,))
hamming = _made("hamming", lambda n, last: _cosines(n, last, 0.54, 0.46))
hann = _made("hann", lambda n, last: _cosines(n, last, 0.5, 0.5))
kaiser = _made("kaiser", _kaiser, "beta", (12.0,))
nuttall = _made("nuttall", lambda n, last: _cosines(n, last, 0.3635819, 0.4891775, 0.1365995, 0.0106411))


def _old(window: Callable[..., Tensor]) -> Any:
    """The same with a second argument, and periodic unless that is False."""

    def create(window_length: int, periodic: bool = True, *args: Any, **options: Any) -> Tensor:
        return window(window_length, *args, sym=not periodic, **options)

    create.__doc__ = window.__doc__
    return staticmethod(create)


class old:
    """Names of ``torch``."""

    bartlett_window, blackman_window, hann_window = _old(bartlett), _old(blackman), _old(hann)
    kaiser_window = _old(kaiser)

    @staticmethod
    def hamming_window(
        window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, **options: Any
    ) -> Tensor:
        """alpha - beta cos(2 π n / N), periodic unless that is False."""
        return general_cosine(window_length, [alpha, beta], sym=not periodic, **options)

    @staticmethod
    def broadcast_shapes(*shapes: Any) -> Any:
        """The shape that tensors of these shapes have together."""
        found = np.broadcast_shapes(*[(each,) if isinstance(each, int) else tuple(each) for each in shapes])
        return Size(found)
