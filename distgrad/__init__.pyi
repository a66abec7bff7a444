"""Signatures for type checkers and editors; written by tests/write_stubs.py."""

# fmt: off
# ruff: noqa
from builtins import bool as _bool
from collections.abc import Sequence as _Sequence
from typing import Any as _Any

import numpy as _np

from distgrad.autograd.tensor import Tensor as _Tensor
from distgrad.backend.rng import Generator as _Generator

_Array = _Tensor | _np.ndarray[_Any, _Any] | _np.generic | complex
_Lengths = int | _Sequence[int]

__array_api_version__: str
__version__: str
bfloat16: _np.dtype[_Any]
bool: _np.dtype[_np.bool]
complex128: _np.dtype[_np.complex128]
complex64: _np.dtype[_np.complex64]
e: float
float16: _np.dtype[_np.float16]
float32: _np.dtype[_np.float32]
float64: _np.dtype[_np.float64]
from distgrad import amp as amp
from distgrad import autograd as autograd
from distgrad import checkpoint as checkpoint
from distgrad import comm as comm
from distgrad import cuda as cuda
from distgrad import data as data
from distgrad import fft as fft
from distgrad import func as func
from distgrad import hub as hub
from distgrad import linalg as linalg
from distgrad import nn as nn
from distgrad import optim as optim
from distgrad import parallel as parallel
from distgrad import profiler as profiler
from distgrad import special as special
from distgrad import train as train
from distgrad.autograd.casting import autocast as autocast
from distgrad.autograd.casting import get_autocast_dtype as get_autocast_dtype
from distgrad.autograd.casting import is_autocast_enabled as is_autocast_enabled
from distgrad.autograd.creation import arange as arange
from distgrad.autograd.creation import asarray as asarray
from distgrad.autograd.creation import empty as empty
from distgrad.autograd.creation import empty_like as empty_like
from distgrad.autograd.creation import eye as eye
from distgrad.autograd.creation import from_dlpack as from_dlpack
from distgrad.autograd.creation import full as full
from distgrad.autograd.creation import full_like as full_like
from distgrad.autograd.creation import linspace as linspace
from distgrad.autograd.creation import ones as ones
from distgrad.autograd.creation import ones_like as ones_like
from distgrad.autograd.creation import tensor as tensor
from distgrad.autograd.creation import zeros as zeros
from distgrad.autograd.creation import zeros_like as zeros_like
from distgrad.autograd.info import __array_namespace_info__ as __array_namespace_info__
from distgrad.autograd.info import can_cast as can_cast
from distgrad.autograd.info import finfo as finfo
from distgrad.autograd.info import iinfo as iinfo
from distgrad.autograd.info import isdtype as isdtype
from distgrad.autograd.info import result_type as result_type
from distgrad.autograd.modes import enable_grad as enable_grad
from distgrad.autograd.modes import inference_mode as inference_mode
from distgrad.autograd.modes import is_grad_enabled as is_grad_enabled
from distgrad.autograd.modes import is_inference_mode_enabled as is_inference_mode_enabled
from distgrad.autograd.modes import no_grad as no_grad
from distgrad.autograd.modes import set_grad_enabled as set_grad_enabled
from distgrad.autograd.random import bernoulli as bernoulli
from distgrad.autograd.random import multinomial as multinomial
from distgrad.autograd.random import normal as normal
from distgrad.autograd.random import rand as rand
from distgrad.autograd.random import rand_like as rand_like
from distgrad.autograd.random import randint as randint
from distgrad.autograd.random import randn as randn
from distgrad.autograd.random import randn_like as randn_like
from distgrad.autograd.random import randperm as randperm
from distgrad.autograd.tensor import Tensor as Tensor
from distgrad.backend.device import Device as Device
from distgrad.backend.device import parse_device as device
from distgrad.backend.precision import get_float32_matmul_precision as get_float32_matmul_precision
from distgrad.backend.precision import set_float32_matmul_precision as set_float32_matmul_precision
from distgrad.backend.rng import Generator as Generator
from distgrad.backend.rng import default_generator as default_generator
from distgrad.backend.rng import manual_seed as manual_seed
from distgrad.backend.threads import get_num_threads as get_num_threads
from distgrad.backend.threads import set_num_threads as set_num_threads
from distgrad.checkpoint.files import load as load
from distgrad.checkpoint.files import save as save
from distgrad.comm.spawn import spawn as spawn
from distgrad.errors import AxisError as AxisError
from distgrad.errors import CaptureError as CaptureError
from distgrad.errors import CommError as CommError
from distgrad.errors import CommMismatchError as CommMismatchError
from distgrad.errors import CommTimeoutError as CommTimeoutError
from distgrad.errors import DTypeError as DTypeError
from distgrad.errors import DataError as DataError
from distgrad.errors import DeviceError as DeviceError
from distgrad.errors import DistgradError as DistgradError
from distgrad.errors import GraphError as GraphError
from distgrad.errors import InPlaceError as InPlaceError
from distgrad.errors import LaunchError as LaunchError
from distgrad.errors import MissingDependencyError as MissingDependencyError
from distgrad.errors import MissingMethodError as MissingMethodError
from distgrad.errors import OptionError as OptionError
from distgrad.errors import OutOfBoundsError as OutOfBoundsError
from distgrad.errors import RankFailedError as RankFailedError
from distgrad.errors import ShapeError as ShapeError
from distgrad.errors import StateDictError as StateDictError
from distgrad.errors import WorkerError as WorkerError
from distgrad.replay.capture import capture as capture
inf: float
int16: _np.dtype[_np.int16]
int32: _np.dtype[_np.int32]
int64: _np.dtype[_np.int64]
int8: _np.dtype[_np.int8]
nan: float
newaxis: None
pi: float
uint16: _np.dtype[_np.uint16]
uint32: _np.dtype[_np.uint32]
uint64: _np.dtype[_np.uint64]
uint8: _np.dtype[_np.uint8]

__all__ = [
    "AxisError",
    "CaptureError",
    "CommError",
    "CommMismatchError",
    "CommTimeoutError",
    "DTypeError",
    "DataError",
    "Device",
    "DeviceError",
    "DistgradError",
    "Generator",
    "GraphError",
    "InPlaceError",
    "LaunchError",
    "MissingDependencyError",
    "MissingMethodError",
    "OptionError",
    "OutOfBoundsError",
    "RankFailedError",
    "ShapeError",
    "StateDictError",
    "Tensor",
    "WorkerError",
    "__array_api_version__",
    "__array_namespace_info__",
    "__version__",
    "abs",
    "acos",
    "acosh",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "add",
    "all",
    "alpha_dropout",
    "amax",
    "amin",
    "amp",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "asarray",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "autocast",
    "autograd",
    "avg_pool",
    "batch_norm",
    "batch_norm_inference",
    "bernoulli",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "bmm",
    "bool",
    "broadcast_arrays",
    "broadcast_to",
    "can_cast",
    "capture",
    "cdist",
    "ceil",
    "celu",
    "channel_shuffle",
    "checkpoint",
    "chunk",
    "clip",
    "comm",
    "complex128",
    "complex64",
    "concat",
    "conj",
    "copysign",
    "cos",
    "cosh",
    "cosine_embedding_loss",
    "cosine_similarity",
    "count_nonzero",
    "ctc_loss",
    "cuda",
    "cummax",
    "cummin",
    "cumprod",
    "cumsum",
    "cumulative_prod",
    "cumulative_sum",
    "data",
    "default_generator",
    "device",
    "diff",
    "divide",
    "dropout",
    "e",
    "einsum",
    "elu",
    "embedding",
    "empty",
    "empty_like",
    "enable_grad",
    "equal",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "feature_alpha_dropout",
    "feature_dropout",
    "fft",
    "finfo",
    "flip",
    "float16",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "fold",
    "from_dlpack",
    "full",
    "full_like",
    "func",
    "gather",
    "gaussian_nll_loss",
    "gelu",
    "get_autocast_dtype",
    "get_float32_matmul_precision",
    "get_num_threads",
    "glu",
    "greater",
    "greater_equal",
    "group_norm",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "hub",
    "huber_loss",
    "hypot",
    "iinfo",
    "imag",
    "index_add",
    "index_select",
    "inf",
    "is_autocast_enabled",
    "inference_mode",
    "instance_norm",
    "int16",
    "int32",
    "int64",
    "int8",
    "interpolate",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "isdtype",
    "isfinite",
    "isinf",
    "isnan",
    "kl_div",
    "kron",
    "layer_norm",
    "leaky_relu",
    "less",
    "less_equal",
    "linalg",
    "linear",
    "linspace",
    "load",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_softmax",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logit",
    "logsigmoid",
    "logsumexp",
    "lp_pool",
    "manual_seed",
    "margin_ranking_loss",
    "masked_fill",
    "masked_select",
    "matmul",
    "matrix_transpose",
    "max",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "maximum",
    "mean",
    "median",
    "meshgrid",
    "min",
    "minimum",
    "mish",
    "moveaxis",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "multinomial",
    "multiply",
    "nan",
    "nanmax",
    "nanmean",
    "nanmin",
    "nanstd",
    "nansum",
    "nanvar",
    "ndtr",
    "negative",
    "newaxis",
    "nextafter",
    "nn",
    "no_grad",
    "nonzero",
    "norm",
    "normal",
    "normalize",
    "not_equal",
    "one_hot",
    "ones",
    "ones_like",
    "optim",
    "pad",
    "pairwise_distance",
    "parallel",
    "permute_dims",
    "pi",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "positive",
    "pow",
    "prelu",
    "prod",
    "profiler",
    "quantile",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "real",
    "reciprocal",
    "relu",
    "relu6",
    "remainder",
    "repeat",
    "reshape",
    "result_type",
    "rms_norm",
    "roll",
    "round",
    "rrelu",
    "save",
    "scaled_dot_product_attention",
    "scatter_add",
    "searchsorted",
    "selu",
    "set_float32_matmul_precision",
    "set_grad_enabled",
    "set_num_threads",
    "sigmoid",
    "sign",
    "signbit",
    "silu",
    "sin",
    "sinh",
    "sliding_window_view",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "softshrink",
    "softsign",
    "sort",
    "spawn",
    "special",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tanhshrink",
    "tensor",
    "tensordot",
    "threshold",
    "tile",
    "topk",
    "train",
    "tril",
    "triplet_margin_loss",
    "triu",
    "trunc",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
    "unfold",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unstack",
    "var",
    "vecdot",
    "where",
    "xlogy",
    "zeros",
    "zeros_like",
    "corrcoef",
    "cov",
    "deg2rad",
    "exp2",
    "float_power",
    "fmax",
    "fmin",
    "fmod",
    "frexp",
    "gradient",
    "heaviside",
    "ldexp",
    "logaddexp2",
    "nan_to_num",
    "rad2deg",
    "sinc",
    "trapezoid",
    "vander",
]

def abs(x: _Array, /) -> _Tensor:
    """Absolute value; the gradient at 0 is 0."""
def acos(x: _Array, /) -> _Tensor:
    """The angle in [0, π] whose cosine is x."""
def acosh(x: _Array, /) -> _Tensor:
    """The number from 0 on whose hyperbolic cosine is x."""
def adaptive_avg_pool(x: _Array, /, output_size: _Any) -> _Tensor:
    """Means of windows that cover each spatial axis evenly."""
def adaptive_max_pool(x: _Array, /, output_size: _Any) -> tuple[_Tensor, _Tensor]:
    """Largest elements of windows that cover each spatial axis evenly, and their indices."""
def add(x1: _Array, x2: _Array, /) -> _Tensor:
    """Sum of two arrays."""
def all(x: _Array, /, axis: _Lengths | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Whether all elements are true (not 0)."""
def alpha_dropout(x: _Array, /, p: float = ..., training: _bool = ..., *, generator: _Generator | None = ...) -> _Tensor:
    """Dropout for ``selu``: random elements take its lowest value; mean 0 and variance 1 stay."""
def amax(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ...) -> _Tensor:
    """Largest element over axes; elements that tie share the gradient evenly."""
def amin(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ...) -> _Tensor:
    """Smallest element over axes; elements that tie share the gradient evenly."""
def any(x: _Array, /, axis: _Lengths | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Whether any element is true (not 0)."""
def argmax(x: _Array, /, axis: int | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Index of the largest element, the first of several; into the flattened array for ``axis=None``."""
def argmin(x: _Array, /, axis: int | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Index of the smallest element, the first of several; into the flattened array for ``axis=None``."""
def argsort(x: _Array, /, axis: int = ..., *, descending: _bool = ..., stable: _bool = ...) -> _Tensor:
    """The indices that bring an array in order along an axis; arguments as in ``sort``."""
def asin(x: _Array, /) -> _Tensor:
    """The angle in [−π/2, π/2] whose sine is x."""
def asinh(x: _Array, /) -> _Tensor:
    """The number whose hyperbolic sine is x."""
def astype(x: _Array, dtype: _Any, /, *, copy: _bool = ..., device: _Any = ...) -> _Tensor:
    """The array converted."""
def atan(x: _Array, /) -> _Tensor:
    """The angle in (−π/2, π/2) whose tangent is x."""
def atan2(x1: _Array, x2: _Array, /) -> _Tensor:
    """The angle in [−π, π] of the point with ordinate ``x1`` and abscissa ``x2``."""
def atanh(x: _Array, /) -> _Tensor:
    """The number whose hyperbolic tangent is x."""
def avg_pool(x: _Array, /, kernel_size: _Any, stride: _Any = ..., padding: _Any = ..., ceil_mode: _bool = ..., count_include_pad: _bool = ..., divisor_override: int | None = ...) -> _Tensor:
    """Mean of each window."""
def batch_norm(x: _Array, weight: _Array | None = ..., bias: _Array | None = ..., /, *, eps: float = ...) -> _Tensor:
    """Each channel brought to mean 0 and variance 1 over the batch, then scaled and shifted."""
def batch_norm_inference(x: _Array, mean: _Array, var: _Array, weight: _Array | None = ..., bias: _Array | None = ..., /, *, eps: float = ...) -> _Tensor:
    """Batch norm with a given mean and variance."""
def binary_cross_entropy(x: _Array, target: _Array, /) -> _Tensor:
    """Cross entropy of a probability with a target in [0, 1]; logarithms stop at −100."""
def binary_cross_entropy_with_logits(x: _Array, target: _Array, pos_weight: _Array | None = ..., /) -> _Tensor:
    """Cross entropy of the logistic function of ``x`` with a target in [0, 1]."""
def bitwise_and(x1: _Array, x2: _Array, /) -> _Tensor:
    """The bits that both elements have."""
def bitwise_invert(x: _Array, /) -> _Tensor:
    """Every bit turned; of booleans, the negation."""
def bitwise_left_shift(x1: _Array, x2: _Array, /) -> _Tensor:
    """Bits moved towards the large end."""
def bitwise_or(x1: _Array, x2: _Array, /) -> _Tensor:
    """The bits that either element has."""
def bitwise_right_shift(x1: _Array, x2: _Array, /) -> _Tensor:
    """Bits moved towards the small end; the sign stays."""
def bitwise_xor(x1: _Array, x2: _Array, /) -> _Tensor:
    """The bits that exactly one of the elements has."""
def bmm(x1: _Array, x2: _Array, /) -> _Tensor:
    """Matrix products of two stacks of one length, ``[B, N, K]`` and ``[B, K, M]``."""
def broadcast_arrays(*arrays: _Array) -> list[_Tensor]:
    """The arrays, each broadcast to the shape that all of them fit, as views that cannot be written."""
def broadcast_to(x: _Array, /, shape: _Sequence[int]) -> _Tensor:
    """The array repeated along new axes and axes of length 1, as a view that cannot be written."""
def cdist(x1: _Array, x2: _Array, /, p: float = ...) -> _Tensor:
    """Distance of every row of one matrix to every row of another."""
def ceil(x: _Array, /) -> _Tensor:
    """The smallest whole number that is not below; the gradient is 0."""
def celu(x: _Array, /, *, alpha: float = ...) -> _Tensor:
    """Exponential linear unit whose slope is continuous for every ``alpha``."""
def channel_shuffle(x: _Array, /, groups: int) -> _Tensor:
    """Channels of all groups taken in turn, ``[N, C, *]``."""
def chunk(x: _Array, /, chunks: int, axis: int = ...) -> tuple[_Tensor, ...]:
    """An array cut into at most ``chunks`` parts of one length along an axis; the last may be shorter."""
def clip(x: _Array, /, min: _Array | None = ..., max: _Array | None = ...) -> _Tensor:
    """Every element brought between two bounds; at a bound the gradient goes to ``x``."""
def concat(arrays: _Sequence[_Array], /, axis: int | None = ...) -> _Tensor:
    """Arrays joined along an axis that they have; ``axis=None`` flattens them first."""
def conj(x: _Array, /) -> _Tensor:
    """The complex conjugate; a real array as it is."""
def copysign(x1: _Array, x2: _Array, /) -> _Tensor:
    """The first's magnitude with the second's sign."""
def corrcoef(x: _Array, /) -> _Tensor:
    """Pearson's correlations of variables, which are rows."""
def cos(x: _Array, /) -> _Tensor:
    """The cosine."""
def cosh(x: _Array, /) -> _Tensor:
    """The hyperbolic cosine."""
def cosine_embedding_loss(x1: _Array, x2: _Array, target: _Array, /, *, margin: float = ...) -> _Tensor:
    """How far vectors are from pointing the same way, or apart."""
def cosine_similarity(x1: _Array, x2: _Array, /, axis: int = ..., eps: float = ...) -> _Tensor:
    """Cosine of the angle between vectors along an axis of the shape to which both are broadcast."""
def count_nonzero(x: _Array, /, axis: _Lengths | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """How many elements are not 0."""
def cov(x: _Array, /, *, correction: float = ..., fweights: _Any = ..., aweights: _Any = ...) -> _Tensor:
    """Covariances of variables, which are rows; an observation is a column."""
def ctc_loss(log_probs: _Array, /, targets: _Any, input_lengths: _Any, target_lengths: _Any, *, blank: int = ..., zero_infinity: _bool = ...) -> _Tensor:
    """Negative log-likelihood of label sequences of unknown alignment."""
def cummax(x: _Array, /, axis: int) -> tuple[_Tensor, _Tensor]:
    """Running maximum along an axis."""
def cummin(x: _Array, /, axis: int) -> tuple[_Tensor, _Tensor]:
    """Running minimum along an axis."""
def cumprod(x: _Array, /, axis: int | None = ...) -> _Tensor:
    """Running product along an axis; None flattens first."""
def cumsum(x: _Array, /, axis: int | None = ...) -> _Tensor:
    """Running sum along an axis; None flattens first."""
def cumulative_prod(x: _Array, /, axis: int | None = ..., *, dtype: _Any = ..., include_initial: _bool = ...) -> _Tensor:
    """Running products along an axis; arguments as in ``cumulative_sum``, and it starts with a 1."""
def cumulative_sum(x: _Array, /, axis: int | None = ..., *, dtype: _Any = ..., include_initial: _bool = ...) -> _Tensor:
    """Running sums along an axis."""
def deg2rad(x: _Array, /) -> _Tensor:
    """Degrees as radians."""
def diff(x: _Array, /, n: int = ..., axis: int = ..., *, prepend: _Any = ..., append: _Any = ...) -> _Tensor:
    """Differences of neighbours along an axis."""
def divide(x1: _Array, x2: _Array, /) -> _Tensor:
    """Quotient of two arrays."""
def dropout(x: _Array, /, p: float = ..., training: _bool = ..., *, generator: _Generator | None = ...) -> _Tensor:
    """Random elements set to 0, the others scaled so that the mean stays."""
def einsum(*operands: _Any, optimize: _Any = ...) -> _Tensor:
    """Sum of products over labelled axes, with NumPy's subscripts."""
def elu(x: _Array, /, *, alpha: float = ...) -> _Tensor:
    """Exponential linear unit."""
def embedding(index: _Array, weight: _Array, /, *, padding_idx: int | None = ...) -> _Tensor:
    """Rows of a table."""
def equal(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether elements are equal."""
def erf(x: _Array, /) -> _Tensor:
    """The error function."""
def erfc(x: _Array, /) -> _Tensor:
    """The complementary error function, exact in the upper tail."""
def erfinv(x: _Array, /) -> _Tensor:
    """The inverse of the error function; ±∞ at ±1, NaN beyond."""
def exp(x: _Array, /) -> _Tensor:
    """The exponential."""
def exp2(x: _Array, /) -> _Tensor:
    """Two to the power of the array."""
def expand_dims(x: _Array, /, axis: int | _Sequence[int] = ...) -> _Tensor:
    """New axes of length 1, as a view; ``axis`` counts in the result."""
def expm1(x: _Array, /) -> _Tensor:
    """The exponential less one, exact near 0."""
def feature_alpha_dropout(x: _Array, /, p: float = ..., training: _bool = ..., *, generator: _Generator | None = ...) -> _Tensor:
    """Dropout for ``selu``: random channels take its lowest value as a whole; mean 0 and variance 1 stay."""
def feature_dropout(x: _Array, /, p: float = ..., training: _bool = ..., *, generator: _Generator | None = ...) -> _Tensor:
    """Random channels set to 0 as a whole, the others scaled so that the mean stays."""
def flip(x: _Array, /, axis: int | _Sequence[int] | None = ...) -> _Tensor:
    """The order turned along axes (all for None), as a view."""
def float_power(x1: _Array, x2: _Array, /) -> _Tensor:
    """A power computed in float64 (complex128 of complex numbers), whatever the inputs are."""
def floor(x: _Array, /) -> _Tensor:
    """The largest whole number that is not above; the gradient is 0."""
def floor_divide(x1: _Array, x2: _Array, /) -> _Tensor:
    """The quotient rounded down; where either is infinite, the quotient itself. The gradient is 0."""
def fmax(x1: _Array, x2: _Array, /) -> _Tensor:
    """The larger of two arrays, or the one that is no NaN; equal ones give the gradient to the first."""
def fmin(x1: _Array, x2: _Array, /) -> _Tensor:
    """The smaller of two arrays, or the one that is no NaN; equal ones give the gradient to the first."""
def fmod(x1: _Array, x2: _Array, /) -> _Tensor:
    """What division towards 0 leaves over; it has the dividend's sign."""
def fold(x: _Array, /, output_size: _Sequence[int], kernel_size: _Any, dilation: _Any = ..., padding: _Any = ..., stride: _Any = ...) -> _Tensor:
    """Columns added up to images: the transpose of :func:`unfold`."""
def frexp(x: _Array, /) -> tuple[_Tensor, _Tensor]:
    """Numbers as mantissa and power of two."""
def gather(x: _Array, /, axis: int, index: _Array) -> _Tensor:
    """One element an index, along an axis."""
def gaussian_nll_loss(x: _Array, target: _Array, var: _Array, /, *, full: _bool = ..., eps: float = ...) -> _Tensor:
    """Negative log-likelihood under a normal distribution."""
def gelu(x: _Array, /, *, approximate: str = ...) -> _Tensor:
    """Gaussian error linear unit."""
def glu(x: _Array, /, axis: int = ...) -> _Tensor:
    """One half of an axis gated by the other."""
def gradient(x: _Array, /, *, spacing: _Any = ..., axis: _Any = ..., edge_order: int = ...) -> _Any:
    """Derivatives along axes of a function given by its values."""
def greater(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether elements of the first are larger."""
def greater_equal(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether elements of the first are larger or equal."""
def group_norm(x: _Array, weight: _Array | None = ..., bias: _Array | None = ..., /, *, num_groups: int, eps: float = ...) -> _Tensor:
    """Each sample's groups of channels brought to mean 0 and variance 1, then scaled and shifted."""
def hardshrink(x: _Array, /, *, lambd: float = ...) -> _Tensor:
    """Sets small elements to 0."""
def hardsigmoid(x: _Array, /) -> _Tensor:
    """The logistic function in three straight pieces."""
def hardswish(x: _Array, /) -> _Tensor:
    """Swish with the logistic function in straight pieces."""
def hardtanh(x: _Array, /, *, min_val: float = ..., max_val: float = ...) -> _Tensor:
    """Linear between two values; the gradient at the ends is 0."""
def heaviside(x1: _Array, x2: _Array, /) -> _Tensor:
    """The step function, without a gradient."""
def hinge_embedding_loss(x: _Array, target: _Array, /, *, margin: float = ...) -> _Tensor:
    """A distance where two things are alike, the lack of one where they differ."""
def huber_loss(x: _Array, target: _Array, /, *, delta: float = ...) -> _Tensor:
    """Squared error near 0, absolute error beyond ``delta``."""
def hypot(x1: _Array, x2: _Array, /) -> _Tensor:
    """The length of a right triangle's longest side; the gradient at (0, 0) is 0."""
def imag(x: _Array, /) -> _Tensor:
    """The imaginary part of a complex array, as a view."""
def index_add(x: _Array, /, axis: int, index: _Array, source: _Array, *, alpha: float = ...) -> _Tensor:
    """``x`` with parts of ``source`` added to the parts of an axis that ``index`` names."""
def index_select(x: _Array, /, axis: int, index: _Array) -> _Tensor:
    """Parts of an axis, in any order."""
def instance_norm(x: _Array, weight: _Array | None = ..., bias: _Array | None = ..., /, *, eps: float = ...) -> _Tensor:
    """Each sample's channels brought to mean 0 and variance 1, then scaled and shifted."""
def interpolate(x: _Array, /, size: _Any = ..., scale_factor: _Any = ..., mode: str = ..., align_corners: _bool = ...) -> _Tensor:
    """Images at another size."""
def isfinite(x: _Array, /) -> _Tensor:
    """Whether elements are neither infinite nor NaN."""
def isinf(x: _Array, /) -> _Tensor:
    """Whether elements are infinite, of either sign."""
def isnan(x: _Array, /) -> _Tensor:
    """Whether elements are NaN."""
def kl_div(x: _Array, target: _Array, /, *, log_target: _bool = ...) -> _Tensor:
    """Terms of the divergence of a target distribution from a prediction."""
def kron(x1: _Array, x2: _Array, /) -> _Tensor:
    """Kronecker product: each element of the first times the whole second."""
def layer_norm(x: _Array, weight: _Array | None = ..., bias: _Array | None = ..., /, *, normalized_shape: _Sequence[int], eps: float = ...) -> _Tensor:
    """Each sample's last axes brought to mean 0 and variance 1, then scaled and shifted."""
def ldexp(x1: _Array, x2: _Array, /) -> _Tensor:
    """The array times a power of two, in the array's dtype."""
def leaky_relu(x: _Array, /, *, negative_slope: float = ...) -> _Tensor:
    """Rectifier with a small slope below 0."""
def less(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether elements of the first are smaller."""
def less_equal(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether elements of the first are smaller or equal."""
def linear(x: _Array, weight: _Array, bias: _Array | None = ..., /) -> _Tensor:
    """An affine map of the last axis."""
def log(x: _Array, /) -> _Tensor:
    """The natural logarithm."""
def log10(x: _Array, /) -> _Tensor:
    """The logarithm to base 10."""
def log1p(x: _Array, /) -> _Tensor:
    """The natural logarithm of one plus the array, exact near 0."""
def log2(x: _Array, /) -> _Tensor:
    """The logarithm to base 2."""
def log_softmax(x: _Array, /, axis: int = ...) -> _Tensor:
    """Logarithm of the softmax, without its over- and underflow."""
def logaddexp(x1: _Array, x2: _Array, /) -> _Tensor:
    """The logarithm of the sum of two exponentials."""
def logaddexp2(x1: _Array, x2: _Array, /) -> _Tensor:
    """The logarithm to base 2 of the sum of two powers of 2."""
def logical_and(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether both elements are true (not 0)."""
def logical_not(x: _Array, /) -> _Tensor:
    """Whether elements are false (0)."""
def logical_or(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether either element is true (not 0)."""
def logical_xor(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether exactly one of the elements is true (not 0)."""
def logit(x: _Array, /) -> _Tensor:
    """The inverse of the logistic function."""
def logsigmoid(x: _Array, /) -> _Tensor:
    """Logarithm of the logistic function."""
def logsumexp(x: _Array, /, axis: _Lengths | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Logarithm of the sum of exponentials, without their over- and underflow."""
def lp_pool(x: _Array, /, norm_type: float, kernel_size: _Any, stride: _Any = ..., ceil_mode: _bool = ...) -> _Tensor:
    """Power mean of each window, times its length to the same power; at 0 the gradient is 0."""
def margin_ranking_loss(x1: _Array, x2: _Array, target: _Array, /, *, margin: float = ...) -> _Tensor:
    """How far two scores are from the order wanted."""
def masked_fill(x: _Array, mask: _Array, value: _Array, /) -> _Tensor:
    """Elements replaced by one value where a mask is true."""
def masked_select(x: _Array, mask: _Array, /) -> _Tensor:
    """The elements for which a mask is true, as one axis."""
def matmul(x1: _Array, x2: _Array, /) -> _Tensor:
    """Matrix product over the last two axes; vectors count as a row on the left, a column on the right."""
def matrix_transpose(x: _Array, /) -> _Tensor:
    """Matrices turned over, as a view."""
def max(x: _Array, /, axis: _Lengths | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Largest element over axes; elements that tie share the gradient evenly."""
def max_pool(x: _Array, /, *, kernel_size: _Lengths, stride: _Lengths, padding: _Lengths, dilation: _Lengths, ceil_mode: _bool = ...) -> _Tensor:
    """Largest element of each window."""
def max_pool_with_indices(x: _Array, /, kernel_size: _Any, stride: _Any = ..., padding: _Any = ..., dilation: _Any = ..., ceil_mode: _bool = ...) -> tuple[_Tensor, _Tensor]:
    """Largest element of each window, and its index in the channel's flattened plane."""
def max_unpool(x: _Array, index: _Array, /, output_size: _Lengths) -> _Tensor:
    """Elements put back to where :func:`max_pool_with_indices` took them from."""
def maximum(x1: _Array, x2: _Array, /) -> _Tensor:
    """The larger of two arrays; where they are equal each gets half of the gradient."""
def mean(x: _Array, /, axis: _Lengths | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Mean over axes; of no elements it is NaN, as NumPy's and PyTorch's."""
def median(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ...) -> _Tensor:
    """The element in the middle; NaN if one of them is."""
def meshgrid(*arrays: _Array, indexing: str = ...) -> list[_Tensor]:
    """Coordinate arrays of a grid."""
def min(x: _Array, /, axis: _Lengths | None = ..., *, keepdims: _bool = ...) -> _Tensor:
    """Smallest element over axes; elements that tie share the gradient evenly."""
def minimum(x1: _Array, x2: _Array, /) -> _Tensor:
    """The smaller of two arrays; where they are equal each gets half of the gradient."""
def mish(x: _Array, /) -> _Tensor:
    """Self-regularised smooth activation."""
def moveaxis(x: _Array, source: int | _Sequence[int], destination: int | _Sequence[int], /) -> _Tensor:
    """Some axes moved to other places, the rest in their order, as a view."""
def multi_margin_loss(x: _Array, target: _Array, weight: _Array | None = ..., /, *, p: int = ..., margin: float = ...) -> _Tensor:
    """How far the target's score is from leading all others."""
def multilabel_margin_loss(x: _Array, target: _Array, /) -> _Tensor:
    """How far the targets' scores are from leading all others by 1."""
def multilabel_soft_margin_loss(x: _Array, target: _Array, weight: _Array | None = ..., /) -> _Tensor:
    """Mean over classes of each class's own logistic loss."""
def multiply(x1: _Array, x2: _Array, /) -> _Tensor:
    """Product of two arrays, an element at a time."""
def nan_to_num(x: _Array, /, nan: float | None = ..., posinf: float | None = ..., neginf: float | None = ...) -> _Tensor:
    """Numbers in the places of NaN and infinities, where the gradient is 0."""
def nanmax(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ...) -> _Tensor:
    """Largest element over axes without NaN; NaN where there is nothing else."""
def nanmean(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ...) -> _Tensor:
    """Mean over axes without NaN; NaN where there is nothing else."""
def nanmin(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ...) -> _Tensor:
    """Smallest element over axes without NaN; NaN where there is nothing else."""
def nanstd(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ..., *, correction: float = ...) -> _Tensor:
    """Standard deviation over axes without NaN, with gradient 0 where it is 0; arguments as in nanvar."""
def nansum(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ...) -> _Tensor:
    """Sum over axes; NaN counts as 0."""
def nanvar(x: _Array, /, axis: _Lengths | None = ..., keepdims: _bool = ..., *, correction: float = ...) -> _Tensor:
    """Variance over axes without NaN; NaN where too few numbers are left."""
def ndtr(x: _Array, /) -> _Tensor:
    """The normal distribution's cumulative function, exact in the lower tail."""
def negative(x: _Array, /) -> _Tensor:
    """The array with its sign turned."""
def nextafter(x1: _Array, x2: _Array, /) -> _Tensor:
    """The number of this dtype that follows the first in the direction of the second."""
def nonzero(x: _Array, /) -> tuple[_Tensor, ...]:
    """Where elements are not 0: their indices, an array an axis, in row order."""
def norm(x: _Array, /, ord: _Any = ..., axis: _Lengths | None = ..., keepdims: _bool = ...) -> _Tensor:
    """Norm of vectors or matrices, with NumPy's arguments."""
def normalize(x: _Array, /, p: float = ..., axis: int = ..., eps: float = ...) -> _Tensor:
    """Vectors brought to norm 1; shorter ones than ``eps`` are divided by ``eps``."""
def not_equal(x1: _Array, x2: _Array, /) -> _Tensor:
    """Whether elements differ."""
def one_hot(x: _Array, /, num_classes: int = ..., *, dtype: _Any = ...) -> _Tensor:
    """A one at each class number, zeros elsewhere, on a new last axis."""
def pad(x: _Array, /, pad_width: _Any, mode: str = ..., *, constant_values: _Any = ...) -> _Tensor:
    """Elements added around an array, with NumPy's arguments."""
def pairwise_distance(x1: _Array, x2: _Array, /, p: float = ..., eps: float = ..., keepdims: _bool = ...) -> _Tensor:
    """Distance of each vector of the last axis to its counterpart."""
def permute_dims(x: _Array, /, axes: _Sequence[int]) -> _Tensor:
    """The axes in another order, as a view."""
def pixel_shuffle(x: _Array, /, upscale_factor: int) -> _Tensor:
    """Channels spread over space: ``[..., C r², H, W]`` becomes ``[..., C, H r, W r]``."""
def pixel_unshuffle(x: _Array, /, downscale_factor: int) -> _Tensor:
    """Space gathered into channels: ``[..., C, H r, W r]`` becomes ``[..., C r², H, W]``."""
def poisson_nll_loss(x: _Array, target: _Array, /, *, log_input: _bool = ..., full: _bool = ..., eps: float = ...) -> _Tensor:
    """Negative log-likelihood of counts under a Poisson distribution."""
def positive(x: _Array, /) -> _Tensor:
    """A copy."""
def pow(x1: _Array, x2: _Array, /) -> _Tensor:
    """``x1`` to the power of ``x2``."""
def prelu(x: _Array, weight: _Array, /) -> _Tensor:
    """Rectifier whose slope below 0 is learned."""
def prod(x: _Array, /, axis: _Lengths | None = ..., *, dtype: _Any = ..., keepdims: _bool = ...) -> _Tensor:
    """Product over axes."""
def quantile(x: _Array, /, q: _Any, axis: _Lengths | None = ..., keepdims: _bool = ..., *, method: str = ...) -> _Tensor:
    """The element below which a part of the elements lies; NaN if one of them is."""
def rad2deg(x: _Array, /) -> _Tensor:
    """Radians as degrees."""
def real(x: _Array, /) -> _Tensor:
    """The real part, as a view; a real array as it is."""
def reciprocal(x: _Array, /) -> _Tensor:
    """One over the array."""
def relu(x: _Array, /) -> _Tensor:
    """The rectifier; the gradient at 0 is 0."""
def relu6(x: _Array, /) -> _Tensor:
    """Rectifier that stops at 6."""
def remainder(x1: _Array, x2: _Array, /) -> _Tensor:
    """What division leaves over; it has the divisor's sign."""
def repeat(x: _Array, repeats: _Any, /, axis: int | None = ...) -> _Tensor:
    """Each element repeated where it stands."""
def reshape(x: _Array, /, shape: _Sequence[int], *, copy: _bool | None = ...) -> _Tensor:
    """The same elements in the same order, in another shape; a view where it can be."""
def rms_norm(x: _Array, weight: _Array | None = ..., /, *, normalized_shape: _Sequence[int], eps: float | None = ...) -> _Tensor:
    """Each sample's last axes divided by their root mean square, then scaled."""
def roll(x: _Array, /, shift: int | _Sequence[int], axis: int | _Sequence[int] | None = ...) -> _Tensor:
    """Elements moved on along axes; those that leave at the end come in at the start."""
def round(x: _Array, /) -> _Tensor:
    """The nearest whole number, halves to the even one; the gradient is 0."""
def rrelu(x: _Array, /, *, lower: float = ..., upper: float = ..., training: _bool = ..., generator: _Generator | None = ...) -> _Tensor:
    """Rectifier with a random slope below 0, or its mean when not training."""
def scaled_dot_product_attention(query: _Array, key: _Array, value: _Array, /, attn_mask: _Any = ..., dropout_p: float = ..., is_causal: _bool = ..., scale: float | None = ..., enable_gqa: _bool = ..., *, generator: _Generator | None = ...) -> _Tensor:
    """Each query's mean of the values, weighted by how well the query matches their keys."""
def scatter_add(x: _Array, /, axis: int, index: _Array, source: _Array) -> _Tensor:
    """``x`` with each element of ``source`` added where its index points."""
def searchsorted(x1: _Array, x2: _Array, /, *, side: str = ..., sorter: _Any = ...) -> _Tensor:
    """Where elements would have to be inserted to keep an array in order."""
def selu(x: _Array, /) -> _Tensor:
    """Exponential linear unit that keeps mean 0 and variance 1."""
def sigmoid(x: _Array, /) -> _Tensor:
    """The logistic function."""
def sign(x: _Array, /) -> _Tensor:
    """−1, 0 or 1; of a complex number, the point on the unit circle. A real gradient is 0."""
def signbit(x: _Array, /) -> _Tensor:
    """Whether the sign bit is set, also of −0 and NaN."""
def silu(x: _Array, /) -> _Tensor:
    """Sigmoid linear unit, also called swish."""
def sin(x: _Array, /) -> _Tensor:
    """The sine."""
def sinc(x: _Array, /) -> _Tensor:
    """The normalized cardinal sine."""
def sinh(x: _Array, /) -> _Tensor:
    """The hyperbolic sine."""
def sliding_window_view(x: _Array, /, window_shape: _Any, axis: _Any = ...) -> _Tensor:
    """Windows at every place, their own axes at the end, as a view."""
def smooth_l1_loss(x: _Array, target: _Array, /, *, beta: float = ...) -> _Tensor:
    """Absolute error, rounded off within ``beta`` of 0."""
def soft_margin_loss(x: _Array, target: _Array, /) -> _Tensor:
    """Logistic loss of a score with a class of ±1."""
def softmax(x: _Array, /, axis: int = ...) -> _Tensor:
    """Exponentials that sum to one along an axis."""
def softmax_cross_entropy(logits: _Array, /, *, target: _Any, ignore_index: int | None = ...) -> _Tensor:
    """Cross entropy of each row's softmax with a class."""
def softplus(x: _Array, /, *, beta: float = ..., threshold: float = ...) -> _Tensor:
    """Smooth approximation of ``max(x, 0)``."""
def softshrink(x: _Array, /, *, lambd: float = ...) -> _Tensor:
    """Moves elements towards 0 by ``lambd``."""
def softsign(x: _Array, /) -> _Tensor:
    """A sigmoid that tends to ±1 slowly."""
def sort(x: _Array, /, axis: int = ..., *, descending: _bool = ..., stable: _bool = ...) -> _Tensor:
    """The elements in order, NaN after all numbers when ascending."""
def split(x: _Array, /, split_size_or_sections: int | _Sequence[int], axis: int = ...) -> tuple[_Tensor, ...]:
    """An array cut into parts along an axis, as views; PyTorch's function, not NumPy's."""
def sqrt(x: _Array, /) -> _Tensor:
    """The square root."""
def square(x: _Array, /) -> _Tensor:
    """The square."""
def squeeze(x: _Array, /, axis: int | _Sequence[int]) -> _Tensor:
    """Without the named axes, which must have length 1, as a view."""
def stack(arrays: _Sequence[_Array], /, axis: int = ...) -> _Tensor:
    """Arrays of one shape joined along a new axis."""
def std(x: _Array, /, axis: _Lengths | None = ..., *, correction: float = ..., keepdims: _bool = ...) -> _Tensor:
    """Standard deviation over axes; arguments as in ``var``. Where it is 0, the gradient is 0."""
def subtract(x1: _Array, x2: _Array, /) -> _Tensor:
    """Difference of two arrays."""
def sum(x: _Array, /, axis: _Lengths | None = ..., *, dtype: _Any = ..., keepdims: _bool = ...) -> _Tensor:
    """Sum over axes."""
def take(x: _Array, indices: _Array, /, axis: int | None = ...) -> _Tensor:
    """Elements at places along an axis."""
def take_along_axis(x: _Array, indices: _Array, /, axis: int = ...) -> _Tensor:
    """Elements at places of their own for every row along an axis."""
def tan(x: _Array, /) -> _Tensor:
    """The tangent."""
def tanh(x: _Array, /) -> _Tensor:
    """The hyperbolic tangent."""
def tanhshrink(x: _Array, /) -> _Tensor:
    """What the hyperbolic tangent leaves."""
def tensordot(x1: _Array, x2: _Array, /, axes: int | tuple[_Sequence[int], _Sequence[int]] = ...) -> _Tensor:
    """Sum of products over several axes at once."""
def threshold(x: _Array, /, threshold: float, value: float) -> _Tensor:
    """Replaces elements up to ``threshold`` by ``value``."""
def tile(x: _Array, repetitions: _Sequence[int], /) -> _Tensor:
    """The whole array repeated along its axes, the last of them first."""
def topk(x: _Array, /, k: int, axis: int = ..., largest: _bool = ...) -> tuple[_Tensor, _Tensor]:
    """The largest or smallest elements along an axis, best first."""
def trapezoid(values: _Array, points: _Array | None = ..., dx: float = ..., axis: int = ...) -> _Tensor:
    """The integral along an axis by the trapezoidal rule."""
def tril(x: _Array, /, k: int = ...) -> _Tensor:
    """The lower triangle of matrices, with the diagonals up to the k-th above the main one."""
def triplet_margin_loss(anchor: _Array, positive: _Array, negative: _Array, /, *, margin: float = ..., p: float = ..., eps: float = ..., swap: _bool = ...) -> _Tensor:
    """How much nearer than the negative the positive should be to the anchor."""
def triu(x: _Array, /, k: int = ...) -> _Tensor:
    """The upper triangle of matrices, with the diagonals from the k-th above the main one on."""
def trunc(x: _Array, /) -> _Tensor:
    """The whole number towards 0; the gradient is 0."""
def unfold(x: _Array, /, kernel_size: _Any, dilation: _Any = ..., padding: _Any = ..., stride: _Any = ...) -> _Tensor:
    """Patches of an image as columns."""
def unique_all(x: _Array, /) -> tuple[_Tensor, _Tensor, _Tensor, _Tensor]:
    """The distinct values in ascending order, and all that is known of them."""
def unique_counts(x: _Array, /) -> tuple[_Tensor, _Tensor]:
    """The distinct values in ascending order, and how often each occurs."""
def unique_inverse(x: _Array, /) -> tuple[_Tensor, _Tensor]:
    """The distinct values in ascending order, and for each element which of them it is."""
def unique_values(x: _Array, /) -> _Tensor:
    """The distinct values in ascending order."""
def unstack(x: _Array, /, axis: int = ...) -> tuple[_Tensor, ...]:
    """The parts of an array along an axis, without that axis, as views."""
def vander(x: _Array, /, N: int | None = ..., increasing: _bool = ...) -> _Tensor:
    """Powers of every element, along a new last axis."""
def var(x: _Array, /, axis: _Lengths | None = ..., *, correction: float = ..., keepdims: _bool = ...) -> _Tensor:
    """Variance over axes."""
def vecdot(x1: _Array, x2: _Array, /, *, axis: int = ...) -> _Tensor:
    """Inner products of vectors along an axis; the first is conjugated."""
def where(condition: _Array, x1: _Array, x2: _Array, /) -> _Tensor:
    """Elements of ``x1`` where ``condition`` holds, of ``x2`` elsewhere."""
def xlogy(x1: _Array, x2: _Array, /) -> _Tensor:
    """A number times a logarithm, as entropies need it: 0 log 0 is 0."""
