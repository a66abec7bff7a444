"""Schedules through files, resumed in the middle, with groups that come later, and inside one another."""

import contextlib
import copy
import math

import pytest
from optim.test_schedulers import (
    CLASSES,
    IDS,
    PLAIN,
    assert_same,
    chained,
    chained_in_sequence,
    combined,
    optimizer_of,
    theirs_of,
)

import distgrad as dg
from distgrad.errors import StateDictError
from distgrad.optim import lr_scheduler, swa_utils

VALUES = [3.0, 2.0, 2.0, 2.0, 1.9, 2.0, 2.0, 2.0, 2.0, 1.0, 1.1, 1.2, 1.3, 1.4]


def plain(name, options):
    return lambda module, optimizer: getattr(module, name)(optimizer, **options)


def plateau(module, optimizer):
    scheduler = module.ReduceLROnPlateau(optimizer, patience=1, factor=0.5, cooldown=1, min_lr=[0.01, 0.02])
    values = iter(VALUES)
    scheduler.next = lambda: scheduler.step(next(values))
    return scheduler


def annealed(module, optimizer):
    library = swa_utils if module is lr_scheduler else __import__("torch").optim.swa_utils
    return library.SWALR(optimizer, swa_lr=0.05, anneal_epochs=9)


def chained_first(module, optimizer):
    return module.SequentialLR(
        optimizer,
        [chained(module, optimizer), module.StepLR(optimizer, 3), module.CosineAnnealingLR(optimizer, 6)],
        milestones=[4, 9],
    )


def nested(module, optimizer):
    return module.SequentialLR(
        optimizer,
        [module.ChainedScheduler([combined(module, optimizer)]), module.ExponentialLR(optimizer, 0.7)],
        milestones=[14],
    )


BUILDS = {
    **{key: plain(name, options) for key, (name, options) in zip(IDS, PLAIN, strict=True)},
    **{build.__name__: build for build in (plateau, annealed, combined, chained, chained_in_sequence)},
    **{build.__name__: build for build in (chained_first, nested)},
}


def advance(scheduler):
    getattr(scheduler, "next", scheduler.step)()


def rates_of(optimizer):
    groups = optimizer.param_groups
    return [(g["lr"], g["momentum"] if "momentum" in g else g["betas"][0]) for g in groups]


def run(optimizer, scheduler, num_steps):
    rates = [rates_of(optimizer)]
    for _ in range(num_steps):
        optimizer.step()
        advance(scheduler)
        rates.append(rates_of(optimizer))
    return rates


@pytest.mark.parametrize("num_before", [0, 3, 6])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_schedule_goes_on_from_a_file(tmp_path, build, num_before):
    first, second = optimizer_of(), optimizer_of()
    a, b = build(lr_scheduler, first), build(lr_scheduler, second)
    for _ in range(num_before):
        advance(a)
    dg.save({"optimizer": first.state_dict(), "scheduler": a.state_dict()}, tmp_path / "state")
    state = dg.load(tmp_path / "state")
    second.load_state_dict(state["optimizer"])
    b.load_state_dict(state["scheduler"])
    if hasattr(b, "next"):
        values = iter(VALUES[num_before:])
        b.next = lambda: b.step(next(values))
    assert run(second, b, 8) == run(first, a, 8)
    assert a.get_last_lr() == b.get_last_lr()


@pytest.mark.parametrize(
    ("build", "inner", "num_steps"),
    [(chained_first, chained, 4), (nested, combined, 14)],
    ids=["chain", "sequence"],
)
def test_a_schedule_inside_others_begins_as_it_does_alone(build, inner, num_steps):
    """PyTorch applies an ExponentialLR's first factor at step 0 there, and starts inner milestones at 1."""
    optimizer, alone = optimizer_of(), optimizer_of()
    found = run(optimizer, build(lr_scheduler, optimizer), 20)
    assert found[:num_steps] == run(alone, inner(lr_scheduler, alone), num_steps - 1)


@pytest.mark.filterwarnings("ignore:Detected call")  # PyTorch steps schedules inside others as it builds them
@pytest.mark.parametrize(
    ("build", "first"), [(chained_first, 4), (nested, 14), (annealed, 0)], ids=["chain", "sequence", "SWALR"]
)
def test_what_follows_a_schedule_inside_others_equals_pytorchs(build, first):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    ours, theirs = optimizer_of(), theirs_of(torch)
    found = run(ours, build(lr_scheduler, ours), 20)
    expected = run(theirs, build(torch.optim.lr_scheduler, theirs), 20)
    assert_same_rates(found[first:], expected[first:])


def resumed(module, make, name, options, num_before):
    """The rates after a schedule was made anew with ``last_epoch`` on an optimizer that was loaded."""
    optimizer = make()
    scheduler = getattr(module, name)(optimizer, **options)
    for _ in range(num_before):
        optimizer.step()
        scheduler.step()
    state = copy.deepcopy(optimizer.state_dict())
    other = make()
    other.load_state_dict(state)
    other.step()
    again = getattr(module, name)(other, **options, last_epoch=num_before - 1)
    assert again.last_epoch == num_before
    return run(other, again, 5)


@pytest.mark.parametrize("num_before", [1, 2, 4, 6, 7])
@pytest.mark.parametrize(("name", "options"), PLAIN, ids=IDS)
def test_resuming_by_last_epoch_equals_pytorchs(name, options, num_before):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    if name == "CosineAnnealingWarmRestarts" and num_before > 3:
        pytest.skip("PyTorch's second restart comes out wrong after last_epoch")
    ours = resumed(lr_scheduler, optimizer_of, name, options, num_before)
    theirs = resumed(torch.optim.lr_scheduler, lambda: theirs_of(torch), name, options, num_before)
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)


GOES_ON = (
    "MultiplicativeLR LinearLR ExponentialLR PolynomialLR CosineAnnealingLR LambdaLR OneCycleLR CyclicLR"
)


@pytest.mark.parametrize(("name", "options"), [each for each in PLAIN if each[0] in GOES_ON])
def test_resuming_by_last_epoch_goes_on(name, options):
    """Of the others the rate falls at the step itself, which is then taken twice, as PyTorch's."""
    through = optimizer_of()
    expected = run(through, CLASSES[name](through, **options), 9)
    assert_same_rates(resumed(lr_scheduler, optimizer_of, name, options, 4), expected[4:])


def assert_same_rates(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_group_that_comes_later(build):
    """Its rate follows the schedule from the next step on; where each group has a number, that is said."""
    optimizer = optimizer_of()
    scheduler = build(lr_scheduler, optimizer)
    advance(scheduler)
    optimizer.add_param_group({"params": [dg.ones(2).requires_grad_()], "lr": 0.4})
    given = [getattr(scheduler, name, None) for name in ("lr_lambda", "_max_lr", "_min_lr")]
    one_each = any(isinstance(value, list) for value in given)
    wrong = pytest.raises(ValueError, match="expected 3 values, one a group, got 2; pass as many, or one for")
    with wrong if one_each else contextlib.nullcontext():
        for _ in range(10):
            advance(scheduler)
        assert len(scheduler.get_last_lr()) == 3
        assert all(math.isfinite(rate) for rate in scheduler.get_last_lr())


def test_a_plateau_with_one_bound_takes_further_groups():
    optimizer = optimizer_of()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, min_lr=0.15)
    optimizer.add_param_group({"params": [dg.ones(2).requires_grad_()], "lr": 0.4})
    scheduler.step(1.0)
    scheduler.step(2.0)
    assert scheduler.get_last_lr() == [0.15, 0.15, 0.2]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_a_plateau_takes_nan_for_no_number(mode, threshold_mode):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    values = [math.nan, math.nan, 3.0, math.nan, 2.0, math.inf, 2.5, -math.inf, 5.0, 4.0, 4.0, math.nan]
    rates = []
    for module, optimizer in ((lr_scheduler, optimizer_of()), (torch.optim.lr_scheduler, theirs_of(torch))):
        options = {"mode": mode, "threshold_mode": threshold_mode, "patience": 1, "factor": 0.5}
        scheduler = module.ReduceLROnPlateau(optimizer, **options)
        rates.append([])
        for value in values:
            optimizer.step()
            scheduler.step(value)
            rates[-1].append([*rates_of(optimizer)[0], scheduler.best])
    assert_same_rates(*rates)
    assert rates[0][2][-1] == 3.0  # NaN was no best


def test_the_state_of_another_schedule_is_refused():
    optimizer = optimizer_of()
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    before = scheduler.state_dict()
    with pytest.raises(StateDictError, match=r"lacks \['step_size'\], which StepLR keeps"):
        scheduler.load_state_dict(lr_scheduler.ExponentialLR(optimizer, 0.9).state_dict())
    assert scheduler.state_dict() == before
    both = chained(lr_scheduler, optimizer)
    with pytest.raises(StateDictError, match="holds 0 schedules, this one 2"):
        both.load_state_dict(before)
