"""NVIDIA's NCCL: where its library lies, and the two bindings through which it can be called.

A binding hands pointers and numbers through and checks nothing; :mod:`distgrad.comm.nccl` has done so before.
This file and that one are all that knows of NCCL.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from distgrad.errors import CommError, MissingDependencyError

__all__ = ["DTYPES", "OPS", "PROVIDERS", "Link", "Provider", "find_library", "open_provider", "version_text"]

_INSTALL = 'pip install "distgrad[cuda13]" (CUDA 13 drivers) or "distgrad[cuda12]"'
_SONAME = "libnccl.so.2"
_ID_BYTES = 128
_IN_PROGRESS = 7
_NEEDED = 21801  # the oldest that the extras ask for

#: NCCL's numbers for dtypes, by NumPy's names.
DTYPES = {
    "int8": 0, "uint8": 1, "int32": 2, "uint32": 3, "int64": 4, "uint64": 5,
    "float16": 6, "float32": 7, "float64": 8, "bfloat16": 9,
}  # fmt: skip
#: NCCL's numbers for reductions; a mean of floats is a sum of what each rank has multiplied beforehand.
OPS = {"sum": 0, "prod": 1, "max": 2, "min": 3, "mean": 4}


class Link(Protocol):
    """One rank's end of a group of ranks. Buffers and streams are addresses, counts are elements."""

    def all_reduce(self, source: int, target: int, count: int, dtype: int, op: int, stream: int) -> None:
        """Reduce ``count`` elements into ``target`` on every rank."""

    def reduce_scatter(self, source: int, target: int, count: int, dtype: int, op: int, stream: int) -> None:
        """Reduce ``size * count`` elements, and keep the ``count`` of this rank."""

    def all_gather(self, source: int, target: int, count: int, dtype: int, stream: int) -> None:
        """Collect ``count`` elements of every rank."""

    def broadcast(self, source: int, target: int, count: int, dtype: int, root: int, stream: int) -> None:
        """Copy the root's elements."""

    def send(self, source: int, count: int, dtype: int, peer: int, stream: int) -> None:
        """Send to one rank, which receives as much."""

    def recv(self, target: int, count: int, dtype: int, peer: int, stream: int) -> None:
        """Receive from one rank."""

    def failure(self) -> str | None:
        """What went wrong in the background; None if nothing has."""

    def abort(self) -> None:
        """End what is under way, wherever it waits, and free everything."""

    def destroy(self) -> None:
        """Free everything once nothing is under way."""


class Provider(Protocol):
    """A binding to NCCL.

    Attributes:
        name: what the user calls it.
    """

    name: str

    def version(self) -> int:
        """The library's version as it writes it: 22707 for 2.27.7."""

    def make_id(self) -> bytes:
        """128 bytes by which the ranks of one group find each other; from one of them, for all."""

    def connect(self, size: int, unique_id: bytes, rank: int) -> Link:
        """Join a group with the active GPU; waits until all its ranks do."""

    def group(self) -> AbstractContextManager[None]:
        """Inside it calls are gathered, and start together at its end."""


def version_text(version: int) -> str:
    """22707 as ``2.27.7``."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def find_library() -> str:
    """The library's path: the one that is loaded already, the NVIDIA wheel's, or the system's.

    Raises:
        MissingDependencyError: there is none.
    """
    try:
        ctypes.CDLL(_SONAME, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        return _SONAME  # a process has one NCCL
    except OSError:
        pass
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, "nccl", "lib", _SONAME)
        if path.exists():
            return str(path)
    try:
        ctypes.CDLL(_SONAME)
    except OSError:
        raise MissingDependencyError(
            f"comm.init: the backend 'nccl' needs {_SONAME}, which neither the wheel nvidia-nccl nor the "
            f"system has; run: {_INSTALL}"
        ) from None
    return _SONAME


# -- CuPy's binding


class _CupyLink:
    def __init__(self, native: Any) -> None:
        self._native = native
        self.all_reduce = native.allReduce
        self.reduce_scatter = native.reduceScatter
        self.all_gather = native.allGather
        self.broadcast = native.broadcast
        self.send = native.send
        self.recv = native.recv
        self.abort = native.abort
        self.destroy = native.destroy

    def failure(self) -> str | None:
        try:
            self._native.check_async_error()
        except Exception as error:  # the binding's own class, which an adapter need not know
            return str(error)
        return None


class CupyProvider(Provider):
    """``cupy.cuda.nccl``."""

    name = "cupy"

    def __init__(self) -> None:
        ctypes.CDLL(find_library(), mode=ctypes.RTLD_GLOBAL)  # before CuPy looks for it by name
        try:
            self._nccl: Any = importlib.import_module("cupy.cuda.nccl")
        except Exception as error:  # CuPy fails in several ways where a library is missing
            raise MissingDependencyError(
                f"comm.init: NCCL's provider 'cupy' needs CuPy ({error}); run: {_INSTALL}"
            ) from error
        if not self._nccl.available:
            raise MissingDependencyError(
                "comm.init: this CuPy was built without NCCL; install the wheel: " + _INSTALL
            )

    def version(self) -> int:
        return int(self._nccl.get_version())

    def make_id(self) -> bytes:
        return bytes(byte % 256 for byte in self._nccl.get_unique_id())

    def connect(self, size: int, unique_id: bytes, rank: int) -> Link:
        return _CupyLink(self._nccl.NcclCommunicator(size, unique_id, rank))

    @contextmanager
    def group(self) -> Any:
        self._nccl.groupStart()
        try:
            yield
        finally:
            self._nccl.groupEnd()


# -- pynccl's table of functions


class NcclError(CommError):
    """A call that NCCL refused."""


class _UniqueId(ctypes.Structure):
    _fields_ = (("internal", ctypes.c_char * _ID_BYTES),)


# Where a function of the table takes ``size_t``, which the table has as a C int.
_COUNTS = {
    "ncclAllReduce": 2, "ncclReduceScatter": 2, "ncclAllGather": 2, "ncclBroadcast": 2, "ncclSend": 1,
    "ncclRecv": 1,
}  # fmt: skip


def _repair(name: str, argtypes: Sequence[Any]) -> list[Any]:
    """A function's argument types as the library has them.

    pynccl has a unique id of 512 bytes, four times too many, and counts of 32 bits, which wrap at 2^31.
    """
    repaired: list[Any] = []
    for place, kind in enumerate(argtypes):
        if getattr(kind, "__name__", "") == "ncclUniqueId":
            kind = _UniqueId
        elif getattr(kind, "__name__", "") == "LP_ncclUniqueId":
            kind = ctypes.POINTER(_UniqueId)
        elif _COUNTS.get(name) == place:
            kind = ctypes.c_size_t
        repaired.append(kind)
    return repaired


class _Functions:
    """NCCL's functions, declared by pynccl's table and repaired; each raises where it returns an error."""

    def __init__(self, path: str, table: dict[str, Any]) -> None:
        self._library = ctypes.CDLL(path)
        for name, declared in table.items():
            if name.startswith("nccl") and hasattr(declared, "argtypes") and hasattr(self._library, name):
                function = getattr(self._library, name)
                function.restype = ctypes.c_int
                function.argtypes = _repair(name, declared.argtypes)
                setattr(self, name, self._checked(name, function))
        text = self._library.ncclGetErrorString  # in the table it returns an error code, and so always raises
        text.restype, text.argtypes = ctypes.c_char_p, [ctypes.c_int]

    def __getattr__(self, name: str) -> Any:
        raise CommError(f"nccl: pynccl's table has no {name}; use the provider 'cupy'")

    def describe(self, code: int) -> str:
        """An error code in words."""
        return f"{self._library.ncclGetErrorString(code).decode()} (NCCL error {code})"

    def _checked(self, name: str, function: Any) -> Callable[..., None]:
        def call(*args: Any) -> None:
            code = function(*args)
            if code not in (0, _IN_PROGRESS):
                raise NcclError(f"{name}: {self.describe(code)}; set NCCL_DEBUG=INFO to see why")

        return call


class _TableLink(Link):
    def __init__(self, functions: _Functions, handle: ctypes.c_void_p) -> None:
        self._functions = functions
        self._handle = handle

    def all_reduce(self, source: int, target: int, count: int, dtype: int, op: int, stream: int) -> None:
        self._functions.ncclAllReduce(source, target, count, dtype, op, self._handle, stream)

    def reduce_scatter(self, source: int, target: int, count: int, dtype: int, op: int, stream: int) -> None:
        self._functions.ncclReduceScatter(source, target, count, dtype, op, self._handle, stream)

    def all_gather(self, source: int, target: int, count: int, dtype: int, stream: int) -> None:
        self._functions.ncclAllGather(source, target, count, dtype, self._handle, stream)

    def broadcast(self, source: int, target: int, count: int, dtype: int, root: int, stream: int) -> None:
        self._functions.ncclBroadcast(source, target, count, dtype, root, self._handle, stream)

    def send(self, source: int, count: int, dtype: int, peer: int, stream: int) -> None:
        self._functions.ncclSend(source, count, dtype, peer, self._handle, stream)

    def recv(self, target: int, count: int, dtype: int, peer: int, stream: int) -> None:
        self._functions.ncclRecv(target, count, dtype, peer, self._handle, stream)

    def failure(self) -> str | None:
        code = ctypes.c_int()
        self._functions.ncclCommGetAsyncError(self._handle, ctypes.byref(code))
        return None if code.value in (0, _IN_PROGRESS) else self._functions.describe(code.value)

    def abort(self) -> None:
        self._functions.ncclCommAbort(self._handle)

    def destroy(self) -> None:
        self._functions.ncclCommDestroy(self._handle)


class PyncclProvider(Provider):
    """The ctypes table of the package pynccl, repaired, over the library that :func:`find_library` finds."""

    name = "pynccl"

    def __init__(self) -> None:
        try:
            table = importlib.import_module("pynccl.binding").libnccl
        except Exception as error:  # its Numba may be too old, or too new
            raise MissingDependencyError(
                f"comm.init: NCCL's provider 'pynccl' needs the package ({error}); "
                'run: pip install "distgrad[pynccl]", or leave nccl_provider out'
            ) from error
        self._functions = _Functions(find_library(), vars(table))

    def version(self) -> int:
        found = ctypes.c_int()
        self._functions.ncclGetVersion(ctypes.byref(found))
        return found.value

    def make_id(self) -> bytes:
        unique_id = _UniqueId()
        self._functions.ncclGetUniqueId(ctypes.byref(unique_id))
        return bytes(unique_id)

    def connect(self, size: int, unique_id: bytes, rank: int) -> Link:
        handle = ctypes.c_void_p()
        number = _UniqueId.from_buffer_copy(unique_id)
        self._functions.ncclCommInitRank(ctypes.byref(handle), size, number, rank)
        return _TableLink(self._functions, handle)

    @contextmanager
    def group(self) -> Any:
        self._functions.ncclGroupStart()
        try:
            yield
        finally:
            self._functions.ncclGroupEnd()


#: The bindings by name; the first one is the default.
PROVIDERS: dict[str, Callable[[], Provider]] = {"cupy": CupyProvider, "pynccl": PyncclProvider}
_open: dict[str, Provider] = {}


def open_provider(name: str | None = None) -> Provider:
    """A binding, loaded once.

    Args:
        name: of :data:`PROVIDERS`; None means ``cupy``.

    Raises:
        CommError: there is none of that name, or the library is too old.
        MissingDependencyError: what it needs is not installed.
    """
    name = next(iter(PROVIDERS)) if name is None else name
    if name not in PROVIDERS:
        raise CommError(f"comm.init: nccl_provider must be one of {', '.join(PROVIDERS)}, got {name!r}")
    if name not in _open:
        provider = PROVIDERS[name]()
        if provider.version() < _NEEDED:
            raise CommError(
                f"comm.init: NCCL must be {version_text(_NEEDED)} or newer, got "
                f"{version_text(provider.version())}; run: {_INSTALL}"
            )
        _open[name] = provider
    return _open[name]
