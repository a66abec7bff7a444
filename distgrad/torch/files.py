"""``torch.save`` and ``torch.load``: PyTorch's zip files, of tensors and of containers of them alone.

A file is a zip archive with a pickle of the containers, in which tensors are references to storages, and a
member for each storage. What is read is built by a reader that knows tensors, containers, numbers, texts and
NumPy's arrays alone; a file that asks for anything else, a whole module say, is refused unless the caller
trusts it (``weights_only=False``) or has named the class (:func:`add_safe_globals`).
"""

from __future__ import annotations

import codecs
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.casting import bfloat16
from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device, to_device
from distgrad.checkpoint.files import load as load_safetensors
from distgrad.errors import DataError
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter

__all__ = ["add_safe_globals", "clear_safe_globals", "get_safe_globals", "load", "safe_globals", "save"]

_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _STORAGES.items()}


# -- writing


class _Global:
    """A name that PyTorch's reader looks up."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Reference:
    """A storage, which stands beside the pickle."""

    def __init__(self, key: str, array: np.ndarray) -> None:
        self.key, self.array = key, array


_Pickler: Any = vars(pickle)["_Pickler"]  # the one in Python, whose objects can be written as calls


class _Writer(_Pickler):
    """Writes containers, and tensors as references to storages."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[np.ndarray] = []

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """Write one object."""
        if isinstance(obj, np.generic):
            obj = obj.item()
        if isinstance(obj, Tensor):
            self._save_tensor(obj)
        elif isinstance(obj, _Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, OrderedDict | Shape):
            self.save_reduce(type(obj) if isinstance(obj, OrderedDict) else tuple, (list(obj.items()),) if
                             isinstance(obj, OrderedDict) else (list(obj),), obj=obj)  # fmt: skip
        else:
            super().save(obj, save_persistent_id)

    def _save_tensor(self, tensor: Tensor) -> None:
        array = np.ascontiguousarray(to_device(tensor._data, CPU)).reshape(tensor.shape)
        reference = _Reference(str(len(self.storages)), array)
        self.storages.append(array)
        steps = tuple(each // array.itemsize for each in array.strides)
        plain = not isinstance(tensor, Parameter)
        arguments: tuple[Any, ...] = (
            reference,
            0,
            tuple(array.shape),
            steps,
            plain and tensor.requires_grad,
            OrderedDict(),
        )
        self._call("_rebuild_tensor_v2", arguments, tensor if plain else None)
        if not plain:
            self.write(pickle.POP)
            self._call("_rebuild_parameter", (_Call("_rebuild_tensor_v2", arguments), tensor.requires_grad,
                                              OrderedDict()), tensor)  # fmt: skip

    def _call(self, name: str, arguments: tuple[Any, ...], memo: Any) -> None:
        self.save(_Global("torch._utils", name))
        self._arguments(arguments)
        self.write(pickle.REDUCE)
        if memo is not None:
            self.memoize(memo)

    def _arguments(self, arguments: tuple[Any, ...]) -> None:
        self.write(pickle.MARK)
        for each in arguments:
            if isinstance(each, _Reference):
                self._save_reference(each)
            elif isinstance(each, _Call):
                self._call(each.name, each.arguments, None)
            else:
                self.save(each)
        self.write(pickle.TUPLE)

    def _save_reference(self, reference: _Reference) -> None:
        self.write(pickle.MARK)
        kind = _Global("torch", _NAMES[reference.array.dtype.name])
        for each in ("storage", kind, reference.key, "cpu", int(reference.array.size)):
            self.save(each)
        self.write(pickle.TUPLE + pickle.BINPERSID)


class _Call:
    """A call that PyTorch's reader makes."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments


def save(obj: Any, f: Any, pickle_module: Any = None, pickle_protocol: int = 2, **options: Any) -> None:
    """Write tensors and containers of them to a file that PyTorch reads too.

    Args:
        obj: what ``state_dict()`` returns, or containers of several of those with numbers and texts; also
            whatever pickle writes, a whole module say, which :func:`load` builds for ``weights_only=False``.
        f: a path, or a file that is open for writing.
        pickle_module, pickle_protocol: taken for PyTorch's sake.

    Raises:
        pickle.PicklingError: something that pickle cannot write; no file is written then.
    """
    text = io.BytesIO()
    writer = _Writer(text)
    writer.dump(obj)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", text.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(writer.storages):
            archive.writestr(f"archive/data/{key}", array.astype(array.dtype.newbyteorder("<")).tobytes())
        archive.writestr("archive/version", "3\n")
    if hasattr(f, "write"):
        f.write(whole.getvalue())
        return
    with open(f, "wb") as file:
        file.write(whole.getvalue())


# -- reading


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
        raise DataError("torch.load: a tensor reaches beyond its storage; the file is damaged")
    view = np.lib.stride_tricks.as_strided(array[offset:], tuple(size), steps)
    return Tensor(np.array(view), requires_grad)


def _parameter(data: Tensor, requires_grad: bool, *rest: Any) -> Parameter:
    return Parameter(data, requires_grad)


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): Shape,
    ("torch", "device"): Device,
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{(module, "tuple"): tuple for module in ("builtins", "__builtin__")},
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


class _Reader(pickle.Unpickler):
    """Builds tensors and containers alone, and what is safe; of a trusted file, whatever it asks for."""

    def __init__(self, file: Any, storage: Callable[[str, np.dtype, int], np.ndarray], trusted: bool) -> None:
        super().__init__(file)
        self._storage = storage
        self._trusted = trusted

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for.

        Raises:
            DataError: anything but tensors and containers, of a file that is not trusted.
        """
        if module == "torch" and name in _STORAGES:
            return _dtype(_STORAGES[name])
        if module == "torch" and name in _NAMES:
            return _dtype(name)
        found = _KNOWN.get((module, name)) or _SAFE.get((module, name))
        if found is not None:
            return found
        if not self._trusted:
            raise DataError(
                f"torch.load: the file asks for {module}.{name}, and only tensors and containers are read; "
                "save a state_dict() instead, or read a file that you trust with weights_only=False"
            )
        ours = f"distgrad.{module}" if module.partition(".")[0] == "torch" else module
        return super().find_class(ours, name)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The storage of a reference."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(key, str):
            raise DataError(f"torch.load: expected a storage, got {pid!r}")
        return self._storage(key, dtype, int(count))


def _dtype(name: str) -> np.dtype:
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def load(
    f: Any, map_location: Any = None, pickle_module: Any = None, *, weights_only: Any = None, **options: Any
) -> Any:
    """Read a file that PyTorch or :func:`save` has written, or one of ``dg.save``.

    Args:
        f: a path, or a file that is open for reading.
        map_location: the device on which tensors shall lie; None and functions mean the CPU.
        pickle_module: taken for PyTorch's sake.
        weights_only: False builds whatever the file asks for, as pickle does: who wrote the file can have
            any code run. Else nothing but tensors and containers is built.

    Raises:
        DataError: a damaged file, one from before PyTorch 1.6, or one that holds something else.
    """
    if hasattr(f, "read"):
        source: Any = io.BytesIO(f.read())
    else:
        source = f
    if not zipfile.is_zipfile(source):
        return load_safetensors(f) if source is f else load_safetensors(source)
    with zipfile.ZipFile(source) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise DataError(
                "torch.load: expected one data.pkl in the archive; was the file written by torch.save?"
            )
        root = names[0].removesuffix("data.pkl")
        order: Any = (
            ">"
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big"
            else "<"
        )
        read: dict[str, np.ndarray] = {}

        def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
            if key not in read:
                data = archive.read(f"{root}data/{key}")
                if len(data) < count * dtype.itemsize:
                    raise DataError(f"torch.load: storage {key} is shorter than its {count} elements")
                laid = np.frombuffer(data, dtype.newbyteorder(order), count)
                read[key] = laid.astype(dtype)
            return read[key]

        found = _Reader(io.BytesIO(archive.read(names[0])), storage, weights_only is False).load()
    return _moved(found, map_location)


def _moved(value: Any, place: Any) -> Any:
    """All tensors in containers on a device."""
    if place is None or callable(place) or isinstance(place, dict):
        return value
    if isinstance(value, Tensor | Module):
        return value.to(place)
    if isinstance(value, dict):
        for key in value:
            value[key] = _moved(value[key], place)
        return value
    return type(value)(_moved(each, place) for each in value) if isinstance(value, list | tuple) else value
