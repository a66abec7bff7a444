"""What older programs leave out or write otherwise, which PyTorch takes still, and ``distgrad.torch`` too."""

import importlib
import warnings

import numpy as np
import pytest

from distgrad import tracebacks
from distgrad.autograd.casting import set_weak_scalars


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    """The package, while scalars are weak and nothing has been warned of."""
    monkeypatch.setattr(tracebacks, "_warned", set())
    module = importlib.import_module("distgrad.torch")
    set_weak_scalars(True)
    yield module
    set_weak_scalars(False)


SHAPES = {(): 0, (3,): 0, (2, 3): 1, (2, 3, 4): 0, (2, 3, 4, 5): 1}


def softmax(x, axis):
    """By its formula."""
    e = np.exp(x - x.max(axis=axis, keepdims=True)) if x.ndim else np.exp(x - x)
    return e / e.sum(axis=axis, keepdims=True) if x.ndim else e


@pytest.mark.filterwarnings("ignore:softmax|softmin|log_softmax")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_softmax_without_dim_takes_pytorch_s_axis(torch, shape):
    values = np.random.default_rng(0).standard_normal(shape)
    x, axis = torch.from_numpy(np.array(values)), SHAPES[shape]
    expected = softmax(values, axis)
    for function in (torch.nn.Softmax(), torch.nn.functional.softmax, torch.softmax):
        np.testing.assert_allclose(function(x).numpy(), expected, rtol=1e-12)
    for function in (torch.nn.Softmin(), torch.nn.functional.softmin):
        np.testing.assert_allclose(function(x).numpy(), softmax(-values, axis), rtol=1e-12)
    for function in (torch.nn.LogSoftmax(), torch.nn.functional.log_softmax, torch.log_softmax):
        np.testing.assert_allclose(function(x).numpy(), np.log(expected), rtol=1e-9, atol=1e-15)


def test_a_softmax_without_dim_is_warned_of_once(torch):
    layer, x = torch.nn.Softmax(), torch.ones(2, 3)
    with pytest.warns(UserWarning, match=r"softmax: no dim was given, and axis 1 .* pass dim=") as seen:
        [layer(x) for _ in range(3)]
    assert [each.filename for each in seen] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.nn.Softmax(dim=0)(x)
        torch.nn.functional.log_softmax(x, -1)


def test_a_softmax_without_dim_agrees_with_pytorch(torch):
    theirs = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for shape in SHAPES:
            values = np.random.default_rng(1).standard_normal(shape)
            for name in ("softmax", "softmin", "log_softmax"):
                mine = getattr(torch.nn.functional, name)(torch.from_numpy(np.array(values)))
                other = getattr(theirs.nn.functional, name)(theirs.from_numpy(np.array(values)))
                np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-9, atol=1e-15)
