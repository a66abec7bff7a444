"""Residual branches left out at random.

Source: Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth", ECCV 2016.
"""

from __future__ import annotations

from distgrad.autograd.random import rand
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.module import Module

__all__ = ["StochasticDepth", "stochastic_depth"]


def stochastic_depth(input: Tensor, p: float, mode: str, training: bool = True) -> Tensor:
    """Zeros with probability ``p``, else ``input / (1 − p)``.

    Args:
        input: ``[N, ...]``.
        p: the probability.
        mode: "batch" for all rows together, "row" for each by itself.
        training: whether anything is left out.

    Raises:
        OptionError: a probability outside [0, 1], or another mode.
    """
    if not 0.0 <= p <= 1.0 or mode not in ("batch", "row"):
        raise OptionError(
            f"stochastic_depth: expected p in [0, 1] and mode 'batch' or 'row', got {p}, {mode!r}"
        )
    if not training or p == 0.0:
        return input
    rows = (input.shape[0] if mode == "row" else 1, *[1] * (input.ndim - 1))
    kept = (rand(rows, device=input.device) >= p).astype(input.dtype)
    return input * kept if p == 1.0 else input * kept / (1.0 - p)


class StochasticDepth(Module):
    """:func:`stochastic_depth` as a layer.

    Args:
        p: the probability.
        mode: "batch" or "row".
    """

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, input: Tensor) -> Tensor:
        """The input or zeros."""
        return stochastic_depth(input, self.p, self.mode, self.training)
