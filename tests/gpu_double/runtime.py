"""CUDA's runtime and driver as CuPy calls them, played by a CPU.

:func:`install` puts a handler behind every function that CuPy's modules share by C pointer; those that the
double does not carry raise and say so. It must run before anything imports CuPy.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_double.build import DoubleError
from gpu_double.capsules import signatures, swap
from gpu_double.kernels import (
    MAX_SHARED_ATTRIBUTE,
    MAX_SHARED_BYTES,
    MAX_THREADS,
    SHARED_BYTES,
    Kernels,
    Source,
)
from gpu_double.memory import DEVICE, PINNED, Memory
from gpu_double.streams import Scheduler
from real_gpus import NAME_OF_THE_DOUBLE

PACKAGE, VERSION = "cupy-cuda13x", "14.2.0"
_CUDA_VERSION = 13000
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING = 1
_ATTRIBUTES = {
    75: 9,
    76: 0,
    10: 32,
    16: 132,
    39: 2048,
    41: 1,
    82: 65536,
    1: MAX_THREADS,
    2: 1024,
    3: 1024,
    4: 64,
    5: 2**31 - 1,
    6: 65535,
    7: 65535,
    8: SHARED_BYTES,
    81: 233472,
    97: MAX_SHARED_BYTES,
    12: 65536,
    38: 50 << 20,
}
# Functions that stay CuPy's own: they look nothing up on a device.
_UNTOUCHED = {"check_status", "get_build_version"}
# Those that end something, or ask nothing of a device, succeed where it is lost.
_HARMLESS = {
    "getDevice", "setDevice", "getDeviceCount", "runtimeGetVersion", "_getCUDAMajorVersion", "free",
    "freeHost", "eventDestroy", "streamDestroy", "moduleUnload", "_ensure_context", "ctxGetCurrent",
    "ctxGetDevice",
}  # fmt: skip
_LOST = 999  # cudaErrorUnknown


def unavailable() -> str | None:
    """Why the double cannot run here; None if it can."""
    from gpu_double.build import missing_compiler

    try:
        found = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return (
            f"the double of a GPU is made for {PACKAGE} {VERSION}, which is not installed; "
            'run: pip install "distgrad[double]"'
        )
    if found != VERSION:
        return f"the double of a GPU is made for {PACKAGE} {VERSION}, and {found} is installed"
    if (compiler := missing_compiler()) is not None:
        return f"the double of a GPU compiles kernels, and {compiler} is not installed"
    return None


class Runtime:
    """Everything behind the swapped functions.

    Args:
        num_devices: how many GPUs there seem to be.
        order: of queued work: eager, late, early, or null, where none of it runs.
        device_bytes: memory of each.
        timeout_s: after which a wait of the host gives up.

    Attributes:
        calls: how often each function was called.
        lost: devices that have fallen off the bus: every call that concerns one fails.
    """

    def __init__(self, num_devices: int, order: str, device_bytes: int, timeout_s: float) -> None:
        self.num_devices = num_devices
        self.calls: Counter[str] = Counter()
        self.scheduler = Scheduler(order, timeout_s)
        self.memory = Memory(device_bytes)
        self.kernels = Kernels(self.scheduler, self.memory, self.get_device)
        self.lost: set[int] = set()
        self._current = threading.local()

    # -- devices

    def get_device(self) -> int:
        """The calling thread's device."""
        return getattr(self._current, "device", 0)

    def set_device(self, device: int) -> None:
        """Make it the calling thread's."""
        self._check_device(device)
        self._current.device = device

    def _check_device(self, device: int) -> None:
        if not 0 <= device < self.num_devices:
            raise self._error(101)  # cudaErrorInvalidDevice

    def _error(self, status: int) -> Exception:
        from cupy_backends.cuda.api.runtime import CUDARuntimeError

        return CUDARuntimeError(status)

    def properties(self, device: int) -> dict[str, Any]:
        """cudaGetDeviceProperties."""
        self._check_device(device)
        return {
            "name": NAME_OF_THE_DOUBLE.encode(),
            "totalGlobalMem": self.memory.device_bytes,
            "sharedMemPerBlock": SHARED_BYTES,
            "regsPerBlock": 65536,
            "warpSize": 32,
            "maxThreadsPerBlock": MAX_THREADS,
            "maxThreadsDim": (1024, 1024, 64),
            "maxGridSize": (2**31 - 1, 65535, 65535),
            "totalConstMem": 65536,
            "major": 9,
            "minor": 0,
            "multiProcessorCount": 132,
            "maxThreadsPerMultiProcessor": 2048,
            "sharedMemPerMultiprocessor": 233472,
            "sharedMemPerBlockOptin": MAX_SHARED_BYTES,
            "l2CacheSize": 50 << 20,
            "computeMode": 0,
            "pciDomainID": 0,
            "pciBusID": device,
            "pciDeviceID": 0,
        }

    def memory_info(self) -> tuple[int, int]:
        """cudaMemGetInfo."""
        total = self.memory.device_bytes
        return total - self.memory.used_bytes.get(self.get_device(), 0), total

    # -- memory

    def allocate(self, num_bytes: int, kind: str) -> int:
        """cudaMalloc and cudaHostAlloc."""
        pointer = self.memory.allocate(num_bytes, self.get_device(), kind)
        if pointer is None:
            raise self._error(_OUT_OF_MEMORY)
        return pointer

    def free(self, pointer: int, kind: str) -> None:
        """cudaFree and cudaFreeHost, which wait for the device."""
        self.scheduler.wait_for_device(captured=False)  # in a relaxed capture it is allowed
        self.memory.free(pointer, kind)

    def attributes(self, pointer: int) -> Any:
        """cudaPointerGetAttributes."""
        from cupy_backends.cuda.api.runtime import PointerAttributes

        block = self.memory.find(pointer)
        if block is None:
            return PointerAttributes(-2, 0, pointer, 0)
        return PointerAttributes(
            block.device, pointer, 0 if block.kind == DEVICE else pointer, self.kind(pointer)
        )

    def kind(self, pointer: int) -> int:
        """cudaMemoryType: 0 unregistered, 1 pinned, 2 device."""
        block = self.memory.find(pointer)
        return 0 if block is None else {PINNED: 1, DEVICE: 2}[block.kind]

    # -- copies

    def copy_async(self, target: int, source: int, num_bytes: int, kind: int, stream: int) -> None:
        """cudaMemcpyAsync; between a device and pageable memory it keeps CUDA's promises to the host."""
        device = self.get_device()
        name = f"a copy of {num_bytes} bytes"
        if kind not in (_TO_DEVICE, _TO_HOST):
            pinned = True
        else:
            pinned = self.kind(source if kind == _TO_DEVICE else target) == 1
        if kind == _TO_DEVICE and not pinned:  # the host may change its memory when the call returns
            staged = ctypes.create_string_buffer(ctypes.string_at(source, num_bytes), max(num_bytes, 1))
            source_address = ctypes.addressof(staged)
        else:
            staged, source_address = None, source
        on_device = [p for p, there in ((target, kind != _TO_HOST), (source, kind != _TO_DEVICE)) if there]

        def step(_kept: Any = staged) -> bool:
            for pointer in on_device:
                self.memory.check(pointer, num_bytes, None, name)  # any device's, by unified addressing
            ctypes.memmove(target, source_address, num_bytes)
            return True

        if kind == _TO_DEVICE and self.scheduler.is_capturing(stream, device):
            raise DoubleError(f"{name} from the host in a capture: a launch would send what lies there then")
        self.scheduler.enqueue(stream, device, name, step)
        if kind == _TO_HOST and not pinned:
            self.scheduler.wait_for_stream(stream, device)

    def copy(self, target: int, source: int, num_bytes: int, kind: int) -> None:
        """cudaMemcpy, on the default stream; the host waits."""
        self.copy_async(target, source, num_bytes, kind, 0)
        self.scheduler.wait_for_stream(0, self.get_device())

    def copy_peer_async(
        self, target: int, to: int, source: int, of: int, num_bytes: int, stream: int
    ) -> None:
        """cudaMemcpyPeerAsync."""

        def step() -> bool:
            self.memory.check(target, num_bytes, to, "a copy between devices")
            self.memory.check(source, num_bytes, of, "a copy between devices")
            ctypes.memmove(target, source, num_bytes)
            return True

        self.scheduler.enqueue(stream, self.get_device(), "a copy between devices", step)

    def copy_peer(self, target: int, to: int, source: int, of: int, num_bytes: int) -> None:
        """cudaMemcpyPeer: both devices have finished before and after."""
        self.scheduler.wait_for_device(of)
        self.scheduler.wait_for_device(to)
        self.copy_peer_async(target, to, source, of, num_bytes, 0)
        self.scheduler.wait_for_stream(0, self.get_device())

    def set_async(self, target: int, value: int, num_bytes: int, stream: int) -> None:
        """cudaMemsetAsync."""
        device = self.get_device()

        def step() -> bool:
            self.memory.check(target, num_bytes, device, "memset")
            ctypes.memset(target, value, num_bytes)
            return True

        self.scheduler.enqueue(stream, device, "memset", step)

    # -- the tables

    def runtime_handlers(self) -> dict[str, Callable[..., Any]]:
        """Of ``cupy_backends.cuda.api.runtime``."""
        scheduler, here = self.scheduler, self.get_device
        return {
            "getDevice": self.get_device,
            "setDevice": self.set_device,
            "getDeviceCount": lambda: self.num_devices,
            "getDeviceProperties": self.properties,
            "deviceGetAttribute": lambda attribute, device: _ATTRIBUTES.get(attribute, 0),
            "deviceGetPCIBusId": lambda device: f"0000:{device:02x}:00.0",
            "deviceCanAccessPeer": lambda device, peer: 0,
            "deviceSynchronize": lambda: scheduler.wait_for_device(here()),
            "runtimeGetVersion": lambda: _CUDA_VERSION,
            "driverGetVersion": lambda: _CUDA_VERSION,
            "_getCUDAMajorVersion": lambda: _CUDA_VERSION // 1000,
            "_ensure_context": lambda: None,
            "profilerStart": lambda: None,
            "profilerStop": lambda: None,
            "memGetInfo": self.memory_info,
            "malloc": lambda num_bytes: self.allocate(num_bytes, DEVICE),
            "free": lambda pointer: self.free(pointer, DEVICE),
            "hostAlloc": lambda num_bytes, flags: self.allocate(num_bytes, PINNED),
            "freeHost": lambda pointer: self.free(pointer, PINNED),
            "pointerGetAttributes": self.attributes,
            "pointerGetMemoryType": self.kind,
            "memcpy": self.copy,
            "memcpyAsync": self.copy_async,
            "memcpyPeer": self.copy_peer,
            "memcpyPeerAsync": self.copy_peer_async,
            "memset": lambda target, value, num_bytes: self.set_async(target, value, num_bytes, 0),
            "memsetAsync": self.set_async,
            "streamCreate": lambda: scheduler.make_stream(here(), True),
            "streamCreateWithFlags": lambda flags: scheduler.make_stream(here(), not flags & _NON_BLOCKING),
            "streamCreateWithPriority": lambda flags, priority: scheduler.make_stream(
                here(), not flags & _NON_BLOCKING
            ),
            "streamDestroy": scheduler.destroy_stream,
            "streamSynchronize": lambda stream: scheduler.wait_for_stream(stream, here()),
            "streamQuery": lambda stream: scheduler.query_stream(stream, here()),
            "streamIsCapturing": lambda stream: int(scheduler.is_capturing(stream, here())),
            "streamBeginCapture": lambda stream, mode=0: scheduler.begin_capture(stream, here()),
            "streamEndCapture": lambda stream: scheduler.end_capture(stream, here()),
            "graphInstantiate": lambda graph: graph,
            "graphUpload": lambda graph, stream: None,
            "graphLaunch": lambda graph, stream: scheduler.launch_graph(graph, stream, here()),
            "graphDestroy": lambda graph: None,
            "graphExecDestroy": lambda graph: None,
            "streamWaitEvent": lambda stream, event: scheduler.wait_event(stream, event, here()),
            "eventCreate": scheduler.make_event,
            "eventCreateWithFlags": lambda flags: scheduler.make_event(),
            "eventDestroy": lambda event: None,
            "eventRecord": lambda event, stream: scheduler.record(event, stream, here()),
            "eventQuery": scheduler.query_event,
            "eventSynchronize": scheduler.wait_for_event,
            "eventElapsedTime": scheduler.elapsed_ms,
        }

    def driver_handlers(self) -> dict[str, Callable[..., Any]]:
        """Of ``cupy_backends.cuda.api.driver``."""
        functions = self.kernels.functions

        def set_attribute(function: int, attribute: int, value: int) -> None:
            if attribute == MAX_SHARED_ATTRIBUTE:
                functions[function].dynamic_bytes = value

        def get_attribute(attribute: int, function: int) -> int:
            kernel = functions[function]
            return {0: MAX_THREADS, 1: kernel.shared[1], MAX_SHARED_ATTRIBUTE: kernel.dynamic_bytes}.get(
                attribute, 0
            )

        return {
            "ctxGetCurrent": lambda: 1,
            "ctxGetDevice": self.get_device,
            "moduleLoad": lambda path: self.kernels.load(Path(path).read_bytes()),
            "moduleLoadData": self.kernels.load,
            "moduleUnload": lambda module: None,
            "moduleGetFunction": self.kernels.find,
            "launchKernel": self.kernels.launch,
            "funcGetAttribute": get_attribute,
            "funcSetAttribute": set_attribute,
            "occupancyMaxActiveBlocksPerMultiprocessor": lambda function, threads, dynamic: 2048 // threads,
            "occupancyMaxPotentialBlockSize": lambda function, dynamic, limit: (264, 256),
        }


def _refuse(module: str, name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise DoubleError(f"the double of a GPU does not carry {module}.{name}")

    return refuse


def _count(double: Runtime, name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    calls = double.calls

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[name] += 1
        if double.lost and name not in _HARMLESS and double.get_device() in double.lost:
            raise double._error(_LOST)
        return handler(*arguments, *[value for key, value in options.items() if key != "flags"])

    return counted


def _compile_module(
    source: str,
    options: tuple[str, ...] = (),
    *,
    name_expressions: tuple[str, ...] | None = None,
    enable_cooperative_groups: bool = False,
    to_ltoir: bool = False,
    **_: Any,
) -> Any:
    """In the place of ``cupy.cuda.compiler._compile_module_with_cache``: keep the source for g++."""
    from cupy.cuda.function import Module

    if enable_cooperative_groups or to_ltoir:
        raise DoubleError("the double of a GPU carries neither cooperative groups nor link-time optimisation")
    module = Module()
    module.load(Source(source, tuple(options), tuple(name_expressions or ())).encode())
    if name_expressions:
        module._set_mapping({name: name for name in name_expressions})
    return module


def _replace_nvrtc() -> None:
    """In the place of NVRTC, where it is called itself: what it compiles is the source, for g++."""
    import cupy_backends.cuda.libs.nvrtc as nvrtc

    programs: dict[int, tuple[str, tuple[str, ...]]] = {}
    handles = itertools.count(1)

    def create(source: str, name: str, headers: Any, include_names: Any) -> int:
        programs[handle := next(handles)] = (source, ())
        return handle

    nvrtc.createProgram = create
    nvrtc.compileProgram = lambda key, options: programs.update({key: (programs[key][0], tuple(options))})
    nvrtc.getCUBIN = lambda key: Source(*programs[key], ()).encode()
    nvrtc.destroyProgram = lambda key: None


_installed: list[Runtime] = []


def installed() -> Runtime:
    """The double that is under this process's CuPy."""
    return _installed[-1]


def install(
    num_devices: int = 2, order: str = "eager", device_bytes: int = 8 << 30, timeout_s: float = 60.0
) -> Runtime:
    """Put the double under CuPy, and return it.

    Raises:
        DoubleError: the pinned version of CuPy is not installed, or CuPy has been imported already.
    """
    if (reason := unavailable()) is not None:
        raise DoubleError(reason)
    if "cupy" in sys.modules:
        raise DoubleError("the double of a GPU must be installed before CuPy is imported")
    import cupy_backends.cuda.api.driver as driver
    import cupy_backends.cuda.api.runtime as runtime

    double = Runtime(num_devices, order, device_bytes, timeout_s)
    for module, handlers in ((runtime, double.runtime_handlers()), (driver, double.driver_handlers())):
        short = module.__name__.rsplit(".", 1)[1]
        table = {name: _refuse(short, name) for name in signatures(module) if name not in _UNTOUCHED}
        table |= handlers
        swap(module, {name: _count(double, name, handler) for name, handler in table.items()})
    from gpu_double.libraries import preload

    preload(double)
    from cupy.cuda import compiler

    compiler._compile_module_with_cache = _compile_module
    _replace_nvrtc()
    from gpu_double.sorting import replace_sorting

    replace_sorting(double)
    sys.modules.setdefault("cudnn", None)  # type: ignore[arg-type]  # the real one wants a real driver
    _installed.append(double)
    return double
