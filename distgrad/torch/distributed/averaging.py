"""``torch.distributed.algorithms.model_averaging`` and post-local SGD: parameters averaged now and then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.optim.optimizer import Optimizer
from distgrad.parallel.replicas import average
from distgrad.torch.distributed.groups import ProcessGroup, get_rank, member_of, new_subgroups
from distgrad.torch.distributed.hooks import GradBucket, allreduce_hook, noop_hook
from distgrad.torch.distributed.works import Future

__all__ = [
    "HierarchicalModelAverager", "ModelAverager", "PeriodicModelAverager", "PostLocalSGDOptimizer",
    "PostLocalSGDState", "average_parameters", "post_localSGD_hook",
]  # fmt: skip


def average_parameters(params: Iterable[Any], process_group: Any = None) -> None:
    """Set parameters, or those of an optimizer's groups that have gradients, to their means over the ranks.

    Collective: yes; blocks: yes.
    """
    group = member_of(process_group, "average_parameters")
    if group is None:
        return
    found: list[Tensor] = []
    for each in params:
        found += [p for p in each["params"] if p.grad is not None] if isinstance(each, Mapping) else [each]
    if found:
        average(found, group.comm, 1.0)


class ModelAverager:
    """Counts steps and averages when it is time.

    Attributes:
        step: calls so far.
    """

    def __init__(self, process_group: Any = None) -> None:
        self.process_group = process_group
        self.step = 0

    def _group_now(self) -> Any:
        """Among whom to average in this step; None for nobody."""
        raise TypeError(f"{type(self).__name__}: define average_parameters")

    def average_parameters(self, params: Iterable[Any]) -> None:
        """Count a step, and average the parameters if it is time.

        Collective: yes; blocks: yes.
        """
        group = self._group_now()
        if group is not None:
            average_parameters(params, group)
        self.step += 1


class PeriodicModelAverager(ModelAverager):
    """Averages every ``period`` steps, after ``warmup_steps`` of them."""

    def __init__(self, period: int, warmup_steps: int = 0, process_group: Any = None) -> None:
        super().__init__(process_group)
        if warmup_steps < 0:
            raise ValueError("Arg ``warmup_steps`` must be a non-negative number.")
        if period <= 0:
            raise ValueError("Arg ``period`` must be a positive value.")
        self.period, self.warmup_steps = period, warmup_steps

    def _group_now(self) -> Any:
        due = self.step >= self.warmup_steps and (self.step - self.warmup_steps) % self.period == 0
        return member_of(self.process_group, "average_parameters") if due else None


class HierarchicalModelAverager(ModelAverager):
    """Averages among groups of neighbours, larger ones after more steps.

    Args:
        period_group_size_dict: after how many steps groups of how many ranks average; the last has all ranks.
        warmup_steps: before the first.
        process_group: None or the world's.
    """

    def __init__(
        self, period_group_size_dict: Mapping[int, int], warmup_steps: int = 0, process_group: Any = None
    ) -> None:
        super().__init__(process_group)
        world = member_of(process_group, "HierarchicalModelAverager")
        assert world is not None
        levels = dict(sorted(period_group_size_dict.items()))
        if not levels or list(levels.values())[-1] != world.size():
            raise ValueError(f"The last value in arg ``period_group_size_dict`` must be {world.size()}, the "
                             "number of all ranks.")  # fmt: skip
        self.warmup_steps = warmup_steps
        self._levels: list[tuple[int, ProcessGroup]] = []
        for period, size in levels.items():
            group = world if size == world.size() else new_subgroups(size)[0]
            self._levels.insert(0, (period, group))

    def _group_now(self) -> Any:
        due = self.step >= self.warmup_steps
        return next((group for period, group in self._levels if due and self.step % period == 0), None)


class PostLocalSGDState:
    """When :func:`post_localSGD_hook` stops to average the gradients of all ranks.

    Args:
        process_group: whose gradients are averaged at first; None is the world.
        subgroup: whose gradients are averaged later; None: those of a host.
        start_localSGD_iter: steps at first.
        post_local_gradient_allreduce: whether gradients are averaged at all later.
    """

    def __init__(
        self, process_group: Any, subgroup: Any, start_localSGD_iter: int,
        post_local_gradient_allreduce: bool = True,
    ) -> None:  # fmt: skip
        self.process_group = process_group
        self.subgroup = subgroup
        self.start_localSGD_iter = start_localSGD_iter
        self.post_local_gradient_allreduce = post_local_gradient_allreduce
        self.iter = 0
        if subgroup is None and post_local_gradient_allreduce:
            self.subgroup = new_subgroups()[0]


def post_localSGD_hook(state: PostLocalSGDState, bucket: GradBucket) -> Future:
    """The mean over all ranks for some steps, then over a few or none."""
    early = state.iter < state.start_localSGD_iter
    if bucket.is_last():
        state.iter += 1
    if early:
        return allreduce_hook(state.process_group, bucket)
    if not state.post_local_gradient_allreduce:
        return noop_hook(None, bucket)
    return allreduce_hook(state.subgroup, bucket)


class PostLocalSGDOptimizer:
    """An optimizer whose steps are followed by an average of the parameters when it is time.

    Args:
        optim: the optimizer.
        averager: when, and among whom.
    """

    def __init__(self, optim: Optimizer, averager: ModelAverager) -> None:
        self.optim, self.averager = optim, averager
        get_rank()  # an error without a world

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optim, name)

    def step(self, closure: Any = None) -> Any:
        """A step, then the average.

        Collective: yes; blocks: yes.
        """
        loss = self.optim.step() if closure is None else self.optim.step(closure)
        self.averager.average_parameters(self.optim.param_groups)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, with the number of steps."""
        return {**self.optim.state_dict(), "step": self.averager.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        state = dict(state_dict)
        self.averager.step = state.pop("step", 0)
        self.optim.load_state_dict(state)
