"""Asking ranks where their Python is."""

from __future__ import annotations

import time
from collections.abc import Callable

from .loop import Loop

__all__ = ["Stacks"]

_TIMEOUT_S = 3.0  # for all answers
_LOOK_S = 0.05
_LAST_PIECES_S = 0.1  # an answer may come in pieces


class Stacks:
    """Collects the stacks that ranks answer with.

    Attributes:
        asking: whether answers are awaited.
    """

    def __init__(self, loop: Loop) -> None:
        self.asking = False
        self._loop = loop
        self._answers: dict[int, str] = {}

    def take(self, rank: int, text: str) -> None:
        """Take in a piece of a rank's answer."""
        self._answers[rank] = self._answers.get(rank, "") + text

    def collect(
        self, ranks: list[int], is_there: Callable[[int], bool], then: Callable[[dict[int, str]], None]
    ) -> None:
        """Call ``then`` with the answers of the ranks that were asked just now, or what has come in time.

        Args:
            ranks: which were asked.
            is_there: whether a rank may still answer.
            then: called once; the answer of a rank that gave none is empty.
        """
        self.asking = True
        self._answers = {}
        deadline_s = time.monotonic() + _TIMEOUT_S

        def wait() -> None:
            missing = [rank for rank in ranks if rank not in self._answers and is_there(rank)]
            if missing and time.monotonic() < deadline_s:
                self._loop.at(_LOOK_S, wait)
            else:
                self._loop.at(_LAST_PIECES_S, end)

        def end() -> None:
            self.asking = False
            then({rank: self._answers.get(rank, "") for rank in ranks})

        wait()
