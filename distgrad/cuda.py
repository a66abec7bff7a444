"""GPUs, in PyTorch's words: which there are, their streams and their memory.

``device`` arguments are a number, a device or its name; None means this rank's own GPU, which is
``LOCAL_RANK`` modulo the visible ones, or what :func:`set_device` has chosen.
"""

from __future__ import annotations

from typing import Any

from distgrad.backend import streams as _streams
from distgrad.backend.device import Device, find_backend
from distgrad.backend.streams import Event as _Event
from distgrad.backend.streams import Stream as _Stream
from distgrad.errors import DeviceError
from distgrad.replay.graphed import Graphed, graphed

__all__ = [
    "Event",
    "Graphed",
    "Stream",
    "current_device",
    "current_stream",
    "device",
    "device_count",
    "empty_cache",
    "get_device_capability",
    "get_device_name",
    "graphed",
    "is_available",
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "reset_peak_memory_stats",
    "set_device",
    "stream",
    "synchronize",
]

_Place = Device | str | int | None


def _backend() -> Any:
    return find_backend("cuda")


def _device(device: _Place) -> Device:
    """A GPU, looked for among those that there are.

    Raises:
        DeviceError: no GPU, or another one than there is.
    """
    backend = _backend()
    if device is None:
        return Device("cuda", backend.current_index())
    found = Device("cuda", device) if isinstance(device, int) else Device.parse(device)
    if found.kind != "cuda":
        raise DeviceError(f"cuda: expected a GPU, got device {str(found)!r}; pass 'cuda:N' or N")
    checked: Device = backend.check(found)
    return checked


def is_available() -> bool:
    """Whether CuPy is installed and sees a GPU."""
    return device_count() > 0


def device_count() -> int:
    """How many GPUs this process sees; 0 where CuPy or the driver is missing."""
    try:
        return int(_backend().device_count())
    except DeviceError:
        return 0


def current_device() -> int:
    """The number of the GPU that ``"cuda"`` means in this thread."""
    return int(_backend().current_index())


def set_device(device: _Place) -> None:
    """Let ``"cuda"`` mean another GPU in this thread."""
    _backend().set_index(_device(device).index)


class device:
    """Inside it ``"cuda"`` means another GPU, in this thread.

    Args:
        device: which.
    """

    def __init__(self, device: _Place) -> None:
        self._device = _device(device)

    def __enter__(self) -> Device:
        self._before = current_device()
        set_device(self._device)
        return self._device

    def __exit__(self, *exc: object) -> None:
        set_device(self._before)


def synchronize(device: _Place = None) -> None:
    """Let the host wait for all work of a GPU."""
    _streams.synchronize(_device(device))


class Stream(_Stream):
    """A sequence of work on a GPU, which does not wait for the default stream's.

    Args:
        device: which GPU.
        priority: below 0 goes first where two streams compete.
    """

    def __init__(self, device: _Place = None, priority: int = 0) -> None:
        super().__init__(_device(device), priority)


class Event(_Event):
    """A point in a stream's work.

    Args:
        enable_timing: whether ``elapsed_time`` can be asked.
        device: which GPU.
    """

    def __init__(self, enable_timing: bool = False, *, device: _Place = None) -> None:
        super().__init__(enable_timing, device=_device(device))


def stream(stream: _Stream) -> _Stream:
    """The stream itself, for ``with dg.cuda.stream(s):``, inside which this thread's work goes to it."""
    return stream


def current_stream(device: _Place = None) -> _Stream:
    """The stream that this thread's work on a GPU goes to."""
    return _streams.current_stream(_device(device))


# -- memory


def memory_allocated(device: _Place = None) -> int:
    """Bytes that arrays hold."""
    return int(_backend().used_bytes(_device(device).index))


def memory_reserved(device: _Place = None) -> int:
    """Bytes that the memory pool has taken from the driver, held by arrays or kept for the next ones."""
    return int(_backend().reserved_bytes(_device(device).index))


def reset_peak_memory_stats() -> None:
    """Count the most bytes that arrays hold at a time, on every GPU, from now on."""
    _backend().start_peak()


def max_memory_allocated(device: _Place = None) -> int:
    """The most bytes that arrays held at a time since :func:`reset_peak_memory_stats`.

    Counting costs a microsecond or two an allocation, so it starts with that call. Without one the answer is
    ``memory_reserved()``, which is never below it.
    """
    return int(_backend().peak_bytes(_device(device).index))


def empty_cache() -> None:
    """Give the memory that no array holds back to the driver."""
    _backend().free_unused()


def mem_get_info(device: _Place = None) -> tuple[int, int]:
    """Bytes free and in all on a GPU, as its driver counts, other processes' among them."""
    free, total = _backend().memory_info(_device(device).index)
    return free, total


# -- what it is


def get_device_name(device: _Place = None) -> str:
    """The GPU's name."""
    name = _backend().properties(_device(device).index)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def get_device_capability(device: _Place = None) -> tuple[int, int]:
    """The GPU's compute capability, (major, minor)."""
    found = _backend().properties(_device(device).index)
    return int(found["major"]), int(found["minor"])
