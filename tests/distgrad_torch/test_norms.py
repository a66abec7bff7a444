"""Norms of weights by their hooks of old, beside PyTorch's."""

import copy
import pickle

import numpy as np
import pytest

import distgrad as dg
import distgrad.torch as ours
from distgrad.nn.utils import parametrizations


@pytest.fixture
def theirs():
    return pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")


def numbers(torch, *shape):
    return (torch.arange(float(np.prod(shape))).reshape(*shape) % 7 - 3) / 5


LAYERS = {
    "linear": (lambda nn: nn.Linear(3, 4), (2, 3), {}),
    "one norm": (lambda nn: nn.Linear(3, 4), (2, 3), {"dim": None}),
    "conv": (lambda nn: nn.Conv2d(2, 3, 3), (1, 2, 5, 5), {}),
    "transposed": (lambda nn: nn.ConvTranspose1d(2, 3, 2), (1, 2, 4), {"dim": 1}),
    "recurrent": (lambda nn: nn.LSTM(3, 4), (5, 2, 3), {"name": "weight_hh_l0"}),
}


def trained(torch, kind, layer):
    """Keys, results and weights of a layer with a norm, and once it is taken off."""
    make, shape, options = LAYERS[layer]
    if kind == "spectral_norm":
        options = {"name": options.get("name", "weight"), "n_power_iterations": 2}
    module = make(torch.nn)
    with torch.no_grad():
        for each in module.parameters():
            each.copy_(numbers(torch, *each.shape) + 0.1)
    module = getattr(torch.nn.utils, kind)(module, **options)
    with torch.no_grad():
        for each in module.buffers():
            each.copy_(numbers(torch, *each.shape) + 0.3)
    x = numbers(torch, *shape)

    def call():
        out = module(x)
        return out[0] if isinstance(out, tuple) else out

    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        call().square().sum().backward()
        optimizer.step()
    module.eval()
    keys, before = list(module.state_dict()), call().detach().numpy()
    values = [each.detach().numpy() for each in module.state_dict().values()]
    getattr(torch.nn.utils, f"remove_{kind}")(module, options.get("name", "weight"))
    return keys, list(module.state_dict()), [before, call().detach().numpy(), *values]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("layer", LAYERS)
def test_norms_train_as_pytorchs(theirs, kind, layer):
    found, expected = trained(ours, kind, layer), trained(theirs, kind, layer)
    assert found[:2] == expected[:2]
    for mine, other in zip(found[2], expected[2], strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5)


def test_a_norm_stands_once_and_is_taken_off_once():
    nn = ours.nn
    for kind in ("weight_norm", "spectral_norm"):
        put, take = getattr(nn.utils, kind), getattr(nn.utils, f"remove_{kind}")
        layer = put(nn.Linear(3, 4))
        with pytest.raises(RuntimeError, match="such a norm already"):
            put(layer)
        assert isinstance(take(layer).weight, nn.Parameter)
        with pytest.raises(ValueError, match="has no such norm"):
            take(layer)
        with pytest.raises(ValueError, match="no parameter 'wrong'"):
            put(layer, "wrong")
    with pytest.raises(ValueError, match="n_power_iterations must be 1 or more"):
        nn.utils.spectral_norm(nn.Linear(2, 2), n_power_iterations=0)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_layers_with_norms_are_copied_and_pickled(kind):
    """As PyTorch's, where the weight at hand has no graph, as behind a call without gradients."""
    layer = getattr(ours.nn.utils, kind)(ours.nn.Linear(3, 2))
    x = ours.ones(1, 3)
    with ours.no_grad():
        expected = layer.eval()(x).tolist()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other(x).tolist() == expected
        other(x).sum().backward()
        assert all(each.grad is not None for each in other.parameters())
    assert all(each.grad is None for each in layer.parameters())


def test_parametrized_weights_of_recurrent_layers_are_used():
    """They were looked for among the parameters, where they are not; a bias was left out in silence."""
    layer, x = dg.nn.GRU(3, 4), dg.ones((5, 1, 3))
    before = layer(x)[0]
    parametrizations.weight_norm(layer, "bias_hh_l0")
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), before.detach().numpy(), rtol=1e-5)
