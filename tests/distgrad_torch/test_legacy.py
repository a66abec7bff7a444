"""What older programs leave out or write otherwise, which PyTorch takes still, and ``distgrad.torch`` too."""

import importlib
import inspect
import pickle
import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad import tracebacks
from distgrad.autograd.casting import set_weak_scalars
from distgrad.errors import OptionError, ShapeError
from distgrad.names.losses import LOSS_FUNCTIONS, LOSS_LAYERS


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


# -- losses

#: size_average and reduce, and what they mean.
MEANINGS = [
    ({"size_average": True}, np.mean),
    ({"size_average": False}, np.sum),
    ({"reduce": True}, np.mean),
    ({"reduce": False}, np.array),
    ({"size_average": False, "reduce": True}, np.sum),
    ({"size_average": True, "reduce": False, "reduction": "sum"}, np.array),
]


@pytest.mark.filterwarnings("ignore:.*size_average")
@pytest.mark.parametrize(("options", "reduced"), MEANINGS)
def test_size_average_and_reduce_are_a_reduction(torch, options, reduced):
    x, y = np.random.default_rng(0).standard_normal((2, 3, 4))
    expected = reduced((x - y) ** 2)
    mine = torch.from_numpy(x), torch.from_numpy(y)
    np.testing.assert_allclose(torch.nn.MSELoss(**options)(*mine).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(torch.nn.functional.mse_loss(*mine, **options).numpy(), expected, rtol=1e-12)
    logs, classes = np.log(softmax(x, 1)), np.array([3, 0, 1])
    expected = reduced(-logs[[0, 1, 2], classes])
    for loss in (torch.nn.CrossEntropyLoss(**options), torch.nn.modules.loss.CrossEntropyLoss(**options)):
        np.testing.assert_allclose(loss(mine[0], torch.from_numpy(classes)).numpy(), expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*size_average")
def test_arguments_of_losses_stand_where_pytorch_s_stand(torch):
    functional, x = torch.nn.functional, np.random.default_rng(0).standard_normal((3, 4))
    scores, classes = torch.from_numpy(x), torch.tensor([3, 0, 255])
    losses = -np.log(softmax(x, 1))[[0, 1], [3, 0]]
    found = functional.cross_entropy(scores, classes, None, False, 255)
    np.testing.assert_allclose(found.numpy(), losses.sum(), rtol=1e-12)
    found = functional.cross_entropy(scores, classes, None, None, 255, None, "mean")
    np.testing.assert_allclose(found.numpy(), losses.mean(), rtol=1e-12)
    assert torch.nn.NLLLoss(None, False).reduction == "sum"
    with pytest.raises(TypeError, match="mse_loss: size_average is given by its place and by its name"):
        functional.mse_loss(scores, scores, True, size_average=True)
    with pytest.raises(TypeError, match="MSELoss: expected at most 3 arguments, got 4"):
        torch.nn.MSELoss(None, None, "sum", 1)
    with pytest.raises(OptionError, match="MSELoss: size_average must be True or False, got 'sum'; pass red"):
        torch.nn.MSELoss("sum")


def test_losses_of_old_arguments_are_those_of_the_package(torch):
    with pytest.warns(UserWarning, match="MSELoss: .* pass reduction='sum' instead") as seen:
        [torch.nn.MSELoss(size_average=False) for _ in range(2)]
    assert [each.filename for each in seen] == [__file__]
    loss = pickle.loads(pickle.dumps(torch.nn.MSELoss()))
    assert isinstance(loss, dg.nn.MSELoss)
    assert type(loss) is torch.nn.MSELoss
    assert repr(loss) == "MSELoss()"


def test_the_orders_are_those_of_pytorch():
    theirs = pytest.importorskip("torch")
    for module, table in ((theirs.nn, LOSS_LAYERS), (theirs.nn.functional, LOSS_FUNCTIONS)):
        losses = [
            name for name in dir(module) if name.endswith(("Loss", "_loss", "entropy", "_div", "logits"))
        ]
        found = {name: inspect.signature(getattr(module, name)).parameters for name in losses}
        expected = {name: " ".join(each) for name, each in found.items() if "size_average" in each}
        assert expected == table


# -- gradients


def test_grad_takes_pytorch_s_arguments(torch):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = (x**2).sum()
    (g,) = torch.autograd.grad(y, x, only_inputs=True, retain_graph=True)
    assert g.tolist() == [2.0, 4.0]
    (g,) = torch.autograd.grad([y], [x], [torch.tensor(3.0)], True, False, True, None, False, False)
    assert g.tolist() == [6.0, 12.0]
    assert x.grad is None
    with pytest.raises(OptionError, match=r"only_inputs=False .* call backward\(\)"):
        torch.autograd.grad(y, x, only_inputs=False)
    with pytest.raises(OptionError, match=r"is_grads_batched=True .* for each row"):
        torch.autograd.grad(y, x, torch.ones(2), is_grads_batched=True)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_losses_of_unlike_shapes_are_broadcast_and_warned_of(torch, name):
    """As PyTorch does it; by distgrad's own names it is an error."""
    x, y = np.arange(6.0).reshape(2, 3) / 7, np.arange(3.0) / 5
    function = getattr(torch.nn.functional, name)
    for first, second in ((x, y), (y, x), (x[:, :1], y)):
        a, b = torch.tensor(first, requires_grad=True), torch.tensor(second)
        tracebacks._warned.clear()
        with pytest.warns(UserWarning, match=rf"{name}: input is .* broadcast to \[2, 3\]") as seen:
            loss = function(a, b)
        assert [each.filename for each in seen] == [__file__]
        loss.backward()
        shape = np.broadcast_shapes(first.shape, second.shape)
        wide = torch.tensor(np.array(np.broadcast_to(first, shape)), requires_grad=True)
        other = function(wide, torch.tensor(np.array(np.broadcast_to(second, shape))))
        other.backward()
        assert loss.item() == other.item()
        assert a.grad.sum().item() == pytest.approx(wide.grad.sum().item())
    with pytest.raises(ShapeError):
        function(torch.ones(2), torch.ones(3))
    set_weak_scalars(False)
    with pytest.raises(ShapeError, match="give both the same shape"):
        function(dg.ones((2, 3)), dg.ones(3))
