"""Calls as public programs write them: keywords of built-in functions, private names, odd arguments."""

import copy
import importlib
import inspect
import pickle
import re
import types
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from distgrad.torch.nn import functional as F

import distgrad.torch as torch
from distgrad.errors import DataError, OptionError
from distgrad.torch import nn

SCHEDULE = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), 1)
Pair = namedtuple("Pair", "left right")


def test_keywords_of_built_in_functions_are_pytorchs():
    theirs = pytest.importorskip(
        "torch.nn.functional", reason="compares with PyTorch, which is not installed"
    )
    wrong = {}
    for name, function in vars(theirs).items():
        built_in = callable(function) and not isinstance(function, type | types.FunctionType)
        written = (
            re.search(rf"{name}\(((?:[^()]|\([^()]*\))*)\)", function.__doc__ or "") if built_in else None
        )
        if name.startswith("_") or written is None or not hasattr(F, name):
            continue
        ours = inspect.signature(getattr(F, name)).parameters
        given = [re.split("[=:]", each)[0].strip() for each in re.split(r",(?![^(]*\))", written[1])]
        places = {each for each, p in ours.items() if p.kind is not p.POSITIONAL_ONLY}
        missing = set(given) - {"*", ""} - places
        if missing and not any(p.kind is p.VAR_KEYWORD for p in ours.values()):
            wrong[name] = missing
    assert wrong == {}


def test_a_linear_map_takes_keywords():
    x, weight, bias = torch.rand(3, 4), torch.rand(5, 4), torch.rand(5)
    expected = x.numpy() @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(F.linear(input=x, weight=weight, bias=bias).numpy(), expected, rtol=1e-6)
    assert F.linear(x, weight, bias=None).shape == (3, 5)


def test_parts_by_either_name_of_their_size():
    x = torch.rand(4, 6)
    for parts in (x.split(split_size=[2, 4], dim=-1), x.split(split_size_or_sections=[2, 4], dim=1)):
        assert [each.shape for each in parts] == [(4, 2), (4, 4)]


@pytest.mark.parametrize(
    ("name", "instance"),
    [
        ("nn.modules.batchnorm._BatchNorm", nn.BatchNorm2d(2)),
        ("nn.modules.batchnorm._NormBase", nn.InstanceNorm1d(2)),
        ("nn.modules.instancenorm._InstanceNorm", nn.InstanceNorm1d(2)),
        ("nn.modules.conv._ConvNd", nn.ConvTranspose1d(2, 2, 1)),
        ("nn.modules.conv._ConvTransposeNd", nn.ConvTranspose1d(2, 2, 1)),
        ("nn.modules.dropout._DropoutNd", nn.Dropout2d()),
        ("nn.modules.pooling._MaxPoolNd", nn.MaxPool2d(2)),
        ("nn.RNNBase", nn.GRU(2, 2)),
        ("nn.modules.rnn.RNNCellBase", nn.LSTMCell(2, 2)),
        ("nn.modules.linear.NonDynamicallyQuantizableLinear", nn.Linear(2, 2)),
        ("optim.lr_scheduler._LRScheduler", SCHEDULE),
    ],
)  # fmt: skip
def test_bases_that_programs_ask_for(name, instance):
    room, _, last = f"distgrad.torch.{name}".rpartition(".")
    assert isinstance(instance, getattr(importlib.import_module(room), last))


def test_a_loss_of_the_programs_own_passes_pytorchs_arguments_on():
    class Focal(nn.modules.loss._WeightedLoss):
        def __init__(self, weight=None, size_average=None, reduce=None, reduction="mean"):
            super().__init__(weight, size_average, reduce, reduction)

    assert Focal(torch.ones(3), reduction="sum").reduction == "sum"
    assert nn.modules.loss._Loss(None, None, "none").reduction == "none"
    assert nn.init._calculate_correct_fan(torch.ones(3, 5), "fan_out") == 3
    assert nn.init._calculate_fan_in_and_fan_out(torch.ones(3, 5)) == (5, 3)


def test_a_tensor_carries_attributes_of_the_programs_own():
    x = torch.zeros(3)
    x.require_grad = False  # misspelt in many a program, where it does nothing
    x.note = "kept"
    assert not x.requires_grad
    kept = (x, copy.copy(x), copy.deepcopy([x])[0], pickle.loads(pickle.dumps(x)))
    assert [each.note for each in kept] == ["kept"] * 4
    buffer = nn.Buffer(torch.zeros(2), persistent=False)
    buffer.note = ["own"]
    for twin in (copy.copy(buffer), copy.deepcopy(buffer)):
        assert (twin.note, twin.persistent) == (["own"], False)
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'gobble'"):
        _ = x.gobble


def test_names_that_are_none():
    assert torch.version.cuda is None
    assert torch.version.hip is None
    with pytest.raises(AttributeError, match=r"distgrad has no torch\.version\.gobble"):
        _ = torch.version.gobble


def test_options_that_say_how_a_thing_is_computed():
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert float(nn.utils.clip_grad_norm_([p], 1.0, foreach=True)) == 5.0
    nn.utils.clip_grad_value_([p], 0.1, foreach=False)
    np.testing.assert_allclose(p.grad.numpy(), 0.1)
    assert torch.optim.AdamW([p], fused=True).param_groups[0]["lr"] == 1e-3


@torch.fx.wrap
def scaled(x):
    return 2 * x


def test_trees_are_taken_apart_and_put_together():
    pytree = importlib.import_module("distgrad.torch.utils._pytree")
    tree = OrderedDict(a=[1, (2, None)], b=Pair({"x": 3}, 4))
    leaves, spec = pytree.tree_flatten(tree)
    assert leaves == [1, 2, None, 3, 4]
    assert spec.num_leaves == 5
    assert pytree.tree_unflatten(leaves, spec) == tree
    assert isinstance(pytree.tree_map(lambda _: 0, tree)["b"], Pair)
    assert pytree.tree_map(lambda x, y: x + y, [1, {"a": 2}], [10, {"a": 20}]) == [11, {"a": 22}]
    assert pytree.tree_map_only(int, scaled, ["a", 2]) == ["a", 4]
    assert pytree.tree_leaves([1, [2]], is_leaf=lambda each: each == [2]) == [1, [2]]
    assert pytree.tree_any(lambda each: each == 2, [1, [2]])
    assert not pytree.tree_all(lambda each: each == 2, [1, [2]])
    with pytest.raises(OptionError, match="expected 5 leaves, got 1"):
        pytree.tree_unflatten([1], spec)
    with pytest.raises(OptionError, match="one structure"):
        pytree.tree_map(max, [1], {"a": 1})


def test_weights_are_read_from_where_pytorch_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"w": torch.ones(2)}, folder / "net-1234.pth")
    assert torch.hub.load_state_dict_from_url("https://host/models/net-1234.pth")["w"].tolist() == [1, 1]
    load_url = importlib.import_module("distgrad.torch.utils.model_zoo").load_url
    with pytest.raises(DataError, match=r"nothing is downloaded: get it from https://host/other\.pth"):
        load_url("https://host/other.pth")
    with pytest.raises(DataError, match="get https://host/x and put it at here"):
        torch.hub.download_url_to_file("https://host/x", "here")


def test_products_with_derivatives_have_pytorchs_form():
    functional = torch.autograd.functional
    x, v = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    value, product = functional.jvp(lambda x: x**3, inputs=x, v=v)
    assert (value.tolist(), product.tolist()) == ([1, 8], [9, 60])
    value, product = functional.hvp(lambda x: (x**3).sum(), x, v=v)
    assert (float(value), product.tolist()) == (9, [18, 60])
    value, product = functional.vjp(func=lambda x: x**3, inputs=x, v=v)
    assert product.tolist() == [9, 60]
    _, products = functional.jvp(lambda x, y: (x * y, x.sum()), (x, v), (v, x))
    assert [each.tolist() for each in products] == [[10, 29], 8]
    y = x.clone().requires_grad_()
    functional.hvp(lambda x: (x**3).sum(), y, v, create_graph=True)[1].sum().backward()
    assert y.grad.tolist() == [18, 30]
    with pytest.raises(OptionError, match="jvp: v may be left out only"):
        functional.jvp(lambda x: x, x)
    assert torch.autograd.gradcheck(func=lambda x: x**2, inputs=x.double().requires_grad_(), fast_mode=True)


def test_a_sampler_may_be_subscripted_and_need_not_have_a_length():
    data = torch.utils.data

    class Backwards(data.Sampler[int]):
        def __init__(self, source):
            super().__init__(source)
            self.source = source

        def __iter__(self):
            return iter(range(len(self.source) - 1, -1, -1))

    loader = data.DataLoader(torch.arange(5), batch_size=2, sampler=Backwards(range(5)))
    assert [batch.tolist() for batch in loader] == [[4, 3], [2, 1], [0]]
    with pytest.raises(TypeError, match="Backwards has no length; define __len__"):
        len(loader)
