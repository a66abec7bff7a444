"""A compiled module replays its calls that make no graph, and is the module itself in all others."""

from __future__ import annotations

import copy
import ctypes
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay.steps import batches, mlp

import distgrad as dg
from distgrad import nn, optim
from distgrad.errors import CaptureError, OptionError
from distgrad.replay.compiled import Compiled, compiled

DATA = batches(10)


def twins() -> tuple[Any, Any]:
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))
    return copy.deepcopy(model), model


def outcome(model: Any, training: bool) -> list[bytes]:
    """What a model gives and keeps without a graph."""
    dg.manual_seed(3)
    model.train(training)
    with dg.no_grad():
        found = [model(x).numpy().tobytes() for x, _ in DATA]
    return found + [x.numpy().tobytes() for x in model.buffers()]


def run_all(call: Any, inputs: list[Any]) -> list[Any]:
    return [call(x) for x in inputs]


INPUTS = [x for x, _ in DATA]


def calls_of(module: Any) -> Any:
    return module._hooks.compiled


def test_calls_without_a_graph_are_replayed_and_others_are_not() -> None:
    model, eager = twins()
    model.compile()
    for each in (model, eager):
        dg.manual_seed(1)
        optimizer = optim.SGD(each.parameters(), lr=0.1)
        for x, _ in DATA:
            optimizer.zero_grad()
            (each(x) ** 2).mean().backward()
            optimizer.step()
    assert calls_of(model).num_replays == 0
    for training in (True, False):
        assert outcome(model, training) == outcome(eager, training)
    assert calls_of(model).num_replays >= 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(DATA[0][0]).sum().backward()
    assert calls_of(model).explain().count("tape of") == 2


def test_parameters_that_thaw_make_graphs_again() -> None:
    model, eager = twins()
    for each in (model, eager):
        each.eval().requires_grad_(False)
    model.compile()
    for number, (x, _) in enumerate(DATA):
        if number == 2:  # when the next call would be recorded
            model.requires_grad_(True)
            eager.requires_grad_(True)
        assert (model(x) == eager(x)).all()
        if number > 2:
            for each in (model, eager):
                each(x).sum().backward()
    pairs = zip(model.parameters(), eager.parameters(), strict=True)
    assert all((p.grad == q.grad).all() for p, q in pairs)


def test_hooks_are_called_and_copies_are_compiled_for_themselves() -> None:
    model = mlp()
    model.register_forward_hook(lambda module, given, y: y * 2.0)
    expected = model(DATA[0][0])
    model.compile()
    others = [pickle.loads(pickle.dumps(mlp())), copy.deepcopy(model)]
    with dg.no_grad():
        for _ in range(7):
            assert (model(DATA[0][0]) == expected).all()
            assert (others[1](DATA[0][0]) == expected).all()
    assert calls_of(model).num_replays == calls_of(others[1]).num_replays == 3
    assert calls_of(others[1]).step.module is others[1]
    model.compile(disable=True)
    assert calls_of(model) is None
    assert (model(DATA[0][0]) == expected).all()


class Branching(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2.0 if float(x.sum()) > 0 else x - 1.0


def test_what_cannot_be_captured_is_eager_with_a_warning() -> None:
    model, eager = Branching(), Branching()
    model.compile()
    with pytest.warns(UserWarning, match="computed eagerly, .*looks at a number") as told:
        found = run_all(model, INPUTS)
    assert all((y == eager(x)).all() for x, y in zip(INPUTS, found, strict=True))
    assert len([each for each in told if "eagerly" in str(each.message)]) == 1
    assert calls_of(model).num_replays == 0


def test_what_cannot_be_captured_is_an_error_if_all_must_be() -> None:
    model = Branching()
    model.compile(fullgraph=True)
    with pytest.raises(CaptureError, match="looks at a number"):
        run_all(model, INPUTS)


def test_many_shapes_and_arguments_that_want_gradients() -> None:
    model = mlp().requires_grad_(False)
    eager = copy.deepcopy(model)
    model.compile()
    inputs = [dg.randn(rows, 6) for rows in range(1, 12) for _ in range(6)]
    with pytest.warns(UserWarning, match="8 tapes were made"):
        found = run_all(model, inputs)
    assert all((y == eager(x)).all() for x, y in zip(inputs, found, strict=True))
    x = dg.randn(4, 6, requires_grad=True)
    for _ in range(6):
        model(x).sum().backward()
    assert x.grad is not None


def test_a_whole_step_and_arrays_that_it_returns() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss, x.numpy() * 2.0

    run = compiled(step)
    assert isinstance(run, Compiled)
    for batch in DATA:
        _, array = run(*batch)
        assert type(array) is np.ndarray
    assert run.num_replays == 6
    looking = compiled(lambda x: (x.numpy() * 2.0, float(x.sum())))
    with pytest.warns(UserWarning, match="computed eagerly"):
        found = run_all(looking, INPUTS)
    assert all(type(array) is np.ndarray for array, _ in found)


def test_a_replay_that_differs_is_eager_from_then_on() -> None:
    """What the capture cannot see is found by the comparison, and the step is computed once more."""
    calls = ctypes.c_long()  # of which Python's own attributes tell nothing

    def rare(x: Any) -> Any:
        calls.value += 1
        return x * (2.0 if calls.value > 8 else 1.0)

    run = Compiled(rare, "loops", 1)
    with pytest.warns(UserWarning, match="computed eagerly, .*other numbers"):
        found = run_all(run, [dg.ones(3)] * 12)
    assert [float(y[0]) for y in found] == [1.0] * 8 + [2.0] * 4


def test_options() -> None:
    model = mlp()
    model.compile(mode="reduce-overhead", dynamic=True, backend="inductor")
    assert isinstance(calls_of(model), Compiled)
    with pytest.raises(OptionError, match="mode must be one of default"):
        model.compile(mode="fastest")
    assert compiled(len, disable=True) is len


@pytest.mark.slow
def test_what_is_compiled_after_a_recording_means_numpys_own_functions(tmp_path: Path) -> None:
    """Also where a recording is what first asks Numba for a kernel: it keeps those that it finds."""
    pytest.importorskip("numba", reason="kernels are compiled by it")
    program = """
import numpy as np
import distgrad as dg
from distgrad import nn, optim
from distgrad.nn import functional as F
own, model = np.empty, nn.Linear(6, 3)
optimizer = optim.AdamW(model.parameters())
@dg.capture
def step(x):
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
for _ in range(6):
    step(dg.ones((8, 6)))
assert np.empty is own
q, k, v = dg.randn(3, 4, 1, 8, 32)
F.scaled_dot_product_attention(q, k, v, is_causal=True)
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100, env=environment)
