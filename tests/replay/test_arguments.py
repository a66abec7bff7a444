"""What goes into a captured step and what comes out: containers, overlapping results, gradients, threads."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from replay.steps import batches, mlp

import distgrad as dg
from distgrad import nn
from distgrad.errors import CaptureError, InPlaceError
from distgrad.nn import functional as F

DATA = batches(12)


@dataclasses.dataclass
class Batch:
    x: Any
    y: Any


Pair = collections.namedtuple("Pair", ["x", "y"])

#: What makes an argument of a batch, and what a step reads in it.
CONTAINERS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]] = {
    "a data class": (Batch, lambda b: (b.x, b.y)),
    "a named tuple": (Pair, lambda b: (b.x, b.y)),
    "an ordered dict": (lambda x, y: collections.OrderedDict(x=x, y=y), lambda b: (b["x"], b["y"])),
    "a list in a dict": (lambda x, y: {"both": [x, y]}, lambda b: b["both"]),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_of_tensors(name: str) -> None:
    make, read = CONTAINERS[name]

    def step(batch: Any) -> Any:
        x, y = read(batch)
        return make(x * 2.0, y + 1)

    call = dg.capture(step)
    for x, y in DATA:
        found, expected = (read(each) for each in (call(make(x, y)), step(make(x, y))))
        assert [each.numpy().tobytes() for each in found] == [each.numpy().tobytes() for each in expected]
    assert type(call(make(*DATA[0]))) is type(make(*DATA[0]))
    assert call.num_replays >= 8


@pytest.mark.parametrize("change", [lambda b: b.pop("y"), lambda b: b.update(z=b["x"] * 2.0)])
def test_a_container_that_the_step_changes(change: Callable[[Any], Any]) -> None:
    def step(batch: Any) -> Any:
        change(batch)
        return batch["x"] * 2.0

    call, (x, y) = dg.capture(step), DATA[0]
    for _ in range(2):
        call({"x": x, "y": y})
    with pytest.raises(CaptureError, match="changes a list, dict or data class among its arguments"):
        call({"x": x, "y": y})


def test_results_that_overlap_and_their_layout() -> None:
    def step(x: Any) -> Any:
        h = x * 2.0
        return h, h[0], h.T, h[:0]

    call = dg.capture(step)
    for x, _ in DATA:
        for found in (call(x), step(x)):
            whole, row, turned, empty = found
            whole.mul_(3.0)
            assert (row == x[0] * 6.0).all()
            assert (turned == x.T * 6.0).all()
            assert turned.numpy().strides == turned.numpy().T.strides[::-1] == (4, 4 * x.shape[1])
            assert empty.shape == (0, x.shape[1])
    assert call.num_replays >= 7


def test_a_gradient_that_is_kept() -> None:
    """The next replay makes new ones, as the next eager step does."""
    model = mlp()

    def step(x: Any, y: Any) -> Any:
        for each in model.parameters():
            each.grad = None
        F.cross_entropy(model(x), y).backward()

    call = dg.capture(step)
    kept, copies = [], []
    for number, batch in enumerate(DATA):
        call(*batch)
        if number % 3 == 0:
            kept.append([each.grad for each in model.parameters()])
            copies.append([each.grad.numpy().copy() for each in model.parameters()])
    assert call.num_replays >= 7
    for gradients, expected in zip(kept, copies, strict=True):
        assert all((g.numpy() == other).all() for g, other in zip(gradients, expected, strict=True))


def test_a_graph_from_outside_sees_that_a_replay_changes_what_it_saved() -> None:
    total, weight = dg.zeros((8, 6)), nn.Parameter(dg.ones(6))

    def step(x: Any) -> Any:
        total.add_(x)
        return total.sum()

    call = dg.capture(step)
    for x, _ in DATA:
        value = (weight * total).sum()
        call(x)
        with pytest.raises(InPlaceError):
            value.backward()
    assert call.num_replays >= 7


def test_threads_that_call_at_once() -> None:
    """One of them records or replays; the others compute eagerly meanwhile."""
    model, num_threads, rounds = mlp(), 4, 40
    call = dg.capture(model)
    found: dict[int, bytes] = {}

    def work(first: int) -> None:
        with dg.no_grad():
            for number in range(first, rounds * num_threads, num_threads):
                found[number] = call(DATA[number % 12][0]).numpy().tobytes()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(num_threads)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    with dg.no_grad():
        expected = [model(x).numpy().tobytes() for x, _ in DATA]
    assert [found[n] for n in range(rounds * num_threads)] == [
        expected[n % 12] for n in range(rounds * num_threads)
    ]


def test_a_step_that_calls_itself() -> None:
    def step(x: Any, depth: int) -> Any:
        return call(x, depth - 1) + 1.0 if depth else x * 2.0

    call = dg.capture(step)
    for x, _ in DATA:
        assert (call(x, 2) == x * 2.0 + 1.0 + 1.0).all()
    assert call.num_replays >= 7


def test_the_first_call_finds_numpy_as_it_is() -> None:
    """What is compiled in it, by Numba say, is made of NumPy's own functions."""
    found = []
    call = dg.capture(lambda x: found.append(np.empty_like) or x * 2.0)
    call(DATA[0][0])
    assert found == [np.empty_like]
