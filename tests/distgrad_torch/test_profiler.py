"""PyTorch's profiler, as programs use it."""

import re

import numpy as np
import pytest

import distgrad as dg
import distgrad.torch as torch
from distgrad import trace
from distgrad.errors import OptionError
from distgrad.profiler import chrome
from distgrad.torch import profiler
from distgrad.torch.profiler import ProfilerActivity, profile, record_function, schedule

KINDS = [
    {"wait": 1, "warmup": 1, "active": 2, "repeat": 2},
    {"wait": 0, "warmup": 1, "active": 1},
    {"wait": 2, "warmup": 1, "active": 1, "skip_first": 3},
    {"wait": 2, "warmup": 1, "active": 2, "repeat": 1, "skip_first": 1, "skip_first_wait": 1},
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_does_what_pytorchs_does(kind):
    theirs = pytest.importorskip("torch", reason="no PyTorch to compare with").profiler.schedule(**kind)
    ours = schedule(**kind)
    assert [ours(step).name for step in range(20)] == [theirs(step).name for step in range(20)]


def test_a_schedule_that_keeps_nothing_is_refused():
    with pytest.raises(OptionError, match="active above 0"):
        schedule(wait=1, warmup=1, active=0)


def work():
    x = dg.tensor(np.ones((8, 8), np.float32), requires_grad=True)
    with record_function("mine"):
        y = dg.exp(x)
    (y * y).sum().backward()


def test_operations_and_named_parts_are_summed_up():
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(3):
            work()
    work()  # after the end
    averages = seen.key_averages()
    found = {each.key: each for each in averages}
    for name in ("exp", "exp backward", "mine", "multiply", "sum"):
        assert found[name].count == 3, name
    mine = found["mine"]
    assert mine.cpu_time_total >= mine.self_cpu_time_total + found["exp"].cpu_time_total - 1e-6
    assert mine.cpu_time == pytest.approx(mine.cpu_time_total / 3)
    assert averages.self_cpu_time_total == pytest.approx(seen.events().self_cpu_time_total)
    table = averages.table(sort_by="cpu_time_total", row_limit=2)
    assert re.search(r"Name +Self CPU % +Self CPU +CPU total %", table)
    assert len(table.splitlines()) == 7
    assert "Source Location" in seen.key_averages(group_by_stack_n=1).table()
    with pytest.raises(OptionError, match="sort_by"):
        averages.table(sort_by="size")
    assert not trace.listening()


def test_steps_are_kept_as_the_schedule_says(tmp_path):
    saved = []

    def ready(seen):
        steps = [event.name for event in seen.events() if event.name.startswith("ProfilerStep")]
        saved.append((seen.step_num, steps, sum(event.name == "exp" for event in seen.events())))

    plan = schedule(wait=1, warmup=1, active=2, repeat=2)
    with profile(schedule=plan, on_trace_ready=ready) as seen:
        for _ in range(10):
            work()
            seen.step()
    assert saved == [
        (4, ["ProfilerStep#2", "ProfilerStep#3"], 2),
        (8, ["ProfilerStep#6", "ProfilerStep#7"], 2),
    ]


def test_a_trace_goes_into_tensorboards_folder(tmp_path):
    handler = profiler.tensorboard_trace_handler(str(tmp_path / "log"), "me", use_gzip=True)
    with torch.profiler.profile(on_trace_ready=handler):
        work()
    (path,) = (tmp_path / "log").iterdir()
    assert re.fullmatch(r"me\.\d+\.pt\.trace\.json\.gz", path.name)
    found = chrome.read(path)
    assert len(found.spans("mine")) == 1
    assert len(found.spans("exp")) == 2  # forward and backward


def test_a_decorated_function_is_named_also_where_it_calls_itself():
    @record_function("down")
    def down(n):
        return n and down(n - 1)

    with torch.autograd.profiler.profile(False, use_cuda=False) as unseen:
        torch.ones(2) + 1
    assert not unseen.events()
    with torch.autograd.profiler.profile(True, use_cpu=True) as seen:
        down(2)
    assert [event.name for event in seen.events()] == ["down"] * 3
    starts = [event.start_us for event in seen.events()]
    assert starts == sorted(starts)


def test_ranges_of_nvtx_go_where_the_spans_go():
    nvtx, seen = torch.cuda.nvtx, []

    @nvtx.range("decorated")
    def body():
        nvtx.mark("here")

    def program():
        depths = [nvtx.range_push("outer"), nvtx.range_push("inner")]
        with pytest.raises(ZeroDivisionError), nvtx.range("step {}", 3):
            1 // 0  # noqa: B018
        body()
        return [*depths, nvtx.range_pop(), nvtx.range_pop(), nvtx.range_pop()]

    trace.set_ranges((seen.append, lambda: seen.append("/")))
    try:
        assert program() == [0, 1, 1, 0, -1]
        assert seen == []  # nobody listens
        with profile():
            assert program() == [0, 1, 1, 0, -1]
    finally:
        trace.set_ranges(None)
    assert " ".join(seen) == "outer inner step 3 / decorated here / / / /"
