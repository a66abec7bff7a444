"""What a captured step holds: planned memory, at most what an eager step holds at its peak."""

from __future__ import annotations

import ctypes
import functools
import gc
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from replay.steps import batches, training

import distgrad as dg
from distgrad import nn
from distgrad.replay import plan
from distgrad.replay.calls import Call
from distgrad.replay.places import Memory
from distgrad.scale.bench import peers
from distgrad.scale.bench.models import build
from distgrad.scale.bench.workloads import WORKLOADS

ROWS, WIDTH = 256, 256
SLACK_BYTES = 64 << 10  # of Python's objects


def lifetimes(seed: int) -> tuple[list[list[Call]], list[Any]]:
    """Calls that write and read arrays of random sizes, each for a while; and the arrays' storages."""
    draw, memory = random.Random(seed), Memory()
    arrays = [np.zeros(draw.choice((1, 16, 100, 1000)), np.uint8) for _ in range(40)]
    for array in arrays:
        memory.born(array)
    storages = [memory.keep(array) for array in arrays]
    units: list[list[Call]] = [[] for _ in range(60)]
    for array in arrays:
        place = memory.place(array)
        begin = draw.randrange(60)
        for number in (begin, min(59, begin + draw.randrange(12))):
            call = Call("function", np.copy, (), {})
            call.reads = call.writes = [place]
            units[number].append(call)
    return units, storages


@pytest.mark.parametrize("seed", range(20))
def test_what_lives_at_the_same_time_lies_apart(seed: int) -> None:
    units, storages = lifetimes(seed)
    size = plan.plan(units, [])
    uses = {
        each: [n for n, unit in enumerate(units) for call in unit if call.touches(each)] for each in storages
    }
    live = [0] * len(units)
    for each, numbers in uses.items():
        assert each.offset is not None
        assert each.offset % 64 == 0
        assert each.offset + each.nbytes <= size
        for number in range(min(numbers), max(numbers) + 1):
            live[number] += -(-each.nbytes // 64) * 64
        for other, others in uses.items():
            if other is not each and min(numbers) <= max(others) and min(others) <= max(numbers):
                assert each.offset + each.nbytes <= other.offset or other.offset + other.nbytes <= each.offset
    assert max(live) <= size <= 1.15 * max(live)


def window(x: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Some of an array's bytes, by an array that does not say whose they are."""
    return np.frombuffer((ctypes.c_uint8 * (stop - start)).from_address(x.ctypes.data + start), np.uint8)


def test_memory_that_the_step_lets_go_of_is_another_one_later() -> None:
    memory = Memory()
    met: dict[int, Any] = {}  # by addresses, which the allocator lends again
    for _ in range(100):
        array = np.zeros(64, np.uint8)
        memory.born(array)
        place, view = memory.place(array), memory.place(array[8:16:2])
        assert place.storage is view.storage
        before = met.get(place.address)
        if before is not None:
            assert before is not place.storage
            assert not before.living()
            return
        met[place.address] = place.storage
        del array
    pytest.fail("no address came twice")


def test_an_empty_part_of_what_was_there_before_is_not_made_by_the_step() -> None:
    memory, x = Memory(), np.zeros((2, 6), np.float32)
    storage = memory.keep(x)
    memory.born(x[2:])  # as a slice behind the last row is taken for something new
    assert not storage.is_born
    assert not memory.is_born(x)


def test_memory_that_overlaps_is_one_as_long_as_it_lives() -> None:
    memory, x = Memory(), np.zeros(64, np.uint8)
    low, high = (memory.place(window(x, *span)) for span in ((0, 16), (32, 48)))
    assert low.storage.joined() is not high.storage.joined()
    memory.born(x)
    assert low.storage.joined() is high.storage.joined() is memory.place(x).storage.joined()
    strided = np.lib.stride_tricks.as_strided(x, (4, 8), (8, 1))
    assert memory.place(strided).storage is memory.place(x).storage
    memory.keep(window(x, 60, 64))
    assert len({each.joined() for each in (low.storage, high.storage, memory.keep(x))}) == 1


def peak(call: Callable[[], Any]) -> int:
    """Bytes that a call holds at its peak beside what was there."""
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    call()
    return tracemalloc.get_traced_memory()[1] - before


def test_a_replay_holds_no_more_than_an_eager_step() -> None:
    make = training(
        lambda: nn.Sequential(
            nn.Linear(64, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh(),
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3),
        )
    )  # fmt: skip
    data = batches(1, rows=ROWS, features=64)[0]
    eager, run = make()[2], dg.capture(make()[2])
    for step in (eager, run):
        for _ in range(6):
            step(*data)
    (tape,) = [tape for kind in run._kinds.values() for tape in kind.tapes]
    tracemalloc.start()
    try:
        of_eager, of_replay = [
            min(peak(functools.partial(step, *data)) for _ in range(3)) for step in (eager, run)
        ]
    finally:
        tracemalloc.stop()
    assert run.num_replays == 5
    assert tape.block_bytes + of_replay <= of_eager + SLACK_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "gpt", "cnn", "lstm", "resnet20"])
def test_recording_holds_at_most_twice_what_an_eager_run_does(name: str) -> None:
    """Beside parameters, gradients and an optimizer's two moments, which are there in both."""
    run = peers.distgrad_step(name, 1, captured=True)
    eager = peers.distgrad_step(name, 1)
    for step in (run, eager):
        for _ in range(2):
            step()
    tracemalloc.start()
    try:
        of_eager = min(peak(eager) for _ in range(2))
        of_recording = [peak(run) for _ in range(3)]
    finally:
        tracemalloc.stop()
    model = build(nn, nn.functional, dg.scaled_dot_product_attention, name, WORKLOADS[name].sizes)
    held = 4 * sum(p.nbytes for p in model.parameters())
    assert held + max(of_recording) <= 2 * (held + of_eager)
