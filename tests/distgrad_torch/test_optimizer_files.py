"""Optimizers go on from files of PyTorch's, and PyTorch's from files of distgrad's."""

import numpy as np
import pytest

import distgrad.torch as ours

RULES = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "Adam": {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"lr": 0.1},
    "Adamax": {"lr": 0.1},
    "NAdam": {"lr": 0.1},
    "RAdam": {"lr": 0.1},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1},
    "Adadelta": {},
    "RMSprop": {"lr": 0.1, "momentum": 0.9},
    "Rprop": {"lr": 0.1},
    "ASGD": {"lr": 0.1},
    "Adafactor": {"lr": 0.1},
}


@pytest.fixture
def theirs():
    return pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")


def built(torch, name):
    matrix = torch.nn.Parameter((torch.arange(6.0).reshape(2, 3) - 2) / 5)
    vector = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
    groups = [{"params": [matrix]}, {"params": [vector], "lr": 0.02}]
    return (matrix, vector), getattr(torch.optim, name)(groups, **RULES[name])


def train(parameters, optimizer, first):
    matrix, vector = parameters
    for step in range(first, first + 3):
        optimizer.zero_grad()
        ((matrix * (step + 1)).sin().sum() + (vector**2).sum()).backward()
        optimizer.step()
    return np.concatenate([each.detach().numpy().ravel() for each in parameters])


WAYS = [(name, to) for name in RULES for to in (False, True) if (name, to) != ("ASGD", True)]  # it keeps more


@pytest.mark.parametrize(("name", "to_pytorch"), WAYS)
def test_optimizers_go_on_from_each_others_files(theirs, tmp_path, name, to_pytorch):
    writer, reader = (ours, theirs) if to_pytorch else (theirs, ours)
    parameters, optimizer = built(writer, name)
    train(parameters, optimizer, 0)
    state = {"parameters": [each.detach() for each in parameters], "optimizer": optimizer.state_dict()}
    writer.save(state, tmp_path / "state.pt")
    expected = train(parameters, optimizer, 3)
    found = reader.load(tmp_path / "state.pt")
    others, other = built(reader, name)
    with reader.no_grad():
        for each, value in zip(others, found["parameters"], strict=True):
            each.copy_(value)
    other.load_state_dict(found["optimizer"])
    np.testing.assert_allclose(train(others, other, 3), expected, rtol=2e-5, atol=1e-6)


def test_the_arrays_of_a_state_are_tensors():
    parameters, optimizer = built(ours, "Adam")
    train(parameters, optimizer, 0)
    state = optimizer.state_dict()["state"]
    assert all(ours.is_tensor(state[number]["exp_avg"]) for number in (0, 1))
    assert state[0]["exp_avg"].data_ptr() != optimizer.state[parameters[0]]["exp_avg"].data_ptr()
