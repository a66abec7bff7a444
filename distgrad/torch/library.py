"""Small functions that libraries take from PyTorch's inner modules."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any, NamedTuple

import numpy as np

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.function import Function, FunctionContext
from distgrad.autograd.modes import modes, no_grad
from distgrad.autograd.tensor import Tensor
from distgrad.errors import GraphError, OptionError
from distgrad.torch import kinds
from distgrad.torch.creation import randn
from distgrad.torch.probability.transform import last_summed

__all__ = [
    "FlopCounterMode",
    "FunctionCtx",
    "Partial",
    "Placement",
    "Replicate",
    "Shard",
    "Unpacked",
    "chances",
    "config",
    "default_pg_timeout",
    "flex",
    "forward_ad",
    "fx",
    "inner",
    "kernels",
    "net_internals",
    "once_differentiable",
    "serialization",
    "to_dlpack",
    "types",
]

FunctionCtx = FunctionContext
default_pg_timeout = timedelta(minutes=30)


class types:
    """``torch.types``: what annotations name."""

    Number = int | float | bool
    Device = Any
    FileLike = str | os.PathLike[str] | IO[bytes]


class Unpacked(NamedTuple):
    """What ``torch.autograd.forward_ad.unpack_dual`` gives."""

    primal: Any
    tangent: None


class forward_ad:
    """``torch.autograd.forward_ad``: tensors carry no tangents; ``torch.func.jvp`` has them."""

    unpack_dual = staticmethod(lambda tensor, level=None: Unpacked(tensor, None))


class serialization:
    """``torch.serialization``."""

    DEFAULT_PROTOCOL = 2
    MAP_LOCATION = Any


class config:
    """``torch.__config__``."""

    @staticmethod
    def show() -> str:
        """What computes."""
        return "distgrad on NumPy, or CuPy where there is a GPU"

    @staticmethod
    def parallel_info() -> str:
        """On how many processors."""
        return f"processors: {os.cpu_count()}"


class fx:
    """``torch.fx``: nothing is traced, so there is nothing that must not be."""

    wrap = staticmethod(lambda function: function)
    compatibility = staticmethod(lambda is_backward_compatible=True: lambda function: function)
    is_fx_tracing = staticmethod(lambda: False)
    get_proxy_mode = staticmethod(lambda: None)
    is_fake = staticmethod(lambda x: False)


def to_dlpack(tensor: Tensor) -> Any:
    """What ``from_dlpack`` of any library reads, as it has ``__dlpack__``: the tensor without its graph."""
    return tensor.detach()


class _Once(Function):
    """Gradients as they are; theirs are an error."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Any) -> Any:
        """The first ``count`` tensors; the others are what they were computed from."""
        return tuple(each.clone() for each in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """An error."""
        raise GraphError(
            "once_differentiable: the gradients of this function's backward are not known; leave the "
            "decorator out where backward computes with tensor operations"
        )


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """For ``backward`` of a function whose gradients cannot be differentiated again: that is an error.

    Args:
        fn: ``backward``, which may compute with NumPy.
    """

    @functools.wraps(fn)
    def backward(ctx: Any, *grads: Any) -> Any:
        with no_grad():
            found = fn(ctx, *grads)
        sources = [each for each in (*grads, *ctx.saved_tensors) if isinstance(each, Tensor)]
        if not modes.grad or not any(each.requires_grad for each in sources):
            return found
        parts = found if isinstance(found, tuple | list) else (found,)
        given = [each for each in parts if isinstance(each, Tensor)]
        bound = iter(_Once.apply(len(given), *given, *sources))
        marked = tuple(next(bound) if isinstance(each, Tensor) else each for each in parts)
        return marked if isinstance(found, tuple | list) else marked[0]

    return backward


_Device: Any = kinds.device


class net_internals:
    """``torch._C._nn``."""

    @staticmethod
    def _parse_to(*args: Any, **options: Any) -> tuple[Any, Any, bool, Any]:
        """Device, dtype, ``non_blocking`` and memory format in the arguments of ``Module.to``, or None."""
        device, dtype = options.get("device"), options.get("dtype")
        first, rest = (args[0], args[1:]) if args else (None, ())
        if isinstance(first, Tensor):
            device, dtype = first.device, first.dtype
        elif isinstance(first, np.dtype):
            dtype = first
        elif first is not None:
            device = first
            dtype, rest = (rest[0], rest[1:]) if rest and isinstance(rest[0], np.dtype) else (dtype, rest)
        blocking = bool(rest[0]) if rest else bool(options.get("non_blocking", False))
        return None if device is None else _Device(device), dtype, blocking, options.get("memory_format")


class chances:
    """``torch.distributions.utils``."""

    _sum_rightmost = staticmethod(last_summed)

    @staticmethod
    def _standard_normal(shape: Sequence[int], dtype: Any, device: Any) -> Any:
        """Normal numbers of mean 0 and variance 1."""
        return randn(*shape, dtype=dtype, device=device)


class Placement:
    """How a tensor would lie on ranks; no tensor here is laid out by one."""


@dataclass(frozen=True)
class Shard(Placement):
    """Divided along an axis."""

    dim: int


@dataclass(frozen=True)
class Replicate(Placement):
    """Whole on each."""


@dataclass(frozen=True)
class Partial(Placement):
    """To be reduced over them."""

    reduce_op: str = "sum"


class FlopCounterMode:
    """A counter of operations, which has counted none; counting is an error.

    Args:
        options: PyTorch's.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.flop_counts: dict[str, dict[Any, int]] = {"Global": {}}

    def __enter__(self) -> None:
        raise OptionError("FlopCounterMode: distgrad counts no operations of PyTorch; use torch.profiler")

    def __exit__(self, *exc: object) -> None:
        """Nothing was entered."""

    def get_flop_counts(self) -> dict[str, dict[Any, int]]:
        """By module what was counted."""
        return self.flop_counts

    def get_total_flops(self) -> int:
        """0."""
        return 0


class flex:
    """``torch.nn.attention.flex_attention``."""

    _DEFAULT_SPARSE_BLOCK_SIZE = 128


class _Kernel:
    """A name of one of PyTorch's kernels, which may be a key of tables; calling it is an error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> _Kernel:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self.__dict__[name] = _Kernel(f"{self._name}.{name}")
        return found

    def __call__(self, *args: Any, **options: Any) -> Any:
        """An error."""
        raise OptionError(f"distgrad has no {self._name}; call the function of torch with that name")

    def __repr__(self) -> str:
        return self._name


class kernels:
    """``torch.ops``."""

    aten = _Kernel("torch.ops.aten")
    quantized = _Kernel("torch.ops.quantized")


class operators:
    """``torch._ops``."""

    ops = kernels


class inner:
    """``torch._utils``."""

    @staticmethod
    def _flatten_dense_tensors(tensors: Sequence[Tensor]) -> Any:
        """All elements of tensors in one."""
        return ops.concat([ops.reshape(each, (-1,)) for each in tensors])

    @staticmethod
    def _unflatten_dense_tensors(flat: Tensor, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """The elements in the shapes of tensors."""
        parts = ops.split(flat, [each.numel() for each in tensors])
        return tuple(ops.reshape(part, each.shape) for part, each in zip(parts, tensors, strict=True))
