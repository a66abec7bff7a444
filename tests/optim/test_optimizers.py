"""Rules against PyTorch's, groups, state dicts, and what is refused."""

import copy
import pickle

import numpy as np
import pytest

import distgrad as dg
from distgrad import optim
from distgrad.errors import DTypeError, OptionError, ShapeError, StateDictError
from distgrad.optim import SGD, Adam, AdamW

SHAPES = [(3, 4), (5,), ()]
RULES = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (Adam, {"lr": 0.01, "weight_decay": 0.1}),
    (Adam, {"lr": 0.01, "amsgrad": True, "maximize": True}),
    (Adam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (AdamW, {}),
    (AdamW, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "amsgrad": True}),
    (optim.RMSprop, {}),
    (optim.RMSprop, {"lr": 0.02, "alpha": 0.9, "momentum": 0.8, "centered": True, "weight_decay": 0.1}),
    (optim.Adagrad, {}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.3, "weight_decay": 0.1}),
    (optim.Adadelta, {}),
    (optim.Adadelta, {"lr": 0.5, "rho": 0.8, "weight_decay": 0.1, "maximize": True}),
    (optim.Adamax, {}),
    (optim.Adamax, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.NAdam, {}),
    (optim.NAdam, {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.02}),
    (optim.RAdam, {}),
    (optim.RAdam, {"lr": 0.1, "betas": (0.8, 0.6), "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (optim.Rprop, {}),
    (optim.Rprop, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.05, 0.2)}),
    (optim.ASGD, {}),
    (optim.ASGD, {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 2, "weight_decay": 0.1}),
    (optim.Adafactor, {}),
    (optim.Adafactor, {"lr": 0.1, "eps": (1e-3, 1e-2), "d": 1.5, "weight_decay": 0.1, "beta2_decay": -0.5}),
]
OTHERS = [  # rules that PyTorch lacks, or computes in another precision
    (optim.Lion, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.LAMB, {"lr": 0.1}),
    (optim.LARS, {"lr": 10.0, "weight_decay": 0.1}),
]


def names(rules):
    return [f"{rule.__name__}-{'-'.join(options) or 'defaults'}" for rule, options in rules]


IDS = names(RULES)


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


def run_twin(torch, rule, options, steps, params=None, optimizer=None):
    """The same with PyTorch's rule."""
    params = params or [torch.tensor(a, requires_grad=True) for a in start()]
    torch.set_default_dtype(torch.float64)  # PyTorch keeps some of its numbers in the default dtype
    try:
        optimizer = optimizer or getattr(torch.optim, rule.__name__)(params, **options)
        for step in steps:
            for p, g in zip(params, gradients(step), strict=True):
                p.grad = None if g is None else torch.tensor(g)
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    return params, optimizer


def equal(params, theirs):
    for ours, expected in zip(params, theirs, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("rule", "options"), RULES, ids=IDS)
def test_rule_equals_pytorchs(rule, options):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    theirs, _ = run_twin(torch, rule, options, range(7))
    params, _ = run(rule, options, 7)
    equal(params, theirs)


@pytest.mark.parametrize(("rule", "options"), RULES, ids=IDS)
def test_a_pytorch_state_dict_goes_on_here(rule, options):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    theirs, twin = run_twin(torch, rule, options, range(3))
    params = [dg.Tensor(t.detach().numpy().copy(), requires_grad=True) for t in theirs]
    optimizer = rule(params)
    optimizer.load_state_dict(twin.state_dict())
    run_twin(torch, rule, options, range(3, 6), theirs, twin)
    run(rule, options, 3, params, optimizer, first=3)
    equal(params, theirs)


@pytest.mark.parametrize("maximize", [False, True])
def test_sparse_adam_equals_pytorchs_with_gradients_of_some_rows(maximize):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    rng, options = np.random.default_rng(4), {"lr": 0.05, "betas": (0.8, 0.9), "maximize": maximize}
    before = rng.standard_normal((5, 3))
    ours, theirs = dg.Tensor(before.copy(), requires_grad=True), torch.tensor(before, requires_grad=True)
    optimizer, twin = optim.SparseAdam([ours], **options), torch.optim.SparseAdam([theirs], **options)
    for rows in ([0, 2], [2], [1, 3], [0, 2, 3]):  # never the last
        g = np.zeros_like(before)
        g[rows] = rng.standard_normal((len(rows), 3))
        g[rows[0], 0] = 0.0  # an element of a row that is used
        ours.grad = dg.Tensor(g)
        theirs.grad = torch.sparse_coo_tensor([rows], g[rows], before.shape, check_invariants=True)
        optimizer.step()
        twin.step()
    equal([ours], [theirs])
    np.testing.assert_array_equal(ours.detach().numpy()[4], before[4])


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


@pytest.mark.parametrize(("rule", "options"), [*RULES, *OTHERS], ids=names([*RULES, *OTHERS]))
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


@pytest.mark.parametrize(("rule", "options"), [*RULES, *OTHERS], ids=names([*RULES, *OTHERS]))
def test_a_state_with_names_moves_between_group_layouts(rule, options):
    through, _ = run(rule, options, 6)
    params = [dg.Tensor(a.copy(), requires_grad=True) for a in start()]
    named = list(zip("abc", params, strict=True))
    _, optimizer = run(rule, options, 3, params, rule(named, **options))
    a, b, c = fresh = [dg.Tensor(p.detach().numpy().copy(), requires_grad=True) for p in params]
    other = rule([{"params": [("c", c), ("a", a)]}, {"params": [("b", b)], "lr": 9.0}], lr=123.0)
    other.load_state_dict(optimizer.state_dict())
    assert [group["param_names"] for group in other.param_groups] == [["c", "a"], ["b"]]
    run(rule, options, 3, fresh, other, first=3)
    for ours, expected in zip(fresh, through, strict=True):
        np.testing.assert_array_equal(ours.detach().numpy(), expected.detach().numpy())


@pytest.mark.parametrize(("rule", "options"), [*RULES, *OTHERS], ids=names([*RULES, *OTHERS]))
def test_what_a_file_holds_no_state_of_starts_anew(rule, options):
    params, optimizer = run(rule, options, 0)
    untouched = optimizer.state_dict()
    run(rule, options, 1, params, optimizer)
    part = optimizer.state_dict()  # step 0 leaves out nothing, so all three are there
    del part["state"][2]
    run(rule, options, 3, params, optimizer, first=1)
    for saved, kept in ((untouched, 0), (part, 2)):
        optimizer.load_state_dict(saved)
        assert len(optimizer.state) == kept
        twins = [dg.Tensor(p.detach().numpy().copy(), requires_grad=True) for p in params]
        other = rule(twins, **options)
        other.load_state_dict(saved)
        run(rule, options, 2, params, optimizer, first=5)
        run(rule, options, 2, twins, other, first=5)
        for ours, expected in zip(params, twins, strict=True):
            np.testing.assert_array_equal(ours.detach().numpy(), expected.detach().numpy())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize(("rule", "options"), RULES + OTHERS, ids=names(RULES + OTHERS))
def test_a_copy_goes_on_like_its_original(rule, options, duplicate):
    """Also one of several optimizers over the same parameters, and one from before the first step."""
    params, optimizer = run(rule, options, 0)
    later = rule(params, **options)
    run(rule, options, 3, params, optimizer)
    optimizer.param_groups[0]["lr"] *= 2.0
    again, (twin, fresh) = duplicate((params, (optimizer, later)))
    assert not fresh.state
    assert twin.param_groups[0]["params"][0] is again[0]
    run(rule, options, 2, params, optimizer, first=3)
    run(rule, options, 2, again, twin, first=3)
    for ours, expected in zip(again, params, strict=True):
        np.testing.assert_array_equal(ours.detach().numpy(), expected.detach().numpy())


@pytest.mark.parametrize(("rule", "options"), RULES, ids=IDS)
def test_a_state_from_before_the_first_step_equals_pytorchs(rule, options):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    theirs, twin = run_twin(torch, rule, options, [])
    fresh = copy.deepcopy(twin.state_dict())
    run_twin(torch, rule, options, range(3), theirs, twin)
    twin.load_state_dict(fresh)
    run_twin(torch, rule, options, range(3, 6), theirs, twin)
    params, optimizer = run(rule, options, 0)
    fresh = optimizer.state_dict()
    run(rule, options, 3, params, optimizer)
    optimizer.load_state_dict(fresh)
    run(rule, options, 3, params, optimizer, first=3)
    equal(params, theirs)


def test_a_pytorch_state_with_names_moves_too():
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    theirs = [torch.tensor(a, requires_grad=True) for a in start()]
    twin = torch.optim.AdamW(zip("abc", theirs, strict=True), lr=0.1)
    run_twin(torch, AdamW, {}, range(3), theirs, twin)
    a, b, c = [dg.Tensor(t.detach().numpy().copy(), requires_grad=True) for t in theirs]
    optimizer = AdamW([{"params": [("b", b)]}, {"params": [("c", c), ("a", a)]}])
    optimizer.load_state_dict(twin.state_dict())
    run_twin(torch, AdamW, {}, range(3, 6), theirs, twin)
    run(AdamW, {}, 3, [a, b, c], optimizer, first=3)
    equal([a, b, c], theirs)


def test_a_group_takes_the_options_on_which_the_saved_groups_agree():
    a, b, c = (dg.ones(2).requires_grad_() for _ in range(3))
    groups = [{"params": [("a", a)], "weight_decay": 0.3}, {"params": [("b", b)]}, {"params": [("c", c)]}]
    saved = AdamW(groups, lr=0.5).state_dict()
    for named in ([("b", b), ("c", c), ("a", a)], [("a", a), ("c", c), ("b", b)]):  # two of them agree
        one = AdamW(named, lr=0.1, weight_decay=0.7)
        one.load_state_dict(saved)
        assert (one.param_groups[0]["lr"], one.param_groups[0]["weight_decay"]) == (0.5, 0.7)
    renamed = AdamW([("x", a), ("y", b)])
    with pytest.raises(StateDictError, match=r"\[1, 1, 1\] parameters.*\[2\].*named_parameters\(\)"):
        renamed.load_state_dict(saved)


def test_state_shows_what_the_rule_keeps():
    a, b = dg.ones(3).requires_grad_(), dg.ones(2).requires_grad_()
    optimizer = SGD([a, b], lr=0.1, momentum=0.9)
    assert not optimizer.state
    a.grad = dg.Tensor(np.full(3, 2.0, dtype=np.float32))
    optimizer.step()
    assert optimizer.state[a]["step"] == 1
    assert optimizer.state[b] == {}
    optimizer.state[a]["momentum_buffer"].zero_()  # the optimizer's own memory
    np.testing.assert_array_equal(optimizer.state_dict()["state"][0]["momentum_buffer"], 0)


@pytest.mark.parametrize("rule", [rule for rule, _ in {id(r): (r, o) for r, o in RULES}.values()])
def test_options_of_pytorch_are_taken_where_they_ask_for_what_is_so_anyway(rule):
    p = dg.ones(2).requires_grad_()
    rule([p], foreach=True, fused=True, capturable=False, differentiable=False)
    with pytest.raises(TypeError, match=f"{rule.__name__}: there is no differentiable; .*leave it out"):
        rule([p], differentiable=True)
    with pytest.raises(TypeError, match="gobble"):
        rule([p], gobble=True)


def test_a_group_may_carry_what_is_the_programs_own():
    class Own(dg.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data -= group["pace"] * p.grad

    a, b = (dg.ones(2).requires_grad_() for _ in range(2))
    own, adam = Own([{"params": [a], "pace": 0.5}]), AdamW([{"params": b, "lr_scale": 0.1, "name": "head"}])
    (a.sum() + b.sum()).backward()
    own.step()
    adam.step()
    assert a.tolist() == [0.5, 0.5]
    assert adam.state_dict()["param_groups"][0]["lr_scale"] == 0.1
    fresh = AdamW([{"params": b, "lr_scale": 0.3, "name": "head"}])
    fresh.load_state_dict(adam.state_dict())
    assert fresh.param_groups[0]["lr_scale"] == 0.1
    for wrong in ("lear", "weigth_decay", "beta", "Lr"):
        with pytest.raises(ValueError, match=f"unknown options \\['{wrong}'\\]"):
            AdamW([{"params": [a], wrong: 1}])


def test_a_rule_of_the_users_own_may_have_such_an_option():
    class Own(SGD):
        def __init__(self, params, fused):
            super().__init__(params)
            self.fused = fused

    assert Own([dg.ones(2).requires_grad_()], fused=3).fused == 3


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
    with pytest.raises(DTypeError, match=r"got one Linear; pass model\.parameters"):
        SGD(dg.nn.Linear(2, 2))
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
    with pytest.raises(OptionError, match="leaves"):
        SGD([p * 2.0])
    optimizer = AdamW([p])
    saved = AdamW([dg.ones(2).requires_grad_(), dg.ones(1).requires_grad_()]).state_dict()
    with pytest.raises(StateDictError, match=r"\[2\].*\[1\]"):
        optimizer.load_state_dict(saved)


def test_a_state_that_does_not_fit_changes_nothing():
    saved = AdamW([p := dg.ones(2).requires_grad_()])
    p.grad = dg.ones(2)
    saved.step()
    for change, error, text in (
        (lambda state: state.update(exp_avg=np.ones(3)), ShapeError, r"exp_avg of parameter 0 is \[3\]"),
        (lambda state: state.pop("exp_avg_sq"), StateDictError, "parameter 0 lacks 'exp_avg_sq'"),
    ):
        state = saved.state_dict()
        change(state["state"][0])
        other = AdamW([dg.ones(2).requires_grad_()], lr=0.7)
        with pytest.raises(error, match=text):
            other.load_state_dict(state)
        assert other.param_groups[0]["lr"] == 0.7
        assert not other.state


def plain_lion(p, m, g, options):
    beta1, beta2 = 0.9, 0.99
    p = p - options["lr"] * (np.sign(beta1 * m + (1 - beta1) * g) + options["weight_decay"] * p)
    return p, beta2 * m + (1 - beta2) * g


def test_lion_equals_the_published_rule():
    options = {"lr": 0.01, "weight_decay": 0.1}
    params, _ = run(optim.Lion, options, 6)
    expected = start()
    moments = [np.zeros_like(p) for p in expected]
    for step in range(6):
        for i, g in enumerate(gradients(step)):
            if g is not None:
                expected[i], moments[i] = plain_lion(expected[i], moments[i], g, options)
    for ours, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), e, rtol=1e-12)


def test_lamb_steps_have_the_size_of_the_parameter():
    params, _ = run(optim.LAMB, {"lr": 0.1}, 1)
    for ours, before in zip(params, start(), strict=True):
        change = np.linalg.norm(ours.detach().numpy() - before)
        np.testing.assert_allclose(change, 0.1 * np.linalg.norm(before), rtol=1e-9)


def test_lars_first_step_has_the_trusted_size():
    params, _ = run(optim.LARS, {"lr": 2.0, "trust_coefficient": 0.01}, 1)
    for ours, before in zip(params, start(), strict=True):
        change = np.linalg.norm(ours.detach().numpy() - before)
        np.testing.assert_allclose(change, 2.0 * 0.01 * np.linalg.norm(before), rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.1, "nesterov": False, "weight_decay": 0.3}, {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw"}],
)
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=lambda shape: f"Muon{shape}")
def test_muon_equals_pytorchs_which_makes_orthogonal_in_bfloat16(shape, options):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    rng = np.random.default_rng(2)
    before, grads = rng.standard_normal(shape), rng.standard_normal((3, *shape))
    p, t = dg.Tensor(before.copy(), requires_grad=True), torch.tensor(before, requires_grad=True)
    ours, theirs = optim.Muon([p], **options), torch.optim.Muon([t], **options)
    for g in grads:
        p.grad, t.grad = dg.Tensor(g.copy()), torch.tensor(g)
        ours.step()
        theirs.step()
    moved, expected = p.detach().numpy() - before, t.detach().numpy() - before
    assert np.abs(moved - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_muon_steps_are_nearly_orthogonal(shape):
    rng = np.random.default_rng(0)
    before = rng.standard_normal(shape)
    p = dg.Tensor(before.copy(), requires_grad=True)
    optimizer = optim.Muon([p], lr=1.0, weight_decay=0.0, ns_steps=10)
    p.grad = dg.Tensor(rng.standard_normal(shape))
    optimizer.step()
    step = (before - p.detach().numpy()) / np.sqrt(max(1.0, shape[0] / shape[1]))
    sizes = np.linalg.svd(step, compute_uv=False)
    assert np.all((sizes > 0.6) & (sizes < 1.3))  # the iteration's own band
    with pytest.raises(dg.DistgradError, match="expected matrices"):
        optim.Muon([dg.ones(3).requires_grad_()])


def test_nadam_under_a_beta_that_cycles_equals_pytorch_also_when_resumed():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal((4, 3)), rng.standard_normal((8, 4, 3))
    ours = dg.Tensor(start.copy(), requires_grad=True)
    theirs = torch.tensor(start, requires_grad=True)
    optimizer, peer = dg.optim.NAdam([ours], lr=0.1), torch.optim.NAdam([theirs], lr=0.1)
    for step, g in enumerate(grads):
        for each in (optimizer, peer):
            each.param_groups[0]["betas"] = (0.85 + 0.1 * (step % 3) / 2, 0.999)
        if step == 4:
            saved = optimizer.state_dict()
            assert saved["state"][0]["mu_product"] == pytest.approx(peer.state[theirs]["mu_product"].item())
            optimizer = dg.optim.NAdam([ours], lr=0.1)
            optimizer.load_state_dict(saved)
        ours.grad, theirs.grad = dg.Tensor(g.copy()), torch.tensor(g)
        optimizer.step()
        peer.step()
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6)
    constant = dg.Tensor(start.copy(), requires_grad=True)
    optimizer = dg.optim.NAdam([constant], lr=0.1)
    optimizer.load_state_dict(
        saved | {"state": {0: {k: v for k, v in saved["state"][0].items() if k != "mu_product"}}}
    )
    constant.grad = dg.Tensor(grads[0].copy())
    optimizer.step()  # a file of before holds no product
