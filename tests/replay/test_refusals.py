"""What cannot be captured is refused by name, and what no look at the first calls shows is found later."""

from __future__ import annotations

import contextlib
import ctypes
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay.steps import batches, mlp, training

import distgrad as dg
from distgrad import nn, optim
from distgrad.errors import CaptureError
from distgrad.nn import functional as F
from distgrad.replay import places

DATA = batches(8)
DRAWN = np.random.default_rng(0)
HERE = Path(__file__).name
kept: list[Any] = []
counted = 0


def count(m: Any, x: Any) -> Any:
    global counted
    counted += 1
    return m(x) * float(counted)


class Trainer:
    def __init__(self) -> None:
        self.model = mlp()
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.1)
        self.count = 0
        self.hidden = dg.zeros((8, 3))

    def counting(self, x: Any, y: Any) -> Any:
        self.count += 1
        return F.cross_entropy(self.model(x), y).detach()

    def remembering(self, x: Any, y: Any) -> Any:
        self.hidden = (self.model(x) + self.hidden).detach()
        return self.hidden * 1.0


def plateau() -> Any:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.ReduceLROnPlateau(optimizer)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        schedule.step(loss)
        return loss.detach()

    return step


ONES = iter([1.0] * 1000)
TALLY = {"calls": 0}


def tally() -> float:
    TALLY["calls"] += 1
    return 1.0 if TALLY["calls"] % 50 else 2.0


class Counting(nn.Module):
    """Does something else every 50th time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.number = mlp(), 0

    def forward(self, x: Any) -> Any:
        self.number += 1
        return self.inner(x) * (2.0 if self.number % 50 == 0 else 1.0)


def lbfgs() -> Any:
    model = mlp()
    optimizer = optim.LBFGS(model.parameters(), max_iter=2)

    def step(x: Any, y: Any) -> Any:
        def closure() -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(closure).detach()

    return step


def plain_mean() -> Any:
    model = mlp()
    mean = optim.swa_utils.AveragedModel(model)

    def step(x: Any, y: Any) -> Any:
        mean.update_parameters(model)
        return x.sum()

    return step


def run_all(run: Any, data: list[Any]) -> None:
    for batch in data:
        run(*batch)


def steps(**options: Any) -> Any:
    return training(**options)()[2]


REFUSED = {
    "item": (
        steps(loss=lambda h, y: (h.sum().item(), h.sum())[1]),
        r"looks at a number at .*was .* and then",
    ),
    "a branch": (steps(forward=lambda m, x: m(x) * 2 if float(x.sum()) > 0 else m(x)), "return the tensor"),
    "scaled by a number": (steps(forward=lambda m, x: m(x) * float(x[0, 0])), "looks at a number"),
    "a mask": (steps(loss=lambda h, y: h[y == 0].sum()), "given other numbers or shapes"),
    "a counter": (steps(forward=count), "changes counted in Python"),
    "a method's counter": (Trainer().counting, r"changes self\.count in Python"),
    "a state that is bound anew": (Trainer().remembering, r"changes self\.hidden in Python|keeps a tensor"),
    "numpy.random": (
        steps(forward=lambda m, x: m(x) + dg.asarray(DRAWN.standard_normal((8, 3), "f"))),
        "draws from DRAWN",
    ),
    "a list that grows": (
        steps(after=lambda m, o: kept.append(m[0].weight * 2)),
        r"changes the length of kept",
    ),
    "a graph that goes out": (lambda x, y: F.cross_entropy(MODEL(x), y), "with its graph"),
    "a branch on Python's random": (
        steps(forward=lambda m, x: m(x) * 2 if random.random() < 0.01 else m(x)),
        "draws from Python's random",
    ),
    "a branch on numpy.random": (
        steps(forward=lambda m, x: m(x) * 2 if np.random.random() < 0.01 else m(x)),  # noqa: NPY002
        "draws from numpy.random",
    ),
    "a step that takes from an iterator": (steps(forward=lambda m, x: m(x) * next(ONES)), "iterator ONES"),
    "an argument that is changed": (lambda x, y: x.mul_(2.0).sum(), "changes an argument in place"),
    "an argument's array that is changed": (
        lambda x, y: (x.numpy().fill(1.0), x.sum())[1],
        "changes an argument in place",
    ),
    "a module's counter": (steps(model=Counting), r"changes self\.number"),
    "an entry of a dict": (steps(forward=lambda m, x: m(x) * tally()), r"changes TALLY\['calls'\]"),
    "LBFGS": (lbfgs(), r"calls LBFGS\.step at .*; capture the closure"),
    "a plain mean of weights": (plain_mean(), "looks at a number"),
    "a schedule that looks": (plateau(), "is given a number that the step computes"),
}
MODEL = mlp()


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    step, message = REFUSED[name]
    run = dg.capture(step)
    with pytest.raises(CaptureError, match=message) as error:
        run_all(run, DATA)
    if "looks at" in message:
        assert HERE in str(error.value)


@pytest.mark.parametrize("make", [lbfgs, plateau])
def test_a_refused_step_leaves_what_an_eager_one_leaves(make: Any) -> None:
    def train(run: Any, step: Any) -> list[bytes]:
        with contextlib.suppress(CaptureError):
            run_all(run, DATA[:3])
        cells = [each.cell_contents for each in step.__closure__]
        (model,) = [each for each in cells if isinstance(each, nn.Module)]
        return [p.detach().numpy().tobytes() for p in model.parameters()]

    steps_of_both = []
    for _ in range(2):
        dg.manual_seed(4)
        steps_of_both.append(make())
    captured, eager = steps_of_both
    assert train(dg.capture(captured), captured) == train(eager, eager)


def test_an_argument_that_wants_a_gradient() -> None:
    run = dg.capture(lambda x: (x * 2.0).sum().detach())
    with pytest.raises(CaptureError, match="requires a gradient"):
        run_all(run, [(dg.ones(3, requires_grad=True),)] * 4)


def test_a_branch_that_is_rarely_taken_is_found_and_undone() -> None:
    """Nothing in the first calls shows it, and every so many replays are compared."""
    calls = ctypes.c_long()  # of which Python's own attributes tell nothing
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def rare() -> float:
        calls.value += 1
        return 3.0 if calls.value == 6 else 1.0  # the eager half of the first comparison in replays

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) * rare()
        loss.backward()
        optimizer.step()
        return loss

    run = dg.capture(step, verify_every=4)
    for batch in DATA[:5]:
        run(*batch)
    x, y = DATA[5]
    for _ in range(3):
        run(x, y)
    before = [p.detach().numpy().tobytes() for p in model.parameters()]
    taken = optimizer.state[model[0].weight]["step"]
    with pytest.raises(CaptureError, match="other numbers than an eager step"):
        run(x, y)
    assert [p.detach().numpy().tobytes() for p in model.parameters()] == before
    assert optimizer.state[model[0].weight]["step"] == taken


def test_a_target_out_of_range_raises_what_an_eager_step_raises() -> None:
    """The guard stands before the update: nothing has changed, and the next good batch is replayed."""
    model, optimizer, step = training(
        lambda: nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    )()
    run = dg.capture(step)
    for batch in DATA:
        run(*batch)
    before = [p.detach().numpy().tobytes() for p in model.parameters()]
    steps_taken = optimizer.state[model[0].weight]["step"]
    x, _ = DATA[0]
    with (
        pytest.warns(UserWarning, match="computed eagerly"),
        pytest.raises(IndexError, match="holds class 7"),
    ):
        run(x, dg.asarray(np.full(8, 7)))
    assert [p.detach().numpy().tobytes() for p in model.parameters()] == before
    assert optimizer.state[model[0].weight]["step"] == steps_taken
    replays = run.num_replays
    run(*DATA[1])
    assert run.num_replays == replays + 1


def test_a_guard_that_fails_is_computed_eagerly() -> None:
    def total(x: Any) -> Any:
        return x.sum() if bool((x > 0).all()) else x.sum() - 100.0

    run = dg.capture(total)
    for number in range(1, 9):
        assert run(dg.asarray([1.0, number])).item() == 1.0 + number
    with pytest.warns(UserWarning, match="a number that is looked at is False, and was True"):
        assert run(dg.asarray([-1.0, 2.0])).item() == -99.0


def test_memory_at_the_end_of_another_array_is_one_storage() -> None:
    """Views by any way (a buffer, as_strided) and arrays that only touch are told apart by address."""
    memory, block = places.Memory(), np.zeros(64, np.uint8)
    first = memory.keep(np.ndarray(4, np.float32, block, 0))
    strided = memory.keep(np.lib.stride_tricks.as_strided(block[8:], (8,), (2,)))
    other = memory.keep(np.zeros(4))
    assert first is strided
    assert [first.nbytes, other.nbytes] == [64, 32]
    assert places.Place(block[::-1][:4]).bounds() == (block.ctypes.data + 60, block.ctypes.data + 64)
