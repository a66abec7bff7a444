"""Doubles of cuBLAS and NCCL: compiled here, loaded before CuPy looks for the real ones."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_double.build import HERE, DoubleError, compile_library
from gpu_double.runtime import Runtime

_STEP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class _Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("num_bytes", ctypes.c_size_t)]


_ENQUEUE = ctypes.CFUNCTYPE(
    *(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p),
    *(ctypes.c_size_t, ctypes.c_int, ctypes.POINTER(_Range)),
)
_DEVICE = ctypes.CFUNCTYPE(ctypes.c_int)
_REFUSE = """
#include <stdio.h>
static int gpu_refuse(const char *name, int status) {
    fprintf(stderr, "the double of a GPU does not carry %s\\n", name);
    return status;
}
"""
_kept: list[Any] = []  # what C points to


def _missing(source: str, prefix: str, module: str) -> list[str]:
    """The functions of a library that a compiled module of CuPy calls and ``source`` does not define."""
    spec = importlib.util.find_spec("cupy_backends")
    folder = Path(spec.submodule_search_locations[0]) / "cuda" / "libs"
    (file,) = folder.glob(f"{module}.*.so")
    listed = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", str(file)], capture_output=True, text=True, check=True
    )
    asked = set(re.findall(rf"\b({prefix}\w+)", listed.stdout))
    expanded = subprocess.run(
        ["gcc", "-E", "-P", f"-I{HERE / 'include'}", "-x", "c", "-"],
        input=source,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted(name for name in asked if not re.search(rf"\b{name}\s*\(", expanded))


def _complete(name: str, prefix: str, refusal: int) -> str:
    """The source ``name.c``, and for what it lacks functions that say so and return ``refusal``."""
    source = (HERE / f"{name}.c").read_text()
    stubs = [
        f'int {function}(void) {{ return gpu_refuse("{function}", {refusal}); }}'
        for function in _missing(source, prefix, name)
    ]
    return "\n".join([source, _REFUSE, *stubs])


def build_cublas() -> Path:
    """The double of cuBLAS, with CUBLAS_STATUS_NOT_SUPPORTED."""
    return _library("libcublas.so.13", _complete("cublas", "cublas", 15), ["-O2"])


def build_cublaslt() -> Path:
    """The double of cuBLASLt, which shares the products of cuBLAS's."""
    source = "\n".join((HERE / f"{name}.c").read_text() for name in ("cublas", "cublaslt"))
    include = '#include "queue.h"\n'
    shown = f"#pragma GCC visibility push(default)\n{include}#pragma GCC visibility pop\n"
    source = source.replace(include, shown)
    return _library("libcublasLt.so.13", source, ["-O2", "-fvisibility=hidden"])


def _library(name: str, source: str, options: list[str]) -> Path:
    """A library that has the real one's name, which cuBLAS makes the version of its symbols too."""
    symbols = ["-Wl,--default-symver"] if "cublas" in name else []
    return compile_library(name, source, [*options, f"-Wl,-soname,{name}", *symbols], file_name=name)


def build_nccl() -> Path:
    """The double of NCCL, with ncclInvalidUsage."""
    return _library("libnccl.so.2", _complete("nccl", "nccl", 5), ["-O2"])


def preload(double: Runtime) -> None:
    """Load them, and let them queue their work on the streams of ``double``."""
    for path in (build_cublaslt(), build_cublas(), build_nccl()):
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        if hasattr(library, "ncclGetLastError"):
            library.ncclGetLastError.restype = ctypes.c_char_p
        _connect(library, double)


def _connect(library: ctypes.CDLL, double: Runtime) -> None:
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    if hasattr(library, "double_begin"):
        library.double_begin.argtypes = [ctypes.c_void_p]

    def enqueue(
        stream: int | None, name: bytes, step: int, work: int, size: int, count: int, ranges: Any
    ) -> int:
        run, device, text = _STEP(step), double.get_device(), name.decode()
        touched = [(ranges[i].start or 0, ranges[i].num_bytes) for i in range(count)]

        def begin(work: int) -> Callable[[], bool]:
            is_checked = False
            if hasattr(library, "double_begin"):
                library.double_begin(work)

            def operation() -> bool:
                nonlocal is_checked
                if not is_checked:
                    for start, num_bytes in touched:
                        double.memory.check(start, num_bytes, device, text)
                    is_checked = True
                result = run(work)
                if result < 0:
                    raise DoubleError(library.ncclGetLastError(None).decode())
                return result > 0

            return operation

        def renew() -> Callable[[], bool]:  # the step frees its work
            copy = malloc(size)
            ctypes.memmove(copy, work, size)
            return begin(copy)

        try:
            captured = double.scheduler.is_capturing(stream or 0, device)
            operation = renew if captured else begin(work)
            double.scheduler.enqueue(stream or 0, device, text, operation, raises=False, renews=captured)
        except Exception:
            traceback.print_exc()
            return 1
        return 0

    callbacks = _ENQUEUE(enqueue), _DEVICE(double.get_device)
    library.double_connect(*(ctypes.cast(callback, ctypes.c_void_p) for callback in callbacks))
    _kept.extend((library, *callbacks))
