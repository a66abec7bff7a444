"""Names of ``torch.nn`` that are not in ``dg.nn``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from distgrad.nn.module import Module
from distgrad.nn.modules.containers import ModuleList
from distgrad.parallel.batchnorm import SyncBatchNorm
from distgrad.parallel.ddp import DistributedDataParallel

__all__ = ["DataParallel", "DistributedDataParallel", "SDPBackend", "SyncBatchNorm", "sdpa_kernel"]


class DataParallel(Module):
    """The module itself: several devices of one process are used by a process each, with DDP.

    Args:
        module: what is wrapped.
        device_ids, output_device, dim: taken for PyTorch's sake; only one device is used.
    """

    def __init__(
        self, module: Module, device_ids: Any = None, output_device: Any = None, dim: int = 0
    ) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The module's own."""
        return self.module(*inputs, **options)


class SDPBackend:
    """Ways to compute attention; there is one here."""

    ERROR, MATH, FLASH_ATTENTION, EFFICIENT_ATTENTION, CUDNN_ATTENTION = range(-1, 4)


@contextmanager
def sdpa_kernel(backends: Any, set_priority: bool = False) -> Any:
    """Nothing: there is one way to compute attention here."""
    yield


def _repeated(count: int) -> Callable[[Any], tuple[Any, ...]]:
    def parse(value: Any) -> tuple[Any, ...]:
        return (
            tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * count
        )

    return parse


class utils:
    """``torch.nn.modules.utils``."""

    _single, _pair, _triple, _quadruple = (staticmethod(_repeated(count)) for count in (1, 2, 3, 4))
    _ntuple = staticmethod(lambda count, name="parse": _repeated(count))


def _get_clones(module: Any, count: int) -> ModuleList:
    import copy

    return ModuleList([copy.deepcopy(module) for _ in range(count)])


class F:
    """Functions of ``torch.nn.functional`` that are not in ``dg.nn.functional``."""
