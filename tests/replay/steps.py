"""Training steps for the tests of captures, and the comparison of a captured run with an eager one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import distgrad as dg
from distgrad import nn, optim
from distgrad.nn import functional as F

Make = Callable[[], tuple[Any, Any, Callable[..., Any]]]


def batches(count: int, rows: int = 8, features: int = 6, classes: int = 3) -> list[tuple[Any, Any]]:
    """Distinct batches of inputs and class numbers."""
    rng = np.random.default_rng(0)
    return [
        (
            dg.asarray(rng.standard_normal((rows, features)).astype(np.float32)),
            dg.asarray(rng.integers(0, classes, rows)),
        )
        for _ in range(count)
    ]


def mlp() -> Any:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def training(
    model: Callable[[], Any] = mlp,
    optimizer: Callable[[Any], Any] = lambda p: optim.AdamW(p, lr=1e-2),
    forward: Callable[[Any, Any], Any] = lambda m, x: m(x),
    loss: Callable[[Any, Any], Any] = F.cross_entropy,
    after: Callable[[Any, Any], None] = lambda m, o: None,
) -> Make:
    """A usual step: zero_grad, forward, loss, backward, what comes ``after``, and the optimizer's step."""

    def make() -> tuple[Any, Any, Callable[..., Any]]:
        m = model()
        o = optimizer(m.parameters())

        def step(x: Any, y: Any) -> Any:
            o.zero_grad()
            value = loss(forward(m, x), y)
            value.backward()
            after(m, o)
            o.step()
            return value

        return m, o, step

    return make


def outcome(make: Make, data: list[Any], captured: bool, halve_at: int = 12, **options: Any) -> Any:
    """Everything that a run leaves, as bytes; the learning rate is halved on the way."""
    dg.manual_seed(5)
    model, optimizer, step = make()
    run = dg.capture(step, **options) if captured else step
    dg.manual_seed(7)
    losses = []
    for number, batch in enumerate(data):
        if number == halve_at:
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
        with np.errstate(all="ignore"):  # a scaled loss overflows
            losses.append(run(*batch).detach().numpy().tobytes())
    state = [x.detach().numpy().tobytes() for x in (*model.parameters(), *model.buffers())]
    state += [x.detach().numpy().tobytes() for x in getattr(model, "others", ())]
    gradients = [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()]
    steps = [entry["step"] for entry in optimizer.state.values()]
    found = losses, state, gradients, steps, dg.default_generator.get_state()
    return (*found, run) if captured else found


def assert_bit_equal(make: Make, data: list[Any], **options: Any) -> Any:
    """A captured run is an eager one to the bit, and most of it was replayed; returns the captured step."""
    *found, run = outcome(make, data, True, **options)
    expected = outcome(make, data, False)
    for name, ours, theirs in zip(
        ("losses", "state", "gradients", "steps", "generator"), found, expected, strict=True
    ):
        assert ours == theirs, f"{name} differ"
    assert run.num_replays >= len(data) // 2
    return run
