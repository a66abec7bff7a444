"""Lazy modules: sizes from the first batch, then the ordinary module."""

import copy

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.errors import ShapeError

CASES = [
    (nn.LazyLinear(3), nn.Linear(5, 3), (2, 5)),
    (nn.LazyLinear(3, bias=False), nn.Linear(5, 3, bias=False), (5,)),
    (nn.LazyConv1d(4, 3), nn.Conv1d(2, 4, 3), (2, 2, 6)),
    (nn.LazyConv2d(4, 3, groups=2), nn.Conv2d(2, 4, 3, groups=2), (2, 2, 6, 6)),
    (nn.LazyConv2d(4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1), (2, 6, 6)),
    (nn.LazyConv3d(4, 2), nn.Conv3d(1, 4, 2), (2, 1, 3, 3, 3)),
    (nn.LazyConvTranspose1d(4, 3), nn.ConvTranspose1d(2, 4, 3), (2, 2, 6)),
    (nn.LazyConvTranspose2d(4, 3), nn.ConvTranspose2d(2, 4, 3), (2, 2, 4, 4)),
    (nn.LazyConvTranspose3d(4, 2), nn.ConvTranspose3d(2, 4, 2), (1, 2, 2, 2, 2)),
    (nn.LazyBatchNorm1d(), nn.BatchNorm1d(3), (4, 3)),
    (nn.LazyBatchNorm2d(), nn.BatchNorm2d(3), (4, 3, 2, 2)),
    (nn.LazyBatchNorm3d(affine=False), nn.BatchNorm3d(3, affine=False), (4, 3, 2, 2, 2)),
    (nn.LazyInstanceNorm1d(affine=True), nn.InstanceNorm1d(3, affine=True), (2, 3, 4)),
    (
        nn.LazyInstanceNorm2d(track_running_stats=True),
        nn.InstanceNorm2d(3, track_running_stats=True),
        (3, 4, 4),
    ),
    (nn.LazyInstanceNorm3d(), nn.InstanceNorm3d(3), (2, 3, 2, 2, 2)),
]
each = pytest.mark.parametrize(("lazy", "plain", "shape"), CASES, ids=lambda value: type(value).__name__)


@each
def test_the_first_batch_decides_the_sizes(lazy, plain, shape):
    lazy, x = copy.deepcopy(lazy), dg.randn(*shape)
    out = lazy(x)
    assert type(lazy) is type(plain)
    assert repr(lazy) == repr(plain)
    assert out.shape == plain(x).shape
    found, expected = lazy.state_dict(), plain.state_dict()
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in expected.items()
    }
    assert all(type(each) is nn.Parameter and each.requires_grad for each in lazy.parameters())
    if list(plain.parameters()):
        out.sum().backward()
        assert all(each.grad is not None for each in lazy.parameters())


@each
def test_a_state_dict_can_be_loaded_before(lazy, plain, shape):
    lazy, x = copy.deepcopy(lazy), dg.randn(*shape)
    lazy.load_state_dict(plain.state_dict())
    np.testing.assert_array_equal(lazy(x).detach().numpy(), plain(x).detach().numpy())
    assert type(lazy) is type(plain)


def test_initial_values_are_those_of_the_plain_module():
    dg.manual_seed(0)
    lazy = nn.LazyLinear(400)
    lazy(dg.ones((1, 100)))
    assert 0.099 < float(abs(lazy.weight.detach()).max()) <= 0.1
    assert float(abs(lazy.bias.detach()).max()) <= 0.1
    assert lazy.in_features == 100


def test_dtype_and_frozen_parameters_come_through():
    lazy = nn.LazyLinear(2).double()
    lazy.weight.requires_grad_(False)
    lazy(dg.ones((1, 3), dtype=dg.float64))
    assert lazy.weight.dtype == dg.float64
    assert (lazy.weight.requires_grad, lazy.bias.requires_grad) == (False, True)


def test_a_shape_that_is_not_known_yet_is_an_error():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(1))
    assert model[0].has_uninitialized_params()
    assert repr(model[0].weight) == "<UninitializedParameter>"
    for use in (
        lambda: model[0].weight.shape,
        model.state_dict,
        lambda: optim.SGD(model.parameters(), lr=0.1),
        lambda: dg.parallel.DistributedDataParallel(model),
    ):
        with pytest.raises(ShapeError, match="the shape is not known yet; call the module once on a batch"):
            use()
    model(dg.ones((2, 3)))
    optim.SGD(model.parameters(), lr=0.1)
    assert [type(each) for each in model] == [nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize("kind", [nn.UninitializedParameter, nn.UninitializedBuffer])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_keep_what_is_known(kind, copied):
    first = kind(dtype=dg.float64)
    first.note = ["of the program's own"]
    second = copied(first)
    assert type(second) is kind
    assert second.dtype == dg.float64
    assert second.note == first.note
    assert (second.note is first.note) == (copied is copy.copy)
    second.materialize((2, 3))
    assert second.shape == (2, 3)
    assert second.requires_grad == (kind is nn.UninitializedParameter)
