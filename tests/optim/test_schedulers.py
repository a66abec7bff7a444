"""Every schedule's rates beside PyTorch's, where schedules stand in files, and what is refused."""

import math

import pytest

import distgrad as dg
from distgrad.optim import SGD, Adam, lr_scheduler

CLASSES = vars(lr_scheduler)
PLAIN = [
    ("LambdaLR", {"lr_lambda": lambda step: 0.9**step}),
    ("LambdaLR", {"lr_lambda": [lambda step: 1 / (1 + step), lambda step: 0.5]}),
    ("MultiplicativeLR", {"lr_lambda": lambda step: 0.95}),
    ("StepLR", {"step_size": 4, "gamma": 0.3}),
    ("MultiStepLR", {"milestones": [3, 7, 7], "gamma": 0.5}),
    ("ConstantLR", {"factor": 0.4, "total_iters": 6}),
    ("LinearLR", {"start_factor": 0.2, "end_factor": 0.8, "total_iters": 7}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("PolynomialLR", {"total_iters": 9, "power": 1.7}),
    ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2, "eta_min": 0.01}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "step_size_down": 5}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": [0.5, 0.6], "step_size_up": 4, "mode": "triangular2"}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 4, "mode": "exp_range", "gamma": 0.95}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 4, "scale_fn": lambda x: 1 / x}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 20}),
    ("OneCycleLR", {"max_lr": 0.5, "epochs": 3, "steps_per_epoch": 7, "three_phase": True}),
    ("OneCycleLR", {"max_lr": [0.5, 0.1], "total_steps": 21, "anneal_strategy": "linear", "pct_start": 0.4}),
]
IDS = [f"{i}-{name}" for i, (name, _) in enumerate(PLAIN)]
NUM_STEPS = 20


def optimizer_of(rule=SGD):
    options = {"momentum": 0.9} if rule is SGD else {}
    groups = [{"params": [dg.ones(2).requires_grad_()]}, {"params": [dg.ones(2).requires_grad_()], "lr": 0.3}]
    return rule(groups, lr=0.2, **options)


def theirs_of(torch, rule="SGD"):
    options = {"momentum": 0.9} if rule == "SGD" else {}
    groups = [{"params": [torch.ones(2, requires_grad=True)]}]
    groups += [{"params": [torch.ones(2, requires_grad=True)], "lr": 0.3}]
    return getattr(torch.optim, rule)(groups, lr=0.2, **options)


def rates(optimizer, scheduler, step):
    out = []
    for _ in range(NUM_STEPS):
        momentum = [g["momentum"] if "momentum" in g else g["betas"][0] for g in optimizer.param_groups]
        out.append([*(g["lr"] for g in optimizer.param_groups), *momentum])
        optimizer.step()
        step(scheduler)
    return [*out, [g["lr"] for g in optimizer.param_groups]]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-10, abs=1e-14)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")


@pytest.mark.parametrize("rule", [SGD, Adam])
@pytest.mark.parametrize(("name", "options"), PLAIN, ids=IDS)
def test_rates_equal_pytorchs(torch, name, options, rule):
    ours, theirs = optimizer_of(rule), theirs_of(torch, rule.__name__)
    twin = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    step = lambda scheduler: scheduler.step()  # noqa: E731
    assert_same(rates(ours, CLASSES[name](ours, **options), step), rates(theirs, twin, step))


def combined(module, optimizer):
    warm = module.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    return module.SequentialLR(
        optimizer,
        [warm, module.CosineAnnealingLR(optimizer, T_max=8), module.ExponentialLR(optimizer, 0.9)],
        milestones=[5, 12],
    )


def chained(module, optimizer):
    return module.ChainedScheduler(
        [module.ConstantLR(optimizer, 0.1, total_iters=3), module.ExponentialLR(optimizer, 0.9)]
    )


def chained_in_sequence(module, optimizer):
    warm = module.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    return module.ChainedScheduler(
        [
            module.SequentialLR(optimizer, [warm, module.StepLR(optimizer, 3)], [4]),
            module.ExponentialLR(optimizer, 0.95),
        ],
        optimizer=optimizer,
    )


@pytest.mark.parametrize(
    "build",
    [combined, chained, chained_in_sequence],
    ids=["SequentialLR", "ChainedScheduler", "ChainedScheduler-SequentialLR"],
)
def test_combinations_equal_pytorchs(torch, build):
    ours, theirs = optimizer_of(), theirs_of(torch)
    step = lambda scheduler: scheduler.step()  # noqa: E731
    a = rates(ours, build(lr_scheduler, ours), step)
    assert_same(a, rates(theirs, build(torch.optim.lr_scheduler, theirs), step))


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1, "factor": 0.5},
        {"mode": "max", "patience": 0, "cooldown": 2, "min_lr": [0.01, 0.1]},
        {"threshold": 0.3, "threshold_mode": "abs", "patience": 2, "factor": 0.2},
    ],
    ids=lambda options: "ReduceLROnPlateau-" + "-".join(options),
)
def test_plateau_equals_pytorchs(torch, options):
    values = [3.0, 2.0, 2.0, 1.9999, 1.5, 1.6, 1.7, 1.5, 1.2, 1.2, 1.2, -1.0, -1.0, -0.9] + [0.5] * 6

    def stepper():
        remaining = iter(values)
        return lambda scheduler: scheduler.step(next(remaining))

    ours, theirs = optimizer_of(), theirs_of(torch)
    a = rates(ours, lr_scheduler.ReduceLROnPlateau(ours, **options), stepper())
    twin = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    assert_same(a, rates(theirs, twin, stepper()))


@pytest.mark.parametrize(("name", "options"), PLAIN, ids=IDS)
def test_state_dict_goes_on_where_it_was_saved(name, options):
    through = optimizer_of()
    scheduler = CLASSES[name](through, **options)
    for _ in range(6):
        scheduler.step()
    resumed = optimizer_of()
    other = CLASSES[name](resumed, **options)
    resumed.load_state_dict(through.state_dict())
    other.load_state_dict(scheduler.state_dict())
    for _ in range(6):
        scheduler.step()
        other.step()
        assert scheduler.get_last_lr() == other.get_last_lr()
        assert [g["lr"] for g in resumed.param_groups] == scheduler.get_last_lr()


@pytest.mark.parametrize("num_before", [3, 7, 12])
@pytest.mark.parametrize("build", [combined, chained, chained_in_sequence])
def test_state_of_combined_schedules(build, num_before):
    first, second = optimizer_of(), optimizer_of()
    a, b = build(lr_scheduler, first), build(lr_scheduler, second)
    for _ in range(num_before):
        a.step()
    second.load_state_dict(first.state_dict())
    b.load_state_dict(a.state_dict())
    for _ in range(7):
        a.step()
        b.step()
        assert a.get_last_lr() == b.get_last_lr()


def test_plateau_goes_on_where_it_was_saved():
    values = [3.0, 2.0, 2.0, 2.0, 1.9, 2.0, 2.0, 2.0, 2.0, 1.0, 1.1, 1.2, 1.3]
    options = {"patience": 1, "factor": 0.5, "cooldown": 1}
    first, second = optimizer_of(), optimizer_of()
    a, b = (lr_scheduler.ReduceLROnPlateau(each, **options) for each in (first, second))
    for value in values[:4]:
        a.step(value)
    second.load_state_dict(first.state_dict())
    b.load_state_dict(a.state_dict())
    for value in values[4:]:
        a.step(value)
        b.step(value)
        assert a.get_last_lr() == b.get_last_lr() == [group["lr"] for group in second.param_groups]
    assert a.get_last_lr()[0] < 0.1


def test_what_is_refused():
    optimizer = optimizer_of()
    with pytest.raises(TypeError, match="expected an Optimizer"):
        lr_scheduler.StepLR("optimizer", 3)
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(optimizer_of(), 3, last_epoch=4)
    with pytest.raises(ValueError, match="expected 2 values, one a group, got 3"):
        lr_scheduler.LambdaLR(optimizer, [math.sqrt] * 3)
    with pytest.raises(ValueError, match="need 1 milestones, got 0"):
        lr_scheduler.SequentialLR(optimizer, [lr_scheduler.StepLR(optimizer, 3)] * 2, [])
    with pytest.raises(ValueError, match="belong to one optimizer"):
        lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(optimizer_of(), 3) for _ in range(2)])
    for scheduler in (
        lambda: lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(optimizer, 3)], optimizer_of()),
        lambda: lr_scheduler.SequentialLR(optimizer_of(), [lr_scheduler.StepLR(optimizer, 3)], []),
    ):
        with pytest.raises(
            (ValueError, KeyError), match=r"the schedules must belong to the optimizer|initial_lr"
        ):
            scheduler()
    with pytest.raises(ValueError, match="neither momentum nor betas"):
        lr_scheduler.CyclicLR(dg.optim.Adagrad([dg.ones(1).requires_grad_()]), 0.1, 0.2)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=2)
    scheduler.step()
    scheduler.step()  # as many as the training takes
    with pytest.raises(ValueError, match="the cycle is over"):
        scheduler.step()
