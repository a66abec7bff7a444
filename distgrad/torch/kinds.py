"""Types of ``torch``: dtypes, devices, sizes, and the tensor with its old names."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from distgrad.autograd import creation
from distgrad.autograd.casting import bfloat16 as _bfloat16
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.layouts import numbers
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor as _Tensor
from distgrad.backend.device import Device
from distgrad.backend.rng import Generator as _Generator
from distgrad.errors import DeviceError

__all__ = [
    "BFloat16Tensor",  # noqa: F822
    "BoolTensor",
    "ByteTensor",
    "CharTensor",
    "DoubleTensor",
    "FloatTensor",
    "Generator",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "ShortTensor",
    "Size",
    "Tensor",
    "bfloat16",  # noqa: F822
    "bool",
    "cdouble",
    "cfloat",
    "channels_last",
    "channels_last_3d",
    "complex64",
    "complex128",
    "contiguous_format",
    "device",
    "double",
    "dtype",
    "float",
    "float16",
    "float32",
    "float64",
    "half",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "layout",
    "long",
    "memory_format",
    "preserve_format",
    "short",
    "strided",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]

Size = Shape
dtype = np.dtype

float32 = float = np.dtype(np.float32)
float64 = double = np.dtype(np.float64)
float16 = half = np.dtype(np.float16)
int8, int16, int32, int64 = (np.dtype(f"int{bits}") for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64))
short, int, long = int16, int32, int64
bool = np.dtype(np.bool_)
complex64 = cfloat = np.dtype(np.complex64)
complex128 = cdouble = np.dtype(np.complex128)

#: How a tensor's elements lie; there are no others here.
layout = memory_format = str
strided, sparse_coo, sparse_csr = "strided", "sparse_coo", "sparse_csr"
contiguous_format, preserve_format = "contiguous_format", "preserve_format"
channels_last, channels_last_3d = "channels_last", "channels_last_3d"


def __getattr__(name: str) -> Any:
    if name == "bfloat16":  # the package that has it is loaded when it is asked for
        return _bfloat16()
    if name == "BFloat16Tensor":
        globals()[name] = _type(name, _bfloat16())
        return globals()[name]
    raise AttributeError(name)


class _TensorType(type):
    """What makes ``torch.Tensor(2, 3)`` a tensor of that shape while all tensors are its instances."""

    _dtype: Any = float32
    _own: Any = None
    _place: Any = None

    def __new__(mcs, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
        if bases:  # a subclass in a program is one of the tensors' own class
            real = tuple(_Tensor if isinstance(base, _TensorType) else base for base in bases)
            return type(name, real, names)
        return super().__new__(mcs, name, bases, names)

    def __call__(cls, *data: Any, device: Any = None, **options: Any) -> Any:
        device = "cuda" if device is None and cls._place == "cuda" else device
        if len(data) == 1 and not isinstance(data[0], builtins.int):
            if isinstance(data[0], Shape):
                return creation.empty(data[0], dtype=cls._dtype, device=device)
            if isinstance(data[0], _Tensor) and (cls._own == "Tensor" or data[0].dtype == cls._dtype):
                return ops.reshape(data[0], data[0].shape)  # in its memory, of its dtype
            made = data[0] if isinstance(data[0], _Tensor) else np.asarray(_plain(data[0]))
            return creation.tensor(made, dtype=cls._dtype, device=device)
        return creation.empty(numbers(data or (0,)), dtype=cls._dtype, device=device)

    def __eq__(cls, other: Any) -> builtins.bool:
        return other is cls or (cls._own == "Tensor" and other is _Tensor)

    def __hash__(cls) -> builtins.int:
        return hash(cls._own)

    def __setattr__(cls, name: str, value: Any) -> None:
        if cls._own == "Tensor":
            setattr(_Tensor, name, value)
        else:
            super().__setattr__(name, value)

    def __instancecheck__(cls, instance: Any) -> Any:
        if cls._own == "Tensor" or not isinstance(instance, _Tensor):
            return isinstance(instance, _Tensor)
        return instance.dtype == cls._dtype and instance.device.kind == cls._place

    def __subclasscheck__(cls, subclass: Any) -> Any:
        if cls._own == "Tensor":
            return issubclass(subclass, _Tensor)
        return super().__subclasscheck__(subclass)

    def __getattr__(cls, name: str) -> Any:
        return getattr(_Tensor, name)

    @property
    def dtype(cls) -> Any:
        return cls._dtype

    @property
    def is_cuda(cls) -> builtins.bool:
        return cls._place == "cuda"


def _plain(data: Any) -> Any:
    """Nested sequences of tensors as numbers."""
    if isinstance(data, _Tensor):
        return data._data
    return [_plain(each) for each in data] if isinstance(data, list | tuple) else data


def _type(name: str, kind: Any, place: Any = "cpu") -> Any:
    own = f"cuda.{name}" if place == "cuda" else name
    body = {
        "_dtype": kind,
        "_own": own,
        "_place": place,
        "__module__": f"distgrad.torch.{own}".rpartition(".")[0],
    }
    return _TensorType(name, (), body)


Tensor = _type("Tensor", float32, None)
FloatTensor, DoubleTensor, HalfTensor = (
    _type(f"{name}Tensor", kind)
    for name, kind in (("Float", float32), ("Double", float64), ("Half", float16))
)
LongTensor, IntTensor, ShortTensor = (
    _type(f"{name}Tensor", kind) for name, kind in (("Long", int64), ("Int", int32), ("Short", int16))
)
CharTensor, ByteTensor, BoolTensor = (
    _type(f"{name}Tensor", kind) for name, kind in (("Char", int8), ("Byte", uint8), ("Bool", bool))
)


class cuda_types:
    """Types of tensors on GPUs, as ``torch.cuda`` has them; they can be named where there are none."""

    Tensor = FloatTensor = _type("FloatTensor", float32, "cuda")
    DoubleTensor, HalfTensor = _type("DoubleTensor", float64, "cuda"), _type("HalfTensor", float16, "cuda")
    LongTensor, IntTensor = _type("LongTensor", int64, "cuda"), _type("IntTensor", int32, "cuda")
    ShortTensor, CharTensor = _type("ShortTensor", int16, "cuda"), _type("CharTensor", int8, "cuda")
    ByteTensor, BoolTensor = _type("ByteTensor", uint8, "cuda"), _type("BoolTensor", bool, "cuda")


class _DeviceType(type):
    def __instancecheck__(cls, instance: Any) -> Any:
        return isinstance(instance, Device)

    def __call__(cls, device: Any = "cpu", index: Any = None, **options: Any) -> Any:
        device = options.pop("type", device)
        if isinstance(device, builtins.int):
            device = f"cuda:{device}"
        if index is not None and isinstance(device, str):
            device = f"{device}:{index}"
        if isinstance(device, str) and device.split(":")[0] in ("mps", "xpu"):
            raise DeviceError(f"device: there is no {device!r} here; use 'cpu' or 'cuda'")
        try:
            return Device.parse(device)
        except DeviceError:
            if device == "cuda":  # it can be named where there is none, and what uses it is refused
                return Device("cuda")
            raise


class device(metaclass=_DeviceType):
    """``torch.device("cuda", 1)``; every device is an instance of it."""


class Generator(_Generator):
    """A stream of random numbers, on a device or not: numbers are the same on all."""

    def __init__(self, device: Any = "cpu", seed: Any = 0, stream: Any = 0) -> None:
        super().__init__(seed, stream)
        self.device = Device.parse(device) if isinstance(device, str) else device

    def initial_seed(self) -> Any:
        """The seed."""
        return self.seed
