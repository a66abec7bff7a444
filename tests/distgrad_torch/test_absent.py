"""What the guide says is absent is so, and nothing else; what was added means what PyTorch's means."""

import importlib
import re

import numpy as np
import pytest
from distgrad_torch import absent

from distgrad.autograd.casting import set_weak_scalars
from distgrad.errors import OptionError
from distgrad.names.absent import KINDS, way_around
from distgrad.names.deferred import DTYPES
from distgrad.names.rooms import FILES


@pytest.fixture(autouse=True, scope="module")
def ours():
    """The package, while scalars are weak; they are not in other tests."""
    module = importlib.import_module("distgrad.torch")
    set_weak_scalars(True)
    yield module
    set_weak_scalars(False)


def test_every_name_of_the_page_is_an_error_that_says_the_way(ours):
    listed = absent.read()[1]
    assert sum(map(len, listed.values())) > 300
    for module, names in listed.items():
        owner = absent.find(ours, module) if module != "Tensor" else ours.ones(1)
        for name in names:
            way = way_around(f"{module}.{name}".lstrip("."))
            way = None if module.split(".")[0] in FILES.split() else way  # those are Python's own modules
            with pytest.raises((AttributeError, OptionError), match=re.escape(way or name)):
                used(ours, owner, name)


def used(package, owner, name):
    """A name as a program uses it: a dtype for a tensor, all else called."""
    found = getattr(owner, name)
    return package.zeros(1, dtype=found) if name in DTYPES.split() else found()


def test_every_kind_of_names_is_of_some_on_the_page():
    names = [f"{module}.{name}".lstrip(".") for module, each in absent.read()[1].items() for name in each]
    assert [pattern for pattern, _ in KINDS if not any(re.fullmatch(pattern, name) for name in names)] == []


@pytest.mark.slow  # PyTorch's modules are imported, all of them
def test_the_page_lists_what_the_installed_torch_has_and_distgrad_has_not(ours):
    torch = pytest.importorskip("torch", reason="names are compared with PyTorch's")
    version, listed = absent.read()
    if not torch.__version__.startswith(version):
        pytest.skip(f"the page is of PyTorch {version}")
    assert {module: names for module, (_, names) in absent.compare(torch, ours).items()} == listed


X = np.arange(24, dtype=np.float64).reshape(2, 3, 4) % 7 - 3
CALLS = {
    "nuclear_norm": lambda t, x: t.nuclear_norm(x[0]),
    "frobenius_norm": lambda t, x: t.frobenius_norm(x, (1, 2), True),
    "norm_except_dim": lambda t, x: t.norm_except_dim(x, 2, 1),
    "norm of all": lambda t, x: t.norm_except_dim(x, 2, -1),
    "chain_matmul": lambda t, x: t.chain_matmul(x[0], x[1].T, x[0]),
    "unravel_index": lambda t, x: t.stack(t.unravel_index(t.tensor([[1, 5], [23, 0]]), (2, 3, 4))),
    "nonzero_static": lambda t, x: t.nonzero_static(x, size=25, fill_value=-2),
    "nonzero_static of none": lambda t, x: t.nonzero_static(x * 0, size=2),
    "nonzero_static, fewer": lambda t, x: t.nonzero_static(x, size=3),
    "typename": lambda t, x: t.tensor(t.typename(x) == "torch.DoubleTensor"),
    "logits": lambda t, x: t.binary_cross_entropy_with_logits(x, (x > 0).double(), None, None, 2),
    "places of maxima": lambda t, x: t.cat([y.double() for y in t.max_pool1d_with_indices(x, 2)]),
    "places of 2d maxima": lambda t, x: t.nn.functional.max_pool2d_with_indices(x, 2)[1],
    "feature_dropout": lambda t, x: t.feature_dropout(x, 0.5, False),
    "exponential": lambda t, x: t.signal.windows.exponential(7, tau=2.0, dtype=t.float64),
    "nuttall": lambda t, x: t.signal.windows.nuttall(7, sym=False, dtype=t.float64),
    "grad_and_value": lambda t, x: t.stack(t.func.grad_and_value(lambda y: (y * y).sum())(x[0, 0, 1]), 0),
    "parts": lambda t, x: t.unsafe_split_with_sizes(x, [1, 3], 2)[1],
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_added_names_give_pytorch_s_values_and_gradients(ours, name):
    torch = pytest.importorskip("torch", reason="values are compared with PyTorch's")
    found, expected = ours.tensor(X, requires_grad=True), torch.tensor(X, requires_grad=True)
    ys = [CALLS[name](package, x) for package, x in ((ours, found), (torch, expected))]
    assert str(ys[0].dtype) == str(ys[1].dtype).removeprefix("torch.")
    np.testing.assert_allclose(ys[0].detach().numpy(), ys[1].detach().numpy(), atol=1e-12)
    if ys[1].requires_grad:
        for y in ys:
            (y * y).sum().backward()
        np.testing.assert_allclose(found.grad.numpy(), expected.grad.numpy(), atol=1e-10)


def test_batch_norms_without_statistics_and_states_of_gpus(ours):
    net = ours.func.replace_all_batch_norm_modules_(ours.nn.Sequential(ours.nn.BatchNorm1d(2)))
    assert net[0].running_mean is None
    x = ours.randn(8, 2)
    np.testing.assert_allclose(net.eval()(x).detach().numpy().mean(0), 0, atol=1e-6)
    states = ours.cuda.get_rng_state_all()
    first = ours.rand(2).tolist()
    ours.cuda.set_rng_state_all(states)
    assert ours.rand(2).tolist() == first
    assert ours.newaxis is None
