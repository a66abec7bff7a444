"""``torch.distributed.optim.ZeroRedundancyOptimizer`` over the engine's ``shard="optimizer"``."""

from __future__ import annotations

import functools
from typing import Any, cast

from distgrad.amp import GradScaler
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.optim.optimizer import Optimizer
from distgrad.torch.distributed.ddp import DistributedDataParallel, wrapper_of

__all__ = ["ShardedGradScaler", "ZeroRedundancyOptimizer"]

#: Overflow is looked for in the gradients of all ranks by every scaler.
ShardedGradScaler = GradScaler


class ZeroRedundancyOptimizer(Optimizer):
    """An optimizer of whose state each rank keeps a part.

    What is made is of a class of its own, a subclass of ``optimizer_class`` too. The parameters are those of
    a ``DistributedDataParallel``.

    Collective: yes, the constructor and ``step``; blocks: yes.

    Args:
        params: of a wrapped module, or groups of them.
        optimizer_class: which rule.
        process_group: that of the wrapper, which decides.
        parameters_as_bucket_view: taken: they are.
        overlap_with_ddp: only False.
        **defaults: options of the rule.

    Raises:
        OptionError: parameters that no ``DistributedDataParallel`` has, or ``overlap_with_ddp``.

    Source: Rajbhandari et al., SC 2020 (stage 1).
    """

    def __new__(cls, params: Any, optimizer_class: Any = None, *args: Any, **defaults: Any) -> Any:
        """One whose rule is that of ``optimizer_class``."""
        if cls is not ZeroRedundancyOptimizer:
            return super().__new__(cls)
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
            raise OptionError(
                "ZeroRedundancyOptimizer: optimizer_class must be a class of torch.optim, got "
                f"{optimizer_class!r}"
            )
        return super().__new__(cast(Any, _kind(cast(Any, optimizer_class))))

    def __init__(
        self,
        params: Any,
        optimizer_class: Any,
        process_group: Any = None,
        parameters_as_bucket_view: bool = False,
        overlap_with_ddp: bool = False,
        **defaults: Any,
    ) -> None:
        if overlap_with_ddp:
            raise OptionError("ZeroRedundancyOptimizer: overlap_with_ddp is not to be had; leave it out")
        groups = list(params)
        for wrapper in {_wrapper(each) for each in _tensors(groups)}:
            if not wrapper.is_sharded:
                wrapper.shard_optimizer()
        self._whole: dict[str, Any] | None = None
        super().__init__(groups, **defaults)

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Bring the state together on one rank, whose :meth:`state_dict` gives it.

        Collective: yes; blocks: yes.

        Args:
            to: the rank.
        """
        rank = _wrapper(self.param_groups[0]["params"][0]).comm.rank
        whole = super().state_dict()
        self._whole = whole if rank == to else None

    def state_dict(self, **options: Any) -> dict[str, Any]:
        """What :meth:`consolidate_state_dict` brought together; with options, of the rule's own.

        Raises:
            RuntimeError: it was not brought together here.
        """
        if options:
            return super().state_dict(**options)
        if self._whole is None:
            raise RuntimeError(
                "Optimizer state has not been consolidated on this rank. Please call "
                "`consolidate_state_dict(to=...)` on all ranks beforehand if you meant to save the global "
                "state."
            )
        return self._whole


def _tensors(groups: list[Any]) -> list[Tensor]:
    """The parameters of all groups."""
    found: list[Tensor] = []
    for each in groups:
        if isinstance(each, dict):
            inside = each["params"]
            found += _tensors([inside] if isinstance(inside, Tensor) else list(inside))
        else:
            found.append(each[1] if isinstance(each, tuple) else each)
    return found


def _wrapper(parameter: Tensor) -> DistributedDataParallel:
    found = wrapper_of(parameter)
    if found is None:
        raise OptionError(
            "ZeroRedundancyOptimizer: the parameters are of no DistributedDataParallel; wrap the module "
            "first, and give it the wrapper's parameters"
        )
    return found


@functools.cache
def _kind(optimizer_class: type) -> type:
    """The class of those with this rule."""
    name = f"ZeroRedundancy{optimizer_class.__name__}"
    return type(
        name, (ZeroRedundancyOptimizer, optimizer_class), {"__doc__": ZeroRedundancyOptimizer.__doc__}
    )
