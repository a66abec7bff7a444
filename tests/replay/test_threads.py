"""Threads that record, replay and compute at once: one records at a time, and none sees what another does."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from replay.steps import batches, training

import distgrad as dg
from distgrad.backend.kernels import machine
from distgrad.replay.emit import Arrays
from distgrad.replay.holders import recording
from distgrad.replay.loops import Assembler
from distgrad.replay.record import Record

DATA = batches(12)


def run_together(*works: Callable[[], Any]) -> None:
    """Run functions in threads; raises what the first of them raises."""
    errors: list[BaseException] = []

    def work(run: Callable[[], Any]) -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join(300)
        assert not each.is_alive()
    if errors:
        raise errors[0]


@pytest.fixture
def _impatient() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("rounds", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_two_threads_that_record_at_once(rounds: int) -> None:
    """Each a model of its own: all get the bytes of eager steps."""
    made = []
    for _ in range(2 * rounds + 1):  # before the threads, which share one generator
        dg.manual_seed(5)
        made.append(training()())
    model, _, step = made.pop()
    losses = [step(x, y).detach().numpy().tobytes() for x, y in DATA]
    expected = [p.detach().numpy().tobytes() for p in model.parameters()]
    replays = []

    def work() -> None:
        for _ in range(rounds):
            own, _, each = made.pop()
            run = dg.capture(each, verify_every=3)
            assert [run(x, y).detach().numpy().tobytes() for x, y in DATA] == losses
            assert [p.detach().numpy().tobytes() for p in own.parameters()] == expected
            replays.append(run.num_replays)

    run_together(work, work)
    assert sum(replays) > 0


def test_instructions_are_tried_on_copies() -> None:
    """Parameters, which another thread may read meanwhile, stay as they are."""
    with recording() as recorder:
        x = np.ones(4)
        y = recorder.wrap(x) * 3.0
        outputs = [recorder.place(y)]
    record = Record(recorder, outputs)
    found = []

    def run(code: Any) -> int:
        found.append(x.tolist())
        return int(machine.run(code))

    for storage in record.storages:
        storage.is_born = False
    assert Assembler(Arrays(np.zeros(0, np.uint8))).assemble(record.calls[0], run) is not None
    assert found == [[1.0] * 4]


def test_a_program_that_has_frozen_its_objects() -> None:
    """As before a fork: functions and the variables around them are found all the same."""
    factor = 2.0

    def double(x: Any) -> Any:
        return x * factor

    run = dg.capture(double)
    gc.freeze()
    try:
        for _ in range(8):
            assert float(run(dg.ones(3)).sum()) == 6.0
        assert run.num_replays >= 3
        assert gc.get_freeze_count() > 0
        factor = 3.0
        assert float(run(dg.ones(3)).sum()) == 9.0
    finally:
        gc.unfreeze()


LOOKING = """
import sys, threading
from distgrad.replay.surroundings import _tracked_ids

kept = [[i] for i in range(200_000)]
over = threading.Event()
wrong = []


def look():
    for _ in range(20):
        assert _tracked_ids()
    over.set()


def make():
    while not over.is_set():
        try:
            tuple([n] for n in range(11))  # which Python makes longer, and that only while nobody else has it
        except SystemError as error:
            wrong.append(error)


sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=each) for each in (look, make)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(len(wrong))
"""


def test_what_another_thread_is_making_is_left_alone() -> None:
    """In a process of its own, where nothing else looks at all objects."""
    run = subprocess.run(
        [sys.executable, "-c", LOOKING], capture_output=True, text=True, timeout=100, check=True
    )
    assert run.stdout == "0\n"
