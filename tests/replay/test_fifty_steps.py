"""Fifty steps of every workload, optimizer and example, captured: eager ones to the bit."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from replay.steps import assert_bit_equal, batches, training
from replay.test_capture import OPTIMIZERS, OPTIONS

import distgrad as dg
from distgrad import nn, optim
from distgrad.nn import functional as F
from distgrad.scale.bench.models import build
from distgrad.scale.bench.workloads import WORKLOADS

STEPS = 50
EXAMPLES = ("mnist", "heat_surrogate", "gpt", "lstm", "resnet", "vae")
pytestmark = pytest.mark.slow


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = dg.get_num_threads()
    dg.set_num_threads(request.param)
    yield
    dg.set_num_threads(before)


def check(make: Any, data: list[Any]) -> None:
    """All but the first two, the recorded and the compared one of the calls of each kind are replayed."""
    run = assert_bit_equal(make, data)
    assert run.num_replays == STEPS - 4


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload(name: str) -> None:
    work = WORKLOADS[name]

    def model() -> Any:
        made = build(nn, F, dg.scaled_dot_product_attention, name, work.sizes)
        return made.double() if work.dtype == "float64" else made

    found = [tuple(map(dg.asarray, work.batch(number=number))) for number in range(5)]
    check(training(model), [found[number % 5] for number in range(STEPS)])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str) -> None:
    check(training(optimizer=lambda p: OPTIMIZERS[name](p, lr=1e-2)), batches(STEPS))


@pytest.mark.parametrize("name", OPTIONS)
def test_what_steps_do_beside(name: str) -> None:
    check(OPTIONS[name], batches(STEPS))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example(name: str) -> None:
    """Its model and loss, with all that they draw."""
    pytest.importorskip("torch", reason="the examples' sources are read by their comparison with PyTorch")
    twins = importlib.import_module("examples.test_twins")
    library = {"dg": dg, "nn": nn, "F": F}
    make_parts, names, draw = twins.CASES[name]

    def make() -> Any:
        model, loss = make_parts(twins.parts(name, names, library), library)
        model.to(dtype=dg.float32)
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)

        def step(*batch: Any) -> Any:
            optimizer.zero_grad()
            value = loss(model, *batch)
            value.backward()
            optimizer.step()
            return value

        return model, optimizer, step

    rng = np.random.default_rng(1)
    drawn = [[np.asarray(each) for each in draw(rng)] for _ in range(5)]
    found = [[dg.asarray(x.astype(np.float32) if x.dtype.kind == "f" else x) for x in each] for each in drawn]
    check(make, [found[number % 5] for number in range(STEPS)])
