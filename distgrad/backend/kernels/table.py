"""Which operations have a fused kernel, and when it runs in place of the plain formula.

A kernel takes what the formula (or gradient) takes, less ``xp``, and returns the same values up to rounding.
It has two bodies of one name: in this folder for NumPy arrays, compiled by Numba, and in ``cuda`` for CuPy's,
in CUDA C. The first runs on arrays that are large enough to pay for the call, the second on all, where a
kernel always costs less than the several that a formula starts. For other dtypes than those listed here, and
where Numba is not installed or does not load, the plain formula runs. A body may also return None: these
arguments (an axis, a layout, an option) are the formula's.

The kernels' modules, and Numba with them, are loaded when one first runs. On the host that call also
compiles it, or loads it from the cache on disk, and has its gradient's compiled meanwhile. CuPy has its own
cache.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from distgrad.backend.array_module import HOST_ARRAYS
from distgrad.backend.kernels.ahead import request
from distgrad.backend.kernels.compiler import has_numba, load_numba
from distgrad.backend.kernels.rules import RULES

__all__ = ["TABLE", "Kernel", "accelerated", "expect", "is_fused", "jobs"]


class Kernel(NamedTuple):
    """Where a kernel stands, and what it is for.

    Args:
        module: file in this package, and in ``cuda``.
        function: its name there.
        smallest: elements of the first array from which it pays on the host.
        dtypes: type characters of the first array on the host; empty where the formula is as good.
        cuda: those on a GPU; E is bfloat16.
    """

    module: str
    function: str
    smallest: int = 1024
    dtypes: str = "fd"
    cuda: str = "fdeE"


#: By operation or optimizer's rule, or by operation, ``/`` and the first input whose gradient it is.
TABLE: dict[str, Kernel] = {
    "gelu": Kernel("activation", "gelu", 256, "f"),
    "gelu/x": Kernel("activation", "gelu_gradient", 256, "f"),
    "silu": Kernel("activation", "silu", 1024, "f"),
    "silu/x": Kernel("activation", "silu_gradient", 1024, "f"),
    "sigmoid": Kernel("activation", "sigmoid", 1024, "f"),
    "relu/x": Kernel("activation", "relu_gradient", 4096),
    "tanh/x": Kernel("activation", "tanh_gradient", 4096),
    "sigmoid/x": Kernel("activation", "sigmoid_gradient", 4096),
    "layer_norm": Kernel("norm", "layer_norm"),
    "layer_norm/x": Kernel("norm", "layer_norm_gradient"),
    "rms_norm": Kernel("norm", "rms_norm"),
    "rms_norm/x": Kernel("norm", "rms_norm_gradient"),
    **{name: Kernel("optimizer", name) for name in RULES},
    "random_mask": Kernel("dropout", "dropout"),
    "random_mask/x": Kernel("dropout", "dropout_gradient"),
    "linear": Kernel("linear", "linear", 1 << 13),
    "linear/weight": Kernel("linear", "linear_gradient", dtypes="", cuda="feE"),
    "convolution": Kernel("conv", "convolution"),
    "convolution/weight": Kernel("conv_weight", "weight_gradient"),
    "convolution/bias": Kernel("conv_weight", "bias_gradient"),
    "convolution_input": Kernel("conv", "convolution_input"),
    "convolution_weight": Kernel("conv", "convolution_weight"),
    "batch_norm_with_statistics": Kernel("batch", "batch_norm"),
    "batch_norm_with_statistics/x": Kernel("batch", "batch_norm_gradient"),
    "running_statistics": Kernel("batch", "move_statistics", dtypes=""),
    "sum_squares": Kernel("reduce", "sum_squares", dtypes=""),
    "clip_by_norm": Kernel("reduce", "clip_by_norm", dtypes=""),
    "unscale": Kernel("reduce", "unscale", dtypes=""),
    "random_bits": Kernel("random", "bits", dtypes="", cuda="L"),
    "random_uniform": Kernel("random", "uniform", dtypes=""),
    "random_normal": Kernel("random", "normal", dtypes=""),
    "group_norm": Kernel("group", "group_norm"),
    "group_norm/x": Kernel("group", "group_norm_gradient"),
    "instance_norm": Kernel("group", "instance_norm"),
    "instance_norm/x": Kernel("group", "instance_norm_gradient"),
    "add_at": Kernel("scatter", "add_at", dtypes=""),
    "embedding/weight": Kernel("embedding", "embedding_gradient"),
    "embedding_weight": Kernel("embedding", "embedding_weight"),
    "embedding_sum": Kernel("embedding", "embedding_sum", 64, dtypes="li", cuda="li"),
    "embedding_sum/weight": Kernel("embedding", "embedding_sum_gradient"),
    "max_pool": Kernel("pool", "max_pool"),
    "max_pool_scatter": Kernel("pool", "max_pool_scatter"),
    "sum_pool": Kernel("pool", "sum_pool"),
    "sum_pool_input": Kernel("pool", "sum_pool_input"),
    "attention": Kernel("attention", "attention", 1024, "f"),
    "attention/query": Kernel("attention", "attention_gradient", 1024, "f"),
    "attention_with_statistics": Kernel("attention", "attention_with_statistics", dtypes="", cuda="eE"),
    "attention_with_statistics/query": Kernel("attention", "gradient_from_statistics", dtypes="", cuda="eE"),
    "lstm_steps": Kernel("recurrent", "lstm_steps", 1, "f"),
    "lstm_steps/from_input": Kernel("recurrent", "lstm_steps_gradient", 1, "f"),
    "lstm_cell": Kernel("recurrent", "lstm_cell", 128, "f"),
    "lstm_cell/from_input": Kernel("recurrent", "lstm_cell_gradient", dtypes=""),
    "gru_cell": Kernel("recurrent", "gru_cell", 128, "f"),
    "gru_cell/from_input": Kernel("recurrent", "gru_cell_gradient", 128, "f"),
    "softmax": Kernel("softmax", "softmax", 512, "f"),
    "softmax/x": Kernel("softmax", "softmax_gradient", 512),
    "log_softmax": Kernel("softmax", "log_softmax", 512, "f"),
    "log_softmax/x": Kernel("softmax", "log_softmax_gradient", 512, "f"),
    "softmax_cross_entropy": Kernel("softmax", "softmax_cross_entropy", 512, "f"),
    "counted_mean": Kernel("softmax", "counted_mean", dtypes=""),
    "counted_mean/losses": Kernel("softmax", "counted_mean_gradient", dtypes=""),
    "softmax_cross_entropy/logits": Kernel("softmax", "softmax_cross_entropy_gradient", 1, "f"),
}


def _first(x: Any) -> Any:
    """The array that decides: of several outputs' gradients the first that there is."""
    return next(each for each in x if each is not None) if x.__class__ is tuple else x


#: Kernels that belong to no operation: of products with vectors, of stacks, of threads, of recorded steps.
_OTHERS = {
    "machine.find_changed": "f", "machine.run": "f", "stack.multiply": "fd", "vectors._columns": "fd",
    "vectors._outer": "fd", "vectors._rows": "fd", "workers._ask": "d", "workers._work": "d",
}  # fmt: skip


def jobs() -> list[tuple[str, str]]:
    """All kernels of the host, each as its file and function, and a dtype of the elements."""
    found = {
        (f"{kernel.module}.{kernel.function}", char)
        for kernel in TABLE.values()
        for char in kernel.dtypes.replace("li", "fd")
    }
    return sorted(found | {(name, char) for name, chars in _OTHERS.items() for char in chars})


def expect(names: Iterable[str], char: str = "f") -> None:
    """Have the kernels of operations compiled that will be called soon.

    Args:
        names: keys of :data:`TABLE`.
        char: the elements' dtype.
    """
    kernels = [TABLE[name] for name in names]
    request([f"{each.module}.{each.function}" for each in kernels if each.dtypes], char)


def _body(kernel: Kernel, folder: str) -> Callable[..., Any]:
    module = importlib.import_module(f"distgrad.backend.kernels.{folder}{kernel.module}")
    function: Callable[..., Any] = getattr(module, kernel.function)
    return function


def accelerated(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The formula or gradient ``plain(xp, x, ...)``, with its kernel in front where there is one.

    Args:
        name: a key of :data:`TABLE`; another returns ``plain`` itself.
        plain: the formula.
    """
    kernel = TABLE.get(name)
    if kernel is None:
        return plain
    smallest = kernel.smallest
    runs: dict[str, Callable[..., Any]] = {}
    cuda: dict[str, Callable[..., Any]] = {}

    def first_run(*args: Any, **kwargs: Any) -> Any:
        if not load_numba():
            runs.clear()
            return None
        char = _first(args[0]).dtype.char
        expect((key for key in TABLE if key.startswith(f"{name}/")), char)
        function = _body(kernel, "")
        result = function(*args, **kwargs)
        runs[char] = function
        return result

    def first_cuda_run(*args: Any, **kwargs: Any) -> Any:
        function = _body(kernel, "cuda.")
        cuda.update(dict.fromkeys(kernel.cuda, function))
        return function(*args, **kwargs)

    runs.update(dict.fromkeys(kernel.dtypes if has_numba() else "", first_run))
    cuda.update(dict.fromkeys(kernel.cuda, first_cuda_run))

    def either(xp: Any, x: Any, /, *args: Any, **kwargs: Any) -> Any:
        first = _first(x)
        if first.__class__ in HOST_ARRAYS:
            if first.size < smallest:
                return plain(xp, x, *args, **kwargs)
            run = runs.get(first.dtype.char)
        elif xp.__name__ == "cupy" and first.__class__ is xp.array_type:
            run = cuda.get(first.dtype.char)
        else:
            return plain(xp, x, *args, **kwargs)
        if run is not None:
            result = run(x, *args, **kwargs)
            if result is not None:
                return result
        return plain(xp, x, *args, **kwargs)

    return functools.update_wrapper(either, plain)


def is_fused(name: str) -> bool:
    """Whether the host computes an operation or rule in one pass, as it does not without Numba."""
    return name in TABLE and bool(TABLE[name].dtypes) and has_numba()
