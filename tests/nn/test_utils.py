"""Clipping of gradients, and parameters as one vector."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.autograd.flat import flatten
from distgrad.errors import ShapeError
from distgrad.nn import utils


def make_parameters(dtype=np.float32):
    rng = np.random.default_rng(0)
    parameters = [nn.Parameter(rng.standard_normal(shape).astype(dtype)) for shape in ((2, 3), (4,), (2, 1))]
    parameters.append(nn.Parameter(np.zeros(2, dtype=dtype)))
    for p in parameters[:-1]:
        p.grad = dg.Tensor(rng.standard_normal(p.shape).astype(dtype))
    return parameters


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.5, float("inf")])
def test_clipping_by_norm_is_pytorchs(norm_type, max_norm):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    parameters = make_parameters()
    twins = [torch.tensor(p._data, requires_grad=True) for p in parameters]
    for p, q in zip(parameters, twins, strict=True):
        q.grad = None if p.grad is None else torch.tensor(p.grad._data)
    buffers = [p.grad._data for p in parameters[:-1]]
    total = utils.clip_grad_norm_(parameters, max_norm, norm_type)
    assert total.item() == pytest.approx(torch.nn.utils.clip_grad_norm_(twins, max_norm, norm_type).item())
    for p, q, buffer in zip(parameters[:-1], twins, buffers, strict=False):
        np.testing.assert_allclose(p.grad._data, q.grad.numpy(), rtol=1e-5)
        assert p.grad._data is buffer  # scaled where it is


def test_norms_of_numbers_whose_squares_overflow():
    big = nn.Parameter(np.zeros(2, dtype=np.float32))
    big.grad = dg.Tensor(np.array([3e30, 4e30], dtype=np.float32))
    assert utils.clip_grad_norm_(big, 1.0).item() == pytest.approx(5e30)
    np.testing.assert_allclose(big.grad._data, [0.6, 0.8], rtol=1e-6)
    half = nn.Parameter(np.zeros(4, dtype=np.float16))
    half.grad = dg.Tensor(np.full(4, 300, dtype=np.float16))
    assert utils.clip_grad_norm_(half, 1.0).item() == pytest.approx(600)


@pytest.mark.parametrize("order", [2.0, 3.0])
def test_norms_of_float64_whose_powers_leave_its_range(order):
    for size in (1e200, 1e-200):
        p = nn.Parameter(dg.ones(5, dtype=dg.float64))
        p.grad = dg.full(5, size, dtype=dg.float64)
        assert utils.get_total_norm([p.grad], order).item() == pytest.approx(
            size * 5 ** (1 / order), rel=1e-12
        )


def test_a_norm_of_many_float32_numbers_is_summed_in_float64():
    x = np.random.default_rng(0).standard_normal(3_000_001).astype(np.float32)
    exact = np.linalg.norm(x.astype(np.float64))
    assert utils.get_total_norm([dg.Tensor(x)]).item() == np.float32(exact)
    assert abs(np.sqrt(float(np.dot(x, x))) / exact - 1) > 2e-8  # what one product in float32 gives


def test_the_bits_of_a_norm_do_not_depend_on_the_order_of_the_parameters():
    rng = np.random.default_rng(0)
    params = [nn.Parameter(dg.zeros(n)) for n in (40_000, 3, 9_000, 70_001)]
    flatten(params)
    for p in params:
        p.grad = dg.asarray(rng.standard_normal(p.shape).astype(np.float32))
    norms = {
        utils.clip_grad_norm_(order, 1e9).item() for order in (params, params[::-1], params[2:] + params[:2])
    }
    assert len(norms) == 1


def test_a_norm_that_is_not_finite():
    parameters = make_parameters()
    parameters[0].grad._data[0, 0] = np.nan
    before = parameters[1].grad._data.copy()
    with pytest.raises(FloatingPointError, match="is nan"):
        utils.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(parameters[1].grad._data, before)
    assert np.isnan(utils.clip_grad_norm_(parameters, 1.0).item())
    assert np.isnan(parameters[1].grad._data).all()


def test_no_gradients_and_no_elements_have_the_norm_0():
    empty = nn.Parameter(dg.zeros((0, 2)))
    empty.grad = dg.zeros((0, 2))
    assert utils.clip_grad_norm_([empty], 1.0, float("inf")).item() == 0
    assert utils.clip_grad_norm_([nn.Parameter(dg.ones(2))], 1.0).item() == 0


def test_clipping_by_value():
    parameters = make_parameters()
    before = parameters[0].grad._data.copy()
    utils.clip_grad_value_(parameters, 0.3)
    np.testing.assert_array_equal(parameters[0].grad._data, np.clip(before, -0.3, 0.3).astype(np.float32))


def test_parameters_as_one_vector_and_back():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    vector = utils.parameters_to_vector(net.parameters())
    assert vector.shape == (13,)
    vector.sum().backward()
    assert all(p.grad._data.all() for p in net.parameters())
    arrays = [p._data for p in net.parameters()]
    utils.vector_to_parameters(dg.arange(13, dtype=np.float32), net.parameters())
    np.testing.assert_array_equal(net[0].weight._data, np.arange(6).reshape(3, 2))
    assert net[1].bias.tolist() == [12]
    assert all(p._data is array for p, array in zip(net.parameters(), arrays, strict=True))
    with pytest.raises(ShapeError, match=r"13 elements, got \[12\]"):
        utils.vector_to_parameters(dg.zeros(12), net.parameters())
