"""Computed weights: beside PyTorch's, through copies, optimizers, caches and removal."""

import copy
import pickle

import numpy as np
import pytest
from nn.twins import close, ours_of

import distgrad as dg
from distgrad import nn
from distgrad.autograd.functional import grad
from distgrad.errors import DTypeError, OptionError, ShapeError
from distgrad.nn.utils import parametrize

LAYERS = [
    ("Linear", (3, 4), (5, 3)),
    ("Conv2d", (2, 4, 3), (1, 2, 5, 5)),
    ("ConvTranspose1d", (3, 4, 2), (2, 3, 5)),
]
NORMS = [
    ("weight_norm", {}),
    ("weight_norm", {"dim": 1}),
    ("weight_norm", {"dim": None}),
    ("spectral_norm", {}),
]
NORMS += [("spectral_norm", {"n_power_iterations": 3, "dim": 1})]


class Doubled(nn.Module):
    def forward(self, x):
        return 2.0 * x

    def right_inverse(self, value):
        return 0.5 * value


class Symmetric(nn.Module):
    def forward(self, x):
        return dg.triu(x) + dg.triu(x, k=1).mT


class Sum(nn.Module):
    def forward(self, first, second):
        return first + second

    def right_inverse(self, value):
        return 0.25 * value, 0.75 * value


def values(x):
    return x.detach()._data.copy()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("norm", "options"), NORMS)
@pytest.mark.parametrize(("name", "args", "shape"), LAYERS)
def test_norms_are_pytorchs(name, args, shape, norm, options, training):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    theirs = getattr(torch.nn, name)(*args, dtype=torch.float64)
    theirs = getattr(torch.nn.utils.parametrizations, norm)(theirs, **options).train(training)
    ours = getattr(nn.utils, norm)(getattr(nn, name)(*args).double(), **options).train(training)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal(shape)
    for _ in range(2):
        y, u = ours(ours_of(x)), theirs(torch.tensor(x))
        close(y, u, 1e-10, "output")
        found = grad((y * y).sum(), list(ours.parameters()))
        wanted = torch.autograd.grad((u * u).sum(), list(theirs.parameters()))
        for (key, _), g, w in zip(ours.named_parameters(), found, wanted, strict=True):
            close(g, w, 1e-9, f"gradient of {key}")
    for (key, mine), their in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        close(mine, their, 1e-10, key)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_a_norm_is_removed_with_the_values_that_it_gave(norm):
    layer = nn.Linear(3, 4)
    kind = type(layer)
    before = values(layer.weight)
    getattr(nn.utils, norm)(layer).eval()
    given = values(layer.weight)
    if norm == "weight_norm":
        np.testing.assert_allclose(given, before, rtol=1e-6)
    else:
        np.testing.assert_allclose(np.linalg.norm(given, 2), 1.0, rtol=1e-3)
    assert getattr(nn.utils, f"remove_{norm}")(layer) is layer
    assert type(layer) is kind
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    np.testing.assert_allclose(values(layer.weight), given, rtol=1e-6)
    with pytest.raises(OptionError, match=f"remove_{norm}: 'weight' of Linear has no such norm"):
        getattr(nn.utils, f"remove_{norm}")(layer)


def test_a_parametrized_weight_is_trained_through_its_original():
    layer = nn.Linear(3, 3, bias=False)
    weight = layer.weight
    optimizer = dg.optim.SGD(layer.parameters(), lr=0.1)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert layer.parametrizations.weight.original is weight, "the optimizer holds it"
    before = values(weight)
    layer(dg.ones((2, 3))).sum().backward()
    optimizer.step()
    assert not np.array_equal(values(weight), before)
    computed = values(layer.weight)
    np.testing.assert_array_equal(computed, computed.T)


def test_functions_are_chained_and_values_set_through_them():
    layer = nn.Linear(2, 2)
    start = values(layer.weight)
    parametrize.register_parametrization(layer, "weight", Doubled())
    np.testing.assert_allclose(values(layer.weight), start)
    parametrize.register_parametrization(layer, "weight", Doubled())
    np.testing.assert_allclose(values(layer.weight), 2 * start)
    layer.weight = dg.full((2, 2), 8.0)
    np.testing.assert_array_equal(values(layer.parametrizations.weight.original), np.full((2, 2), 2.0))
    np.testing.assert_array_equal(values(layer.weight), np.full((2, 2), 8.0))
    parametrize.register_parametrization(layer, "bias", Symmetric(), unsafe=True)
    with pytest.raises(OptionError, match="Symmetric has no right_inverse"):
        layer.bias = dg.zeros(2)


def test_several_originals():
    layer = nn.Linear(2, 2)
    start = values(layer.weight)
    parametrize.register_parametrization(layer, "weight", Sum())
    assert list(layer.state_dict())[1:] == [f"parametrizations.weight.original{i}" for i in range(2)]
    np.testing.assert_allclose(values(layer.weight), start)
    layer(dg.ones((1, 2))).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    with pytest.raises(OptionError, match="made from 2 tensors"):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    parametrize.remove_parametrizations(layer, "weight")
    assert isinstance(layer.weight, nn.Parameter)
    np.testing.assert_allclose(values(layer.weight), start)


def test_removal_brings_the_original_back_or_keeps_the_value():
    for leave, factor in ((False, 1.0), (True, 2.0)):
        layer = nn.Linear(2, 2)
        weight, start = layer.weight, values(layer.weight)
        parametrize.register_parametrization(layer, "weight", Sum2())
        parametrize.register_parametrization(layer, "bias", Doubled())
        parametrize.remove_parametrizations(layer, "weight", leave)
        assert layer.weight is weight
        np.testing.assert_array_equal(values(layer.weight), factor * start)
        assert parametrize.is_parametrized(layer)
        assert not parametrize.is_parametrized(layer, "weight")
        assert type(layer) is not nn.Linear
        parametrize.remove_parametrizations(layer, "bias")
        assert type(layer) is nn.Linear
        assert not parametrize.is_parametrized(layer)
        assert not list(layer.children())


class Sum2(nn.Module):
    def forward(self, x):
        return x + x


def test_buffers_are_computed_too():
    norm = nn.BatchNorm1d(3)
    parametrize.register_parametrization(norm, "running_var", Sum2())
    assert norm.running_var.tolist() == [2, 2, 2]
    assert "parametrizations.running_var.original" in norm.state_dict()
    parametrize.remove_parametrizations(norm, "running_var")
    assert dict(norm.named_buffers())["running_var"].tolist() == [2, 2, 2]


def test_inside_cached_a_tensor_is_computed_once():
    class Counted(nn.Module):
        count = 0

        def forward(self, x):
            Counted.count += 1
            return x * 1.0

        def right_inverse(self, value):
            return value

    layer = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Counted(), unsafe=True)
    Counted.count = 0
    with parametrize.cached():
        with parametrize.cached():
            assert layer.weight is layer.weight
        assert layer.weight is layer.weight
        assert Counted.count == 1
        layer.weight = dg.zeros((2, 2))
        assert layer.weight.tolist() == [[0, 0], [0, 0]]
    assert layer.weight is not layer.weight
    assert Counted.count == 4


def test_a_copy_is_a_module_of_its_own():
    layer = nn.utils.weight_norm(nn.Linear(2, 2))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is type(layer)
        np.testing.assert_array_equal(values(other.weight), values(layer.weight))
        parametrize.register_parametrization(other, "bias", Doubled())
        parametrize.remove_parametrizations(other, "weight")
        assert parametrize.is_parametrized(layer, "weight")
        assert not parametrize.is_parametrized(layer, "bias")
    assert repr(layer).startswith("ParametrizedLinear(\n  in_features=2, out_features=2, bias=True\n")


class Wrong(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda x: x[0],
            ShapeError,
            r"float32\[2, 3\] but the parametrization of it float32\[3\]",
        ),
        (lambda x: x.astype(np.float64), ShapeError, r"float64\[2, 3\]"),
        (lambda x: 1.0, DTypeError, "must be a Tensor, got float"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(function, error, message):
    layer = nn.Linear(3, 2)
    with pytest.raises(error, match=message):
        parametrize.register_parametrization(layer, "weight", Wrong(function))
    assert type(layer) is nn.Linear
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    parametrize.register_parametrization(layer, "weight", Doubled())
    with pytest.raises(error, match=message):
        parametrize.register_parametrization(layer, "weight", Wrong(function))
    assert len(layer.parametrizations.weight) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: parametrize.register_parametrization(m, "scale", Doubled()),
            "no parameter or buffer 'scale'",
        ),
        (
            lambda m: parametrize.remove_parametrizations(m, "weight"),
            "'weight' of Linear is not",
        ),
        (lambda m: nn.utils.weight_norm(m, dim=2), "dim must be from -1 to 1 or None, got 2"),
        (lambda m: nn.utils.spectral_norm(m, "scale"), "no parameter or buffer 'scale'"),
        (lambda m: nn.utils.spectral_norm(m, n_power_iterations=0), "1 or more, got 0"),
        (lambda m: nn.utils.spectral_norm(m, dim=2), r"dim=2 is no axis of a weight \[2, 3\]"),
    ],
)
def test_calls_that_are_refused(call, message):
    with pytest.raises((OptionError, ShapeError), match=message):
        call(nn.Linear(3, 2))
