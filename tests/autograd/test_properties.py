"""Random compositions of up to twelve operations: backward agrees with finite differences."""

import re
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from random_programs import BINARY, REDUCTIONS, UNARY, programs, slopes

from distgrad.autograd.dispatch import operations
from distgrad.autograd.primitive import REGISTRY

MAX_STEPS = 12
EVERY_LENGTH = pytest.mark.parametrize("num_steps", range(1, MAX_STEPS + 1))


def check_compositions(num_steps, number):
    """Backward and differences agree on that many random programs; returns how often operations came."""
    counts = Counter()

    @settings(max_examples=number, derandomize=True, database=None, deadline=None)
    @given(program=programs(num_steps))
    def agree(program):
        assume(program.steps)
        exact, numeric, bend = slopes(program)
        scale = max(1.0, abs(exact), abs(numeric))
        assume(bend < 1e-2 * scale)  # else a kink is within reach of the differences
        assert abs(exact - numeric) <= 1e-5 * scale + 1e-3 * bend, (
            f"{exact} by backward, {numeric} by differences"
        )
        counts["programs"] += 1
        counts.update(step.name for step in program.steps)

    agree()
    return counts


@pytest.fixture(scope="module")
def used():
    """How often each operation came in the long run."""
    return Counter()


def run(num_steps, number, checked):
    start = time.perf_counter()
    counts = check_compositions(num_steps, number)
    checked["random compositions"] += counts["programs"]
    checked["milliseconds for the compositions"] += round(1000 * (time.perf_counter() - start))
    assert counts["programs"] >= number
    return counts


@EVERY_LENGTH
def test_random_compositions(num_steps, checked):
    run(num_steps, 13, checked)


@pytest.mark.slow
@EVERY_LENGTH
def test_many_random_compositions(num_steps, checked, used):
    used.update(run(num_steps, 250, checked))


@pytest.mark.slow
def test_the_many_compositions_held_nearly_every_operation(used):
    assert used["programs"] >= 3000
    assert used.keys() >= {"reshape", "permute_dims", "broadcast_to", "getitem", "concat", "stack", "matmul"}
    generic = {*UNARY, *BINARY, *REDUCTIONS}
    assert len(generic & used.keys()) > 0.9 * len(generic)


def test_a_wrong_gradient_is_found_and_the_smallest_program_shown(monkeypatch):
    record = REGISTRY["sum"]
    operations.__dict__["sum"](np.ones(2))  # compiles it, now and not later
    right = record.backward
    monkeypatch.setattr(record, "backward", lambda *args: tuple(-g for g in right(*args)))
    with pytest.raises(AssertionError, match="by backward") as caught:
        check_compositions(6, 200)
    (shown,) = [note for note in caught.value.__notes__ if "program=" in note]
    assert re.search(r"v0 = dg.asarray\(.*\)\nv1 = dg.sum\(v0, .*\)\nresults: v1\n", shown)
