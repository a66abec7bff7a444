"""Sums of float16 and bfloat16 numbers are computed in float32: no term is rounded away, none overflows."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.nn import functional as F


def ones(count, dtype):
    return dg.tensor(np.ones(count, np.float32)).to(dtype)


SUMS = {
    "sum": (lambda x: x.sum(), 4096.0),
    "sum of rows": (lambda x: x.reshape(4096, 1).sum(axis=0)[0], 4096.0),
    "mean": (lambda x: x.mean(), 1.0),
    "var": (lambda x: x.var(), 0.0),
    "prod": (dg.prod, 1.0),
    "cumulative sum": (lambda x: dg.cumulative_sum(x)[-1], 4096.0),
    "norm": (dg.linalg.vector_norm, 64.0),
    "loss": (lambda x: F.mse_loss(x, x * 0), 1.0),
}


@pytest.mark.parametrize("dtype", [dg.float16, dg.bfloat16], ids=str)
@pytest.mark.parametrize("name", SUMS)
def test_no_term_is_rounded_away(name, dtype):
    call, expected = SUMS[name]
    y = call(ones(4096, dtype))
    assert y.dtype == dtype
    assert float(y) == expected


@pytest.mark.parametrize("dtype", [dg.float16, dg.bfloat16], ids=str)
def test_a_gradient_that_broadcasting_sums(dtype):
    bias = ones(1, dtype).requires_grad_()
    (bias * ones(4096, dtype)).sum().backward()
    assert float(bias.grad) == 4096.0


def test_what_float16_cannot_hold_between():
    x = ones(70_000, dg.float16)  # whose sum would be infinite
    assert float(x.mean()) == 1.0
    assert float(F.l1_loss(x, x * 0)) == 1.0
    assert float(dg.linalg.vector_norm(x)) == pytest.approx(70_000**0.5, rel=1e-3)
    assert float(dg.linalg.vector_norm(dg.tensor(np.array([300.0, 400.0], np.float16)))) == 500.0
