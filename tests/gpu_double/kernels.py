"""Load and launch CUDA sources on the CPU: what CuPy gives to NVRTC, given to g++ instead."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_double.build import HERE, DoubleError, compile_library
from gpu_double.memory import Memory
from gpu_double.streams import NULL, Scheduler

MAX_THREADS = 1024
SHARED_BYTES = 49152  # of a block, without asking for more
MAX_SHARED_BYTES = 232448
MAX_SHARED_ATTRIBUTE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_MAX_PARAMETERS = 512

_BARRIERS = re.compile(r"\b(__sync\w+|__shfl_\w+|__ballot_sync|__any_sync|__all_sync|__reduce_\w+_sync)\b")
_KERNELS = re.compile(
    r'extern\s+"C"\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?'
    r"void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\("
)
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?([\w:\s]+?)\s+(\w+)\s*\[\s*\]\s*;"
)
_SHARED_SECTION = """
extern "C" {
extern char __start_gpu_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_gpu_shared[] __attribute__((weak, visibility("hidden")));
char *gpu_shared_start() { return __start_gpu_shared; }
size_t gpu_shared_size() { return __stop_gpu_shared - __start_gpu_shared; }
}
"""


@dataclass(frozen=True)
class Source:
    """What a module is compiled from: text, the compiler's options, the templates that it is asked for."""

    text: str
    options: tuple[str, ...]
    instances: tuple[str, ...]

    def encode(self) -> bytes:
        """As the bytes that CuPy passes on for a cubin."""
        return json.dumps([self.text, self.options, self.instances]).encode()

    @staticmethod
    def decode(data: bytes) -> Source:
        """What :meth:`encode` made; anything else is a real cubin, which no CPU runs."""
        try:
            text, options, instances = json.loads(data)
        except ValueError:
            raise DoubleError("the double is given compiled code of a GPU, not a source") from None
        return Source(text, tuple(options), tuple(instances))


@dataclass
class Kernel:
    """One function of a module.

    Attributes:
        name: the kernel's.
        run: its entry in the compiled library.
        sizes: bytes of each parameter, negative for a pointer.
        has_barriers: whether its threads wait for each other.
        shared: address and bytes of its static shared memory.
        dynamic_bytes: the most dynamic shared memory that a launch may ask for.
        launches: how often it was launched.
    """

    name: str
    run: int
    sizes: Sequence[int]
    has_barriers: bool
    shared: tuple[int, int]
    dynamic_bytes: int = SHARED_BYTES
    launches: int = 0


@dataclass
class Module:
    """A loaded source and the kernels that have been asked for."""

    source: Source
    kernels: dict[str, Kernel] = field(default_factory=dict)


class Kernels:
    """Modules and functions by handle, and their launches."""

    def __init__(self, scheduler: Scheduler, memory: Memory, device: Callable[[], int]) -> None:
        self.functions: dict[int, Kernel] = {}
        self._modules: dict[int, Module] = {}
        self._scheduler, self._memory, self._device = scheduler, memory, device
        self._include = ""
        path = compile_library("block", (HERE / "block.c").read_text(), ["-O2"])
        self._engine = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._engine.gpu_run.restype = ctypes.c_char_p
        self._engine.gpu_run.argtypes = [
            *([ctypes.c_void_p] * 4),
            *(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
        ]

    def load(self, data: bytes) -> int:
        """cuModuleLoadData."""
        handle = self._scheduler.make_handle()
        self._modules[handle] = Module(Source.decode(data))
        return handle

    def find(self, module_handle: int, name: str) -> int:
        """cuModuleGetFunction, which compiles."""
        module = self._modules[module_handle]
        if name not in module.kernels:
            self._compile(module, name)
        handle = self._scheduler.make_handle()
        self.functions[handle] = module.kernels[name]
        return handle

    def _compile(self, module: Module, name: str) -> None:
        """Compile all kernels of the module that can be told from its text, or else the one.

        On a null GPU they have no code.
        """
        if self._scheduler.order == NULL:
            module.kernels[name] = Kernel(name, 0, [], False, (0, 0))
            return
        source = module.source
        names = list(dict.fromkeys([*_KERNELS.findall(source.text), *source.instances]))
        if name not in names:
            names = [name]
        library = ctypes.CDLL(str(compile_kernels(source, names)))
        library.gpu_shared_start.restype = ctypes.c_void_p
        library.gpu_shared_size.restype = ctypes.c_size_t
        shared = library.gpu_shared_start() or 0, library.gpu_shared_size()
        for i, found in enumerate(names):
            sizes = (ctypes.c_long * _MAX_PARAMETERS)()
            count = getattr(library, f"gpu_parameters_{i}")(sizes)
            run = ctypes.cast(getattr(library, f"gpu_kernel_{i}"), ctypes.c_void_p).value
            has_barriers = _BARRIERS.search(source.text) is not None
            module.kernels[found] = Kernel(found, run, list(sizes[:count]), has_barriers, shared)

    def launch(self, handle: int, *arguments: int) -> None:
        """cuLaunchKernel: copy the parameters, check what a GPU checks, and queue."""
        *shape, dynamic, stream, parameters, _extra = arguments
        kernel, device = self.functions[handle], self._device()
        kernel.launches += 1
        grid, block = (ctypes.c_uint * 3)(*shape[:3]), (ctypes.c_uint * 3)(*shape[3:])
        _check_shape(kernel, list(grid), list(block), dynamic)
        addresses = (ctypes.c_void_p * max(len(kernel.sizes), 1)).from_address(parameters)
        copies = [ctypes.string_at(addresses[i], abs(size)) for i, size in enumerate(kernel.sizes)]
        buffers = [ctypes.create_string_buffer(copy, len(copy)) for copy in copies]
        packed = (ctypes.c_void_p * max(len(buffers), 1))(*map(ctypes.addressof, buffers))
        pointers = [
            int.from_bytes(c, "little") for c, size in zip(copies, kernel.sizes, strict=True) if size < 0
        ]

        def step(_kept: Any = buffers) -> bool:
            for pointer in pointers:
                self._memory.check(pointer, 0, device, f"kernel {kernel.name}")
            wrong = self._engine.gpu_run(
                kernel.run, packed, grid, block, dynamic, *kernel.shared, kernel.has_barriers
            )
            if wrong:
                raise DoubleError(f"kernel {kernel.name}: {wrong.decode()}")
            return True

        self._scheduler.enqueue(stream, device, f"kernel {kernel.name}", step)


def _check_shape(kernel: Kernel, grid: list[int], block: list[int], dynamic: int) -> None:
    threads = block[0] * block[1] * block[2]
    if not 0 < threads <= MAX_THREADS or block[2] > 64:
        raise DoubleError(
            f"kernel {kernel.name}: a block of {block} threads; at most {MAX_THREADS} are allowed"
        )
    if min(grid) < 1 or max(grid[1:]) > 65535:
        raise DoubleError(f"kernel {kernel.name}: a grid of {grid}; y and z go from 1 to 65535")
    if dynamic > kernel.dynamic_bytes or dynamic + kernel.shared[1] > MAX_SHARED_BYTES:
        raise DoubleError(
            f"kernel {kernel.name}: {dynamic} bytes of shared memory beside {kernel.shared[1]} static; "
            f"{kernel.dynamic_bytes} are allowed: raise max_dynamic_shared_size_bytes"
        )


def compile_kernels(source: Source, names: Sequence[str]) -> Path:
    """The library of the named kernels."""
    import cupy

    text = _DYNAMIC.sub(r"\1 *\2 = reinterpret_cast<\1 *>(gpu_dynamic_shared);", source.text)
    entries = "\n".join(f"GPU_KERNEL({i}, {name})" for i, name in enumerate(names))
    include = Path(cupy.__file__).parent / "_core" / "include"
    options = [option for option in source.options if re.match(r"-[DUI]|--?std=", option)]
    options = [re.sub(r"^--std", "-std", option) for option in options]
    if not any(option.startswith("-std") for option in options):
        options.append("-std=c++17")
    if "complex<" in source.text:
        options.append("-DGPU_COMPLEX")
    return compile_library(
        f"kernel {names[0]}",
        f'#include "gpu_double.h"\n{text}\n{_SHARED_SECTION}{entries}\n',
        ["-O1", "-fpermissive", "-fno-strict-aliasing", f"-I{include}", *options],
        compiler="g++",
    )
