"""What the ranks of a captured step decide together: when all compare a replay with an eager step.

A comparison computes the step twice, and so communicates twice. Everything else a rank decides alone, since a
replay issues the collectives of an eager step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.errors import CaptureError
from distgrad.replay.calls import Call

__all__ = ["CANNOT", "MAY", "WANTS", "Ranks", "digest"]

CANNOT, MAY, WANTS = range(3)  # compare a replay in this call

#: Of the first calls; after them one in eight, spread so that no period of a program's evades them.
_ALWAYS = 32
_SPREAD = 2654435761  # 2^32 divided by the golden ratio


def digest(calls: Sequence[Call]) -> int:
    """A number that tells the collectives of one tape from those of another."""
    shown = [
        (call.name, [(place.shape, place.dtype.str) for place in call.writes if call.kind != "truth"])
        for call in calls
        if call.is_collective  # each rank looks at the parts of gradients that it owns
    ]
    found = hashlib.blake2b(repr(shown).encode(), digest_size=8).digest()
    return int.from_bytes(found, "little", signed=True)


class Ranks:
    """The ranks that call a captured step together.

    Args:
        communicators: those that the step's first call used.
    """

    def __init__(self, communicators: Sequence[Any]) -> None:
        self._comm = max(communicators, key=lambda comm: comm.size).host

    def agree(self, number: int, wish: int, tape: int) -> bool:
        """Whether all ranks compare a replay in this call.

        Collective: yes; blocks: until all are here.

        Args:
            number: of the call, from 1.
            wish: this rank's.
            tape: its digest; of no meaning where it cannot.

        Raises:
            CaptureError: the tapes of two ranks have other collectives; on all ranks.
        """
        if number > _ALWAYS and number * _SPREAD % (1 << 32) >= 1 << 29:
            return False
        told = self._comm.all_gather(np.array([wish, tape]))
        if told[:, 0].min() == CANNOT or told[:, 0].max() < WANTS:
            return False
        other = np.flatnonzero(told[:, 1] != told[0, 1])
        if len(other):
            raise CaptureError(
                f"capture: rank {other[0]} has recorded other collectives than rank 0; let every rank "
                "compute the same, on data of its own"
            )
        return True

    def first_problem(self, problem: str | None) -> str | None:
        """The problem of the first rank that has one, on all ranks.

        Collective: yes; blocks: yes.
        """
        if not self._comm.all_reduce(np.array([problem is not None]), "max")[0]:
            return None
        told = self._comm.all_gather_object(problem)
        return next(f"of rank {rank} {text}" for rank, text in enumerate(told) if text is not None)
