"""Random numbers of ``torch`` whose parameters are tensors: ``poisson``, ``binomial``."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError

__all__ = ["binomial", "poisson"]


def _own_generator_only(name: str, generator: Any) -> None:
    if generator is not None:
        raise OptionError(f"{name}: generator= is not taken here; seed with torch.manual_seed")


def poisson(input: Tensor, generator: Any = None) -> Tensor:
    """Counts of events that are expected ``input`` times, in its dtype.

    Raises:
        OptionError: a rate below 0, or a generator.
    """
    from distgrad.torch.probability.discrete import Poisson

    _own_generator_only("poisson", generator)
    if bool(ops.any(input < 0)):
        raise OptionError("poisson: expected rates of at least 0")
    return Poisson(input.detach(), validate_args=False).sample().to(input.dtype)


def binomial(count: Tensor, prob: Tensor, generator: Any = None) -> Tensor:
    """How many of ``count`` trials succeed, each with ``prob``; in the dtype of ``count``.

    Raises:
        OptionError: a generator.
    """
    from distgrad.torch.probability.discrete import Binomial

    _own_generator_only("binomial", generator)
    return Binomial(count.detach(), probs=prob.detach(), validate_args=False).sample().to(count.dtype)
