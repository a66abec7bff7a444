"""Parameters of 16 bits are trained by every rule: in float32, and rounded after each step."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim

RULES = [
    optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Adamax,
    optim.NAdam, optim.RAdam, optim.Rprop, optim.ASGD, optim.Adafactor, optim.Lion, optim.LAMB, optim.LARS,
    optim.Muon, optim.SparseAdam, optim.LBFGS,
]  # fmt: skip
START = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
ROWS = np.random.default_rng(1).standard_normal((32, 4)).astype(np.float32)
WANTED = ROWS @ np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)


def train(rule, dtype, steps=20):
    """The loss after some steps of least squares, and the weight."""
    weight = dg.tensor(START).to(dtype).requires_grad_()
    x, wanted = (dg.tensor(each).to(dtype) for each in (ROWS, WANTED))
    optimizer = rule([weight], lr=0.05)

    def loss():
        optimizer.zero_grad()
        found = ((x @ weight - wanted) ** 2).mean()
        found.backward()
        return found

    for _ in range(steps):
        optimizer.step(loss)
    return float(loss().detach()), weight, optimizer


@pytest.mark.parametrize("dtype", [dg.bfloat16, dg.float16], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_training_follows_that_in_float32(rule, dtype):
    expected, reference, _ = train(rule, dg.float32)
    found, weight, _ = train(rule, dtype)
    assert weight.dtype == weight.grad.dtype == dtype
    unit = 2.0**-8 if dtype == dg.bfloat16 else 2.0**-11
    np.testing.assert_allclose(
        weight.detach().to(dg.float32).numpy(), reference.detach().numpy(), atol=30 * unit
    )
    assert found == pytest.approx(expected, rel=60 * unit, abs=60 * unit)


def test_running_means_do_not_stand_still():
    """In bfloat16 a second moment of 1 would stay at 0.25, where a thousandth of the rest is rounded away."""
    weight = dg.ones(4).to(dg.bfloat16).requires_grad_()
    optimizer = optim.Adam([weight], lr=1e-3)
    for _ in range(3000):
        weight.grad = dg.ones(4).to(dg.bfloat16)
        optimizer.step()
    (state,) = optimizer.state_dict()["state"].values()
    assert state["exp_avg_sq"].dtype == np.float32
    np.testing.assert_allclose(np.asarray(state["exp_avg_sq"]), 1 - 0.999**3000, rtol=1e-3)


def test_a_state_comes_back_from_a_file(tmp_path):
    _, weight, optimizer = train(optim.AdamW, dg.bfloat16)
    dg.save({"optimizer": optimizer.state_dict(), "weight": weight.detach()}, tmp_path / "state")
    loaded = dg.load(tmp_path / "state")
    twin = loaded["weight"].requires_grad_()
    assert twin.dtype == dg.bfloat16
    other = optim.AdamW([twin])
    other.load_state_dict(loaded["optimizer"])
    for tensor, each in ((weight, optimizer), (twin, other)):
        tensor.grad = dg.ones((4, 3)).to(dg.bfloat16)
        each.step()
    assert weight.detach().numpy().tobytes() == twin.detach().numpy().tobytes()


def test_a_network_of_bfloat16_learns():
    dg.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 32), nn.RMSNorm(32), nn.GELU(), nn.Dropout(0.1), nn.LayerNorm(32), nn.Linear(32, 3)
    ).bfloat16()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    x, wanted = (dg.tensor(each).to(dg.bfloat16) for each in (ROWS, WANTED))
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        y = model(x)
        assert y.dtype == dg.bfloat16
        loss = nn.functional.mse_loss(y, wanted)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert {p.dtype for p in model.parameters()} == {dg.bfloat16}
    assert losses[-1] < 0.2 * losses[0]
