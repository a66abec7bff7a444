"""Ranks whose data end at different steps: those that are through go along with the others' collectives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.comm.base import Communicator
from distgrad.errors import RankFailedError

__all__ = ["Join", "JoinHook", "Joinable"]


class JoinHook:
    """What a rank does for one object while others still train."""

    def main_hook(self) -> None:
        """Go along with the collectives of one step."""

    def post_hook(self, is_last_joiner: bool) -> None:
        """Go along with those of the end; ``is_last_joiner``: this rank was among the last to train."""


class Joinable:
    """An object whose steps have collectives.

    Attributes:
        joining: the context that it is in; None outside.
    """

    joining: Join | None = None

    def join_hook(self, **options: Any) -> JoinHook:
        """What :class:`Join` calls for it."""
        raise TypeError(f"{type(self).__name__}: define join_hook")

    @property
    def join_comm(self) -> Communicator:
        """The ranks that take part."""
        raise TypeError(f"{type(self).__name__}: define join_comm")


class Join:
    """Inside it ranks may train for different numbers of steps.

    Args:
        joinables: what communicates in every step.
        enable: whether it does anything.
        throw_on_early_termination: end all ranks with an error when the first is through.
        **options: for the hooks.

    Raises:
        RankFailedError: a rank is through, where that is to be an error; on all of them.
    """

    def __init__(
        self, joinables: Sequence[Joinable], enable: bool = True, throw_on_early_termination: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        if not joinables:
            raise ValueError("The join context manager requires at least one joinable")
        self._joinables = list(joinables)
        self._enabled = enable
        self._throws = throw_on_early_termination
        self._comm = self._joinables[0].join_comm
        self._hooks = [each.join_hook(**options) for each in joinables]

    def __enter__(self) -> Join:
        if self._enabled:
            for each in self._joinables:
                each.joining = self
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not self._enabled:
            return
        for each in self._joinables:
            each.joining = None
        if kind is not None:
            return
        last, steps = True, 0
        while self._count(0):
            last, steps = False, steps + 1
            if self._throws:
                self._announce(1)
            if steps == 1000:
                warnings.warn(
                    "Join: others train for 1000 steps more than this rank; deal the data out evenly",
                    stacklevel=2,
                )
            for hook in self._hooks:
                hook.main_hook()
        for hook in self._hooks:
            hook.post_hook(last)

    def _count(self, own: int) -> int:
        """How many ranks train in this step."""
        return int(self._comm.host.all_reduce(np.array([own]))[0])

    def _announce(self, own: int) -> None:
        if int(self._comm.host.all_reduce(np.array([own]), "max")[0]):
            raise RankFailedError("Join: a rank has come to the end of its data, and early ends are errors")

    @staticmethod
    def notify_join_context(joinable: Joinable) -> None:
        """Tell the ranks that are through that this one trains on; before a step's first collective.

        Collective: yes, with theirs; blocks: yes. Only the first object of a context communicates.
        """
        context = joinable.joining
        if context is None or context._joinables[0] is not joinable:
            return
        context._count(1)
        if context._throws:
            context._announce(0)
