"""The CuPy backend: arrays and functions on NVIDIA GPUs. Only this file and cublas.py import CuPy.

It is loaded when a ``"cuda"`` device is first asked for. Nothing in it crosses between host and device unless
asked to: an array of the other side in an operation is an error of CuPy's or of the dispatcher's.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad import env, trace
from distgrad.backend.array_module import ArrayModule, register_array_module
from distgrad.backend.cublas import matmul
from distgrad.backend.device import Backend, memory_of
from distgrad.backend.kernels.table import accelerated
from distgrad.backend.lending import Lending
from distgrad.backend.precision import on_precision
from distgrad.errors import DeviceError

try:
    import cupy as cp
except Exception as _error:  # not installed, or installed without its libraries
    _missing: Exception | None = _error
else:
    _missing = None

__all__ = [
    "CudaBackend",
    "loaded_kernel",
    "make_array_module",
    "open_backend",
    "raw_kernel",
]

_INSTALL = 'pip install "distgrad[cuda13]" (CUDA 13 drivers) or "distgrad[cuda12]"'


def open_backend() -> CudaBackend:
    """The backend, once CuPy and a GPU are there; its array module is registered.

    Raises:
        DeviceError: CuPy is not installed, or there is no GPU.
    """
    if _missing is not None:
        raise DeviceError(f"device 'cuda': CuPy is not to be had ({_missing}); install it: {_INSTALL}")
    try:
        count = cp.cuda.runtime.getDeviceCount()
    except cp.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"device 'cuda': CuPy {cp.__version__} finds no GPU ({error}); check nvidia-smi, "
            f"and that the driver fits the CUDA of CuPy: {_INSTALL}"
        ) from None
    if count == 0:
        raise DeviceError("device 'cuda': no GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES")
    backend = CudaBackend(count)
    register_array_module(backend.xp)
    nvtx = getattr(cp.cuda, "nvtx", None)  # CuPy may be built without it
    if nvtx is not None:
        trace.set_ranges((nvtx.RangePush, nvtx.RangePop), env.read().nvtx)
    return backend


# -- kernels


@functools.cache
def raw_kernel(source: str, name: str, options: tuple[str, ...] = ()) -> Any:
    """A kernel from CUDA C as it stands: call it with ``(grid, block, arguments)``.

    It is compiled when first called on a device and kept for that device.

    Args:
        source: CUDA C with an ``extern "C" __global__`` function; or a template, and ``name`` its instance.
        name: of the function.
        options: for the compiler.
    """
    _require()
    if "<" in name:
        return cp.RawModule(code=source, options=options, name_expressions=(name,)).get_function(name)
    return cp.RawKernel(source, name, options=options)


@functools.cache
def loaded_kernel(path: str, name: str) -> Any:
    """A kernel of a compiled file (cubin), which each device loads at its first call."""
    _require()
    return cp.RawModule(path=path).get_function(name)


def _require() -> None:
    if _missing is not None:
        raise DeviceError(f"device 'cuda': CuPy is not to be had ({_missing}); install it: {_INSTALL}")


# -- what CuPy lacks, or does otherwise than formulas expect


def _sum(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None, out: Any = None) -> Any:
    if dtype is None and x.dtype.char in "eE":  # of 16 bits: a sum rounds small terms away, or overflows
        total = x.sum(axis, np.float32, None, keepdims).astype(x.dtype)
        return total if out is None else _copyto(out, total)
    return x.sum(axis, dtype, out, keepdims)


def _add_at(xp: Any, x: Any, indices: Any, values: Any) -> Any:
    """``x[indices] += values`` with repeated indices added up, in place and in any order; returns x."""
    wide = x.astype(np.float32) if x.dtype.char in "eE" else x  # as on the host
    cp.add.at(wide, indices, cp.asarray(values, wide.dtype))
    return x if wide is x else _copyto(x, wide)


def _copyto(x: Any, values: Any) -> Any:
    cp.copyto(x, values, casting="same_kind")
    return x


def _as_strided(x: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    return cp.lib.stride_tricks.as_strided(x, shape, strides)


def _max(x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Any:
    return _extreme(cp.max, cp.maximum, x, axis, keepdims, initial)


def _min(x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Any:
    return _extreme(cp.min, cp.minimum, x, axis, keepdims, initial)


def _extreme(reduce: Any, pick: Any, x: Any, axis: Any, keepdims: bool, initial: Any) -> Any:
    """The reduction with a value to start from, which CuPy's lacks."""
    if initial is None:
        return reduce(x, axis=axis, keepdims=keepdims)
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    if any(x.shape[each] == 0 for each in axes):
        x = cp.full([max(n, 1) if i in axes else n for i, n in enumerate(x.shape)], initial, x.dtype)
    return pick(reduce(x, axis=axis, keepdims=keepdims), x.dtype.type(initial))


def _sort(x: Any, axis: int = -1, stable: bool = True) -> Any:
    return cp.sort(x, axis=axis)  # which is stable


def _argsort(x: Any, axis: int = -1, kind: str | None = None, stable: bool = True) -> Any:
    return cp.argsort(x, axis=axis)  # which is stable


def _argpartition(x: Any, kth: int, axis: int = -1) -> Any:
    return cp.argsort(x, axis=axis)  # CuPy's own sorts too, and then lets the host look at what has come


def _vecdot(x1: Any, x2: Any, axis: int = -1) -> Any:
    return _sum(cp.conj(x1) * x2, axis=axis)


def _var(x: Any, axis: Any = None, correction: float = 0.0, keepdims: bool = False, dtype: Any = None) -> Any:
    return cp.var(x, axis=axis, dtype=dtype, ddof=correction, keepdims=keepdims)


class _Ufunc:
    """A ufunc of CuPy's, with an ``accumulate`` that it lacks, in log₂ n steps."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function(*args, **options)

    def accumulate(self, x: Any, axis: int = 0) -> Any:
        """The running value along an axis."""
        out, step, ahead = x.copy(), 1, (slice(None),) * (axis % x.ndim)
        while step < x.shape[axis]:
            rest = out[(*ahead, slice(step, None))]
            rest[...] = self._function(rest, out[(*ahead, slice(None, -step))].copy())
            step *= 2
        return out


class _Linalg:
    """``cupy.linalg``, and what the array API standard has beyond it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(cp.linalg, name)

    def cholesky(self, x: Any, upper: bool = False) -> Any:
        """The lower factor, or the upper one."""
        y = cp.linalg.cholesky(x)
        return cp.conj(cp.swapaxes(y, -1, -2)) if upper else y

    def solve(self, a: Any, b: Any) -> Any:
        """The solution of ``a y = b`` for stacks that broadcast; ``b`` may be a vector."""
        columns = b[:, None] if b.ndim == 1 else b
        stack = np.broadcast_shapes(a.shape[:-2], columns.shape[:-2])
        both = [cp.broadcast_to(x, (*stack, *x.shape[-2:])) for x in (a, columns)]
        y = cp.linalg.solve(*both)
        return y[..., 0] if b.ndim == 1 else y

    def svdvals(self, x: Any) -> Any:
        """Singular values."""
        return cp.linalg.svd(x, full_matrices=False, compute_uv=False)

    def pinv(self, x: Any, rtol: Any) -> Any:
        """The Moore-Penrose inverse."""
        u, s, vh = cp.linalg.svd(x, full_matrices=False)
        large = s > rtol * _max(s, axis=-1, keepdims=True, initial=0.0)
        inverse = cp.where(large, 1.0 / cp.where(large, s, 1.0), 0.0)
        return cp.matmul(
            cp.conj(cp.swapaxes(vh, -1, -2)), inverse[..., None] * cp.conj(cp.swapaxes(u, -1, -2))
        )

    def diagonal(self, x: Any) -> Any:
        """The main diagonals of matrices."""
        return cp.diagonal(x, axis1=-2, axis2=-1)


def _functions() -> dict[str, Any]:
    functions: dict[str, Any] = {"sum": _sum, "max": _max, "min": _min, "sort": _sort, "argsort": _argsort}
    functions |= {"matmul": matmul, "copyto": _copyto, "as_strided": _as_strided, "linalg": _Linalg()}
    functions["writable_diagonal"] = lambda x, offset: x.diagonal(offset, -2, -1)
    functions |= {"vecdot": _vecdot, "var": _var, "argpartition": _argpartition}
    return functions | {"maximum": _Ufunc(cp.maximum), "minimum": _Ufunc(cp.minimum)}


def make_array_module() -> ArrayModule:
    """CuPy's functions, and those that it lacks; no GPU is needed to ask for them."""
    _require()
    xp = ArrayModule("cupy", cp.ndarray, _functions(), functools.partial(getattr, cp))
    xp.add_formula("add_at", accelerated("add_at", _add_at), replace=True)
    return xp


# -- the backend


def _set_precision(precision: str) -> None:
    """Let cuBLAS take float32 products to the tensor cores, or not."""
    routines = importlib.import_module("cupy._core._routines_linalg")  # CuPy offers it nowhere else
    kind = routines.COMPUTE_TYPE_PEDANTIC if precision == "highest" else routines.COMPUTE_TYPE_TF32
    routines.set_compute_type(np.dtype(np.float32), kind)


def _record() -> Any:
    """An event in the current stream of the active device."""
    return cp.cuda.get_current_stream().record(cp.cuda.Event(disable_timing=True))


class _Thread(threading.local):
    """What each thread has chosen."""

    index: int | None = None


class CudaBackend(Backend):
    """NVIDIA GPUs by CuPy.

    Args:
        count: how many this process sees.
    """

    kind = "cuda"

    def __init__(self, count: int) -> None:
        self._count = count
        self._first = (env.read().local_rank or 0) % count
        self._thread = _Thread()
        self._pool = cp.get_default_memory_pool()
        self._peak: _Peak | None = None
        self._under_way: deque[tuple[Any, Any]] = deque()  # pinned memory, until its copy has arrived
        self._lending = Lending(lambda stream: stream.record(cp.cuda.Event(disable_timing=True)))
        self.xp = make_array_module()
        cp.cuda.runtime.setDevice(self._first)
        on_precision(_set_precision)

    # -- devices

    def device_count(self) -> int:
        return self._count

    def current_index(self) -> int:
        """This rank's own GPU (``LOCAL_RANK`` modulo those visible), or the one that the thread has set."""
        chosen = self._thread.index
        return self._first if chosen is None else chosen

    def set_index(self, index: int) -> None:
        self._thread.index = index
        self.activate(index)

    def index_of(self, array: Any) -> int:
        return int(array.data.device_id)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def activate(self, index: int) -> None:
        cp.cuda.runtime.setDevice(index)

    def active_index(self) -> int:
        return int(cp.cuda.runtime.getDevice())

    def synchronize(self, index: int) -> None:
        cp.cuda.Device(index).synchronize()

    def properties(self, index: int) -> dict[str, Any]:
        """What the driver says of a device."""
        found: dict[str, Any] = cp.cuda.runtime.getDeviceProperties(index)
        return found

    # -- moving arrays

    def from_host(self, array: np.ndarray, index: int, non_blocking: bool = False) -> Any:
        with cp.cuda.Device(index):
            is_pinned = self.is_pinned(array)
            if not (non_blocking and is_pinned and array.flags.c_contiguous and array.size):
                # By way of pinned memory, which CuPy keeps until it is sent; what lies there it sends itself.
                return cp.array(array.copy() if is_pinned else array, order="C")
            out = cp.empty(array.shape, array.dtype)
            out.data.copy_from_host_async(array.ctypes.data, array.nbytes, cp.cuda.get_current_stream())
            self._let_go()
            self._under_way.append((_record(), array))
            return out

    def pin(self, array: np.ndarray) -> np.ndarray:
        self._let_go()
        memory = cp.cuda.alloc_pinned_memory(max(array.nbytes, 1))
        out = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
        np.copyto(out, array)
        return out

    def is_pinned(self, array: np.ndarray) -> bool:
        return isinstance(memory_of(array), cp.cuda.PinnedMemoryPointer)

    def to_host(self, array: Any, non_blocking: bool = False) -> np.ndarray:
        with cp.cuda.Device(self.index_of(array)):
            if not non_blocking:
                return np.asarray(cp.asnumpy(array, order="C"))
            array = cp.ascontiguousarray(array)
            memory = cp.cuda.alloc_pinned_memory(max(array.nbytes, 1))
            out = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
            array.get(out=out, blocking=False)
            self._let_go()
            self._under_way.append((_record(), memory))  # else who takes it next may find this copy in it
            return out

    def _let_go(self) -> None:
        """Give up memory whose copies have arrived and whose streams are done, so that it serves again."""
        self._lending.collect()
        while self._under_way and self._under_way[0][0].done:
            try:
                self._under_way.popleft()
            except IndexError:  # another thread was faster
                return

    def between(self, array: Any, index: int) -> Any:
        source = self.index_of(array)
        with cp.cuda.Device(source):
            array = cp.ascontiguousarray(array)
            ready = _record()
        with cp.cuda.Device(index):
            cp.cuda.get_current_stream().wait_event(ready)
            out = cp.array(array, order="C")
            sent = _record()
        with cp.cuda.Device(source):
            cp.cuda.get_current_stream().wait_event(sent)  # until then nobody gets the array's memory
        return out

    def from_dlpack(self, x: Any, copy: bool | None) -> Any:
        array = x if isinstance(x, cp.ndarray) else cp.from_dlpack(x)
        return array.copy() if copy else array

    def allocate(self, num_bytes: int, index: int) -> Any:
        with cp.cuda.Device(index):
            return cp.empty(num_bytes, np.uint8)

    # -- streams

    def make_stream(self, index: int, priority: int) -> Any:
        with cp.cuda.Device(index):
            return cp.cuda.Stream(non_blocking=True, priority=priority)

    def current_stream(self, index: int) -> Any:
        return cp.cuda.get_current_stream(index)

    def use_stream(self, native: Any, index: int) -> None:
        with cp.cuda.Device(index):
            native.use()

    def make_event(self, timing: bool, index: int) -> Any:
        with cp.cuda.Device(index):
            return cp.cuda.Event(disable_timing=not timing)

    def lend(self, array: Any, native: Any) -> None:
        self._let_go()
        self._lending.lend(array.data.mem, native)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(cp.cuda.get_elapsed_time(start, end))

    # -- memory

    def private_memory(self) -> Callable[[], Any]:
        """What opens memory of its own, of which arrays are made inside, and none outside."""
        return functools.partial(cp.cuda.using_allocator, cp.cuda.MemoryPool().malloc)

    def _index_pool(self, index: int, question: str) -> int:
        with cp.cuda.Device(index):
            return int(getattr(self._pool, question)())

    def used_bytes(self, index: int) -> int:
        """Bytes that arrays hold."""
        return self._index_pool(index, "used_bytes")

    def reserved_bytes(self, index: int) -> int:
        """Bytes that the pool has taken from the driver."""
        return self._index_pool(index, "total_bytes")

    def free_unused(self) -> None:
        """Give what no array holds back to the driver."""
        self._let_go()
        self._pool.free_all_blocks()

    def memory_info(self, index: int) -> tuple[int, int]:
        """Bytes free and in all, as the driver counts."""
        with cp.cuda.Device(index):
            free, total = cp.cuda.runtime.memGetInfo()
        return int(free), int(total)

    def start_peak(self) -> None:
        """Count the most bytes held at a time from now on."""
        self._peak = _Peak(self._pool, {index: self.used_bytes(index) for index in range(self._count)})
        cp.cuda.set_allocator(self._peak.malloc)

    def peak_bytes(self, index: int) -> int:
        """The most since :meth:`start_peak`; before a first one, what the pool has taken from the driver."""
        if self._peak is None:
            return self.reserved_bytes(index)
        return max(self._peak.most.get(index, 0), self._peak.held.get(index, 0))


class _Peak:
    """An allocator that counts what it gives out and gets back, in front of the pool's."""

    def __init__(self, pool: Any, held: dict[int, int]) -> None:
        self.pool = pool
        self.held = dict(held)
        self.most = dict(held)
        self.lock = threading.Lock()

    def malloc(self, num_bytes: int) -> Any:
        """Memory from the pool, counted until it is freed."""
        pointer = self.pool.malloc(num_bytes)
        return cp.cuda.MemoryPointer(_counted_class()(self, pointer), 0)

    def add(self, index: int, num_bytes: int) -> None:
        """Count bytes given out, or got back if below 0."""
        with self.lock:
            held = self.held[index] = self.held.get(index, 0) + num_bytes
            self.most[index] = max(self.most.get(index, 0), held)


@functools.cache
def _counted_class() -> type:
    class Counted(cp.cuda.BaseMemory):
        """Memory that tells the counter when it is freed."""

        def __init__(self, peak: _Peak, pointer: Any) -> None:
            self.ptr, self.size, self.device_id = pointer.ptr, pointer.mem.size, pointer.device_id
            self._pointer, self._peak = pointer, peak
            peak.add(self.device_id, self.size)

        def __del__(self) -> None:
            self._peak.add(self.device_id, -self.size)

    return Counted
