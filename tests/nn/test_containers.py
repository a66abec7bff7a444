"""Sequences, lists and dicts of modules and parameters."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn


def kinds(modules):
    return [type(module).__name__ for module in modules]


def test_sequential_calls_in_order_and_can_be_edited():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = dg.randn(4, 2)
    np.testing.assert_array_equal(net(x)._data, net[2](net[1](net[0](x)))._data)
    assert kinds(net[:2]) == ["Linear", "ReLU"]
    assert net[:2][0] is net[0]
    assert net[-1] is net[2]
    net.append(nn.Tanh()).insert(1, nn.Dropout())
    assert kinds(net) == ["Linear", "Dropout", "ReLU", "Linear", "Tanh"]
    assert list(net._modules) == ["0", "1", "2", "3", "4"]
    del net[1]
    net[-1] = nn.Sigmoid()
    assert kinds(net) == ["Linear", "ReLU", "Linear", "Sigmoid"]
    assert kinds([net.pop()]) == ["Sigmoid"]
    assert kinds(net.extend([nn.ELU()])) == ["Linear", "ReLU", "Linear", "ELU"]
    assert len(net) == 4
    with pytest.raises(IndexError, match="index 4 is outside a list of 4"):
        net[4]


def test_sequential_with_names():
    net = nn.Sequential({"a": nn.Linear(2, 2), "b": nn.ReLU(), "c": nn.Tanh()})
    assert list(net.state_dict()) == ["a.weight", "a.bias"]
    assert list(net[1:]._modules) == ["b", "c"]
    del net[0]
    assert list(net._modules) == ["b", "c"]


def test_module_list():
    layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    layers += [nn.ReLU()]
    assert len(list(layers.parameters())) == 6
    assert kinds(layers[1:3]) == ["Linear", "Linear"]
    assert kinds(layers + [nn.Tanh()]) == ["Linear"] * 3 + ["ReLU", "Tanh"]
    assert repr(layers) == (
        "ModuleList(\n  (0-2): 3 x Linear(in_features=2, out_features=2, bias=True)\n  (3): ReLU()\n)"
    )
    with pytest.raises(TypeError, match="takes a Module"):
        layers.append(3)


def test_module_dict():
    layers = nn.ModuleDict({"a": nn.Linear(2, 2)})
    layers["b"] = nn.ReLU()
    layers.update([("c", nn.Tanh())])
    assert list(layers) == list(layers.keys()) == ["a", "b", "c"]
    assert kinds(layers.values()) == ["Linear", "ReLU", "Tanh"]
    assert "a" in layers
    assert kinds([layers.pop("a")]) == ["Linear"]
    del layers["c"]
    assert [(name, type(module).__name__) for name, module in layers.items()] == [("b", "ReLU")]
    layers.clear()
    assert len(layers) == 0


def test_parameter_list_and_dict():
    several = nn.ParameterList([dg.ones(2), nn.Parameter(dg.zeros(3))])
    several.append(dg.ones(1))
    several += [dg.ones(4)]
    assert [p.shape for p in several] == [(2,), (3,), (1,), (4,)]
    assert list(several.state_dict()) == ["0", "1", "2", "3"]
    assert [p.shape for p in several[1:3]] == [(3,), (1,)]
    several[-1] = dg.zeros(5)
    assert all(isinstance(p, nn.Parameter) for p in several)
    assert several[3].shape == (5,)
    named = nn.ParameterDict({"a": dg.ones(2)})
    named["b"] = dg.zeros(3)
    assert list(named) == ["a", "b"]
    assert [name for name, _ in named.named_parameters()] == ["a", "b"]
    assert named.get("c") is None
    twin = named.copy()
    assert twin["a"] is named["a"]
    assert twin.setdefault("a", dg.zeros(7)) is named["a"]
    assert isinstance(twin.setdefault("c", dg.zeros(7)), nn.Parameter)
    assert [twin.popitem()[0] for _ in range(3)] == ["c", "b", "a"]
    with pytest.raises(KeyError, match="empty"):
        twin.popitem()
    assert {key: p.shape for key, p in named.fromkeys("xy", dg.ones(2)).items()} == {"x": (2,), "y": (2,)}
    assert named.pop("a").shape == (2,)
    with pytest.raises(KeyError):
        named["a"]
    assert repr(named) == "ParameterDict(\n  (b): Parameter containing: [float32 of size [3]]\n)"
    named.clear()
    assert list(named.parameters()) == []
