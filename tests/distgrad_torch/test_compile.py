"""torch.compile: the same results, replayed where that is right."""

import copy
import pickle
import warnings

import pytest

import distgrad.torch as torch
from distgrad.errors import CaptureError, OptionError
from distgrad.torch import nn
from distgrad.torch.compiled import OptimizedModule


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)
        self.scale = 2.0

    def forward(self, x, twice=False):
        y = self.last(self.drop(torch.relu(self.first(x))))
        return y * self.scale if twice else y

    def num_weights(self):
        return sum(p.numel() for p in self.parameters())


@pytest.fixture
def twins():
    torch.manual_seed(0)
    net = Net()
    return torch.compile(copy.deepcopy(net)), net


def test_a_model_trains_and_predicts_as_it_does_without(twins):
    found = []
    for model in twins:
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(3, 4), twice=True).pow(2).mean().backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            found.append([model(torch.randn(3, 4)).tolist() for _ in range(9)])
    assert found[0] == found[1]
    assert twins[0]._replayed.num_replays >= 4


def test_it_is_the_module_but_for_the_keys_of_its_state(twins):
    model, net = twins
    assert isinstance(model, OptimizedModule)
    assert isinstance(model, nn.Module)
    assert isinstance(model._orig_mod, Net)
    assert [f"_orig_mod.{key}" for key in net.state_dict()] == list(model.state_dict())
    assert list(net.state_dict()) == list(model._orig_mod.state_dict())
    assert model.num_weights() == net.num_weights()
    assert model.scale == 2.0
    model.scale = 3.0
    assert model._orig_mod.scale == 3.0
    assert model.first is model._orig_mod.first
    model.first = nn.Linear(4, 8, bias=False)
    assert model._orig_mod.first.bias is None
    del model.scale
    assert not hasattr(model, "scale")
    assert model.training
    assert not model.eval().training
    assert not model._orig_mod.drop.training
    with pytest.raises(AttributeError, match="nothing"):
        _ = model.nothing


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_compiled_for_itself(twins, copied):
    model, x = twins[0].eval(), torch.randn(3, 4)
    with torch.no_grad():
        expected = model(x).tolist()
        other = copied(model)
        other.first.weight.zero_()
        assert all(model(x).tolist() == expected != other(x).tolist() for _ in range(7))
    assert other._replayed.step is other._orig_mod


def test_a_step_with_its_backward_is_replayed(twins):
    found = []
    for model in (twins[0]._orig_mod, twins[1]):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(x, model=model, optimizer=optimizer):
            """Of training."""
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        torch.manual_seed(1)
        call = torch.compile(step, mode="max-autotune") if model is twins[0]._orig_mod else step
        assert (call.__name__, call.__doc__) == ("step", "Of training.")
        found.append([call(torch.randn(3, 4)).item() for _ in range(12)])
    assert found[0] == found[1]


def test_as_a_decorator_of_methods_and_functions():
    class Doubling:
        factor = 2.0

        @torch.compile
        def double(self, x):
            return x * self.factor

    @torch.compile(backend="eager", dynamic=False)
    def total(x, *, axis=0):
        return x.sum(axis)

    one, other = Doubling(), Doubling()
    other.factor = 3.0
    for _ in range(8):
        assert one.double(torch.ones(2)).tolist() == [2.0, 2.0]
        assert other.double(torch.ones(2)).tolist() == [3.0, 3.0]
        assert total(torch.ones(2, 3), axis=1).tolist() == [3.0, 3.0]
    assert torch.compiler.compile(len)([1, 2]) == 2


def branching(x):
    return x * 2 if x.sum().item() > 0 else x - 1


def run_six(function):
    return [function(torch.tensor([float(i)])).item() for i in range(6)]


def test_what_cannot_be_captured_is_eager_or_an_error():
    with pytest.warns(UserWarning, match="computed eagerly"):
        found = run_six(torch.compile(branching))
    assert found == [-1, 2, 4, 6, 8, 10]
    with pytest.raises(CaptureError, match="looks at a number"):
        run_six(torch.compile(branching, fullgraph=True))


def test_options_are_pytorchs():
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.compile(net, disable=True) is net
        net.compile(mode="reduce-overhead")
        assert net.eval()(torch.ones(1, 4)).shape == (1, 2)
    with pytest.raises(OptionError, match="mode must be one of default"):
        torch.compile(net, mode="fastest")
    with pytest.raises(TypeError, match="fullgraf"):
        torch.compile(net, fullgraf=True)
