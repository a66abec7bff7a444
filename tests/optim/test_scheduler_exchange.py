"""Schedules that are told the step, and states that PyTorch's schedules wrote or read."""

import copy

import pytest
from optim.test_scheduler_states import BUILDS, VALUES, advance, assert_same_rates, rates_of, run
from optim.test_schedulers import CLASSES, IDS, PLAIN, optimizer_of, theirs_of

from distgrad.optim import lr_scheduler

#: Whether a schedule is told fractions of a step too.
EPOCHS = {"CosineAnnealingWarmRestarts": [1, 0.25, 2.5, 7, 3.75, 13]}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")


def told(module, optimizer, name, options):
    scheduler = getattr(module, name)(optimizer, **options)
    rates = []
    for epoch in [*EPOCHS.get(name, [1, 2, 5, 3, 9, 1, 12]), None, None]:
        optimizer.step()
        scheduler.step() if epoch is None else scheduler.step(epoch)
        rates.append(rates_of(optimizer))
    return rates, scheduler


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # it is how programs before PyTorch 1.4 are written
@pytest.mark.parametrize(("name", "options"), PLAIN, ids=IDS)
def test_a_step_that_is_named_equals_pytorchs(torch, name, options):
    ours, a = told(lr_scheduler, optimizer_of(), name, options)
    theirs, b = told(torch.optim.lr_scheduler, theirs_of(torch), name, options)
    if name == "CosineAnnealingWarmRestarts":  # PyTorch goes on from the fraction after a whole step's name
        ours, theirs = ours[:-2], theirs[:-2]
    assert_same_rates(ours, theirs)
    assert a.last_epoch == b.last_epoch


def test_a_plateau_is_told_the_step():
    optimizer = optimizer_of()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer)
    scheduler.step(1.0, 7)
    assert scheduler.last_epoch == 7
    scheduler.step(1.0)
    assert scheduler.last_epoch == 8


def test_a_named_step_is_from_the_initial_rates():
    optimizer = optimizer_of()
    scheduler = CLASSES["ExponentialLR"](optimizer, 0.5)
    optimizer.param_groups[0]["lr"] = 100.0
    scheduler.step(2)
    assert scheduler.get_last_lr()[0] == scheduler.base_lrs[0] / 4


@pytest.mark.filterwarnings("ignore:Detected call")  # PyTorch steps schedules inside others as it builds them
@pytest.mark.parametrize("num_before", [0, 3, 6])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("to_pytorch", [False, True], ids=["from", "to"])
def test_states_go_between_distgrad_and_pytorch(torch, build, num_before, to_pytorch):
    sides = [(lr_scheduler, optimizer_of), (torch.optim.lr_scheduler, lambda: theirs_of(torch))]
    (module, make), (other, make_other) = sides if to_pytorch else reversed(sides)
    first, second = make(), make_other()
    a, b = build(module, first), build(other, second)
    for _ in range(num_before):
        first.step()
        advance(a)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for group, given in zip(second.param_groups, first.param_groups, strict=True):
        group.update({name: value for name, value in given.items() if name != "params"})
    if hasattr(b, "next"):
        values = iter(VALUES[num_before:])
        b.next = lambda: b.step(next(values))
    assert_same_rates(run(second, b, 7), run(first, a, 7))
    assert b.get_last_lr() == pytest.approx(a.get_last_lr())


class Warmup:
    """A function of the step that keeps something."""

    def __init__(self, length):
        self.length = length

    def __call__(self, step):
        return min(1.0, (step + 1) / self.length)


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_callable_objects_are_kept(name):
    optimizer = optimizer_of()
    saved = CLASSES[name](optimizer, [Warmup(4), lambda step: 0.5]).state_dict()
    assert saved["lr_lambdas"] == [{"length": 4}, None]
    other = CLASSES[name](optimizer_of(), [Warmup(9), lambda step: 0.5])
    other.load_state_dict(saved)
    assert other.lr_lambdas[0].length == 4
