"""Data-parallel training of neural networks on NumPy and MPI.

::

    import distgrad as dg

    t = dg.tensor([1.0, 0.0], requires_grad=True)
    (t * t).sum().backward()
    t.grad                      # tensor([2., 0.])

The package is a namespace of the Python array API standard, 2024.12; what trains hangs off it: ``dg.nn``,
``dg.optim``, ``dg.data``, ``dg.comm``, ``dg.parallel``, ``dg.train``.
"""
# ruff: noqa: E402 (imports behind code: the collector rests while the first of them run)

import gc as _gc
import importlib as _importlib
import math as _math
import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if getattr(_sys, "argv", [])[:1] == ["-m"]:  # Python looks for the module that it was asked to run
    from distgrad_command import start as _start

    _start(_sys.orig_argv, _sys.argv[1:])  # the launcher, which needs nothing of what follows

from distgrad import tracebacks as _tracebacks

_tracebacks.install()  # before what looks at the environment, where mistakes are likely

_collecting = _gc.isenabled()
_gc.disable()  # what importing makes stays: looking through it for garbage takes a tenth of the time
try:
    import numpy as _np

    from distgrad import env as _env
    from distgrad import fft, linalg
    from distgrad.autograd import casting as _casting
    from distgrad.autograd import methods as _methods  # noqa: F401 (attaches the operators)
finally:
    if _collecting:
        _gc.enable()
if _env.is_traced():
    _importlib.import_module("distgrad.profiler.recording").start()

# fmt: off
# isort: off
from distgrad.autograd.casting import autocast, get_autocast_dtype, is_autocast_enabled
from distgrad.autograd.creation import (
    arange, asarray, empty, empty_like, eye, from_dlpack, full, full_like, linspace, ones, ones_like,
    tensor, zeros, zeros_like,
)
from distgrad.autograd.later import PUBLIC as _PUBLIC
from distgrad.autograd.later import attributes as _attributes
from distgrad.autograd.info import __array_namespace_info__, can_cast, finfo, iinfo, isdtype, result_type
from distgrad.autograd.modes import (
    enable_grad, inference_mode, is_grad_enabled, is_inference_mode_enabled, no_grad, set_grad_enabled,
)
from distgrad.autograd.ops.activation import (
    celu, elu, gelu, glu, hardshrink, hardsigmoid, hardswish, hardtanh, leaky_relu, logsigmoid, mish,
    prelu, relu6, rrelu, selu, silu, softplus, softshrink, softsign, tanhshrink, threshold,
)
from distgrad.autograd.ops.adaptive import adaptive_avg_pool, adaptive_max_pool
from distgrad.autograd.ops.attention import scaled_dot_product_attention
from distgrad.autograd.ops.ctc import ctc_loss
from distgrad.autograd.ops.cumulative import cummax, cummin, cumprod, cumsum
from distgrad.autograd.ops.distance import cdist, cosine_similarity, norm, normalize, pairwise_distance
from distgrad.autograd.ops.dropout import alpha_dropout, dropout, feature_alpha_dropout, feature_dropout
from distgrad.autograd.ops.einsum import einsum
from distgrad.autograd.ops.elementwise import (
    abs, add, divide, exp, expm1, hypot, log, log10, log1p, log2, logaddexp, maximum, minimum, multiply,
    negative, positive, pow, reciprocal, relu, sigmoid, sqrt, square, subtract, where,
)
from distgrad.autograd.ops.embedding import embedding
from distgrad.autograd.ops.index import nonzero, take, take_along_axis
from distgrad.autograd.ops.interpolate import channel_shuffle, interpolate, pixel_shuffle, pixel_unshuffle
from distgrad.autograd.ops.linalg import linear, matmul
from distgrad.autograd.ops.linalg_products import tensordot, vecdot
from distgrad.autograd.ops.logic import (
    bitwise_and, bitwise_invert, bitwise_left_shift, bitwise_or, bitwise_right_shift, bitwise_xor, equal,
    greater, greater_equal, isfinite, isinf, isnan, less, less_equal, logical_and, logical_not,
    logical_or, logical_xor, not_equal, signbit,
)
from distgrad.autograd.ops.loss import log_softmax, softmax, softmax_cross_entropy
from distgrad.autograd.ops.margin import (
    cosine_embedding_loss, multi_margin_loss, multilabel_margin_loss, multilabel_soft_margin_loss,
    triplet_margin_loss,
)
from distgrad.autograd.ops.norm import (
    batch_norm, batch_norm_inference, group_norm, instance_norm, layer_norm, rms_norm,
)
from distgrad.autograd.ops.padding import pad
from distgrad.autograd.ops.parts import conj, imag, real
from distgrad.autograd.ops.penalty import (
    binary_cross_entropy, binary_cross_entropy_with_logits, gaussian_nll_loss, hinge_embedding_loss,
    huber_loss, kl_div, margin_ranking_loss, poisson_nll_loss, smooth_l1_loss, soft_margin_loss,
)
from distgrad.autograd.ops.pool import avg_pool, lp_pool, max_pool, max_pool_with_indices, max_unpool
from distgrad.autograd.ops.products import bmm, chunk, kron, split
from distgrad.autograd.ops.reduce import (
    all, any, argmax, argmin, count_nonzero, max, mean, min, prod, std, sum, var,
)
from distgrad.autograd.ops.rounding import (
    ceil, clip, copysign, floor, floor_divide, nextafter, remainder, round, sign, trunc,
)
from distgrad.autograd.ops.scan import cumulative_prod, cumulative_sum, diff
from distgrad.autograd.ops.scatter import (
    gather, index_add, index_select, masked_fill, masked_select, one_hot, scatter_add, topk,
)
from distgrad.autograd.ops.shape import (
    astype, broadcast_arrays, broadcast_to, concat, expand_dims, flip, matrix_transpose, meshgrid,
    moveaxis, permute_dims, repeat, reshape, roll, squeeze, stack, tile, tril, triu, unstack,
)
from distgrad.autograd.ops.sorting import (
    argsort, searchsorted, sort, unique_all, unique_counts, unique_inverse, unique_values,
)
from distgrad.autograd.ops.special import erf, erfc, erfinv, logit, logsumexp, ndtr, xlogy
from distgrad.autograd.ops.statistics import (
    amax, amin, median, nanmax, nanmean, nanmin, nanstd, nansum, nanvar, quantile,
)
from distgrad.autograd.ops.trig import (
    acos, acosh, asin, asinh, atan, atan2, atanh, cos, cosh, sin, sinh, tan, tanh,
)
from distgrad.autograd.ops.windows import fold, sliding_window_view, unfold
from distgrad.autograd.random import (
    bernoulli, multinomial, normal, rand, rand_like, randint, randn, randn_like, randperm,
)
from distgrad.autograd.porting import explain_name as _explain_name
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import Device
from distgrad.backend.device import parse_device as device
from distgrad.backend.precision import get_float32_matmul_precision, set_float32_matmul_precision
from distgrad.backend.rng import Generator, default_generator, manual_seed
from distgrad.backend.threads import get_num_threads, set_num_threads
from distgrad.errors import (
    AxisError, CaptureError, CommError, CommMismatchError, CommTimeoutError, DTypeError, DataError,
    DeviceError,
    DistgradError, GraphError, InPlaceError, LaunchError, MissingDependencyError, MissingMethodError,
    OptionError, OutOfBoundsError, RankFailedError, ShapeError, StateDictError, WorkerError,
)
# isort: on

if _TYPE_CHECKING:
    # isort: off
    from distgrad import (
        amp, autograd, checkpoint, comm, cuda, data, func, hub, nn, optim, parallel, profiler, special, train,
    )
    # isort: on
    from distgrad.checkpoint.files import load, save
    from distgrad.comm.spawn import spawn
    from distgrad.replay.capture import capture

__array_api_version__ = "2024.12"

e, inf, nan, pi, newaxis = _math.e, _math.inf, _math.nan, _math.pi, None

float16, float32, float64 = (_np.dtype(_name) for _name in ("float16", "float32", "float64"))
complex64, complex128 = (_np.dtype(_name) for _name in ("complex64", "complex128"))
int8, int16, int32, int64 = (_np.dtype(_name) for _name in ("int8", "int16", "int32", "int64"))
uint8, uint16, uint32, uint64 = (_np.dtype(_name) for _name in ("uint8", "uint16", "uint32", "uint64"))
bool = _np.dtype("bool")

_ROOMS = (
    *("amp", "autograd", "checkpoint", "comm", "cuda", "data", "func", "hub", "nn", "optim", "parallel"),
    *("profiler", "special", "train"),
)
_FILES = {
    "capture": "replay.capture", "load": "checkpoint.files", "save": "checkpoint.files",
    "spawn": "comm.spawn",
}


def __getattr__(name: str) -> _Any:
    """The rooms that importing the package leaves closed, opened when first asked for."""
    if name in _ROOMS:
        return _importlib.import_module(f"distgrad.{name}")
    if name in _FILES:
        return getattr(_importlib.import_module(f"distgrad.{_FILES[name]}"), name)
    if name == "bfloat16":  # NumPy has none, and the package that has is loaded when asked for
        return _casting.bfloat16()
    if name == "__version__":  # a checkout asks Git, which takes as long as importing all the rest
        globals()[name] = _importlib.import_module("distgrad.version").find_version()
        return globals()[name]
    return _find(name)


_find = _attributes("", _explain_name)  # few programs call them, and many have not to wait for them


def __dir__() -> list[str]:
    names = ("__version__", *globals(), *_ROOMS, *_FILES, *_PUBLIC[""].split())
    return [_name for _name in names if not _name.startswith("_") or _name.startswith("__")]


__all__ = [  # noqa: RUF022 (in alphabetical order)
    "AxisError", "CaptureError", "CommError", "CommMismatchError", "CommTimeoutError", "DTypeError",
    "DataError", "Device", "DeviceError", "DistgradError", "Generator", "GraphError", "InPlaceError",
    "LaunchError", "MissingDependencyError", "MissingMethodError", "OptionError", "OutOfBoundsError",
    "RankFailedError", "ShapeError", "StateDictError", "Tensor", "WorkerError", "__array_api_version__",
    "__array_namespace_info__", "__version__", "abs",
    "acos", "acosh",
    "adaptive_avg_pool", "adaptive_max_pool", "add", "all", "alpha_dropout", "amax", "amin", "amp", "any",
    "arange", "argmax", "argmin", "argsort", "asarray", "asin", "asinh", "astype", "atan", "atan2",
    "atanh", "autocast", "autograd", "avg_pool", "batch_norm", "batch_norm_inference", "bernoulli",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "bitwise_and", "bitwise_invert",
    "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "bmm", "bool",
    "broadcast_arrays", "broadcast_to", "can_cast", "capture", "cdist", "ceil", "celu", "channel_shuffle",
    "checkpoint",
    "chunk",
    "clip", "comm", "complex128", "complex64", "concat", "conj", "copysign", "cos", "cosh",
    "cosine_embedding_loss", "cosine_similarity", "count_nonzero", "ctc_loss", "cuda", "cummax",
    "cummin", "cumprod", "cumsum", "cumulative_prod", "cumulative_sum", "data", "default_generator", "device",
    "diff",
    "divide", "dropout", "e", "einsum", "elu", "embedding", "empty", "empty_like", "enable_grad", "equal",
    "erf", "erfc", "erfinv", "exp", "expand_dims", "expm1", "eye", "feature_alpha_dropout",
    "feature_dropout", "fft", "finfo", "flip",
    "float16", "float32", "float64", "floor", "floor_divide", "fold", "from_dlpack", "full",
    "full_like", "func", "gather", "gaussian_nll_loss", "gelu", "get_autocast_dtype",
    "get_float32_matmul_precision", "get_num_threads", "glu", "greater",
    "greater_equal", "group_norm", "hardshrink", "hardsigmoid", "hardswish", "hardtanh",
    "hinge_embedding_loss", "hub", "huber_loss", "hypot", "iinfo", "imag", "index_add", "index_select", "inf",
    "is_autocast_enabled",
    "inference_mode", "instance_norm", "int16", "int32", "int64", "int8", "interpolate",
    "is_grad_enabled", "is_inference_mode_enabled", "isdtype", "isfinite", "isinf", "isnan", "kl_div",
    "kron", "layer_norm", "leaky_relu", "less", "less_equal", "linalg", "linear", "linspace", "load", "log",
    "log10", "log1p", "log2", "log_softmax", "logaddexp", "logical_and", "logical_not", "logical_or",
    "logical_xor", "logit", "logsigmoid", "logsumexp", "lp_pool", "manual_seed", "margin_ranking_loss",
    "masked_fill", "masked_select", "matmul", "matrix_transpose", "max", "max_pool",
    "max_pool_with_indices", "max_unpool", "maximum", "mean", "median", "meshgrid", "min", "minimum",
    "mish", "moveaxis", "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss",
    "multinomial", "multiply", "nan", "nanmax", "nanmean", "nanmin", "nanstd", "nansum", "nanvar", "ndtr",
    "negative", "newaxis", "nextafter", "nn", "no_grad", "nonzero", "norm", "normal", "normalize",
    "not_equal", "one_hot", "ones", "ones_like", "optim", "pad", "pairwise_distance", "parallel",
    "permute_dims", "pi", "pixel_shuffle", "pixel_unshuffle", "poisson_nll_loss", "positive", "pow",
    "prelu", "prod", "profiler",
    "quantile", "rand", "rand_like", "randint", "randn", "randn_like", "randperm",
    "real", "reciprocal", "relu", "relu6", "remainder", "repeat", "reshape", "result_type", "rms_norm",
    "roll", "round", "rrelu", "save", "scaled_dot_product_attention", "scatter_add", "searchsorted", "selu",
    "set_float32_matmul_precision",
    "set_grad_enabled", "set_num_threads", "sigmoid", "sign", "signbit", "silu", "sin", "sinh",
    "sliding_window_view", "smooth_l1_loss", "soft_margin_loss", "softmax", "softmax_cross_entropy",
    "softplus", "softshrink", "softsign", "sort", "spawn", "special", "split", "sqrt", "square", "squeeze",
    "stack", "std", "subtract", "sum", "take", "take_along_axis", "tan", "tanh", "tanhshrink", "tensor",
    "tensordot", "threshold", "tile", "topk", "train", "tril", "triplet_margin_loss", "triu", "trunc",
    "uint16",
    "uint32", "uint64", "uint8", "unfold", "unique_all", "unique_counts", "unique_inverse", "unique_values",
    "unstack", "var", "vecdot", "where", "xlogy", "zeros", "zeros_like",
]
# fmt: on
