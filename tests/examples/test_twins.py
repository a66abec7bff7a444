"""The examples' models take the same 200 steps as the same source does on PyTorch."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.nn import functional as F

torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")

EXAMPLES = Path(__file__).parents[2] / "examples"
NUM_STEPS = 200
pytestmark = pytest.mark.timeout(180)


class Steady:
    """A library without its noise: both take the mean where they would draw."""

    def __init__(self, library):
        self._library = library

    def __getattr__(self, name):
        return getattr(self._library, "zeros_like" if name == "randn_like" else name)


OURS = {"dg": Steady(dg), "nn": nn, "F": F}
THEIRS = {"dg": Steady(torch), "nn": torch.nn, "F": torch.nn.functional}


def parts(example, names, library):
    """Classes and functions of an example, from their source, on one library."""
    tree = ast.parse((EXAMPLES / f"{example}.py").read_text())
    wanted = [node for node in tree.body if getattr(node, "name", None) in names]
    scope = dict(library)
    exec(compile(ast.Module(wanted, []), f"{example}.py", "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


def gpt(p, lib):
    return p.GPT(11, 8, 32, 2, 1), lambda model, x, y: p.cross_entropy(model(x), y)


def lstm(p, lib):
    return p.Forecaster(6), lambda model, x, y: lib["F"].mse_loss(model(x), y)


def resnet(p, lib):
    def loss(model, x, y):
        return lib["F"].cross_entropy(model(x), y, label_smoothing=0.1)

    return p.build_model(1, 4, 1), loss


def vae(p, lib):
    return p.VAE(12, 3), lambda model, x, y: model(x).mean()


def mnist(p, lib):
    def loss(model, x, y):
        return lib["F"].cross_entropy(model.eval()(x), y)  # without dropout

    return p.build_model(), loss


def heat_surrogate(p, lib):
    return p.build_model(25), lambda model, x, y: lib["F"].mse_loss(model(x), y)


CASES = {
    "mnist": (mnist, ("build_model",), lambda r: (r.random((6, 1, 28, 28)), r.integers(0, 10, 6))),
    "heat_surrogate": (
        heat_surrogate,
        ("build_model",),
        lambda r: (r.standard_normal((8, 25)), r.standard_normal((8, 1))),
    ),
    "gpt": (gpt, ("Block", "GPT", "cross_entropy"), lambda r: r.integers(0, 11, (2, 4, 8))),
    "lstm": (lstm, ("Forecaster",), lambda r: r.standard_normal((2, 4, 7, 1))),
    "resnet": (resnet, ("Residual", "build_model"), lambda r: (r.random((6, 1, 8, 8)), r.integers(0, 10, 6))),
    "vae": (vae, ("VAE",), lambda r: (r.random((4, 1, 28, 28)), np.zeros(4))),
}


def losses_of(model, loss, optimizer, batches):
    out = []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        value = loss(model, *batches[step % len(batches)])
        value.backward()
        optimizer.step()
        out.append(value.item())
    return out


@pytest.mark.parametrize("example", CASES)
def test_the_same_losses_as_pytorch(example, capsys):
    build, names, draw = CASES[example]
    rng = np.random.default_rng(1)
    batches = [draw(rng) for _ in range(5)]
    torch.manual_seed(0)
    twin, their_loss = build(parts(example, names, THEIRS), THEIRS)
    twin.double()
    model, our_loss = build(parts(example, names, OURS), OURS)
    model.double()
    model.load_state_dict({name: value.numpy().copy() for name, value in twin.state_dict().items()})
    theirs = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    ours = dg.optim.AdamW(model.parameters(), lr=1e-3)
    expected = losses_of(twin, their_loss, theirs, [[torch.asarray(a) for a in batch] for batch in batches])
    got = losses_of(model, our_loss, ours, [[dg.asarray(a) for a in batch] for batch in batches])
    with capsys.disabled():
        largest = np.max(np.abs(np.subtract(got, expected) / expected))
        print(f"\n{example}: the largest relative difference in {NUM_STEPS} losses is {largest:.1e}", end="")
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert np.mean(got[-5:]) < 0.98 * np.mean(got[:5])
