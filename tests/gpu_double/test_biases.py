"""Products by cuBLASLt: a bias, or its gradient, in the launch of the product, and what has no algorithm."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import distgrad as dg

pytestmark = pytest.mark.gpu_double(devices=1)

DTYPES = {"f": np.float32, "e": np.float16, "E": ml_dtypes.bfloat16}
SHAPES = {"plain": (5, 7, 3), "one row": (1, 7, 3), "one feature": (4, 1, 1), "large": (300, 65, 130)}


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def started():
    from gpu_double.runtime import installed

    return installed().scheduler.started


def step(x, weight, bias, g, device, dtype):
    """The result, and gradients of weight and bias, in float64."""
    x = dg.tensor(x.astype(dtype), device=device)
    weight, bias = (
        dg.tensor(each.astype(dtype), device=device, requires_grad=True) for each in (weight, bias)
    )
    y = dg.linear(x, weight, bias)
    y.backward(dg.tensor(g.astype(dtype), device=device))
    return [each.cpu().numpy().astype("d") for each in (y.detach(), weight.grad, bias.grad)]


@pytest.mark.parametrize("char", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_a_bias_and_its_gradient_are_part_of_the_products(name, char):
    rows, inputs, outputs = SHAPES[name]
    arrays = [numbers(i, *shape).astype(DTYPES[char]).astype("d") for i, shape in enumerate(
        ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)))]  # fmt: skip
    before = dict(started())
    found = step(*arrays, "cuda", DTYPES[char])
    counts = {key: count - before.get(key, 0) for key, count in started().items()}
    assert counts["LtMatmul"] == (1 if rows == 1 else 2)
    assert not counts.get("kernel add_bias")
    for a, b in zip(found, step(*arrays, "cpu", np.float64), strict=True):
        scale = float(ml_dtypes.finfo(DTYPES[char]).eps) * (np.abs(b).max() + 1)
        np.testing.assert_allclose(a, b, rtol=0, atol=4 * scale * rows**0.5)


def test_what_has_no_algorithm_is_computed_by_the_kernels():
    rows, weight, long = numbers(0, 4, 3), numbers(1, 5, 3), numbers(2, 9)
    arrays = rows, weight, long[:5], numbers(3, 4, 5)
    before = started()["LtMatmul"]
    found = step(*arrays, "cuda", np.float64)
    assert started()["LtMatmul"] == before
    for a, b in zip(found, step(*arrays, "cpu", np.float64), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("first", [0, 1, 4])
def test_addresses_that_are_less_aligned_have_plans_of_their_own(first):
    """A view that begins at any number; the aligned one's plan must not serve it."""
    long, weight = numbers(0, 8 * 6 + 4).astype("f"), numbers(1, 3, 6).astype("f")
    bias = numbers(2, 3).astype("f")
    whole, rest = dg.tensor(long, device="cuda"), [dg.tensor(each, device="cuda") for each in (weight, bias)]
    for start in (0, first):
        y = dg.linear(whole[start : start + 48].reshape(8, 6), *rest)
        expected = long[start : start + 48].reshape(8, 6) @ weight.T + bias
        np.testing.assert_allclose(y.cpu().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_bias_at_an_odd_address_is_added_by_a_kernel():
    x, weight, long = (numbers(i, *shape).astype("f") for i, shape in enumerate(((2, 3), (4, 3), (9,))))
    before = started()["kernel add_bias"]
    bias = dg.tensor(long, device="cuda")[1:5]
    y = dg.linear(dg.tensor(x, device="cuda"), dg.tensor(weight, device="cuda"), bias)
    assert started()["kernel add_bias"] == before + 1
    np.testing.assert_allclose(y.cpu().numpy(), x @ weight.T + long[1:5], rtol=1e-5, atol=1e-5)


def test_an_answer_that_is_no_refusal_is_an_error(monkeypatch):
    from distgrad.backend import cublaslt
    from distgrad.errors import DeviceError

    monkeypatch.setattr(cublaslt, "_WORKSPACE", 32 << 20)
    real = cublaslt._library()

    class Failing:
        def __getattr__(self, name):
            return (lambda *rest: 14) if name == "cublasLtMatmul" else getattr(real, name)

    monkeypatch.setattr(cublaslt, "_library", Failing)
    x, weight, bias = (dg.ones(shape, device="cuda") for shape in ((2, 3), (4, 3), (4,)))
    with pytest.raises(DeviceError, match="cublasLtMatmul: cuBLASLt answers 14"):
        dg.linear(x, weight, bias)


ALONE = """
from gpu_double.runtime import install
scheduler = install(1, "early").scheduler
import distgrad as dg
x, weight, bias = (dg.ones(shape, device="cuda") for shape in ((2, 3), (4, 3), (4,)))
assert (dg.linear(x, weight, bias).cpu().numpy() == 4).all()
print(scheduler.started["LtMatmul"], scheduler.started["kernel add_bias"])
"""


@pytest.mark.parametrize(("value", "counts"), [("0", "0 1"), ("1", "1 0")])
def test_the_libraries_are_left_alone_where_the_environment_says_so(value, counts, monkeypatch):
    monkeypatch.setenv("DISTGRAD_GPU_LIBRARIES", value)
    monkeypatch.setenv("PYTHONPATH", "tests")
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == counts, done.stderr
