"""Modules called with other parameters, in pieces, and compiled: what PyTorch gives."""

import importlib

import numpy as np
import pytest
from distgrad.torch.utils.checkpoint import checkpoint_sequential

import distgrad.torch as torch
from distgrad.errors import OptionError, StateDictError

real = pytest.importorskip("torch")


def twins():
    mine = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
    )
    theirs = real.nn.Sequential(
        real.nn.Linear(3, 4), real.nn.BatchNorm1d(4), real.nn.Tanh(), real.nn.Linear(4, 2)
    )
    theirs.load_state_dict(
        {key: real.from_numpy(np.array(value.numpy())) for key, value in mine.state_dict().items()}
    )
    return mine, theirs


X = np.sin(np.arange(15.0)).reshape(5, 3).astype(np.float32)


def test_functional_call_takes_other_parameters_and_their_gradients():
    mine, theirs = twins()
    before = {key: value.numpy().copy() for key, value in mine.state_dict().items()}
    results = []
    for package, module, make in ((torch, mine, torch.from_numpy), (real, theirs, real.from_numpy)):
        given = {"0.weight": make(np.full((4, 3), 0.3, np.float32)), "3.bias": make(np.ones(2, np.float32))}
        for each in given.values():
            each.requires_grad_()
        package.func.functional_call(module, given, (make(X),)).pow(2).sum().backward()
        results.append([each.grad.numpy() for each in given.values()])
    for ours, its in zip(*results, strict=True):
        np.testing.assert_allclose(ours, its, atol=1e-5)
    for key in ("0.weight", "3.bias"):
        assert (mine.state_dict()[key].numpy() == before[key]).all()
    with pytest.raises(StateDictError, match=r"has no \['5.weight'\]"):
        torch.func.functional_call(mine, {"5.weight": X}, (X,))
    with pytest.raises(StateDictError, match="was not given"):
        torch.func.functional_call(mine, {}, (X,), strict=True)


def test_tied_weights_are_replaced_together():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(2, 2, bias=False)
            self.b = torch.nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    given = {"a.weight": torch.eye(2) * 3}
    assert torch.func.functional_call(Tied(), given, (torch.ones(1, 2),)).tolist() == [[9.0, 9.0]]


def test_states_are_stacked():
    models = [torch.nn.Linear(2, 2) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    assert {name: tuple(each.shape) for name, each in parameters.items()} == {
        "weight": (3, 2, 2),
        "bias": (3, 2),
    }
    assert buffers == {}
    assert parameters["bias"][1].tolist() == models[1].bias.tolist()
    with pytest.raises(OptionError, match="at least one model"):
        torch.func.stack_module_state([])


@pytest.mark.parametrize("segments", [1, 2, 4])
def test_a_sequence_in_checkpointed_pieces_has_the_same_gradients(segments):
    mine, _ = twins()
    mine.eval()
    x = torch.from_numpy(X)
    mine(x).sum().backward()
    expected = [p.grad.numpy().copy() for p in mine.parameters()]
    mine.zero_grad()
    checkpoint_sequential(mine, segments, x, use_reentrant=False).sum().backward()
    for p, grad in zip(mine.parameters(), expected, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), grad)
    with pytest.raises(OptionError, match="segments must be from 1 to 4"):
        checkpoint_sequential(mine, 9, x)


def asked_for(module, name):
    """What is said of a name; None where it is there."""
    try:
        getattr(module, name)
    except AttributeError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "room",
    [
        "accelerator",
        "backends",
        "backends.cuda",
        "compiler",
        "cuda",
        "distributed",
        "func",
        "utils.checkpoint",
    ],
)
def test_what_pytorch_has_is_there_or_an_error_with_its_name(room):
    theirs = importlib.import_module(f"torch.{room}")
    ours = importlib.import_module(f"distgrad.torch.{room}")
    names = [name for name in getattr(theirs, "__all__", dir(theirs)) if not name.startswith("_")]
    messages = {name: asked_for(ours, name) for name in names}
    assert all(message is None or name in message for name, message in messages.items())
    assert None in messages.values()
