"""PyTorch's public names are here, or listed in the guide as left out; and nothing is listed that is here."""

import fnmatch
import importlib
import inspect
import pathlib
import re

import pytest

import distgrad as dg

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

PAIRS = {
    "torch.nn": dg.nn,
    "torch.nn.functional": dg.nn.functional,
    "torch.nn.init": dg.nn.init,
    "torch.nn.utils": dg.nn.utils,
    "torch.nn.utils.parametrize": dg.nn.utils.parametrize,
    "torch.nn.utils.rnn": dg.nn.utils.rnn,
    "torch.optim": dg.optim,
    "torch.optim.lr_scheduler": dg.optim.lr_scheduler,
    "torch.optim.swa_utils": dg.optim.swa_utils,
    "torch.utils.data": dg.data,
}
GUIDE = pathlib.Path(__file__).parents[2] / "docs/guide/from-pytorch.md"


def listed():
    """What the guide names as left out; a star stands for any letters."""
    return re.findall(r"`([\w*]+)`", GUIDE.read_text().split("## What is left out")[1])


def public(module):
    """What a module of PyTorch names in ``__all__``, and what it defines where it has none."""
    module = importlib.import_module(module)
    if hasattr(module, "__all__"):
        return {name for name in module.__all__ if callable(getattr(module, name)) and name[0] != "_"}
    homes = ("torch.nn", "torch._C._nn")
    found = {name: value for name, value in vars(module).items() if callable(value) and name[0] != "_"}
    # What is written in C++ has no home.
    names = {name for name, value in found.items() if (value.__module__ or homes[1]).startswith(homes)}
    return names - {"assert_int_or_pair", "factory_kwargs"}  # helpers of their own


def missing(module, ours, left_out):
    names = [name for name in public(module) if not hasattr(ours, name)]
    if module == "torch.nn.init":  # the deprecated twins
        names = [name for name in names if not hasattr(ours, name + "_")]
    return [name for name in names if not any(fnmatch.fnmatch(name, each) for each in left_out)]


@pytest.mark.parametrize("module", PAIRS)
def test_a_public_name_is_here_or_listed_as_left_out(module):
    assert len(public(module)) > 2
    assert missing(module, PAIRS[module], listed()) == []


def test_what_is_listed_is_left_out_indeed():
    theirs = {name for module in PAIRS for name in public(module)}
    for pattern in set(listed()) & theirs - {"RNN", "LSTM", "GRU"}:
        assert not any(hasattr(ours, pattern) for ours in PAIRS.values()), pattern


@pytest.mark.parametrize(
    ("room", "name", "message"),
    [
        (dg.nn, "SyncBatchNorm", r"'distgrad.nn' has no attribute 'SyncBatchNorm'; it stands in dg.parallel"),
        (dg.nn, "DataParallel", r"dg.parallel.DistributedDataParallel"),
        (dg.nn, "Gobble", r"'distgrad.nn' has no attribute 'Gobble'$"),
        (dg.comm, "init_process_group", r"write comm = dg.comm.init\(\)"),
        (dg.comm, "get_rank", r"write comm.rank"),
        (dg.comm, "gobble", r"'distgrad.comm' has no attribute 'gobble'$"),
    ],
)
def test_a_name_that_stands_elsewhere_says_where(room, name, message):
    with pytest.raises(AttributeError, match=message):
        getattr(room, name)


def test_a_name_that_is_neither_is_seen():
    assert missing("torch.nn", dg.optim, [])
    assert "RNNBase" in missing("torch.nn", dg.nn, [each for each in listed() if each != "RNNBase"])
    assert inspect.isclass(torch.nn.RNNBase)
