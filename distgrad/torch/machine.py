"""What ``torch`` asks of a machine: ``cuda``, ``accelerator``, ``backends``."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from distgrad import cuda as gpus
from distgrad.autograd.casting import autocast as _autocast
from distgrad.backend.device import Device, find_accelerator, parse_device
from distgrad.backend.rng import manual_seed
from distgrad.backend.threads import get_num_threads, set_num_threads
from distgrad.optim.grad_scaler import GradScaler as _GradScaler
from distgrad.torch import settings
from distgrad.trace import annotate

__all__ = ["GradScaler", "OutOfMemoryError", "custom_bwd", "custom_fwd", "get_device_module"]

#: What CuPy's error is one of.
OutOfMemoryError = MemoryError


def _nothing(*args: Any, **options: Any) -> None:
    """Nothing."""


def _no(*args: Any, **options: Any) -> bool:
    """No."""
    return False


@contextmanager
def _span(*args: Any, **options: Any) -> Any:
    yield


def custom_fwd(forward: Any = None, *, device_type: str = "cuda", cast_inputs: Any = None) -> Any:
    """The function itself: casts are the operations' own."""
    return (lambda function: function) if forward is None else forward


def custom_bwd(backward: Any = None, *, device_type: str = "cuda") -> Any:
    """The function itself."""
    return (lambda function: function) if backward is None else backward


class _CudaAutocast(_autocast):
    """``autocast`` on GPUs, PyTorch's older name for it."""

    def __init__(self, enabled: bool = True, dtype: Any = None, cache_enabled: bool = True) -> None:
        super().__init__("cuda", dtype, enabled, cache_enabled)


class _CudaScaler(_GradScaler):
    """A ``GradScaler`` that switches itself off where there is no GPU."""

    def __init__(self, *args: Any, enabled: bool = True, **options: Any) -> None:
        options["enabled"] = enabled and gpus.is_available()
        super().__init__(*args, **options)


class GradScaler(_GradScaler):
    """``torch.amp.GradScaler``: for GPUs unless a device is named, and off where there are none."""

    def __init__(self, device: Any = "cuda", *args: Any, enabled: bool = True, **options: Any) -> None:
        if not isinstance(device, str):
            args, device = (device, *args), "cuda"
        options["enabled"] = enabled and (device != "cuda" or gpus.is_available())
        super().__init__(*args, **options)


def _or_none(function: Callable[..., int]) -> Any:
    """A count of bytes on a GPU, which is 0 where there is none, as programs ask on any machine."""

    @functools.wraps(function)
    def count(device: Any = None) -> int:
        return function(device) if gpus.is_available() else 0

    return staticmethod(count)


class cuda_amp:
    """``torch.cuda.amp``."""

    autocast = _CudaAutocast
    GradScaler = _CudaScaler
    custom_fwd, custom_bwd = staticmethod(custom_fwd), staticmethod(custom_bwd)


class cuda:
    """What ``torch.cuda`` has beside ``dg.cuda``."""

    manual_seed = manual_seed_all = staticmethod(manual_seed)
    get_rng_state_all = staticmethod(lambda: [settings.get_rng_state()])
    is_initialized = staticmethod(gpus.is_available)
    is_bf16_supported = staticmethod(gpus.is_available)
    init = ipc_collect = set_per_process_memory_fraction = staticmethod(_nothing)
    reset_max_memory_allocated = staticmethod(gpus.reset_peak_memory_stats)
    memory_allocated, memory_reserved = _or_none(gpus.memory_allocated), _or_none(gpus.memory_reserved)
    max_memory_allocated = _or_none(gpus.max_memory_allocated)
    max_memory_reserved = memory_cached = max_memory_cached = memory_reserved
    is_current_stream_capturing = is_tf32_supported = can_device_access_peer = staticmethod(_no)
    OutOfMemoryError = OutOfMemoryError
    default_generators: tuple[Any, ...] = ()  # one generator draws for all devices, from the host
    get_rng_state = staticmethod(lambda device="cuda": settings.get_rng_state())
    set_rng_state = staticmethod(lambda new_state, device="cuda": settings.set_rng_state(new_state))
    initial_seed = staticmethod(settings.initial_seed)
    seed = seed_all = staticmethod(settings.seed)

    @staticmethod
    def empty_cache() -> None:
        """Give the memory that no array holds back to the driver, where there is one."""
        if gpus.is_available():
            gpus.empty_cache()

    @staticmethod
    def device(device: Any) -> Any:
        """Inside it ``"cuda"`` means another GPU; nothing for None or −1."""
        is_none = device is None or (isinstance(device, int) and device < 0)
        return nullcontext() if is_none else gpus.device(device)

    @staticmethod
    def stream(stream: Any) -> Any:
        """Inside it this thread's work goes to a stream; nothing for None."""
        return nullcontext() if stream is None else gpus.stream(stream)

    @staticmethod
    def get_arch_list() -> list[str]:
        """None: kernels are compiled for the GPU that is there."""
        return []

    @staticmethod
    def set_rng_state_all(new_states: Any) -> None:
        """Go on from a state that ``get_rng_state_all`` gave."""
        for each in new_states:
            settings.set_rng_state(each)

    @staticmethod
    def get_device_properties(device: Any = None) -> SimpleNamespace:
        """The GPU's ``name``, ``major`` and ``minor`` of its capability, ``total_memory`` in bytes."""
        major, minor = gpus.get_device_capability(device)
        total = gpus.mem_get_info(device)[1]
        return SimpleNamespace(
            name=gpus.get_device_name(device), major=major, minor=minor, total_memory=total
        )

    @staticmethod
    def memory_stats(device: Any = None) -> dict[str, int]:
        """Bytes that arrays hold and that are reserved, now and at most; of no GPU, none."""
        if not gpus.is_available():
            return {}
        used, reserved = gpus.memory_allocated(device), gpus.memory_reserved(device)
        peak = gpus.max_memory_allocated(device)
        return {
            "allocated_bytes.all.current": used, "allocated_bytes.all.peak": peak,
            "reserved_bytes.all.current": reserved,
        }  # fmt: skip

    @staticmethod
    def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
        """A line for each of :func:`memory_stats`; of no GPU, no lines."""
        return "\n".join(f"{key}: {value:,}" for key, value in cuda.memory_stats(device).items())


class nvtx:
    """``torch.cuda.nvtx``: ranges beside the spans' own, where a tool or a recording listens on a GPU."""

    @staticmethod
    def range_push(msg: str) -> int:
        """Open a range in this thread; returns how many were open before."""
        opened = _opened()
        opened.append(annotate(msg))
        return len(opened) - 1

    @staticmethod
    def range_pop() -> int:
        """Close the one opened last in this thread; returns how many are left, -1 where none was open."""
        opened = _opened()
        if not opened:
            return -1
        opened.pop().__exit__()
        return len(opened)

    @staticmethod
    @contextmanager
    def range(msg: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Make the body a range named ``msg.format(*args, **kwargs)``; also a decorator."""
        with annotate(msg.format(*args, **kwargs)):
            yield

    @staticmethod
    def mark(msg: str) -> None:
        """Show one moment, as a range of nothing."""
        with annotate(msg):
            pass


_this_thread = threading.local()


def _opened() -> list[Any]:
    """The ranges that this thread has pushed."""
    opened: list[Any] = _this_thread.__dict__.setdefault("opened", [])
    return opened


class accelerator:
    """``torch.accelerator``."""

    is_available = staticmethod(gpus.is_available)
    device_count = staticmethod(gpus.device_count)
    synchronize = staticmethod(lambda device=None: gpus.synchronize(device) if gpus.is_available() else None)

    @staticmethod
    def current_accelerator(check_available: bool = False) -> Device | None:
        """The kind of devices beside the CPU; None where there are none."""
        return parse_device("cuda") if find_accelerator() is not None else None

    @staticmethod
    def current_device_index() -> int:
        """The device that is meant where none is named."""
        return gpus.current_device()

    @staticmethod
    def set_device_index(device: Any) -> None:
        """Mean that device from now on."""
        gpus.set_device(device)

    current_device_idx, set_device_idx = current_device_index, set_device_index


class absent:
    """Devices of a kind that is not here."""

    is_available = is_built = staticmethod(_no)
    device_count = staticmethod(lambda: 0)
    manual_seed = manual_seed_all = empty_cache = synchronize = staticmethod(_nothing)


class host:
    """``torch.cpu``."""

    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    synchronize = staticmethod(_nothing)


class cudnn:
    """Switches of a library that is not used: what they are set to changes nothing."""

    benchmark = deterministic = allow_tf32 = False
    enabled = True
    is_available = staticmethod(_no)
    version = staticmethod(lambda: None)
    flags = staticmethod(_span)


class matmul:
    """Precision of products on GPUs."""

    allow_tf32 = allow_fp16_reduced_precision_reduction = allow_bf16_reduced_precision_reduction = False


class backend_cuda:
    """``torch.backends.cuda``."""

    is_built = staticmethod(gpus.is_available)
    sdp_kernel = staticmethod(_span)
    enable_flash_sdp = enable_mem_efficient_sdp = enable_math_sdp = enable_cudnn_sdp = staticmethod(_nothing)
    flash_sdp_enabled = mem_efficient_sdp_enabled = staticmethod(_no)


def get_device_module(device: Any = None) -> Any:
    """What asks and steers devices of a kind: ``torch.cuda``, or ``torch.cpu``."""
    kind = parse_device("cuda" if gpus.is_available() else "cpu") if device is None else parse_device(device)
    return importlib.import_module(f"distgrad.torch.{kind.kind}")


class opt_einsum:
    """A library that is not used: products are paired in the order that an own search finds."""

    enabled = is_available = staticmethod(_no)
    strategy = None


class mkldnn:
    """A library that is not used."""

    is_available = staticmethod(_no)
    enabled = False
    flags = staticmethod(_span)


class backends:
    """``torch.backends``."""

    get_num_threads, set_num_threads = staticmethod(get_num_threads), staticmethod(set_num_threads)
