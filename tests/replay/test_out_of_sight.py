"""Values that a step reads where no array call shows it: a change of one is seen at the next call."""

from __future__ import annotations

import collections
import contextvars
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from replay.steps import batches, mlp

import distgrad as dg
from distgrad.errors import CaptureError

DATA = [x for x, _ in batches(16)]
AT = 9
VARIABLE = contextvars.ContextVar("VARIABLE", default=1.0)


class Options:
    def __init__(self) -> None:
        self.scale = 1.0
        self.inner: Any = None


def deep(depth: int) -> Options:
    found = Options()
    for _ in range(depth):
        outer, outer.inner = Options(), found
        found = outer
    return found


def innermost(options: Options) -> Options:
    while options.inner is not None:
        options = options.inner
    return options


Case = tuple[Callable[[], Any], Callable[[Any, Any], Any], Callable[[Any], Any]]

#: What makes a thing, what a step computes with it, and a change of it.
CASES: dict[str, Case] = {
    "an attribute by a string": (
        Options, lambda o, x: x * o.scale, lambda o: setattr(o, "scale", 3.0),
    ),
    "an attribute in vars": (Options, lambda o, x: x * vars(o)["scale"], lambda o: setattr(o, "scale", 3.0)),
    "an object far inside": (
        lambda: deep(6), lambda o, x: x * innermost(o).scale, lambda o: setattr(innermost(o), "scale", 3.0),
    ),
    "an element of an array": (
        lambda: np.ones(3), lambda k, x: x * float(k[1]), lambda k: k.fill(3.0),
    ),
    "an array's elements as a list": (
        lambda: np.ones(6, np.float32), lambda k, x: x * dg.asarray(list(k)), lambda k: k.fill(3.0),
    ),
    "an array that NumPy computes with": (
        lambda: np.ones(6, np.float32), lambda k, x: x * dg.asarray(np.exp(k)), lambda k: k.fill(3.0),
    ),
    "an entry of a long list": (
        lambda: [1.0] * 1000, lambda k, x: x * k[999], lambda k: k.__setitem__(999, 3.0),
    ),
    "an entry of a deque": (
        lambda: collections.deque([1.0, 2.0]), lambda k, x: x * k[0], lambda k: k.rotate(),
    ),
    "a set": (lambda: {1}, lambda k, x: x * 2.0 if 1 in k else x, lambda k: (k.clear(), k.add(2))),
    "the environment": (
        lambda: os.environ.__setitem__("DISTGRAD_TEST_SCALE", "1"),
        lambda k, x: x * float(os.environ["DISTGRAD_TEST_SCALE"]),
        lambda k: os.environ.__setitem__("DISTGRAD_TEST_SCALE", "3"),
    ),
    "a context's variable": (
        lambda: VARIABLE.set(1.0), lambda k, x: x * VARIABLE.get(), lambda k: VARIABLE.set(3.0),
    ),
    "a module's forward of its own": (
        mlp, lambda m, x: m(x).detach(), lambda m: setattr(m[1], "forward", lambda x: x * 2.0),
    ),
}  # fmt: skip


def run(name: str, captured: bool) -> Any:
    make, compute, change = CASES[name]
    dg.manual_seed(5)
    thing = make()

    def step(x: Any) -> Any:
        return compute(thing, x)

    call = dg.capture(step) if captured else step
    found = []
    for number, x in enumerate(DATA):
        if number == AT:
            change(thing)
        found.append(call(x).numpy().tobytes())
    return found, call


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGRAD_TEST_SCALE", "1")
    found, call = run(name, True)
    assert found == run(name, False)[0]
    assert found[AT] != found[AT - 1]
    assert call.num_replays >= len(DATA) - 8


def test_an_array_that_the_step_changes_out_of_sight_is_refused() -> None:
    counts = np.zeros(3)

    def step(x: Any) -> Any:
        counts[0] += 1.0
        return x * 2.0

    call = dg.capture(step)
    for x in DATA[:2]:
        call(x)
    with pytest.raises(CaptureError, match="changes counts in Python"):
        call(DATA[2])


def test_what_changes_is_said_where_there_are_too_many_tapes() -> None:
    place = [0]
    call = dg.capture(lambda: DATA[place[0]] * 2.0)
    for number in range(10):
        place[0] = number
        call()
    place[0] = 10
    with pytest.raises(CaptureError, match=r"where place\[0\] has changed"):
        call()
