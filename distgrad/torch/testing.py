"""``torch.testing``."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device

__all__ = ["assert_close"]

_TOLERANCES = {"float16": (1e-3, 1e-5), "bfloat16": (1.6e-2, 1e-5), "float32": (1.3e-6, 1e-5)}
_TOLERANCES |= {"complex64": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7), "complex128": (1e-7, 1e-7)}


def assert_close(
    actual: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_dtype: bool = True,
    check_device: bool = True,
    allow_subclasses: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: Any = None,
) -> None:
    """Compare tensors, numbers, or nested sequences and mappings of them.

    Raises:
        AssertionError: they differ by more than ``atol + rtol |expected|``, or in shape or dtype.
    """
    options: dict[str, Any] = {"rtol": rtol, "atol": atol, "equal_nan": equal_nan, "check_dtype": check_dtype}
    options |= {"check_device": check_device, "msg": msg}
    if isinstance(actual, dict):
        assert actual.keys() == expected.keys(), f"keys differ: {sorted(actual)} and {sorted(expected)}"
        for key in actual:
            assert_close(actual[key], expected[key], **options)
        return
    if isinstance(actual, list | tuple):
        assert len(actual) == len(expected), f"lengths differ: {len(actual)} and {len(expected)}"
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other, **options)
        return
    x, y = (
        to_device(each._data, CPU) if isinstance(each, Tensor) else np.asarray(each)
        for each in (actual, expected)
    )
    assert x.shape == y.shape, f"shapes differ: {list(x.shape)} and {list(y.shape)}"
    assert not check_dtype or x.dtype == y.dtype, f"dtypes differ: {x.dtype} and {y.dtype}"
    wanted = _TOLERANCES.get(x.dtype.name, (0.0, 0.0))
    np.testing.assert_allclose(
        x,
        y,
        rtol=wanted[0] if rtol is None else rtol,
        atol=wanted[1] if atol is None else atol,
        equal_nan=equal_nan,
        err_msg=msg if isinstance(msg, str) else "",
    )


def assert_allclose(
    actual: Any,
    expected: Any,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    msg: str = "",
) -> None:
    """:func:`assert_close` of old, whatever the dtypes are."""
    options: dict[str, Any] = {"rtol": rtol, "atol": atol, "equal_nan": equal_nan, "msg": msg or None}
    assert_close(actual, expected, check_dtype=False, check_device=False, **options)


def make_tensor(
    *shape: Any, dtype: Any, device: Any = None, low: Any = None, high: Any = None, **options: Any
) -> Tensor:
    """A tensor of random elements between two bounds."""
    from distgrad.autograd.layouts import numbers

    rng = np.random.default_rng(0)
    low, high = (-9 if low is None else low), (9 if high is None else high)
    kind = np.dtype(dtype)
    values = (
        rng.integers(low, high, numbers(shape))
        if kind.kind in "iub"
        else rng.uniform(low, high, numbers(shape))
    )
    return Tensor(np.asarray(values).astype(kind), options.get("requires_grad", False))
