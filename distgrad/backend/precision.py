"""How exactly float32 matrix products are computed where the hardware offers a choice."""

from __future__ import annotations

from collections.abc import Callable

from distgrad.errors import OptionError

__all__ = ["get_float32_matmul_precision", "on_precision", "set_float32_matmul_precision"]

_PRECISIONS = ("highest", "high", "medium")
_chosen = "highest"
_listeners: list[Callable[[str], None]] = []


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how GPUs multiply float32 matrices; products on the CPU are always in float32.

    Args:
        precision: ``"highest"`` is float32; ``"high"`` rounds inputs to TF32, 10 bits of fraction, for the
            tensor cores, and adds in float32; ``"medium"``, which PyTorch lets be coarser, is ``"high"``.

    Raises:
        OptionError: another text.
    """
    global _chosen
    if precision not in _PRECISIONS:
        raise OptionError(
            f"set_float32_matmul_precision: precision must be one of {', '.join(_PRECISIONS)}, "
            f"got {precision!r}"
        )
    _chosen = precision
    for listener in _listeners:
        listener(precision)


def get_float32_matmul_precision() -> str:
    """What :func:`set_float32_matmul_precision` has chosen; ``"highest"`` at first."""
    return _chosen


def on_precision(listener: Callable[[str], None]) -> None:
    """Tell a backend of the choice, now and whenever it changes.

    Args:
        listener: takes the precision.
    """
    _listeners.append(listener)
    listener(_chosen)
