"""``torch.nn.parallel.DistributedDataParallel``: the engine's, with PyTorch's arguments and meaning."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from distgrad.autograd.modes import is_grad_enabled
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU
from distgrad.comm.base import Communicator
from distgrad.nn.module import Module
from distgrad.parallel.ddp import DistributedDataParallel as _Engine
from distgrad.parallel.replicas import broadcast
from distgrad.torch.distributed.groups import member_of
from distgrad.torch.distributed.hooks import as_hook
from distgrad.torch.distributed.join import Join, Joinable, JoinHook

__all__ = ["DistributedDataParallel", "wrapper_of"]

_wrappers: weakref.WeakSet[DistributedDataParallel] = weakref.WeakSet()


class DistributedDataParallel(_Engine, Joinable):
    """Wraps a module so that backward leaves the mean over the ranks of their gradients, as PyTorch's does.

    Every rank counts once, however many samples it had, and passes inside ``no_sync`` add up. With batches of
    equal size that is what ``dg.parallel.DistributedDataParallel`` gives, which weighs by samples.

    Collective: yes, the constructor, backward passes, and forward passes in training mode; blocks: yes.

    Args:
        module: the same on every rank; it is set to rank 0's.
        device_ids: ``[device]`` of a module on a GPU, to which inputs are moved; None or empty on the host.
        output_device, dim: taken for PyTorch's sake: outputs stay where they are.
        broadcast_buffers: set buffers to rank 0's before a forward pass that follows one that was reduced;
            inside ``join`` to those of the last rank that still trains.
        forward_sync_buffers: the newer name of ``broadcast_buffers``.
        process_group: the ranks; None takes all.
        bucket_cap_mb: MiB at which a bucket is full; None measures what suits the network.
        find_unused_parameters, gradient_as_bucket_view, static_graph, check_reduction: taken: parameters that
            a step does not use are found without a flag, and gradients always lie in the buckets.
        init_sync: only True.
        **others: PyTorch's further arguments, which are taken at their defaults alone.

    Raises:
        TypeError: another value for one of the last.
        ValueError: no parameter wants a gradient, or ``device_ids`` for a module on the host.
    """

    def __init__(
        self,
        module: Module,
        device_ids: Any = None,
        output_device: Any = None,
        dim: int = 0,
        broadcast_buffers: bool = True,
        init_sync: bool = True,
        process_group: Any = None,
        bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False,
        check_reduction: bool = False,
        gradient_as_bucket_view: bool = False,
        static_graph: bool = False,
        forward_sync_buffers: bool | None = None,
        **others: Any,
    ) -> None:
        _check_others({**others, "init_sync": not init_sync})
        if forward_sync_buffers is not None:
            broadcast_buffers = forward_sync_buffers
        group = member_of(process_group, "DistributedDataParallel")
        assert group is not None
        device = _device_of(module, device_ids)
        super().__init__(
            module,
            group.for_device(device),
            bucket_cap_mb=bucket_cap_mb,
            broadcast_buffers=False,  # see _share_buffers
            check_replicas_every=0,
            weigh_by="ranks",
        )
        _wrappers.add(self)
        self.process_group = group
        self.device_ids = list(device_ids) if device_ids else None
        self.find_unused_parameters, self.static_graph = find_unused_parameters, static_graph
        self._moved_to = device if device_ids else None
        self._shares_buffers = broadcast_buffers and any(True for _ in module.buffers())
        self._shares_next = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module on this rank's batch."""
        if self._moved_to is not None:
            args, kwargs = _moved(args, self._moved_to), _moved(kwargs, self._moved_to)
        if is_grad_enabled() and not self.reducer.active:  # active: a checkpoint calls it once more
            if self.require_backward_grad_sync:
                Join.notify_join_context(self)
            self.share_buffers()
        return super().forward(*args, **kwargs)

    def share_buffers(self, trains: bool = True) -> None:
        """Bring the ranks' buffers together if it is time.

        Collective: yes; blocks: yes.

        Args:
            trains: whether this rank does, inside ``join``.
        """
        if self._shares_buffers and self._shares_next and self.comm.size > 1:
            root = 0 if trains and self.joining is None else self.last_of_those(trains)
            broadcast(list(self.module.buffers()), self.comm, root)
        self._shares_next = self.require_backward_grad_sync

    def last_of_those(self, takes_part: bool) -> int:
        """The highest of the ranks that say so.

        Collective: yes; blocks: yes.
        """
        own = np.array([self.comm.rank if takes_part else -1])
        return int(self.comm.host.all_reduce(own, "max")[0])

    @property
    def require_backward_grad_sync(self) -> bool:
        """Whether backward passes reduce: not inside ``no_sync``."""
        return self.reducer.enabled

    @require_backward_grad_sync.setter
    def require_backward_grad_sync(self, value: bool) -> None:
        self.reducer.enabled = value

    def register_comm_hook(self, state: Any, hook: Callable[..., Any]) -> None:
        """Sum the gradients by ``hook(state, bucket)``, which returns the future of their mean.

        Collective: yes; blocks: yes.
        """
        if not callable(hook):
            raise TypeError("Communication hook must be callable.")
        self.use_hook(as_hook(state, hook, lambda: self.reducer.buckets, self.process_group))

    @contextmanager
    def join(
        self, divide_by_initial_world_size: bool = True, enable: bool = True,
        throw_on_early_termination: bool = False,
    ) -> Iterator[None]:  # fmt: skip
        """Inside it ranks may have different numbers of batches; see :class:`Join`.

        Args:
            divide_by_initial_world_size: ranks that are through count in the mean, with gradients of 0.
            enable: whether it does anything.
            throw_on_early_termination: end all ranks with an error when the first is through.
        """
        options = {"divide_by_initial_world_size": divide_by_initial_world_size}
        with Join([self], enable, throw_on_early_termination, **options):
            yield

    def join_hook(self, **options: Any) -> JoinHook:
        """What a rank that is through does."""
        return _Shadow(self, bool(options.get("divide_by_initial_world_size", True)))

    @property
    def is_sharded(self) -> bool:
        """Whether each rank keeps a part of the optimizer's state."""
        return self._sharded is not None

    @property
    def join_comm(self) -> Communicator:
        """The ranks that train together."""
        return self.comm

    @property
    def join_device(self) -> Any:
        """Where the module lies."""
        return next(self.module.parameters()).device

    @property
    def join_process_group(self) -> Any:
        """The group of ranks."""
        return self.process_group


_DEFAULTS = ("delay_all_reduce_named_params", "param_to_hook_all_reduce", "mixed_precision", "device_mesh",
             "skip_all_reduce_unused_params")  # fmt: skip


def _check_others(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if name not in (*_DEFAULTS, "init_sync") or value not in (None, False):
            raise TypeError(f"DistributedDataParallel: {name} is not to be had; leave it out")


def _device_of(module: Module, device_ids: Any) -> Any:
    """Where the module lies."""
    if not any(each.requires_grad for each in module.parameters()):
        raise ValueError(
            "DistributedDataParallel is not needed when a module doesn't have any parameter that requires a "
            "gradient."
        )
    device = next(module.parameters()).device
    if device_ids and device == CPU:
        raise ValueError(
            "DistributedDataParallel device_ids and output_device arguments only work with GPU modules, but "
            f"got device_ids {device_ids}, and the module lies on {device}; leave them out"
        )
    return device


def wrapper_of(parameter: Tensor) -> DistributedDataParallel | None:
    """The wrapper that reduces this parameter's gradients."""
    return next((each for each in _wrappers if any(parameter is p for p in each.parameters())), None)


class _Shadow(JoinHook):
    """Goes along with the steps of others, with gradients of 0."""

    def __init__(self, model: DistributedDataParallel, counts: bool) -> None:
        self._model, self._weight = model, float(counts)

    def main_hook(self) -> None:
        """One reduction, after which this rank's own gradients are gone."""
        model = self._model
        model.share_buffers(trains=False)
        model.reduce_gradients(self._weight)

    def post_hook(self, is_last_joiner: bool) -> None:
        """Take the parameters and buffers of a rank that has trained to the end."""
        root = self._model.last_of_those(is_last_joiner)
        module = self._model.module
        broadcast([*module.parameters(), *module.buffers()], self._model.comm, root)


def _moved(value: Any, device: Any) -> Any:
    """Inputs, and what is in their containers, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_moved(each, device) for each in value)
    return value
