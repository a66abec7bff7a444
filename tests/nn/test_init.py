"""Initial values: their distributions, and that they are written in place."""

import math
import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.backend.rng import Generator
from distgrad.errors import ShapeError
from distgrad.nn import init

SHAPE = (60, 50, 3)  # fan in 150, fan out 180
FAN_IN, FAN_OUT = 150, 180


def filled(function, *args, shape=SHAPE, **kwargs):
    tensor = dg.zeros(shape)
    assert function(tensor, *args, generator=Generator(1), **kwargs) is tensor
    return tensor._data


def assert_uniform(values, bound):
    assert values.min() >= -bound
    assert values.max() < bound
    assert abs(values.std() - bound / math.sqrt(3)) < 0.02 * bound
    assert abs(values.mean()) < 0.03 * bound


def assert_normal(values, std):
    assert abs(values.std() - std) < 0.03 * std
    assert abs(values.mean()) < 0.05 * std
    assert abs((np.abs(values) < std).mean() - math.erf(1 / math.sqrt(2))) < 0.02


def test_uniform_and_normal():
    assert_uniform(filled(init.uniform_, 1.0, 3.0) - 2.0, 1.0)
    assert_normal(filled(init.normal_, 5.0, 0.5) - 5.0, 0.5)


def test_truncated_normal_stays_inside():
    values = filled(init.trunc_normal_, 1.0, 2.0, 0.0, 2.0)
    assert values.min() >= 0
    assert values.max() <= 2
    inside = math.sqrt(1 - 2 * 0.5 * math.exp(-0.125) / math.sqrt(2 * math.pi) / math.erf(0.5 / math.sqrt(2)))
    assert abs(values.std() - 2 * inside) < 0.02
    with pytest.raises(ValueError, match="holds almost nothing"):
        filled(init.trunc_normal_, 0.0, 1.0, 20.0, 21.0)


def test_xavier_and_kaiming():
    assert_uniform(filled(init.xavier_uniform_, 2.0), 2 * math.sqrt(6 / (FAN_IN + FAN_OUT)))
    assert_normal(filled(init.xavier_normal_), math.sqrt(2 / (FAN_IN + FAN_OUT)))
    assert_uniform(filled(init.kaiming_uniform_, a=math.sqrt(5)), 1 / math.sqrt(FAN_IN))
    assert_normal(filled(init.kaiming_normal_, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / FAN_OUT))
    with pytest.raises(ValueError, match="mode must be"):
        filled(init.kaiming_normal_, mode="fan")
    with pytest.raises(ShapeError, match="at least two axes"):
        filled(init.xavier_uniform_, shape=(3,))


def test_gains_are_pytorchs():
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    for name, param in [("linear", None), ("conv_transpose2d", None), ("tanh", None), ("leaky_relu", 0.3)]:
        assert init.calculate_gain(name, param) == pytest.approx(torch.nn.init.calculate_gain(name, param))
    with pytest.raises(ValueError, match="expected one of"):
        init.calculate_gain("gelu")


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (6, 2, 3)])
def test_orthogonal(shape):
    matrix = filled(init.orthogonal_, 2.0, shape=shape).reshape(shape[0], -1).astype(np.float64)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)


def test_constants():
    np.testing.assert_array_equal(init.ones_(dg.zeros(3))._data, 1)
    np.testing.assert_array_equal(init.zeros_(dg.ones(3))._data, 0)
    np.testing.assert_array_equal(init.constant_(dg.ones(3), 2.5)._data, 2.5)
    np.testing.assert_array_equal(init.eye_(dg.zeros((2, 3)))._data, np.eye(2, 3))
    x = dg.randn(2, 4, 5)
    weight = init.dirac_(dg.zeros((4, 2, 3)), groups=2)
    np.testing.assert_array_equal(nn.functional.conv1d(x, weight, padding=1, groups=2)._data, x._data)


def test_sparse():
    values = filled(init.sparse_, 0.4, shape=(10, 6))
    np.testing.assert_array_equal((values == 0).sum(axis=0), 4)


def test_generator_decides_and_memory_stays():
    flat = np.zeros(6, dtype=np.float32)
    p = nn.Parameter(flat.reshape(2, 3))
    init.normal_(p, generator=Generator(3))
    assert flat.any()
    assert np.shares_memory(flat, p._data)
    again = init.normal_(dg.zeros((2, 3)), generator=Generator(3))
    np.testing.assert_array_equal(again._data, p._data)
    dg.manual_seed(4)
    first = nn.Linear(3, 2).weight._data.copy()
    dg.manual_seed(4)
    np.testing.assert_array_equal(nn.Linear(3, 2).weight._data, first)


def test_values_changed_before_backward_are_noticed():
    p = nn.Parameter(dg.ones(3))
    y = (p * p).sum()
    init.zeros_(p)
    with pytest.raises(dg.InPlaceError, match=r"init\.zeros_"):
        y.backward()


def spread(parameter):
    """The bounds of a uniform initial distribution, from its values."""
    values = np.asarray(parameter._data if hasattr(parameter, "_data") else parameter.detach().numpy())
    return values.min(), values.max(), values.std()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("Linear", (100, 300)),
        ("Bilinear", (20, 30, 40)),
        ("Conv2d", (16, 64, 5)),
        ("ConvTranspose2d", (16, 64, 5)),
        ("Embedding", (300, 40)),
        ("EmbeddingBag", (300, 40)),
        ("LSTM", (60, 80)),
        ("GRUCell", (60, 80)),
        ("MultiheadAttention", (120, 4)),
        ("Transformer", (64, 4, 1, 1, 128)),
        ("BatchNorm2d", (5,)),
        ("LayerNorm", (5,)),
        ("PReLU", (3,)),
    ],
)
def test_layers_start_from_pytorchs_distributions(name, args):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    dg.manual_seed(0)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its speed
        theirs = getattr(torch.nn, name)(*args)
    ours = getattr(nn, name)(*args)
    for (key, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        low, high, std = spread(p)
        their_low, their_high, their_std = spread(q)
        if p.size < 300:  # too few numbers for their spread
            bound = max(abs(their_low), abs(their_high), 1e-9) * 1.5
            assert max(abs(low), abs(high)) <= bound, key
        else:
            assert std == pytest.approx(their_std, rel=0.05, abs=1e-9), key
            assert (low, high) == pytest.approx((their_low, their_high), rel=0.35, abs=1e-9), key
