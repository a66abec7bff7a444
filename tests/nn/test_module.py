"""Modules: attributes, iteration, modes, conversion, state dicts, text."""

import copy

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.errors import DeviceError, DTypeError, GraphError, StateDictError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.inner = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4))
        self.last = nn.Linear(4, 2, bias=False)
        self.scale = nn.Parameter(dg.ones(2))
        self.register_buffer("seen", dg.zeros(2))
        self.register_buffer("scratch", dg.zeros(2), persistent=False)

    def forward(self, x):
        return self.last(self.inner(self.first(x))) * self.scale


NAMES = ["scale", "first.weight", "first.bias", "inner.1.weight", "inner.1.bias", "last.weight"]


def test_parameters_come_by_name_and_only_once():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    net.first_again = net.first
    net.tied = net.scale
    assert [name for name, _ in net.named_parameters()] == [*NAMES[:1], *NAMES[1:]]
    everywhere = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    assert everywhere.count("tied") == everywhere.count("first_again.weight") == 1
    assert [name for name, _ in net.named_parameters("net", recurse=False)] == ["net.scale"]
    assert len(list(net.parameters())) == len({id(p) for p in net.parameters()}) == len(NAMES)


def test_modules_and_buffers_come_by_name():
    net = Net()
    names = [name for name, _ in net.named_modules()]
    assert names == ["", "first", "inner", "inner.0", "inner.1", "last"]
    assert [name for name, _ in net.named_children()] == ["first", "inner", "last"]
    running = ["inner.1.running_mean", "inner.1.running_var", "inner.1.num_batches_tracked"]
    assert [name for name, _ in net.named_buffers()] == ["seen", "scratch", *running]
    assert net.get_submodule("inner.1") is net.inner[1]
    assert net.get_parameter("first.bias") is net.first.bias
    assert net.get_buffer("inner.1.running_mean") is net.inner[1].running_mean
    for getter in (net.get_submodule, net.get_parameter, net.get_buffer):
        with pytest.raises(AttributeError, match=r"inner\.7"):
            getter("inner.7")


def test_assignment_moves_a_name_between_kinds():
    net = Net()
    net.plain = 3
    net.plain = nn.Parameter(dg.ones(1))
    assert "plain" in dict(net.named_parameters())
    net.plain = nn.Linear(1, 1)
    assert "plain" in dict(net.named_children())
    assert "plain" not in dict(net.named_parameters())
    del net.plain
    assert not hasattr(net, "plain")
    net.kept = nn.Buffer(dg.ones(1), persistent=False)
    assert "kept" in dict(net.named_buffers())
    assert "kept" not in net.state_dict()
    net.seen = dg.ones(2)
    assert net.get_buffer("seen") is net.seen
    net.scale = None
    assert net.scale is None
    assert "scale" not in net.state_dict()


@pytest.mark.parametrize(("name", "value"), [("scale", dg.ones(2)), ("first", 3), ("seen", [1.0, 2.0])])
def test_assignment_of_a_wrong_kind_is_refused(name, value):
    with pytest.raises(TypeError, match=f"Net: '{name}' is a"):
        setattr(Net(), name, value)


def test_names_that_could_not_be_found_again_are_refused():
    net = Net()
    for name in ("a.b", "", 3):
        with pytest.raises(KeyError, match="text without dots"):
            net.register_parameter(name, None)
    with pytest.raises(KeyError, match="an attribute already"):
        net.register_buffer("forward", None)


def test_assignment_before_init_says_what_to_do():
    class Hasty(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"before super\(\).__init__\(\) has run"):
        Hasty()


def test_a_missing_attribute_and_a_missing_forward_are_errors():
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'third'"):
        _ = Net().third
    with pytest.raises(NotImplementedError, match="has no forward method"):
        nn.Module()(1)


def test_train_eval_and_apply_reach_every_module():
    net = Net()
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert all(module.training for module in net.train().modules())
    seen = []
    assert net.apply(lambda module: seen.append(type(module).__name__)) is net
    assert seen == ["Linear", "ReLU", "BatchNorm1d", "Sequential", "Linear", "Net"]


def test_requires_grad_and_zero_grad():
    net = Net()
    assert not any(p.requires_grad for p in net.requires_grad_(False).parameters())
    net.requires_grad_()
    x = dg.randn(5, 3)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    grads = [p.grad for p in net.parameters()]
    net.zero_grad(set_to_none=False)
    assert all(p.grad is g and not g._data.any() for p, g in zip(net.parameters(), grads, strict=True))
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_conversion_keeps_identity_and_leaves_whole_numbers():
    net = Net()
    before = list(net.parameters())
    net(dg.randn(5, 3)).sum().backward()
    assert net.double() is net
    assert all(
        p is q and p.dtype == p.grad.dtype == np.float64
        for p, q in zip(net.parameters(), before, strict=True)
    )
    assert net.inner[1].running_mean.dtype == np.float64
    assert net.inner[1].num_batches_tracked.dtype == np.int64
    assert net.to("cpu", np.float16).scale.dtype == np.float16
    assert net.to(dtype=np.float32, device="cpu").scale.dtype == np.float32
    assert net.to(dg.zeros(1, dtype=np.float64)).scale.dtype == np.float64
    assert net.half().float().scale.dtype == np.float32
    with pytest.raises(DTypeError, match="real floating-point, got int64"):
        net.to(np.int64)
    with pytest.raises(DeviceError, match="cuda"):
        net.to("cuda:99")
    with pytest.raises(TypeError, match="unknown arguments"):
        net.to(memory="fast")


def test_conversion_of_gradients_in_a_flat_buffer_is_refused():
    net = nn.Linear(2, 2)
    net.weight.leaf_state().buffer = np.zeros((2, 2), dtype=np.float32)
    with pytest.raises(GraphError, match="flat buffer"):
        net.double()
    assert net.weight.dtype == np.float32


# -- state dicts


def test_state_dict_goes_round_and_shares_memory():
    net, other = Net(), Net()
    state = net.state_dict()
    assert list(state)[:2] == ["scale", "seen"]
    assert set(state) == {*NAMES, "seen", *[n for n, _ in net.named_buffers() if "inner" in n]}
    assert all(not tensor.requires_grad for tensor in state.values())
    assert net.state_dict(keep_vars=True)["scale"] is net.scale
    assert "net.scale" in net.state_dict(prefix="net.")
    result = other.load_state_dict(state)
    assert result == ([], [])
    for name, tensor in other.state_dict().items():
        np.testing.assert_array_equal(tensor._data, state[name]._data)
        assert not np.shares_memory(tensor._data, state[name]._data)
    state["scale"]._data[:] = 7
    assert net.scale._data[0] == 7


def test_loading_writes_into_the_parameters_own_memory():
    net = nn.Linear(2, 2)
    flat = np.zeros(6, dtype=np.float32)
    net.weight._data, net.bias._data = flat[:4].reshape(2, 2), flat[4:]
    net.load_state_dict({"weight": np.full((2, 2), 3.0), "bias": np.full(2, 5.0)})
    np.testing.assert_array_equal(flat, [3, 3, 3, 3, 5, 5])


def test_loading_may_take_the_tensors_themselves():
    net, lazy = nn.BatchNorm1d(2), nn.LazyLinear(3)
    net.bias.requires_grad_(False)
    state = {key: dg.tensor(value, dtype=np.float64) for key, value in net.state_dict().items()}
    state["num_batches_tracked"] = np.int64(7)
    assert net.load_state_dict(state, assign=True) == ([], [])
    assert net.weight._data is state["weight"]._data
    assert isinstance(net.weight, nn.Parameter)
    assert (net.weight.dtype, net.weight.requires_grad, net.bias.requires_grad) == (np.float64, True, False)
    assert net.running_var._data is state["running_var"]._data
    assert int(net.num_batches_tracked) == 7
    assert net(dg.ones((3, 2), dtype=np.float64)).dtype == np.float64
    lazy.load_state_dict({"weight": dg.ones((3, 2)), "bias": dg.zeros(3)}, assign=True)
    lazy(dg.ones((1, 2))).sum().backward()
    assert lazy.weight.grad.shape == (3, 2)
    with pytest.raises(StateDictError, match=r"weight is \[2\] in the module but \[3\]"):
        net.load_state_dict({**state, "weight": dg.ones(3)}, assign=True)


def test_loading_between_forward_and_backward_is_noticed():
    net = nn.Linear(2, 2)
    x = dg.randn(1, 2).requires_grad_()
    y = net(x).sum()
    net.load_state_dict(net.state_dict())
    with pytest.raises(dg.InPlaceError, match="load_state_dict"):
        y.backward()


def test_strict_loading_names_everything_that_differs_and_changes_nothing():
    net = Net()
    before = {name: tensor._data.copy() for name, tensor in net.state_dict().items()}
    state = {name: tensor._data + 1 for name, tensor in net.state_dict().items()}
    del state["scale"], state["inner.1.bias"]
    state |= {"first.weight": np.zeros((4, 9)), "last.weight": np.zeros((2, 4), dtype=complex)}
    state |= {"extra": np.zeros(1), "first.bias": [0.0] * 4, "other.weight": np.zeros(1)}
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict(state)
    message = str(caught.value)
    for part in (
        "does not fit Net; nothing was loaded",
        "missing key scale",
        "missing key inner.1.bias",
        "unexpected key extra",
        "unexpected key other.weight",
        "first.weight is [4, 3] in the module but [4, 9] in the state dict",
        "last.weight is float32 in the module but complex128",
        "first.bias is a tensor in the module but list in the state dict",
    ):
        assert part in message
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor._data, before[name])


def test_loading_without_strict_reports_names_and_still_refuses_shapes():
    net = Net()
    result = net.load_state_dict({"scale": np.full(2, 9.0), "extra": 1}, strict=False)
    assert result.unexpected_keys == ["extra"]
    assert "first.weight" in result.missing_keys
    assert net.scale._data[0] == 9
    with pytest.raises(StateDictError, match=r"scale is \[2\] in the module but \[3\]"):
        net.load_state_dict({"scale": np.zeros(3)}, strict=False)


def test_extra_state_goes_round():
    class Counting(nn.Module):
        count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    net, other = nn.Sequential(Counting()), nn.Sequential(Counting())
    net[0].count = 5
    other.load_state_dict(net.state_dict())
    assert other[0].count == 5


# -- copies and text


def test_deep_copies_share_nothing_and_keep_ties():
    net = Net()
    net.tied = net.scale
    net.scale.note = "mine"
    twin = copy.deepcopy(net)
    assert twin.tied is twin.scale
    assert twin.scale is not net.scale
    assert twin.scale.note == "mine"
    assert isinstance(twin.scale, nn.Parameter)
    twin.scale._data[:] = 5
    assert net.scale._data[0] == 1
    frozen = copy.deepcopy(nn.Parameter(dg.ones(1), requires_grad=False))
    assert not frozen.requires_grad


def test_results_of_parameters_are_plain_tensors():
    p = nn.Parameter(dg.ones(2))
    assert p.requires_grad
    assert type(p * 2) is dg.Tensor
    assert repr(p).startswith("Parameter containing:\ntensor([1., 1.]")


def test_a_parameter_shares_memory_and_versions_with_its_tensor():
    values = dg.ones(2)
    p = nn.Parameter(values)
    y = (p * p).sum()
    values[0] = 3.0
    with pytest.raises(dg.InPlaceError):
        y.backward()


def test_text_shows_the_tree():
    assert repr(Net()) == (
        "Net(\n"
        "  (first): Linear(in_features=3, out_features=4, bias=True)\n"
        "  (inner): Sequential(\n"
        "    (0): ReLU()\n"
        "    (1): BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)\n"
        "  )\n"
        "  (last): Linear(in_features=4, out_features=2, bias=False)\n"
        ")"
    )
    assert {"scale", "seen", "first"} <= set(dir(Net()))
