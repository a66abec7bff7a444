"""Rules against PyTorch's, groups, state dicts, and what is refused."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, GraphError, StateDictError
from distgrad.optim import SGD, Adam, AdamW

SHAPES = [(3, 4), (5,), ()]
RULES = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (Adam, {"lr": 0.01, "weight_decay": 0.1}),
    (Adam, {"lr": 0.01, "amsgrad": True, "maximize": True}),
    (AdamW, {}),
    (AdamW, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "amsgrad": True}),
]
IDS = [f"{rule.__name__}-{'-'.join(options) or 'defaults'}" for rule, options in RULES]


def start(dtype=np.float64):
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def gradients(step):
    rng = np.random.default_rng(100 + step)
    grads = [rng.standard_normal(shape) for shape in SHAPES]
    if step % 3 == 1:
        grads[1] = None  # unused in this step
    return grads


def run(rule, options, steps, params=None, optimizer=None, first=0):
    params = params or [dg.Tensor(a.copy(), requires_grad=True) for a in start()]
    optimizer = optimizer or rule(params, **options)
    for step in range(first, first + steps):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = None if g is None else dg.Tensor(g)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize(("rule", "options"), RULES, ids=IDS)
def test_rule_equals_pytorchs(rule, options):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs the bench extra")
    theirs = [torch.tensor(a, requires_grad=True) for a in start()]
    optimizer = getattr(torch.optim, rule.__name__)(theirs, **options)
    for step in range(7):
        for p, g in zip(theirs, gradients(step), strict=True):
            p.grad = None if g is None else torch.tensor(g)
        optimizer.step()
    params, _ = run(rule, options, 7)
    for ours, expected in zip(params, theirs, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)


def plain_adamw(p, grads, lr, betas, eps, decay):
    """The published rule, step by step."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        p = p - lr * decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def test_adamw_equals_the_published_rule_over_many_blocks():
    rng = np.random.default_rng(0)
    value, grads = rng.standard_normal(100_003), rng.standard_normal((3, 100_003))
    p = dg.Tensor(value.copy(), requires_grad=True)
    optimizer = AdamW([p], lr=0.05)
    for g in grads:
        p.grad = dg.Tensor(g)
        optimizer.step()
    expected = plain_adamw(value, grads, 0.05, (0.9, 0.999), 1e-8, 1e-2)
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("rule", "options"), RULES, ids=IDS)
def test_state_dict_goes_on_where_it_was_saved(rule, options):
    through, _ = run(rule, options, 6)
    params, optimizer = run(rule, options, 3)
    saved = optimizer.state_dict()
    fresh = [dg.Tensor(p.detach().numpy().copy(), requires_grad=True) for p in params]
    other = rule(fresh, lr=123.0)
    other.load_state_dict(saved)
    run(rule, options, 3, fresh, other, first=3)
    for a, b in zip(fresh, through, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_groups_have_options_of_their_own():
    a, b = (dg.ones(3).requires_grad_() for _ in range(2))
    optimizer = SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1)
    (a.sum() + b.sum()).backward()
    optimizer.step()
    np.testing.assert_allclose(a.detach().numpy(), 0.9)
    np.testing.assert_allclose(b.detach().numpy(), 0.5)


def test_a_step_is_an_in_place_change():
    p = dg.ones(3).requires_grad_()
    optimizer = SGD([p], lr=0.1)
    y = (p * p).sum()
    p.grad = dg.ones(3)
    optimizer.step()
    with pytest.raises(dg.DistgradError, match=r"changed in place at SGD\.step"):
        y.backward()


def test_closure_and_zero_grad():
    p = dg.ones(3).requires_grad_()
    optimizer = SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad(set_to_none=False)
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) == 3.0
    np.testing.assert_allclose(p.detach().numpy(), 0.8)
    optimizer.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(p.grad.numpy(), 0)
    optimizer.zero_grad()
    assert p.grad is None


def test_what_is_refused():
    p = dg.ones(2).requires_grad_()
    with pytest.raises(ValueError, match="no parameters"):
        SGD([])
    with pytest.raises(ValueError, match="given twice"):
        SGD([p, p])
    with pytest.raises(ValueError, match=r"lr must be at least 0, got -1"):
        SGD([p], lr=-1)
    with pytest.raises(ValueError, match="betas"):
        AdamW([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"unknown options \['lear'\]"):
        SGD([{"params": [p], "lear": 1}])
    with pytest.raises(DTypeError, match="floating"):
        SGD([dg.asarray([1, 2])])
    with pytest.raises(GraphError, match="leaves"):
        SGD([p * 2.0])
    optimizer = AdamW([p])
    saved = AdamW([dg.ones(2).requires_grad_(), dg.ones(1).requires_grad_()]).state_dict()
    with pytest.raises(StateDictError, match=r"\[2\].*\[1\]"):
        optimizer.load_state_dict(saved)
