"""Local SGD: ranks, or groups of them, train apart and average their parameters now and then."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from distgrad.parallel.ddp import DistributedDataParallel

__all__ = ["LocalSGD"]


class LocalSGD:
    """Averages a model's parameters every so many steps instead of its gradients in every step.

    ::

        averager = dg.parallel.LocalSGD(ddp, {4: 2, 16: comm.size}, warmup_steps=100)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(ddp(x), y).backward()
            optimizer.step()
            averager.step()

    Collective: yes; blocks: yes.

    Args:
        model: the same on every rank.
        periods: after how many steps groups of how many neighbouring ranks average, the larger groups after
            more steps; a number is the period of all ranks.
        warmup_steps: steps at the start in which the gradients of all ranks are reduced (post-local SGD).
        gradient_group_size: ranks that go on reducing their gradients in every step after that.

    Source: Stich, ICLR 2019; Lin et al., ICLR 2020 (post-local and hierarchical).
    """

    def __init__(
        self,
        model: DistributedDataParallel,
        periods: int | Mapping[int, int],
        *,
        warmup_steps: int = 0,
        gradient_group_size: int = 1,
    ) -> None:
        comm = model.comm
        levels = {periods: comm.size} if isinstance(periods, int) else dict(sorted(periods.items()))
        sizes = [gradient_group_size, *levels.values()]
        if (
            not levels
            or min(*levels, *sizes) < 1
            or sizes != sorted(sizes)
            or sizes[-1] != comm.size
            or any(large % small for small, large in itertools.pairwise(sizes))
        ):
            raise ValueError(
                "LocalSGD: expected periods from 1 up, with groups that grow with them to all ranks, each a "
                f"multiple of the one before, got gradient_group_size={gradient_group_size} and {levels} for "
                f"{comm.size} ranks"
            )
        self.model = model
        self.warmup_steps = warmup_steps
        self.num_steps = 0
        self._world = comm
        groups = {size: comm.split(comm.rank // size) for size in dict.fromkeys(sizes) if size < comm.size}
        groups[comm.size] = comm
        self._levels = [(period, groups[size]) for period, size in reversed(levels.items())]
        self._gradient_group = groups[gradient_group_size]
        if warmup_steps == 0:
            self._go_apart()

    def _go_apart(self) -> None:
        assert self._gradient_group is not None
        self.model.reduce_within(self._gradient_group)

    def step(self) -> int:
        """Count a step of the optimizer, and average if it is time.

        Collective: yes; blocks: yes.

        Returns:
            How many ranks have averaged with this one; 1 if none.
        """
        self.num_steps += 1
        if self.num_steps == self.warmup_steps:
            self._go_apart()
        if self.num_steps <= self.warmup_steps:
            return 1
        for period, group in self._levels:
            if (self.num_steps - self.warmup_steps) % period == 0:
                assert group is not None
                self.model.average_parameters(group)
                return group.size
        return 1

    def finish(self) -> None:
        """Average over all ranks a last time, and reduce the gradients of all again.

        Collective: yes; blocks: yes.
        """
        self.model.average_parameters(self._world)
        self.model.reduce_within(self._world)
