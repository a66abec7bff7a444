"""``torch.save`` and ``torch.load``: PyTorch's zip files, of tensors and of containers of them alone.

A file is a zip archive with a pickle of the containers, in which tensors are references to storages, and a
member for each storage. What is read is built by a reader that knows tensors, containers, numbers, texts and
NumPy's arrays alone; a file that asks for anything else, a whole module say, is refused unless the caller
trusts it (``weights_only=False``) or has named the class (:func:`add_safe_globals`).
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.porting import Shape
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device, to_device
from distgrad.checkpoint.files import load as load_safetensors
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.torch.unpickling import (
    LEGACY,
    STORAGES,
    Reader,
    UnreadableError,
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
    read_legacy,
    safe_globals,
)

__all__ = ["add_safe_globals", "clear_safe_globals", "get_safe_globals", "load", "safe_globals", "save"]

_NAMES = {dtype: name for name, dtype in STORAGES.items()}


# -- writing


class _Global:
    """A name that PyTorch's reader looks up."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Reference:
    """A storage, which stands beside the pickle."""

    def __init__(self, key: str, array: np.ndarray) -> None:
        self.key, self.array = key, array


class _Call(NamedTuple):
    """A call that PyTorch's reader makes."""

    name: str
    arguments: tuple[Any, ...]


_Pickler: Any = vars(pickle)["_Pickler"]  # the one in Python, whose objects can be written as calls


class _Writer(_Pickler):
    """Writes containers, and tensors as references to storages."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[np.ndarray] = []  # they live as long as their addresses are looked up
        self._keys: dict[tuple[int, int, np.dtype], int] = {}

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """Write one object."""
        if isinstance(obj, np.generic):
            obj = obj.item()
        if id(obj) in self.memo:
            self.write(self.get(self.memo[id(obj)][0]))
        elif isinstance(obj, Tensor):
            self._save_tensor(obj)
        elif isinstance(obj, _Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, np.dtype) and obj.name in _NAMES:
            self.save(_Global("torch", obj.name))
        elif isinstance(obj, Device):
            self._call("torch", "device", (obj.kind, obj.index) if obj.kind == "cuda" else (obj.kind,), obj)
        elif isinstance(obj, Shape):
            self._call("torch", "Size", (tuple(obj),), obj)
        elif isinstance(obj, OrderedDict):
            self.save_reduce(type(obj), (list(obj.items()),), obj=obj)
        else:
            super().save(obj, save_persistent_id)

    def _save_tensor(self, tensor: Tensor) -> None:
        array = np.ascontiguousarray(to_device(tensor._data, CPU)).reshape(tensor.shape)
        place = (array.ctypes.data, array.nbytes, array.dtype)  # tied weights are one storage
        key = self._keys.setdefault(place, len(self.storages))
        reference = _Reference(str(key), array)
        if key == len(self.storages):
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
        whole = _Call("_rebuild_tensor_v2", arguments)
        if not plain:
            whole = _Call("_rebuild_parameter", (whole, tensor.requires_grad, OrderedDict()))
        self._call("torch._utils", *whole, tensor)

    def _call(self, module: str, name: str, arguments: tuple[Any, ...], memo: Any) -> None:
        self.save(_Global(module, name))
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
                self._call("torch._utils", *each, None)
            else:
                self.save(each)
        self.write(pickle.TUPLE)

    def _save_reference(self, reference: _Reference) -> None:
        self.write(pickle.MARK)
        kind = _Global("torch", _NAMES[reference.array.dtype.name])
        for each in ("storage", kind, reference.key, "cpu", int(reference.array.size)):
            self.save(each)
        self.write(pickle.TUPLE + pickle.BINPERSID)


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


def load(
    f: Any, map_location: Any = None, pickle_module: Any = None, *, weights_only: Any = None, **options: Any
) -> Any:
    """Read a file that PyTorch or :func:`save` has written, or one of ``dg.save``.

    Args:
        f: a path, or a file that is open for reading.
        map_location: the device on which tensors shall lie; None and functions mean the CPU.
        pickle_module: taken for PyTorch's sake.
        weights_only: False builds whatever the file asks for, as pickle does: who wrote the file can have
            any code run. Else nothing but tensors and containers is built. As in PyTorch, a process with
            ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` takes False where nothing is given, and one with
            ``TORCH_FORCE_WEIGHTS_ONLY_LOAD=1`` never.

    Raises:
        FileNotFoundError: there is no such file.
        OptionError: both variables are set.
        UnreadableError: a damaged file, or one that holds something else; it is a ``DataError``.
    """
    with io.BytesIO(f.read()) if hasattr(f, "read") else open(f, "rb") as source:
        trusted = _is_trusted(weights_only)
        if zipfile.is_zipfile(source):
            found = _whole(_read_archive, source, trusted)
        elif _begins(source, pickle.dumps(LEGACY, 2)):
            found = _whole(read_legacy, source, trusted)
        elif hasattr(f, "read"):
            raise UnreadableError("torch.load: neither a file of torch.save nor a path to a safetensors file")
        else:
            found = load_safetensors(f)
    return _moved(found, map_location)


def _is_trusted(weights_only: Any) -> bool:
    """Whether whatever the file asks for is built."""
    never, by_default = (
        os.environ.get(f"TORCH_FORCE_{name}WEIGHTS_ONLY_LOAD", "0") in ("1", "y", "yes", "true")
        for name in ("", "NO_")
    )
    if never and by_default:
        raise OptionError(
            "torch.load: TORCH_FORCE_WEIGHTS_ONLY_LOAD and TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD are both set; "
            "unset one"
        )
    return not never and (weights_only is False or (weights_only is None and by_default))


def _whole(read: Callable[..., Any], source: io.BufferedIOBase, trusted: bool) -> Any:
    """What a function reads, where a damaged file is an error in words."""
    try:
        return read(source, trusted)
    except UnreadableError:
        raise
    except Exception as error:
        if trusted:  # what it builds has errors of its own
            raise
        raise UnreadableError(f"torch.load: the file is damaged: {error!r}") from error


def _begins(file: io.BufferedIOBase, head: bytes) -> bool:
    file.seek(0)
    return file.read(len(head)) == head


def _read_archive(source: io.BufferedIOBase, trusted: bool) -> Any:
    with zipfile.ZipFile(source) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise UnreadableError(
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
                    raise UnreadableError(f"torch.load: storage {key} is shorter than its {count} elements")
                laid = np.frombuffer(data, dtype.newbyteorder(order), count)
                read[key] = laid.astype(dtype)
            return read[key]

        return Reader(io.BytesIO(archive.read(names[0])), storage, trusted).load()


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
