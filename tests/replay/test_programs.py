"""Random programs, captured: each gives what it gives eagerly, to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.nn import functional as F

SIDE = 12
CALLS = 9

#: Of one or two matrices ``[SIDE, SIDE]``, the same shape again.
OPERATIONS: list[Callable[..., Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - 0.5 * b,
    lambda a, b: a * b,
    lambda a, b: a @ b * 0.1,
    lambda a, b: a.T @ b * 0.1,
    lambda a, b: dg.tanh(a),
    lambda a, b: F.relu(a) - b.mean(),
    lambda a, b: F.gelu(a),
    lambda a, b: F.softmax(a, -1),
    lambda a, b: F.layer_norm(a, (SIDE,)),
    lambda a, b: F.dropout(a, 0.3),
    lambda a, b: dg.where(a > b, a, 0.1 * b),
    dg.maximum,
    lambda a, b: dg.concat([a[: SIDE // 2], b[SIDE // 2 :]], axis=0),
    lambda a, b: a[:, ::-1] + b[:1],
    lambda a, b: a.reshape(2, -1).sum(0).reshape(-1, SIDE).sum(0) * 0.1 + b,
    lambda a, b: (a * a + 1.0) ** 0.5,
    lambda a, b: dg.exp(-(a * a)) + dg.randn(SIDE, SIDE) * 0.1,
    lambda a, b: a.sum(0, keepdims=True) * 0.1 + dg.max(b, axis=1, keepdims=True),
    lambda a, b: dg.sort(a, axis=1),
    lambda a, b: (a * 1.0).mul_(0.5).add_(b),
    lambda a, b: a[dg.randperm(SIDE)],
    lambda a, b: a.detach() * b,
]

OPTIMIZERS = [optim.SGD, optim.AdamW, optim.RMSprop, optim.Lion, optim.Adagrad]


def program(seed: int) -> tuple[Any, Any, Callable[..., Any]]:
    """Parameters, their optimizer, and a step of 3 to 14 operations on what came before."""
    draw = random.Random(seed)
    dg.manual_seed(seed)
    weights = [nn.Parameter(dg.randn(SIDE, SIDE) * 0.3) for _ in range(draw.randint(1, 3))]
    optimizer = draw.choice(OPTIMIZERS)(weights, lr=0.01)
    plan = [
        (draw.randrange(len(OPERATIONS)), draw.random(), draw.random()) for _ in range(draw.randint(3, 14))
    ]
    clips, clears, checkpoints = draw.random() < 0.3, draw.random() < 0.8, draw.random() < 0.2

    def compute(x: Any) -> Any:
        values = [x, *weights]
        for operation, first, second in plan:
            a, b = (values[int(each * len(values))] for each in (first, second))
            values.append(OPERATIONS[operation](a, b))
        return sum(((each * each).mean() for each in values[-3:]), weights[0].sum() * 0.01)

    def step(x: Any) -> Any:
        if clears:
            optimizer.zero_grad()
        loss = dg.autograd.checkpoint(compute, x) if checkpoints else compute(x)
        loss.backward()
        if clips:
            nn.utils.clip_grad_norm_(weights, 0.5)
        optimizer.step()
        return loss

    return weights, optimizer, step


def outcome(seed: int, captured: bool) -> list[bytes]:
    weights, optimizer, step = program(seed)
    run = dg.capture(step) if captured else step
    rng = np.random.default_rng(seed)
    found = []
    for number in range(CALLS):
        if number == CALLS - 2:
            optimizer.param_groups[0]["lr"] *= 0.5
        x = dg.asarray(rng.standard_normal((SIDE, SIDE)).astype(np.float32))
        found.append(run(x).detach().numpy().tobytes())
    if captured:
        assert run.num_replays == CALLS - 4
    return found + [weight.detach().numpy().tobytes() for weight in weights]


@pytest.mark.parametrize("seed", range(4))
def test_a_few_programs(seed: int) -> None:
    assert outcome(seed, True) == outcome(seed, False)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_programs(block: int) -> None:
    for seed in range(4 + 20 * block, 24 + 20 * block):
        assert outcome(seed, True) == outcome(seed, False), seed
