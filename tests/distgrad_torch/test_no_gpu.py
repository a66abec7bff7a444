"""What programs ask of GPUs on any machine, where there is none: nothing, as PyTorch has it, and no error."""

import copy
import dataclasses
import pickle

import pytest

import distgrad.torch as torch
from distgrad.errors import DeviceError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")

COUNTS = [f"{kind}memory_{what}" for kind in ("", "max_") for what in ("allocated", "reserved", "cached")]


def test_memory_is_counted_and_emptied_where_there_is_none():
    torch.cuda.empty_cache()
    assert [getattr(torch.cuda, name)() for name in COUNTS] == [0] * 6
    assert torch.cuda.memory_allocated("cuda:0") == 0
    assert torch.cuda.memory_stats() == {}
    assert torch.cuda.memory_summary() == ""


def test_no_stream_and_no_device_are_contexts():
    with torch.cuda.stream(None), torch.cuda.device(None), torch.cuda.device(-1):
        assert torch.ones(1).device == torch.device("cpu")
    with pytest.raises(DeviceError):
        torch.cuda.device(0)


def test_autocast_is_what_its_block_is_given():
    mode = torch.autocast("cpu", dtype=torch.bfloat16)
    with mode as given:
        assert given is mode
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_device_is_no_data_class():
    """Libraries walk through data classes and refuse those that cannot be changed."""
    device = torch.device("cpu")
    assert not dataclasses.is_dataclass(device)
    for other in (copy.deepcopy(device), pickle.loads(pickle.dumps(device))):
        assert (other, hash(other), repr(other)) == (device, hash(device), repr(device))
    with pytest.raises(AttributeError, match="cannot be changed"):
        device.index = 3


def test_an_optimizer_around_another_needs_no_constructor():
    class Around(torch.optim.Optimizer):
        def __init__(self, inner):
            self.inner = inner

        @property
        def param_groups(self):
            return self.inner.param_groups

        @property
        def state(self):
            return self.inner.state

        def zero_grad(self, set_to_none=True):
            self.inner.zero_grad(set_to_none)

        def state_dict(self):
            return self.inner.state_dict()

        def load_state_dict(self, state_dict):
            self.inner.load_state_dict(state_dict)

        def step(self, closure=None):
            return self.inner.step(closure)

    weight = torch.nn.Parameter(torch.ones(2))
    around = Around(torch.optim.SGD([weight], lr=0.5, momentum=0.9))
    weight.sum().backward()
    around.step()
    around.load_state_dict(around.state_dict())
    around.zero_grad()
    assert (weight.tolist(), weight.grad) == ([0.5, 0.5], None)
