"""Names of ``torch.nn`` that are not in ``dg.nn``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.random import rand
from distgrad.errors import OptionError
from distgrad.nn import init
from distgrad.nn.functional import pooling
from distgrad.nn.functional.images import interpolate
from distgrad.nn.module import Module
from distgrad.nn.modules.containers import ModuleList
from distgrad.nn.state import EXTRA_STATE
from distgrad.nn.utils import gradients
from distgrad.parallel.batchnorm import SyncBatchNorm

__all__ = ["DataParallel", "SDPBackend", "SyncBatchNorm", "data_parallel", "sdpa_kernel"]


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


def data_parallel(
    module: Module, inputs: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0,
    module_kwargs: Any = None,
) -> Any:  # fmt: skip
    """The module's own; arguments as in :class:`DataParallel`."""
    return module(*(inputs if isinstance(inputs, tuple) else (inputs,)), **(module_kwargs or {}))


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


_EXTRA_STATE_KEY_SUFFIX = EXTRA_STATE


def _addindent(text: str, count: int) -> str:
    """A text with its lines but the first moved to the right."""
    return text.replace("\n", "\n" + " " * count)


def _get_clones(module: Any, count: int) -> ModuleList:
    import copy

    return ModuleList([copy.deepcopy(module) for _ in range(count)])


class initial:
    """Names of old of ``torch.nn.init``, without the underscore."""

    constant, dirac, eye, normal, uniform = (
        staticmethod(each) for each in (init.constant_, init.dirac_, init.eye_, init.normal_, init.uniform_)
    )
    kaiming_normal, kaiming_uniform = staticmethod(init.kaiming_normal_), staticmethod(init.kaiming_uniform_)
    xavier_normal, xavier_uniform = staticmethod(init.xavier_normal_), staticmethod(init.xavier_uniform_)
    orthogonal, sparse = staticmethod(init.orthogonal_), staticmethod(init.sparse_)


def _over_flat_buffers(function: Callable[..., Any]) -> Any:
    """Take ``foreach``: whatever it says, gradients are gone over many at once."""

    @functools.wraps(function)
    def call(*args: Any, foreach: bool | None = None, **options: Any) -> Any:
        return function(*args, **options)

    return staticmethod(call)


class helpers:
    """Names of ``torch.nn.utils`` that are not in ``dg.nn.utils``, or take more there."""

    clip_grad_norm_ = clip_grad_norm = _over_flat_buffers(gradients.clip_grad_norm_)
    clip_grad_value_ = _over_flat_buffers(gradients.clip_grad_value_)
    clip_grads_with_norm_ = _over_flat_buffers(gradients.clip_grads_with_norm_)
    get_total_norm = _over_flat_buffers(gradients.get_total_norm)

    @staticmethod
    def skip_init(module_cls: Any, *args: Any, **options: Any) -> Any:
        """The module; its parameters are filled as always."""
        return module_cls(*args, **options)


class _FractionalMaxPool(Module):
    """Max pooling over windows of a fractional ratio; arguments as in the function of that name."""

    _function: Any

    def __init__(
        self,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> None:
        super().__init__()
        if (output_size is None) == (output_ratio is None):
            raise OptionError(f"{type(self).__name__}: give output_size or output_ratio, and not both")
        self._given = (kernel_size, output_size, output_ratio, return_indices)
        self.register_buffer("_random_samples", _random_samples)

    def forward(self, input: Any) -> Any:
        """The largest of each window."""
        return type(self)._function(input, *self._given, self._random_samples)


def _fractional(
    axes: int,
    input: Any,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Any = None,
) -> Any:
    if (output_size is None) == (output_ratio is None):
        raise OptionError("fractional_max_pool: give output_size or output_ratio, and not both")
    x = input if input.ndim == axes + 2 else ops.expand_dims(input, axis=0)
    repeated = _repeated(axes)
    if output_size is None:
        ratios = repeated(output_ratio)
        output_size = [int(n * ratio) for n, ratio in zip(x.shape[2:], ratios, strict=True)]
    if _random_samples is None:
        _random_samples = rand((*x.shape[:2], axes), dtype=x.dtype, device=x.device)
    elif len(_random_samples) > len(x):  # PyTorch reads as many as there are examples
        _random_samples = _random_samples[: len(x)]
    if axes == 2:  # there the last axis comes first
        _random_samples = ops.flip(_random_samples, axis=-1)
    options = {"kernel_size": repeated(kernel_size), "output_size": repeated(output_size)}
    values, index = ops.fractional_max_pool(x, _random_samples, **options)
    if input.ndim != axes + 2:
        values, index = values[0], index[0]
    return (values, index) if return_indices else values


def _with_places(name: str) -> Any:
    """A pooling that gives the places of the maxima, too."""

    def pool(input: Any, *args: Any, **options: Any) -> Any:
        return getattr(pooling, name)(input, *args, **options | {"return_indices": True})

    pool.__doc__ = f"``{name}`` with the places of the maxima."
    return staticmethod(pool)


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
    def fractional_max_pool2d(input: Any, kernel_size: Any, *args: Any, **options: Any) -> Any:
        """Max pooling over windows of a fractional ratio, in images; arguments as PyTorch's."""
        return _fractional(2, input, kernel_size, *args, **options)

    @staticmethod
    def fractional_max_pool3d(input: Any, kernel_size: Any, *args: Any, **options: Any) -> Any:
        """Max pooling over windows of a fractional ratio, in volumes; arguments as PyTorch's."""
        return _fractional(3, input, kernel_size, *args, **options)

    max_pool1d_with_indices = _with_places("max_pool1d")
    max_pool2d_with_indices = _with_places("max_pool2d")
    max_pool3d_with_indices = _with_places("max_pool3d")
    adaptive_max_pool1d_with_indices = _with_places("adaptive_max_pool1d")
    adaptive_max_pool2d_with_indices = _with_places("adaptive_max_pool2d")
    adaptive_max_pool3d_with_indices = _with_places("adaptive_max_pool3d")

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


class FractionalMaxPool2d(_FractionalMaxPool):
    """Of images; arguments as in ``functional.fractional_max_pool2d``."""

    _function = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPool):
    """Of volumes; arguments as in ``functional.fractional_max_pool3d``."""

    _function = staticmethod(F.fractional_max_pool3d)
