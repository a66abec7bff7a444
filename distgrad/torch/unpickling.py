"""What PyTorch's files may ask for, and the reader that builds it: tensors, containers, and what is safe."""

from __future__ import annotations

import codecs
import io
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.casting import bfloat16
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import Device
from distgrad.errors import DataError
from distgrad.nn.parameter import Parameter

__all__ = [
    "LEGACY",
    "STORAGES",
    "Reader",
    "UnreadableError",
    "add_safe_globals",
    "clear_safe_globals",
    "get_safe_globals",
    "read_legacy",
    "safe_globals",
]

#: The dtypes of PyTorch's kinds of storages.
STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip


class UnreadableError(DataError, pickle.UnpicklingError):
    """A damaged file, or one that asks for what is not read; PyTorch's is an ``UnpicklingError``."""


#: The number with which a file from before PyTorch 1.6 begins, pickled.
LEGACY = 0x1950A86A20F9469CFC6C


def _rebuild(
    array: np.ndarray, offset: int, size: Any, stride: Any, requires_grad: bool = False, *rest: Any
) -> Tensor:
    steps = tuple(each * array.itemsize for each in stride)
    last = (
        offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size
        else offset - 1
    )
    if offset < 0 or any(step < 0 for step in stride) or last >= array.size:
        raise UnreadableError("torch.load: a tensor reaches beyond its storage; the file is damaged")
    return Tensor(np.lib.stride_tricks.as_strided(array[offset:], tuple(size), steps), requires_grad)


def _parameter(data: Tensor, requires_grad: bool, *rest: Any) -> Parameter:
    return Parameter(data, requires_grad)


def _bytes(data: bytes | str = b"", *encoding: str) -> bytearray:
    if not isinstance(data, bytes | str):  # a number would make as many bytes
        raise UnreadableError("torch.load: the file asks for a bytearray of something else than bytes")
    return bytearray(data.encode(*encoding) if isinstance(data, str) else data)


_BUILTIN = {"set": set, "tuple": tuple, "complex": complex, "bytearray": _bytes}

_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): Shape,
    ("torch", "device"): Device,
    **{(module, name): _BUILTIN[name] for module in ("builtins", "__builtin__") for name in _BUILTIN},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
    **{
        (f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0]
        for core in ("core", "_core")
    },
    **{(f"numpy.{core}.multiarray", "scalar"): np.float64(0).__reduce__()[0] for core in ("core", "_core")},
}

#: What programs have named as safe, by module and name.
_SAFE: dict[tuple[str, str], Any] = {}


def add_safe_globals(safe_globals: Sequence[Any]) -> None:
    """Let files ask for these classes and functions from now on."""
    for each in safe_globals:
        found, full = each if isinstance(each, tuple) else (each, f"{each.__module__}.{each.__qualname__}")
        module, _, name = full.rpartition(".")
        _SAFE[module, name] = found


def get_safe_globals() -> list[Any]:
    """What files may ask for beside tensors and containers."""
    return list(_SAFE.values())


def clear_safe_globals() -> None:
    """Let files ask for tensors and containers alone."""
    _SAFE.clear()


class safe_globals:
    """Inside it files may ask for these classes and functions too.

    Args:
        safe_globals: which.
    """

    def __init__(self, safe_globals: Sequence[Any]) -> None:
        self._given = safe_globals

    def __enter__(self) -> None:
        self._before = dict(_SAFE)
        add_safe_globals(self._given)

    def __exit__(self, *exc: object) -> None:
        clear_safe_globals()
        _SAFE.update(self._before)


class Reader(pickle.Unpickler):
    """Builds tensors and containers alone, and what is safe; of a trusted file, whatever it asks for."""

    def __init__(self, file: Any, storage: Callable[[str, np.dtype, int], np.ndarray], trusted: bool) -> None:
        super().__init__(file)
        self._storage = storage
        self._trusted = trusted

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for.

        Raises:
            UnreadableError: anything but tensors and containers, of a file that is not trusted.
        """
        if module == "torch" and name in STORAGES:
            return _dtype(STORAGES[name])
        if module == "torch" and name in STORAGES.values():
            return _dtype(name)
        found = _KNOWN.get((module, name)) or _SAFE.get((module, name))
        if found is not None:
            return found
        if not self._trusted:
            raise UnreadableError(
                f"torch.load: the file asks for {module}.{name}, and only tensors and containers are read; "
                "save a state_dict() instead, or read a file that you trust with weights_only=False"
            )
        ours = f"distgrad.{module}" if module.partition(".")[0] == "torch" else module
        return super().find_class(ours, name)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The storage of a reference."""
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(key, str):
            raise UnreadableError(f"torch.load: expected a storage, got {pid!r}")
        return self._storage(key, dtype, int(count))


def _dtype(name: str) -> np.dtype:
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def read_legacy(file: io.BufferedIOBase, trusted: bool) -> Any:
    """What a file from before PyTorch 1.6 holds: a pickle of the containers, and then the storages.

    Args:
        file: after the first of its pickles, :data:`LEGACY`.
        trusted: build whatever it asks for.

    Raises:
        UnreadableError: a damaged file.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(len(pickle.dumps(LEGACY, 2)))
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if not 0 <= count * dtype.itemsize <= end:
            raise UnreadableError(f"torch.load: storage {key} has more elements than the file")
        return storages.setdefault(key, np.empty(count, dtype))

    def pickled() -> Any:
        return Reader(file, storage, trusted).load()

    pickled(), pickled()  # the format's version, and how long whole numbers were
    found = pickled()
    for key in pickled():
        array = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != array.size or file.readinto(array.view(np.uint8).data) != array.nbytes:
            raise UnreadableError(f"torch.load: storage {key} is shorter than its {array.size} elements")
    return found
