"""One seed for everything that draws."""

from __future__ import annotations

import operator
import random

import numpy as np

from distgrad.backend.rng import manual_seed
from distgrad.comm.registry import get_world, is_initialized
from distgrad.errors import OptionError

__all__ = ["seed_everything"]


def seed_everything(seed: int, *, by_rank: bool = True) -> int:
    """Seed distgrad's generator, NumPy's old global one and Python's.

    Call it after ``dg.comm.init()``: ranks draw different numbers, as dropout and augmentation
    should; they follow from the seed and the rank alone. Under DistributedDataParallel the initial parameters
    are rank 0's.

    Collective: no; blocks: no.

    Args:
        seed: from 0.
        by_rank: False to give every rank the same numbers.

    Returns:
        The seed that this rank has taken.
    """
    try:
        seed = operator.index(seed)
    except TypeError:
        raise OptionError(f"seed_everything: seed must be a whole number, got {seed!r}") from None
    if seed < 0:
        raise OptionError(f"seed_everything: seed must be 0 or more, got {seed}")
    rank = get_world().rank if by_rank and is_initialized() else 0
    own = seed if rank == 0 else int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    manual_seed(own)
    random.seed(own)
    np.random.seed(own % 2**32)  # noqa: NPY002 (programs that use it are the reason)
    return own
