"""LBFGS beside PyTorch's, where its history goes, and what is refused."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import OptionError, ShapeError
from distgrad.optim import LBFGS

OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.5, "history_size": 3, "max_iter": 7},
    {"lr": 1e-3, "max_iter": 30, "max_eval": 12},
    {"line_search_fn": "strong_wolfe"},
    {"lr": 20.0, "line_search_fn": "strong_wolfe", "max_iter": 4, "history_size": 2},
    {"lr": 1e-4, "line_search_fn": "strong_wolfe", "tolerance_change": 1e-5},
]


def start():
    rng = np.random.default_rng(5)
    return [rng.standard_normal((3, 2)), rng.standard_normal(4)]


def rosenbrock(a, b):
    """Curved valleys over both parameters, as one expression of either library."""
    x, y = a[:, 0], a[:, 1]
    return ((1 - x) ** 2 + 10 * (y - x**2) ** 2).sum() + (
        (b[1:] - b[:-1] ** 2) ** 2 + 0.1 * b[:-1] ** 4
    ).sum()


def run(params, optimizer, steps, calls=None):
    def closure():
        optimizer.zero_grad()
        loss = rosenbrock(*params)
        loss.backward()
        if calls is not None:
            calls.append(loss.item())
        return loss

    return [optimizer.step(closure).item() for _ in range(steps)]


def ours(options):
    params = [dg.Tensor(a.copy(), requires_grad=True) for a in start()]
    return params, LBFGS(params, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "LBFGS-" + "-".join(options))
def test_calls_and_moves_equal_pytorchs(options):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    theirs = [torch.tensor(a, requires_grad=True) for a in start()]
    their_calls, our_calls = [], []
    their_losses = run(theirs, torch.optim.LBFGS(theirs, **options), 4, their_calls)
    params, optimizer = ours(options)
    our_losses = run(params, optimizer, 4, our_calls)
    np.testing.assert_allclose(our_calls, their_calls, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-8, atol=1e-12)
    for a, b in zip(params, theirs, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS[1:4], ids=lambda options: "LBFGS-" + "-".join(options))
def test_going_up_is_going_down_on_the_other_side(options):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")

    def climb(params, optimizer):
        def closure():
            optimizer.zero_grad()
            height = -rosenbrock(*params)
            height.backward()
            return height

        return [optimizer.step(closure).item() for _ in range(3)]

    params, optimizer = ours({**options, "maximize": True})
    down, other = ours(options)
    heights = climb(params, optimizer)
    assert heights == [-loss for loss in run(down, other, 3)]
    theirs = [torch.tensor(a, requires_grad=True) for a in start()]
    expected = run(theirs, torch.optim.LBFGS(theirs, **options), 3)  # not every release has maximize
    np.testing.assert_allclose(heights, [-loss for loss in expected], rtol=1e-8, atol=1e-12)


def test_state_is_the_history_under_the_first_parameter():
    params, optimizer = ours({"max_iter": 3})
    assert not optimizer.state
    run(params, optimizer, 1)
    assert optimizer.state[params[0]]["n_iter"] > 0


def test_it_finds_the_minimum_of_a_curved_valley():
    params, optimizer = ours({"line_search_fn": "strong_wolfe", "max_iter": 100})
    run(params, optimizer, 1)
    np.testing.assert_allclose(params[0].detach().numpy(), 1.0, atol=1e-5)


def test_state_dict_goes_on_where_it_was_saved(tmp_path):
    options = {"lr": 0.3, "max_iter": 4, "history_size": 3}
    through, optimizer = ours(options)
    expected = run(through, optimizer, 4)
    params, optimizer = ours(options)
    run(params, optimizer, 2)
    dg.save(optimizer.state_dict(), tmp_path / "lbfgs")
    fresh = [dg.Tensor(p.detach().numpy().copy(), requires_grad=True) for p in params]
    other = LBFGS(fresh, lr=123.0)
    other.load_state_dict(dg.load(tmp_path / "lbfgs"))
    assert run(fresh, other, 2) == expected[2:]


def test_the_state_is_a_copy():
    params, optimizer = ours({"lr": 0.3, "max_iter": 4})
    run(params, optimizer, 1)
    saved = optimizer.state_dict()["state"][0]
    before = len(saved["old_dirs"]), saved["d"].copy()
    run(params, optimizer, 2)
    assert len(saved["old_dirs"]) == before[0]
    np.testing.assert_array_equal(saved["d"], before[1])


def test_what_is_refused():
    p = dg.ones(2).requires_grad_()
    with pytest.raises(OptionError, match="strong_wolfe"):
        LBFGS([p], line_search_fn="armijo")
    with pytest.raises(ValueError, match="one group"):
        LBFGS([{"params": [p]}, {"params": [dg.ones(1).requires_grad_()]}])
    with pytest.raises(ValueError, match="one dtype, got float32, float64"):
        LBFGS([p, dg.ones(2, dtype=dg.float64).requires_grad_()])
    with pytest.raises(ValueError, match="closure"):
        LBFGS([p]).step()
    params, optimizer = ours({"max_iter": 3})
    run(params, optimizer, 1)
    other = LBFGS([dg.ones(3).requires_grad_(), dg.ones(1).requires_grad_()])
    with pytest.raises(ShapeError, match=r"\[10\], expected \[4\]"):
        other.load_state_dict(optimizer.state_dict())


def test_a_gradient_of_zero_changes_nothing():
    p = dg.zeros(3).requires_grad_()
    optimizer = LBFGS([p], line_search_fn="strong_wolfe")
    calls = []

    def closure():
        optimizer.zero_grad()
        calls.append(1)
        loss = (p * p).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == [1]
    np.testing.assert_array_equal(p.detach().numpy(), 0)
