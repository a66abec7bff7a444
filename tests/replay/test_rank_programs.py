"""Random programs of several ranks, captured: each gives what it gives eagerly, to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.comm import get_world, init
from distgrad.nn import functional as F
from distgrad.optim.lr_scheduler import CosineAnnealingLR, StepLR
from distgrad.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from distgrad.parallel import DistributedDataParallel, PowerSGD, SyncBatchNorm, TopK, bf16, fp16

pytestmark = pytest.mark.filterwarnings("ignore:.*does not pay here", "ignore:capture. .*computed eagerly")

SIDE, CALLS = 8, 24
OPTIMIZERS = [optim.SGD, optim.AdamW, optim.RMSprop, optim.Adagrad, optim.Lion, optim.LAMB]
OPTIONS: list[Callable[[], dict[str, Any]]] = [
    lambda: {"hook": fp16},
    lambda: {"hook": bf16},
    lambda: {"hook": PowerSGD(1)},  # which keeps what it left out
    lambda: {"hook": TopK(0.3)},
    lambda: {"shard": "optimizer"},
    lambda: {"shard": "gradients"},
    lambda: {"weigh_by": "ranks"},
    lambda: {"average_buffers": True},
    lambda: {"check_replicas_every": 4},
    dict,
]


def network(draw: random.Random) -> Any:
    layers: list[Any] = []
    for _ in range(draw.randint(1, 3)):
        norm = draw.choice([None, nn.BatchNorm1d, SyncBatchNorm, nn.LayerNorm])
        layers += [nn.Linear(SIDE, SIDE), *([] if norm is None else [norm(SIDE)])]
        layers += [draw.choice([nn.Tanh, nn.GELU, nn.SiLU])(), nn.Dropout(draw.choice([0.0, 0.2]))]
    return nn.Sequential(*layers, nn.Linear(SIDE, 3))


def program(seed: int) -> tuple[list[Any], Any, Callable[..., Any]]:
    """What is trained, its optimizer, and a step, all drawn; the same on every rank."""
    draw = random.Random(seed)
    dg.manual_seed(seed)
    inner, options = network(draw), draw.choice(OPTIONS)()
    cap = draw.choice([0.0002, 0.0005, 25])
    model = DistributedDataParallel(inner, bucket_cap_mb=cap, **options)
    optimizer = draw.choice(OPTIMIZERS)(model.parameters(), lr=0.02)
    schedules = [StepLR(optimizer, 3, 0.5)], [CosineAnnealingLR(optimizer, 20)], []
    schedule = draw.choice(schedules)
    average = AveragedModel(inner, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    clips, halves, clears, looks, averages = (draw.random() < p for p in (0.3, 0.3, 0.8, 0.4, 0.4))
    averages &= "shard" not in options

    def step(x: Any, y: Any) -> Any:
        if clears:
            optimizer.zero_grad()
        if halves:
            with model.no_sync():
                F.cross_entropy(model(x[:2]), y[:2]).backward()
        loss = F.cross_entropy(model(x), y)
        if looks:
            loss = loss * (2.0 if bool((x > 9.0).any()) else 1.0)
        loss.backward()
        if clips:
            model.clip_grad_norm_(0.3)
        optimizer.step()
        if averages:
            average.update_parameters(inner)
        for each in schedule:
            each.step()
        return loss

    return [*model.parameters(), *model.buffers(), *average.parameters()], optimizer, step


def batches(seed: int, size: int, rank: int) -> list[tuple[Any, Any]]:
    """Of another length on each rank; none on one of them, and beyond 9 on another, now and then."""
    common, own = np.random.default_rng(seed), np.random.default_rng([seed, rank])
    found = []
    for number in range(CALLS):
        empty, large = common.integers(0, 3 * size, 2) if number > 7 else (size, size)
        rows = 0 if empty == rank and size > 1 else 5 + rank
        x = own.standard_normal((rows, SIDE)).astype(np.float32) + (10.0 if large == rank else 0.0)
        found.append((dg.asarray(x.astype(np.float32)), dg.asarray(own.integers(0, 3, rows))))
    return found


def outcome(seed: int, captured: bool) -> Any:
    trained, optimizer, step = program(seed)
    mode = "calls" if seed % 3 == 0 else "loops"
    run = dg.capture(step, verify_every=7, mode=mode) if captured else step
    size, rank = get_world().size, get_world().rank
    dg.manual_seed(seed + 100 * rank)
    found = []
    for number, batch in enumerate(batches(seed, size, rank)):
        if number == CALLS // 2:
            optimizer.param_groups[0]["lr"] *= 0.5
        found.append(run(*batch).detach().numpy().tobytes())
    found += [each.detach().numpy().tobytes() for each in trained]
    return (found, optimizer.param_groups[0]["lr"], str(dg.default_generator.get_state())), run


def check(first: int, last: int) -> None:
    init()
    replays = 0
    for seed in range(first, last):
        expected, _ = outcome(seed, False)
        found, run = outcome(seed, True)
        assert found == expected, seed
        replays += run.num_replays
    assert replays > (last - first) * CALLS // 3


@pytest.mark.slow
@pytest.mark.ranks(2, timeout=400)
def test_two_ranks() -> None:
    check(0, 20)


@pytest.mark.slow
@pytest.mark.ranks(3, timeout=400)
def test_three_ranks() -> None:
    check(20, 28)
