"""``torch.nn.parallel`` in pieces: batches cut, copies of a module called, results put together.

Copies on several devices share the module's parameters: gradients of all copies meet in these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import parse_device
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.nn.utils.stateless import functional_call

__all__ = ["gather", "parallel_apply", "replicate", "scatter", "scatter_kwargs"]


def _place(device: Any) -> Any:
    return parse_device(f"cuda:{device}" if isinstance(device, int) else device)


def scatter(inputs: Any, target_gpus: Sequence[Any], dim: int = 0) -> list[Any]:
    """Cut the tensors among the inputs into a part for each device.

    Args:
        inputs: a tensor, or tuples, lists and dicts of tensors; anything else goes to every device.
        target_gpus: devices, or their numbers.
        dim: the axis that is cut.

    Returns:
        The inputs of each device, in their structure; fewer than devices where a batch is short.
    """
    if isinstance(inputs, Tensor):
        parts = inputs.chunk(len(target_gpus), dim)
        return [part.to(_place(device)) for part, device in zip(parts, target_gpus, strict=False)]
    if isinstance(inputs, dict):
        columns = [scatter(each, target_gpus, dim) for each in inputs.values()]
        if inputs:
            return [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=False)]
    elif isinstance(inputs, tuple | list) and inputs:
        make: Callable[[Any], Any] = getattr(type(inputs), "_make", type(inputs))
        rows = zip(*(scatter(each, target_gpus, dim) for each in inputs), strict=False)
        return [make(row) for row in rows]
    return [inputs for _ in target_gpus]


def scatter_kwargs(inputs: tuple[Any, ...], kwargs: Any, target_gpus: Sequence[Any], dim: int = 0) -> Any:
    """As :func:`scatter`, of positional arguments and of those by keyword: two tuples of equal length."""
    parts, options = scatter(inputs, target_gpus, dim), scatter(kwargs or {}, target_gpus, dim)
    count = max(len(parts), len(options)) if inputs and kwargs else len(parts if inputs else options)
    parts += [()] * (count - len(parts))
    options += [{}] * (count - len(options))
    return tuple(parts[:count]), tuple(options[:count])


def gather(outputs: Sequence[Any], target_device: Any, dim: int = 0) -> Any:
    """Put the devices' results together on one: tensors along an axis, numbers as a vector."""
    first = outputs[0]
    if isinstance(first, Tensor):
        moved = [each.to(_place(target_device)) for each in outputs]
        return ops.concat([each.reshape(1) if each.ndim == 0 else each for each in moved], axis=dim)
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: gather([each[key] for each in outputs], target_device, dim) for key in first}
    make: Callable[[Any], Any] = getattr(type(first), "_make", type(first))
    return make([gather(each, target_device, dim) for each in zip(*outputs, strict=True)])


class _Replica(Module):
    """A module called with its parameters on another device."""

    def __init__(self, module: Module, device: Any, detach: bool) -> None:
        super().__init__()
        self.__dict__["_of"] = module
        self._device, self._detach = device, detach
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result."""
        of: Module = self.__dict__["_of"]
        named = [*of.named_parameters(), *of.named_buffers()]
        moved = {name: (each.detach() if self._detach else each).to(self._device) for name, each in named}
        return functional_call(of, moved, args, kwargs)


def replicate(network: Module, devices: Sequence[Any], detach: bool = False) -> list[Module]:
    """A module for each device, with the parameters of ``network``.

    Args:
        network: the module.
        devices: devices, or their numbers.
        detach: whether gradients stay away from its parameters.
    """
    return [_Replica(network, _place(device), detach) for device in devices]


def parallel_apply(
    modules: Sequence[Module], inputs: Sequence[Any], kwargs_tup: Any = None, devices: Any = None
) -> list[Any]:
    """Call each module with its inputs, one after another.

    Args:
        modules: of :func:`replicate`.
        inputs: the arguments of each, a tuple or one.
        kwargs_tup: the arguments by keyword of each.
        devices: taken; a module computes where its arguments lie.

    Raises:
        OptionError: another number of inputs than of modules.
    """
    options = [{}] * len(modules) if kwargs_tup is None else kwargs_tup
    if not len(modules) == len(inputs) == len(options):
        raise OptionError(f"parallel_apply: {len(modules)} modules, but {len(inputs)} inputs")
    calls = zip(modules, inputs, options, strict=True)
    return [module(*(x if isinstance(x, tuple | list) else (x,)), **given) for module, x, given in calls]
