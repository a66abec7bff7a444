"""Which operations have a fused kernel, and when it runs in place of the plain formula.

A kernel takes what the formula (or gradient) takes, less ``xp``, and returns the same values up to rounding.
It runs on NumPy arrays of the dtypes listed here that are large enough to pay for the call; for all else, and
where Numba is not installed, the plain formula runs. A kernel may also return None: these arguments (an
axis, a layout, an option) are the formula's.

The kernels' modules, and Numba with them, are loaded when one first runs. That call also compiles it, or
loads it from the cache on disk; it holds a lock meanwhile, so that the ranks of a host compile a kernel once.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distgrad.backend.kernels.cache import compiling

__all__ = ["TABLE", "Kernel", "accelerated"]


class Kernel(NamedTuple):
    """Where a kernel stands, and what it is for.

    Args:
        module: file in this package.
        function: its name there.
        smallest: elements of the first array from which it pays.
        dtypes: type characters of the first array.
    """

    module: str
    function: str
    smallest: int = 1024
    dtypes: str = "fd"


#: By operation or optimizer's rule, or by operation, ``/`` and the first input whose gradient it is.
TABLE: dict[str, Kernel] = {
    "gelu": Kernel("activation", "gelu", 256, "f"),
    "gelu/x": Kernel("activation", "gelu_gradient", 256, "f"),
    "silu": Kernel("activation", "silu", 1024, "f"),
    "silu/x": Kernel("activation", "silu_gradient", 1024, "f"),
    "relu/x": Kernel("activation", "relu_gradient", 4096),
    "tanh/x": Kernel("activation", "tanh_gradient", 4096),
    "sigmoid/x": Kernel("activation", "sigmoid_gradient", 4096),
    "layer_norm": Kernel("norm", "layer_norm"),
    "layer_norm/x": Kernel("norm", "layer_norm_gradient"),
    "rms_norm": Kernel("norm", "rms_norm"),
    "rms_norm/x": Kernel("norm", "rms_norm_gradient"),
    "adam": Kernel("optimizer", "adam"),
    "sgd": Kernel("optimizer", "sgd"),
    "linear": Kernel("linear", "linear", 1 << 13),
    "convolution": Kernel("conv", "convolution"),
    "convolution_input": Kernel("conv", "convolution_input"),
    "convolution_weight": Kernel("conv", "convolution_weight"),
    "batch_norm_with_statistics": Kernel("batch", "batch_norm"),
    "batch_norm_with_statistics/x": Kernel("batch", "batch_norm_gradient"),
    "embedding_weight": Kernel("embedding", "embedding_weight"),
    "max_pool": Kernel("pool", "max_pool"),
    "max_pool_scatter": Kernel("pool", "max_pool_scatter"),
    "attention": Kernel("attention", "attention", 1024, "f"),
    "attention/query": Kernel("attention", "attention_gradient", 1024, "f"),
    "softmax": Kernel("softmax", "softmax", 512, "f"),
    "softmax/x": Kernel("softmax", "softmax_gradient", 512),
    "log_softmax": Kernel("softmax", "log_softmax", 512, "f"),
    "log_softmax/x": Kernel("softmax", "log_softmax_gradient", 512, "f"),
    "softmax_cross_entropy": Kernel("softmax", "softmax_cross_entropy", 512, "f"),
    "softmax_cross_entropy/logits": Kernel("softmax", "softmax_cross_entropy_gradient", 1, "f"),
}


@functools.cache
def _numba_is_there() -> bool:
    return importlib.util.find_spec("numba") is not None


def _first(x: Any) -> Any:
    """The array that decides: of several outputs' gradients the first."""
    return x[0] if x.__class__ is tuple else x


def accelerated(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The formula or gradient ``plain(xp, x, ...)``, with its kernel in front where there is one.

    Args:
        name: a key of :data:`TABLE`; another returns ``plain`` itself.
        plain: the formula.
    """
    kernel = TABLE.get(name)
    if kernel is None or not _numba_is_there():
        return plain
    smallest = kernel.smallest
    runs: dict[str, Callable[..., Any]] = {}

    def first_run(*args: Any, **kwargs: Any) -> Any:
        with compiling():
            function = getattr(
                importlib.import_module(f"distgrad.backend.kernels.{kernel.module}"), kernel.function
            )
            result = function(*args, **kwargs)
        runs[_first(args[0]).dtype.char] = function
        return result

    runs.update(dict.fromkeys(kernel.dtypes, first_run))

    def either(xp: Any, x: Any, /, *args: Any, **kwargs: Any) -> Any:
        first = _first(x)
        if first.__class__ is np.ndarray and first.size >= smallest:
            run = runs.get(first.dtype.char)
            if run is not None:
                result = run(x, *args, **kwargs)
                if result is not None:
                    return result
        return plain(xp, x, *args, **kwargs)

    return either
