"""What is alive, by what it is for and by line, and a helper that sees leaks."""

import gc
import sys

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.comm import ThreadWorld
from distgrad.parallel import DistributedDataParallel


def lines_of(found, kind):
    return {each.line.rpartition("/")[2]: each for each in found.held if each.kind == kind}


def here(offset):
    return f"{__file__.rpartition('/')[2]}:{sys._getframe(1).f_lineno + offset}"


@pytest.fixture
def before():
    """What other tests have left, once what nobody holds is gone."""
    gc.collect()
    return dg.profiler.memory().by_kind()


def more(before, kind):
    return dg.profiler.memory().by_kind().get(kind, 0) - before.get(kind, 0)


def test_looking_gathers_nothing():
    """One rank may ask, and the others need not."""

    def run(comm):
        model = DistributedDataParallel(nn.Linear(30, 20), comm, shard="parameters")
        before = comm.family.num_issued
        if comm.rank == 0:
            assert dg.profiler.memory().by_kind()["parameters"] > 0
        return comm.family.num_issued - before, model is None

    assert ThreadWorld(2, timeout_s=30).run(run) == [(0, False)] * 2


def test_memory_is_told_by_what_it_is_for(before):
    model = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200))
    assert more(before, "parameters") == (300 * 200 + 200 + 2 * 200) * 4
    assert more(before, "buffers") >= 2 * 200 * 4
    optimizer = dg.optim.Adam(model.parameters())
    size = more(before, "parameters")
    model(dg.ones((16, 300))).sum().backward()
    assert more(before, "gradients") >= (300 * 200 + 3 * 200) * 4
    optimizer.step()
    assert more(before, "state") == 2 * size  # two moments of the flat buffer
    del model, optimizer


def test_activations_are_told_by_the_line_that_made_them(before):
    x = dg.tensor(np.ones((64, 32), np.float32), requires_grad=True)
    y = dg.exp(x)
    place = here(-1)
    found = lines_of(dg.profiler.memory(), "activations")
    assert found[place].num_bytes == 64 * 32 * 4
    assert f"{64 * 32 * 4:,}" in str(dg.profiler.memory())
    del y
    assert place not in lines_of(dg.profiler.memory(), "activations")


def test_views_are_counted_once(before):
    x = dg.ones((1000, 10))
    views = [x[i:] for i in range(5)]
    assert more(before, "other") == 40_000
    del x, views
    assert more(before, "other") == 0


def test_a_step_leaks_nothing_and_a_planted_leak_is_named():
    model = nn.Linear(8, 8)
    optimizer = dg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    kept = []

    def step(leak=False):
        optimizer.zero_grad()
        loss = model(dg.ones((4, 8))).sum()
        loss.backward()
        optimizer.step()
        if leak:
            kept.append(loss * 2.0)

    dg.profiler.assert_no_leak(step)
    place = here(-3)
    with pytest.raises(AssertionError, match="arrays of activations more") as error:
        dg.profiler.assert_no_leak(lambda: step(leak=True))
    assert place in str(error.value)
