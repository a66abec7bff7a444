"""Mixed precision: which operations compute in 16 bits inside :class:`autocast`, and which in float32.

Parameters stay float32 (the master weights); what products read are copies of them in 16 bits, and gradients
come back through the copies' casts in float32.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from distgrad.autograd.modes import Mode, modes
from distgrad.backend.device import device_of
from distgrad.backend.numpy import widen_products
from distgrad.errors import DTypeError, MissingDependencyError, OptionError

__all__ = [
    "ACTIVE",
    "DEFAULTS",
    "MIXED",
    "POLICY",
    "WEAK",
    "WIDE",
    "autocast",
    "bfloat16",
    "cast_inputs",
    "casting_as",
    "get_autocast_dtype",
    "is_autocast_enabled",
    "limits",
    "meet",
    "result_dtype",
    "set_weak_scalars",
    "settle",
    "small_float",
]

_LOW = (
    "matmul linear bmm einsum addmm addmv addr baddbmm convolution convolution_input"
    " convolution_weight prelu lstm_cell gru_cell scaled_dot_product_attention"
)
_WIDE = (
    "acos asin cosh sinh tan exp expm1 log log10 log1p log2 logaddexp logsumexp pow reciprocal erfinv"
    " softplus softmax log_softmax softmax_cross_entropy"
    " layer_norm rms_norm group_norm instance_norm batch_norm batch_norm_with_statistics batch_norm_inference"
    " norm normalize vector_norm matrix_norm cosine_similarity pairwise_distance cdist"
    " sum mean var std prod nansum nanmean nanvar nanstd cumsum cumprod cumulative_sum cumulative_prod"
    " binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss ctc_loss gaussian_nll_loss"
    " hinge_embedding_loss huber_loss kl_div margin_ranking_loss multi_margin_loss multilabel_margin_loss"
    " multilabel_soft_margin_loss poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss"
)

#: What autocast does to an operation's inputs: ``"low"`` makes float32 16 bits wide, ``"wide"`` the reverse.
#: Operations that are not named take what comes; of several dtypes the widest wins.
POLICY = dict.fromkeys(_LOW.split(), "low") | dict.fromkeys(_WIDE.split(), "wide")

#: Not empty while some thread is inside autocast; looking at a list is all that it costs outside.
ACTIVE: list[None] = []

#: Not empty while tensors without axes are weak; see :func:`set_weak_scalars`.
WEAK: list[None] = []

#: The dtypes of results that may be too wide: of all operations, and of those that broadcast.
WIDE: set[str] = {"d", "D"}
MIXED: set[str] = {"d", "D"}

#: What Python's numbers become.
DEFAULTS: dict[type, np.dtype[Any]] = {
    bool: np.dtype(np.bool_),
    int: np.dtype(np.int64),
    float: np.dtype(np.float32),
    complex: np.dtype(np.complex64),
}

_FLOAT32 = np.dtype(np.float32)


def bfloat16() -> np.dtype:
    """The dtype of 8 exponent and 7 fraction bits, which NumPy gets from the package ml_dtypes.

    Raises:
        MissingDependencyError: it is not installed.
    """
    dtype = small_float("bfloat16")
    meet(dtype)
    return dtype


def small_float(name: str) -> np.dtype:
    """A dtype of the package ml_dtypes: bfloat16, or one of 8 or 4 bits, in which nothing is computed here.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} needs the package ml_dtypes ({error}); run: pip install ml_dtypes"
        ) from error


def meet(dtype: np.dtype) -> None:
    """Be ready for arrays of a dtype: of 16 bits, products and the dtypes of results want a look."""
    if dtype.char in "eE":
        widen_products()
        WIDE.update("fF")
        MIXED.update("fF")


def limits(dtype: Any) -> Any:
    """What ``np.finfo`` says of a floating dtype, of bfloat16 too."""
    dtype = np.dtype(dtype)
    return importlib.import_module("ml_dtypes").finfo(dtype) if dtype.char == "E" else np.finfo(dtype)


def settle(y: Any, values: Sequence[Any]) -> Any:
    """A result in the dtype that its inputs ask for, where NumPy has made it wider.

    Whole numbers and Python's go with the floating ones that they meet, and are the default float among
    themselves; where scalars are weak, tensors without axes go with those that have some.

    Args:
        y: what NumPy or CuPy gave.
        values: the inputs.
    """
    dtype = y.dtype
    for value in values:  # what most calls find: an input has the result's dtype
        if getattr(value, "dtype", None) is dtype and (value.ndim or not WEAK):
            return y
    arrays = [value for value in values if hasattr(value, "dtype")]
    groups = [arrays]
    if WEAK:
        groups = [[each for each in arrays if each.ndim], [each for each in arrays if not each.ndim]]
    kinds = "iu" if dtype.kind in "iu" else "efdEFD"
    wanted = None
    for group in groups:
        found = [each.dtype for each in group if each.dtype.kind in kinds or each.dtype.char in kinds]
        if found:
            wanted = _common(found)
            break
    if wanted is None:
        if kinds == "iu":
            return y
        wanted = DEFAULTS[float]
    if dtype.kind == "c" and wanted.kind != "c":
        wanted = np.dtype(np.complex128 if wanted.itemsize == 8 else np.complex64)
    elif dtype.kind != "c" and wanted.kind == "c":
        wanted = np.dtype(np.float64 if wanted.itemsize == 16 else np.float32)
    return y.astype(wanted) if wanted.itemsize < dtype.itemsize else y


def _common(dtypes: Sequence[np.dtype]) -> np.dtype:
    try:
        return np.result_type(*dtypes)
    except TypeError as error:
        met = " and ".join(dict.fromkeys(str(each) for each in dtypes))
        raise DTypeError(
            f"dtypes: {met} meet, and have none in common; convert one of them, with x.astype(dg.float32) say"
        ) from error


def set_weak_scalars(enabled: bool) -> None:
    """Whether tensors without axes count as Python's numbers where dtypes are chosen, as PyTorch's do.

    The array API standard, and distgrad by itself, treats them as all others. It is one switch for the whole
    process, which importing ``distgrad.torch`` turns on.

    Args:
        enabled: a float64 tensor without axes times a float32 one is float32 (and an int64 one times an int32
            one int32); False makes it float64 again.
    """
    del WEAK[:]
    if enabled:
        WEAK.append(None)
    MIXED.clear()
    MIXED.update(WIDE, "hilqHILQ" if enabled else "")


def _lone_bfloat16(parts: Sequence[Any]) -> np.dtype | None:
    """bfloat16 if it is the only float among dtypes and Python numbers."""
    dtypes = [part for part in parts if isinstance(part, np.dtype) and part.char in "efdEFD"]
    is_complex = any(isinstance(part, complex) for part in parts)
    return dtypes[0] if dtypes and not is_complex and all(each.char == "E" for each in dtypes) else None


def result_dtype(*parts: Any) -> np.dtype:
    """What comes of dtypes and Python numbers: NumPy's choice, but whole ones join the floating ones."""
    if len(parts) == 2 and parts[1].__class__ in (int, float) and getattr(parts[0], "kind", "") == "f":
        return parts[0]  # what most calls ask
    narrow = _lone_bfloat16(parts)
    if narrow is not None:
        return narrow
    dtypes = [part for part in parts if isinstance(part, np.dtype)]
    floating = [each for each in dtypes if each.char in "efdEFD"]
    numbers = [part for part in parts if not isinstance(part, np.dtype)]
    if dtypes and not floating and any(isinstance(each, float | complex) for each in numbers):
        floating = [DEFAULTS[float]]
    if not floating:
        return np.result_type(*parts)
    return np.result_type(*floating, *[each for each in numbers if not isinstance(each, int)])


def _is_narrow(dtype: np.dtype) -> bool:
    return dtype.char in "eE"


class _Casts:
    """What holds inside one :class:`autocast`.

    Args:
        dtypes: the 16-bit dtype by kind of device.
        caches: whether casts of parameters are kept.
        cache: casts by parameter; of the outermost autocast.
    """

    def __init__(self, dtypes: dict[str, np.dtype], caches: bool, cache: dict[Any, Any]) -> None:
        self.dtypes = dtypes
        self.caches = caches
        self.cache = cache

    def cast(self, astype: Callable[..., Any], policy: str, x: Any) -> Any:
        """An input as an operation of that policy wants it."""
        data = getattr(x, "_data", None)
        if data is None or data.dtype.char not in ("f" if policy == "low" else "eE"):
            return x
        low = self.dtypes.get(device_of(data).kind)
        if low is None:
            return x
        if policy == "wide":
            return astype(x, _FLOAT32)
        if not (self.caches and x.requires_grad and x.is_leaf):
            return astype(x, low)
        key = (id(x), low, modes.grad is not False)
        found = self.cache.get(key)
        if found is None or found[1] != x._num_changes() or found[2] is not data:
            found = self.cache[key] = (x, x._num_changes(), data, astype(x, low))
        return found[3]


def cast_inputs(astype: Callable[..., Any], name: str, values: Sequence[Any]) -> list[Any]:
    """The inputs of an operation as the autocast of this thread wants them.

    Args:
        astype: the operation of that name.
        name: the operation that is called.
        values: its inputs.
    """
    casts = modes.casts
    if casts is None:
        return list(values)
    policy = POLICY[name]
    return [casts.cast(astype, policy, value) for value in values]


class autocast(Mode):
    """Compute products in 16 bits, and what needs the precision in float32: context manager and decorator.

    Inside it matrix products, linear layers, convolutions, attention and recurrent cells cast float32 inputs
    to ``dtype``; softmax, norms, losses, reductions, powers and logarithms cast 16-bit inputs to float32; all
    other operations take what comes. float64 is left alone. Sums inside a product are in float32. The policy
    is PyTorch's, but for reductions, which are all in float32 here (its ``mean`` stays in 16 bits).

    On the CPU it does the same, product by product: inputs rounded, the product in float32, the result
    rounded. That shows what a GPU will compute, but is slower than float32, since there is no 16-bit
    arithmetic to gain from.

    Args:
        device_type: ``"cuda"`` or ``"cpu"``; tensors elsewhere are not cast.
        dtype: float16 or bfloat16, also by name; None means float16 on a GPU and bfloat16 on the CPU.
        enabled: False computes as if outside, also within another autocast.
        cache_enabled: cast each parameter once in the outermost autocast, however often it is used.

    Source: Micikevicius et al., ICLR 2018.
    """

    def __init__(
        self,
        device_type: str,
        dtype: Any = None,
        enabled: bool = True,
        cache_enabled: bool = True,
    ) -> None:
        super().__init__()
        if device_type not in ("cpu", "cuda"):
            raise OptionError(f"autocast: device_type must be 'cpu' or 'cuda', got {device_type!r}")
        if dtype is None:
            dtype = np.float16 if device_type == "cuda" else "bfloat16"
        self.device_type = device_type
        self.enabled = enabled
        self.cache_enabled = cache_enabled
        self.dtype = (bfloat16() if enabled else _FLOAT32) if dtype == "bfloat16" else np.dtype(dtype)
        if enabled and not _is_narrow(self.dtype):
            raise DTypeError(f"autocast: dtype must be float16 or bfloat16, got {self.dtype}")
        if enabled and device_type == "cpu":
            meet(self.dtype)

    def _switch(self) -> None:
        outer = modes.casts
        dtypes = {} if outer is None else dict(outer.dtypes)
        if self.enabled:
            dtypes[self.device_type] = self.dtype
        else:
            dtypes.pop(self.device_type, None)
        modes.casts = _Casts(dtypes, self.cache_enabled, {} if outer is None else outer.cache)

    def _again(self) -> Mode:
        return autocast(self.device_type, self.dtype, self.enabled, self.cache_enabled)

    def __enter__(self) -> autocast:  # type: ignore[override]
        super().__enter__()
        ACTIVE.append(None)
        return self

    def __exit__(self, *exc: object) -> None:
        ACTIVE.pop()
        super().__exit__(*exc)


@contextmanager
def casting_as(casts: Any) -> Iterator[None]:
    """Inside it this thread casts as it did when ``modes.casts`` was ``casts``."""
    outer, modes.casts = modes.casts, casts
    ACTIVE.append(None)
    try:
        yield
    finally:
        ACTIVE.pop()
        modes.casts = outer


def is_autocast_enabled(device_type: str) -> bool:
    """Whether operations of this thread on that kind of device are cast."""
    return get_autocast_dtype(device_type) is not None


def get_autocast_dtype(device_type: str) -> np.dtype | None:
    """The 16-bit dtype that this thread's operations on that kind of device are cast to; None outside."""
    return None if modes.casts is None else modes.casts.dtypes.get(device_type)
