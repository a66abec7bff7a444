"""Names of ``torch.nn`` that are not in ``dg.nn``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from distgrad.autograd.dispatch import namespace as ops
from distgrad.nn.functional.images import interpolate
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

    @staticmethod
    def grid_sample(
        input: Any,
        grid: Any,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool | None = None,
    ) -> Any:
        """Images read at the points of a grid; arguments as in the operation ``grid_sample``."""
        return ops.grid_sample(input, grid, mode, padding_mode, bool(align_corners))

    @staticmethod
    def affine_grid(theta: Any, size: Any, align_corners: bool | None = None) -> Any:
        """The points of an image moved by affine maps; arguments as in the operation ``affine_grid``."""
        return ops.affine_grid(theta, tuple(size), bool(align_corners))

    @staticmethod
    def pdist(input: Any, p: float = 2.0) -> Any:
        """Distances of all pairs of rows."""
        return ops.pdist(input, p)

    @staticmethod
    def upsample_nearest(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
        """``interpolate`` with the nearest element."""
        return interpolate(input, size, scale_factor, mode="nearest")

    @staticmethod
    def upsample_bilinear(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
        """``interpolate`` between four elements, the corners aligned."""
        return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)

    @staticmethod
    def upsample(
        input: Any,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> Any:
        """``interpolate`` under its name of old."""
        return interpolate(input, size, scale_factor, mode=mode, align_corners=align_corners)
