"""``from torch.nn import *`` and its like bring what there is of PyTorch's names, and hide no builtin."""

import builtins
import importlib

import pytest

import distgrad.torch
from distgrad.names.deferred import DEFERRED, DTYPES

SUBMODULES = (
    "", "nn", "nn.functional", "nn.init", "nn.modules", "nn.parameter", "nn.utils.rnn", "optim",
    "optim.lr_scheduler", "utils.data", "utils.data.dataset", "utils.checkpoint", "autograd", "distributions",
    "distributed", "linalg", "fft", "cuda", "amp",
)  # fmt: skip


def starred(name):
    found = {}
    exec(f"from {name} import *", found)
    return found.keys() - {"__builtins__"}


@pytest.mark.parametrize("name", SUBMODULES)
def test_what_there_is_comes(name):
    pytest.importorskip("torch")
    path = f"torch.{name}".strip(".")
    theirs, ours = starred(path), starred(f"distgrad.{path}")
    module = importlib.import_module(f"distgrad.{path}")
    is_room = {each for each in theirs if isinstance(getattr(module, each, None), type(distgrad.torch.nn))}
    absent = {each for each in theirs - ours - is_room if hasattr(module, each) and each[0] != "_"}
    absent -= {
        each for each in absent if each.endswith("_") and not name
    }  # torch.relu_ comes when it is asked for
    absent -= {
        *DEFERRED.get(name, "").split(),
        *DTYPES.split(),
    }  # come when asked for
    assert not absent - {"Any", "Callable", "Iterable", "get_device", "is_signed"}  # the last are methods
    assert not (ours - theirs) & set(dir(builtins))


def test_a_program_that_is_written_with_stars():
    found = {}
    exec(
        "from distgrad.torch import *\nfrom distgrad.torch.nn import *\nfrom distgrad.torch.optim import *\n"
        "from distgrad.torch.utils.data import *\n"
        "net = Sequential(Linear(3, 2), ReLU())\n"
        "loader = DataLoader(TensorDataset(ones(4, 3)), batch_size=2)\n"
        "rule = SGD(net.parameters(), lr=0.1)\nloss = sum(functional.relu(net(next(iter(loader))[0])))",
        found,
    )
    assert found["loss"].shape == ()
