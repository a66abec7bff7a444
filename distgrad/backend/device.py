"""Devices: where an array lives, and what each kind of device can do."""

from __future__ import annotations

import importlib
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from distgrad.backend.array_module import ARRAY_MODULES, HOST_ARRAYS, ArrayModule
from distgrad.errors import DeviceError, DTypeError

__all__ = [
    "BACKENDS", "CPU", "Backend", "Device", "InOrder", "activated", "at_hand", "available_devices",
    "device_of", "find_backend", "follow", "native", "owner_of", "parse_device", "plain",
    "register_backend", "resolve", "to_device", "widened",
]  # fmt: skip

_LONE = ("cpu", "meta")  # kinds of which there is one
_FORM = re.compile(r"([a-z]+)(?::(\d+))?")


class Device:
    """A place for arrays: the host's memory, or the memory of one GPU.

    As a context manager it is where new tensors lie that are given no device::

        with dg.device("cuda"):
            x = dg.zeros((2, 3))

    Args:
        kind: ``"cpu"``, ``"cuda"``, or ``"meta"`` for shapes without elements.
        index: the GPU's number on this host; 0 for the CPU.
    """

    __slots__ = ("index", "kind")

    kind: str
    index: int

    def __init__(self, kind: str, index: int = 0) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "index", index)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"device: {name} cannot be changed; make another device")

    def __reduce__(self) -> tuple[Any, ...]:
        return Device, (self.kind, self.index)

    @staticmethod
    def parse(device: Device | str) -> Device:
        """Turn ``"cpu"``, ``"cuda"`` (this rank's own GPU) or ``"cuda:1"`` into a Device.

        Raises:
            DeviceError: a text of another form, or ``"cuda"`` where there is no GPU.
        """
        if isinstance(device, Device):
            return device
        kind, index = _parts(device)
        if index is None:
            index = find_backend(kind).current_index()
        return Device(kind, index)

    @property
    def type(self) -> str:
        """The kind, under PyTorch's name."""
        return self.kind

    def __str__(self) -> str:
        return self.kind if self.kind in _LONE else f"{self.kind}:{self.index}"

    def __repr__(self) -> str:
        return f"device({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):  # a text without a number means any device of the kind
            try:
                kind, index = _parts(other)
            except DeviceError:
                return False
            return self.kind == kind and index in (None, self.index)
        return isinstance(other, Device) and (self.kind, self.index) == (other.kind, other.index)

    def __hash__(self) -> int:
        return hash((self.kind, self.index))

    def __enter__(self) -> Device:
        _Chosen.stack = (*_Chosen.stack, find_backend(self.kind).check(self))
        return self

    def __exit__(self, *exc: object) -> None:
        _Chosen.stack = _Chosen.stack[:-1]


def parse_device(device: Device | str) -> Device:
    """A device by name: ``"cpu"``, ``"cuda"`` (this rank's own GPU) or ``"cuda:1"``.

    In a ``with`` block it is where new tensors lie that are given no device.

    Raises:
        DeviceError: no such device.
    """
    found = Device.parse(device)
    return find_backend(found.kind).check(found)


class _ChosenDevices(threading.local):
    """The devices of the ``with`` blocks that this thread is in."""

    stack: tuple[Device, ...] = ()


_Chosen = _ChosenDevices()


def _parts(device: object) -> tuple[str, int | None]:
    """Kind and number of a text."""
    match = _FORM.fullmatch(device) if isinstance(device, str) else None
    if (
        match is None
        or match[1] not in {*BACKENDS, *_MODULES}
        or (match[1] in _LONE and match[2] not in (None, "0"))
    ):
        raise DeviceError(f"device: expected 'cpu', 'cuda', 'cuda:N' or 'meta', got {device!r}")
    return match[1], None if match[2] is None else int(match[2])


class Backend(ABC):
    """What one kind of device can do; the rest of distgrad computes and moves data through this alone.

    Indices are the numbers of devices of this kind. The arrays' functions stand in :attr:`xp`.

    Attributes:
        kind: the first part of its devices' names.
        xp: the array functions.
    """

    kind: str
    xp: ArrayModule

    @abstractmethod
    def device_count(self) -> int:
        """How many devices this process can use."""

    @abstractmethod
    def current_index(self) -> int:
        """The device that is meant where none is named."""

    @abstractmethod
    def set_index(self, index: int) -> None:
        """Mean that device from now on, in this thread."""

    @abstractmethod
    def index_of(self, array: Any) -> int:
        """Where an array of this backend lies."""

    @abstractmethod
    def address(self, array: Any) -> int:
        """Where an array's first element lies in the device's memory."""

    @abstractmethod
    def activate(self, index: int) -> None:
        """Let this thread's kernels and allocations go to that device."""

    @abstractmethod
    def active_index(self) -> int:
        """The device that this thread's kernels and allocations go to."""

    @abstractmethod
    def from_host(self, array: np.ndarray, index: int, non_blocking: bool = False) -> Any:
        """A copy of a NumPy array on a device.

        The host does not wait for it, and may change its array at once: what is sent is a copy in pinned
        memory. With ``non_blocking`` an array of :meth:`pin` is sent from where it lies, and must stay as it
        is until it has arrived.
        """

    @abstractmethod
    def pin(self, array: np.ndarray) -> np.ndarray:
        """A copy in host memory that the device reads by itself, which is not given away while it is sent."""

    @abstractmethod
    def is_pinned(self, array: np.ndarray) -> bool:
        """Whether an array lies in such memory."""

    @abstractmethod
    def to_host(self, array: Any, non_blocking: bool = False) -> np.ndarray:
        """A copy on the host; ``non_blocking`` returns before the elements have arrived in it."""

    @abstractmethod
    def between(self, array: Any, index: int) -> Any:
        """A copy on another device of this kind."""

    @abstractmethod
    def from_dlpack(self, x: Any, copy: bool | None) -> Any:
        """The array of another library's, in the same memory unless ``copy`` says so."""

    @abstractmethod
    def allocate(self, num_bytes: int, index: int) -> Any:
        """``num_bytes`` bytes of a device's memory, uint8 ``[num_bytes]``, holding anything."""

    @abstractmethod
    def make_stream(self, index: int, priority: int) -> Any:
        """The backend's own stream, which never waits for the default stream; None on a CPU."""

    @abstractmethod
    def current_stream(self, index: int) -> Any:
        """The backend's stream that this thread's work goes to."""

    @abstractmethod
    def use_stream(self, native: Any, index: int) -> None:
        """Let this thread's work go to a stream."""

    @abstractmethod
    def lend(self, array: Any, native: Any) -> None:
        """Keep an array's memory, when it is gone, until a native stream has done its work so far."""

    @abstractmethod
    def make_event(self, timing: bool, index: int) -> Any:
        """The backend's own event; None on a CPU."""

    @abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events of the backend's own."""

    @abstractmethod
    def synchronize(self, index: int) -> None:
        """Wait for all work of a device."""

    def check(self, device: Device) -> Device:
        """The device itself, if it is there.

        Raises:
            DeviceError: a number that no device has.
        """
        count = self.device_count()
        if not 0 <= device.index < count:
            have = ", ".join(f"'{self.kind}:{i}'" for i in range(count)) or "none"
            raise DeviceError(f"device {str(device)!r}: this process has {have}; choose one of them")
        return device


class InOrder(Backend):
    """A kind with one device, on which a call has done its work when it returns: it has no streams."""

    def current_index(self) -> int:
        return 0

    def set_index(self, index: int) -> None:
        self.check(Device(self.kind, index))

    def active_index(self) -> int:
        return 0

    def activate(self, index: int) -> None:
        self.check(Device(self.kind, index))

    def is_pinned(self, array: np.ndarray) -> bool:
        return False

    def make_stream(self, index: int, priority: int) -> None:
        return None

    def current_stream(self, index: int) -> None:
        return None

    def use_stream(self, native: Any, index: int) -> None:
        return None

    def lend(self, array: Any, native: Any) -> None:
        return None

    def make_event(self, timing: bool, index: int) -> None:
        return None

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return 0.0

    def synchronize(self, index: int) -> None:
        return None


class _Host(InOrder):
    """The CPU: everything is there already."""

    kind = "cpu"

    @property
    def xp(self) -> ArrayModule:  # type: ignore[override]
        """NumPy's."""
        return ARRAY_MODULES[np.ndarray]

    def device_count(self) -> int:
        return 1

    def index_of(self, array: Any) -> int:
        return 0

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)

    def from_host(self, array: np.ndarray, index: int, non_blocking: bool = False) -> np.ndarray:
        return array.copy()

    def pin(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def to_host(self, array: Any, non_blocking: bool = False) -> np.ndarray:
        return array.copy()

    def between(self, array: Any, index: int) -> np.ndarray:
        return array.copy()

    def from_dlpack(self, x: Any, copy: bool | None) -> np.ndarray:
        return np.from_dlpack(x, copy=copy)

    def allocate(self, num_bytes: int, index: int) -> np.ndarray:
        return np.empty(num_bytes, np.uint8)


#: Backends by kind of device; those of ``_MODULES`` come in when a device of theirs is first asked for.
BACKENDS: dict[str, Backend] = {"cpu": _Host()}
_MODULES = {"cuda": "cupy"}
_OWNERS: dict[type, Backend] = {np.ndarray: BACKENDS["cpu"]}
CPU = Device("cpu")


def find_backend(kind: str) -> Backend:
    """The backend of a kind of device, loaded if need be.

    Raises:
        DeviceError: there is none, with what to install.
    """
    backend = BACKENDS.get(kind)
    if backend is None:
        if kind not in _MODULES:
            raise DeviceError(f"device: expected 'cpu', 'cuda', 'cuda:N' or 'meta', got {kind!r}")
        backend = importlib.import_module(f"distgrad.backend.{_MODULES[kind]}").open_backend()
        register_backend(backend)
    return backend


def register_backend(backend: Backend) -> None:
    """Let tensors lie on devices of a further kind."""
    BACKENDS[backend.kind] = backend
    _OWNERS[backend.xp.array_type] = backend


def available_devices() -> list[Device]:
    """All devices that there are, the CPU first."""
    found = []
    for kind in dict.fromkeys([*BACKENDS, *_MODULES]):
        try:
            count = find_backend(kind).device_count()
        except DeviceError:
            continue
        found += [Device(kind, index) for index in range(count)]
    return found


def find_accelerator() -> Backend | None:
    """The backend of the devices beside the CPU; None where there are none."""
    kinds = [device.kind for device in available_devices() if device.kind != "cpu"]
    return find_backend(kinds[0]) if kinds else None


def memory_of(array: np.ndarray) -> Any:
    """What owns the elements of an array: the array itself, or the object whose buffer they lie in."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner.obj if isinstance(owner, memoryview) else owner


def owner_of(array: Any) -> Backend:
    """The backend whose array it is; NumPy's scalars and subclasses are the CPU's."""
    return _OWNERS.get(array.__class__, BACKENDS["cpu"])


def device_of(array: Any) -> Device:
    """Where an array lies."""
    backend = owner_of(array)
    if backend.kind == "cpu":
        return CPU
    return Device(backend.kind, backend.index_of(array))


def follow(array: Any) -> None:
    """Let this thread's kernels and allocations go to the device where an array lies."""
    backend = owner_of(array)
    index = backend.index_of(array)
    if backend.active_index() != index:
        backend.activate(index)


def widened(*arrays: Any) -> tuple[Any, ...]:
    """Arrays of 16 bits in float32, where their sums and squares have room; others, and None, as they are."""
    return tuple(x.astype(np.float32) if x is not None and x.dtype.char in "eE" else x for x in arrays)


def plain(x: Any) -> Any:
    """The array of a tensor, where a gradient needs indices: those are not differentiated."""
    return getattr(x, "_data", x)


def at_hand(x: Any) -> bool:
    """Whether the host can look at the elements without waiting for a device."""
    return device_of(plain(x)).kind == "cpu"


def native(array: Any) -> Any:
    """The array, or a copy in the machine's byte order and at aligned addresses, as kernels and BLAS want it.

    Arrays of files and packets (FITS, netCDF, IDX, records) can be otherwise. They are converted where they
    enter: a tensor holds none of them.

    Raises:
        DTypeError: a masked array, whose mask would be lost.
    """
    if array.__class__ in HOST_ARRAYS:
        if array.dtype.isnative and array.flags.aligned:
            return array
    elif not isinstance(array, np.ndarray):
        return array
    if hasattr(array, "mask") and hasattr(array, "filled"):
        raise DTypeError(
            "expected an array without a mask, got a masked one, whose masked elements would count; pass "
            "x.filled(number), and the mask by itself"
        )
    whole = np.asarray(array)
    return (
        whole if whole.dtype.isnative and whole.flags.aligned else whole.astype(whole.dtype.newbyteorder("="))
    )


def resolve(device: Device | str | None) -> Device:
    """The device that is meant: None means that of the innermost ``with dg.device(...)``, else the CPU.

    Raises:
        DeviceError: a device that is not there.
    """
    if device is None:
        stack = _Chosen.stack
        return stack[-1] if stack else CPU
    found = Device.parse(device)
    return CPU if found.kind == "cpu" else find_backend(found.kind).check(found)


@contextmanager
def activated(device: Device) -> Iterator[ArrayModule]:
    """Inside it kernels and allocations go to ``device``, whose array module it gives."""
    backend = find_backend(device.kind)
    before = backend.active_index()
    if before == device.index:
        yield backend.xp
        return
    backend.activate(device.index)
    try:
        yield backend.xp
    finally:
        backend.activate(before)


def to_device(array: Any, device: Device, non_blocking: bool = False) -> Any:
    """An array on ``device``: itself if it lies there, else a copy.

    Args:
        array: of any backend.
        device: where to.
        non_blocking: to the host: return before the elements have arrived; synchronise before reading them.
            Towards a device the host never waits; a pinned array is then sent without a copy in between, and
            must stay as it is until it has arrived.
    """
    source = owner_of(array)
    if source.kind == device.kind:
        if source.kind == "cpu" or source.index_of(array) == device.index:
            return array
        return source.between(array, device.index)
    if device.kind == "cpu":
        return source.to_host(array, non_blocking)
    if source.kind != "cpu":
        array = source.to_host(array)
    return find_backend(device.kind).from_host(array, device.index, non_blocking)
