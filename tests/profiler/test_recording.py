"""What a process records, and the file that becomes of it."""

import errno
import gc
import gzip
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, trace
from distgrad.errors import DataError, OptionError
from distgrad.profiler import chrome, merge, recorder, spool
from distgrad.profiler.recording import spool_folder
from distgrad.profiler.status import prometheus, read_status, status_lines
from distgrad.scale.recorded import Recorder as CountedSteps


def train(num_steps):
    dg.manual_seed(0)
    model = dg.parallel.DistributedDataParallel(nn.Linear(8, 2))
    optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
    x = np.ones((4, 8), np.float32)
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(dg.tensor(x)).sum().backward()
        optimizer.step()


def test_a_trace_holds_the_spans_of_the_steps_that_were_asked_for(tmp_path, capsys):
    path = tmp_path / "out.json.gz"
    train(2)  # updates before the recording are not counted
    with dg.profiler.record(path, steps=range(3, 5)):
        train(7)
    found = chrome.read(path)
    assert [span["args"]["step"] for span in found.spans("step")] == [3, 4]
    for name in ("forward", "backward", "bucket.wait", "optimizer.step"):
        assert [span["args"]["step"] for span in found.spans(name)] == [3, 4], name
        assert {found.track(span) for span in found.spans(name)} == {"compute"}
    reduced = [span for span in found.spans("all_reduce") if span["args"]["step"] in (3, 4)]
    assert len({span["args"]["bytes"] for span in reduced}) == 1
    assert len(reduced) == 2
    assert reduced[0]["args"]["bytes"] >= 18 * 4
    assert {found.track(span) for span in reduced} == {"communication"}
    assert not spool_folder(path).exists()
    assert "1 rank" in capsys.readouterr().err


def test_the_file_is_chromes_format(tmp_path):
    path = tmp_path / "out.json"
    with dg.profiler.record(path):
        train(3)
        trace.event("odd", value=float("nan"), none=None, path=tmp_path)
    whole = json.loads(path.read_text())
    assert chrome.check(whole) == []
    assert whole["otherData"]["clocks"][0]["error_s"] == 0.0
    (odd,) = [event for event in whole["traceEvents"] if event["name"] == "odd"]
    assert odd["args"] == {"path": str(tmp_path)}
    named = [event for event in whole["traceEvents"] if event["name"] == "process_name"]
    assert [event["pid"] for event in named] == [0]
    assert named[0]["args"]["name"].startswith("rank 0 on ")
    assert {"memory", "usage"} <= {event["name"] for event in whole["traceEvents"] if event["ph"] == "C"}


def test_steps_are_those_that_the_program_ends(tmp_path):
    path = tmp_path / "out.json.gz"
    with dg.profiler.record(path, steps={1}) as found:
        for number in range(3):
            with trace.span("work", number=number):
                time.sleep(1e-3)
            dg.profiler.step(loss=number, bad=float("nan"))
    assert found.step == 3
    written = chrome.read(path)
    assert [span["args"] for span in written.spans("work")] == [{"number": 1}]
    assert [span["args"] for span in written.spans("step")] == [{"step": 1, "loss": 1.0}]
    assert written.spans("step")[0]["dur"] >= 1000.0


def test_a_programs_own_spans_may_have_the_names_of_a_step_s(tmp_path):
    path = tmp_path / "out.json.gz"
    counted = CountedSteps(num_steps=9)
    trace.subscribe(counted)
    try:
        with dg.profiler.record(path) as found:
            for name in ("optimizer.step", "backward"):
                with trace.span(name):
                    pass
            train(2)
    finally:
        trace.unsubscribe(counted)
    assert found.step == 2
    assert len(chrome.read(path).spans("optimizer.step")) == 3
    assert [len(counted.marks[name]) for name in ("optimizer.step", "backward")] == [2, 2]


def test_what_a_program_tells_is_no_number_of_a_step(tmp_path):
    with pytest.raises(OptionError, match="steps are counted here"):
        dg.profiler.step(step=3)


def test_a_loss_that_is_no_number_is_shown(tmp_path):
    with dg.profiler.record(tmp_path / "out.json") as recorder:
        dg.profiler.step(loss=float("nan"))
        recorder.flush()
        (status,) = read_status(recorder.path.parent)
    (line,) = status_lines([status])
    assert "loss nan" in line
    assert 'name="loss"} nan' in prometheus([status])
    assert chrome.read(tmp_path / "out.json").spans("step")[0]["args"] == {"step": 0}


def test_threads_that_overlap_get_tracks_of_their_own(tmp_path):
    path = tmp_path / "out.json.gz"
    both = threading.Barrier(2)

    def work():
        both.wait()
        with trace.span("data.next"):
            both.wait()

    with dg.profiler.record(path):
        other = threading.Thread(target=work)
        other.start()
        work()
        other.join()
    found = chrome.read(path)
    tracks = {found.tracks[span["pid"], span["tid"]] for span in found.spans("data.next")}
    assert tracks == {"data", "data 2"}


def test_memory_is_bounded_and_losses_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recorder, "MAX_PENDING", 10)
    monkeypatch.setattr(recorder, "FLUSH_S", 3600.0)
    with dg.profiler.record(tmp_path / "out.json") as found:
        for _ in range(25):
            trace.event("one")
    assert found.lost == 15
    assert "dropped 15 spans" in capsys.readouterr().err
    assert sum(event["name"] == "one" for event in chrome.read(tmp_path / "out.json").events) == 10


def test_a_trace_that_cannot_be_written_is_said_and_its_parts_are_left(tmp_path, monkeypatch, capsys):
    def replace(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "out.json"
    with monkeypatch.context() as patch, dg.profiler.record(path):
        train(1)
        patch.setattr(os, "replace", replace)
    full = f"no trace was written: trace: {path} must be a file that can be written (No space left"
    assert full in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["out.json.spool"]
    dg.profiler.report(path)  # as it says
    assert len(chrome.read(path).spans("step")) == 1


def test_an_exception_passes_and_the_trace_is_there(tmp_path):
    path = tmp_path / "out.json"
    with pytest.raises(ZeroDivisionError), dg.profiler.record(path):
        train(1 // 0)
    assert chrome.read(path).ranks == [0]


def test_nothing_is_recorded_after_the_body_nor_in_a_fork(tmp_path):
    path = tmp_path / "out.json"
    with dg.profiler.record(path):
        child = os.fork()
        if child == 0:
            trace.event("of the child")
            os._exit(3 if trace.listening() else 0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        with pytest.raises(OptionError, match="being recorded already"), dg.profiler.record(path):
            pass
    assert not trace.listening()


def test_a_part_is_recorded_while_the_whole_is(tmp_path):
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    with dg.profiler.record(whole, ops=True):
        train(3)
        with dg.profiler.record(part, steps=range(1), ops=True):
            train(2)
        train(1)
    counts = {path: len(chrome.read(path).spans("optimizer.step")) for path in (whole, part)}
    assert counts == {whole: 6, part: 1}
    operations = [span for span in chrome.read(whole).spans("sum") if span["args"]["op"] == "forward"]
    assert len(operations) == 6  # each once
    assert not trace.listening()


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="every rank can write to"):
        dg.profiler.record(tmp_path / "file" / "out.json").__enter__()
    assert not trace.listening()


def test_the_variable_records_a_program_from_its_start_but_not_what_it_starts(tmp_path):
    child = "from distgrad import trace; trace.event('there')"
    program = (
        "import subprocess, sys\nfrom distgrad import trace\nwith trace.span('here'):\n"
        f"    subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    variables = {**os.environ, "DISTGRAD_TRACE": str(tmp_path / "out.json.gz")}
    subprocess.run([sys.executable, "-c", program], env=variables, check=True, timeout=60)
    found = chrome.read(tmp_path / "out.json.gz")
    assert len(found.spans("here")) == 1
    assert found.ranks == [0]
    assert os.listdir(tmp_path) == ["out.json.gz"]


def test_fields_of_any_type_come_back_as_json_has_them(tmp_path):
    plain = [("one", 1.25, None, 7, {"a": 1, "b": 0.1, "c": "ü", "d": True, "e": None})]
    odd = [("two", 1.25, 2.5, 7, {"a": np.float64(0.1), "b": tmp_path, "c": [1, 2], "d": np.float32(0.5)})]
    path = tmp_path / "rank.jsonl"
    path.write_bytes(b'{"host":"here","time_s":0.0}\n' + spool.encode(plain) + spool.encode(odd))
    (found,) = spool.read_folder(tmp_path)
    first, second = found.batches()
    assert [tuple(each) for each in first] == plain
    told = {"a": 0.1, "b": str(tmp_path), "c": [1, 2], "d": "0.5"}
    assert [tuple(each) for each in second] == [("two", 1.25, 2.5, 7, told)]
    whole = spool.encode(plain)
    for length in range(1, len(whole) - 1):  # a killed process leaves any part of its last line
        path.write_bytes(b'{"host":"here","time_s":0.0}\n' + whole[:length])
        (found,) = spool.read_folder(tmp_path)
        assert [tuple(each) for batch in found.batches() for each in batch] in ([], plain)


def test_spool_files_of_another_user_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "rank.jsonl"
    path.write_bytes(b'{"host":"here","time_s":0.0}\n')
    assert len(spool.read_folder(tmp_path)) == 1
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(DataError, match="a rank of this user"):
        spool.read_folder(tmp_path)


def test_who_came_last_is_waited_for_also_where_the_call_does_not_tell(tmp_path):
    """Rank 1 of three comes 25 ms late to the first call, rank 0 is 2 ms late to one that tells of 3 ms."""
    starts = {0: (1.0, 2.002), 1: (1.025, 2.0), 2: (1.00001, 2.00005)}
    told = {0: (0.0, 0.0), 1: (0.0, 0.0), 2: (0.0, 0.003)}
    for rank, times in starts.items():
        calls = [
            (
                "all_reduce",
                start,
                end,
                7,
                {"group": "world", "number": number, "waited_s": told[rank][number]},
            )
            for number, (start, end) in enumerate(zip(times, (1.03, 2.004), strict=True))
        ]
        about = {"host": "here", "clock": "one", "argv": [], "time_s": 0.0, "perf_s": 0.0}
        lines = [json.dumps(about), json.dumps({"rank": rank, "size": 3})]
        text = "".join(f"{line}\n" for line in lines).encode()
        (tmp_path / f"{rank}.jsonl").write_bytes(text + spool.encode(calls))
    merge.merge(tmp_path, tmp_path / "out.json")
    found = chrome.read(tmp_path / "out.json")
    waits = [
        [
            (span["args"].get("waited_for"), span["args"]["waited_s"])
            for span in found.spans("all_reduce", rank)
        ]
        for rank in range(3)
    ]
    assert waits == [
        [(1, pytest.approx(0.025)), (None, 0.0)],
        [(None, 0.0), (0, pytest.approx(0.002))],
        [(1, pytest.approx(0.02499)), (0, 0.003)],
    ]


# -- ranges of NVTX


class Ranges:
    """Stands for NVTX: what was opened and closed, in each thread."""

    def __init__(self):
        self.seen, self.depth = [], {}

    def push(self, name):
        depth = self.depth[threading.get_ident()] = self.depth.get(threading.get_ident(), 0) + 1
        self.seen.append((name, depth))

    def pop(self):
        self.depth[threading.get_ident()] -= 1


@pytest.fixture
def ranges():
    found = Ranges()
    trace.set_ranges((found.push, found.pop))
    yield found
    trace.set_ranges(None)


def test_spans_are_ranges_of_nvtx_while_somebody_listens(ranges, tmp_path):
    train(1)
    assert ranges.seen == []
    with dg.profiler.record(tmp_path / "out.json"):
        train(2)
        with pytest.raises(ZeroDivisionError), trace.span("mine"):
            1 // 0  # noqa: B018
    names = [name for name, _ in ranges.seen]
    for name in ("forward", "backward", "bucket.wait", "optimizer.step"):
        assert names.count(name) == len(chrome.read(tmp_path / "out.json").spans(name)) == 2, name
    assert names.count("all_reduce") >= 2
    assert ("mine", 1) in ranges.seen
    assert set(ranges.depth.values()) == {0}  # all are closed


def test_a_tool_that_takes_ranges_hears_what_nobody_else_listens_to(ranges):
    before = trace._listeners
    try:
        trace.set_ranges((ranges.push, ranges.pop), always=True)
        with trace.span("mine"), trace.annotate("more"):
            pass
    finally:
        trace._listeners = before
    assert ranges.seen == [("mine", 1), ("more", 2)]


# -- the reader


GOOD = {"ph": "X", "name": "a", "pid": 0, "tid": 1, "ts": 1.0, "dur": 2.0, "args": {}}
PLANTED = [
    ({"ph": "Q"}, "ph is 'Q'"),
    ({"name": ""}, "no name"),
    ({"pid": "0"}, "pid is '0'"),
    ({"tid": True}, "tid is True"),
    ({"ts": -1.0}, "ts is -1.0"),
    ({"ts": None}, "ts is None"),
    ({"dur": "2"}, "dur is '2'"),
    ({"args": []}, "args are no object"),
    ({"ph": "C", "args": {"a": "b"}}, "must be numbers"),
    ({"ph": "M"}, "no name of metadata"),
    ({"ph": "M", "name": "thread_name"}, "needs args.name"),
    ({"ph": "i", "s": "x"}, "s is 'x'"),
]


@pytest.mark.parametrize(("change", "problem"), PLANTED)
def test_a_planted_fault_is_found(change, problem):
    assert chrome.check({"traceEvents": [GOOD]}) == []
    (found,) = chrome.check({"traceEvents": [{**GOOD, **change}]})
    assert problem in found


def test_spans_that_overlap_in_part_are_found():
    inside = {**GOOD, "ts": 1.5, "dur": 1.0}
    assert chrome.check([GOOD, inside]) == []
    (found,) = chrome.check([GOOD, {**GOOD, "name": "b", "ts": 2.0, "dur": 5.0}])
    assert "b at 2.0 µs begins inside a and ends outside" in found


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"traceEvents": 3}', b'[{"ts": NaN}]', gzip.compress(b"[]")[:-9]]
)
def test_a_file_that_is_no_trace_is_refused(tmp_path, content):
    (tmp_path / "out.json").write_bytes(content)
    with pytest.raises(DataError, match="Chrome's JSON format"):
        chrome.read(tmp_path / "out.json")


# -- what stands in it beside spans


def last(found, name):
    return [event for event in found.events if event["name"] == name][-1]["args"]


def test_operations_are_traced_by_name_and_line_and_no_longer_after_it(tmp_path):
    path = tmp_path / "out.json"
    x = dg.tensor(np.ones((4, 8), np.float32), requires_grad=True)
    with dg.profiler.record(path, ops=True):
        y = (dg.exp(x) * 2.0).sum()
        y.backward()
    dg.exp(x)
    found = chrome.read(path)
    named = [(e["name"], e["args"]["op"]) for e in found.spans() if found.track(e) == "operations"]
    for name in ("exp", "multiply", "sum"):
        assert named.count((name, "forward")) == 1, named
        assert named.count((name, "backward")) == 1, named
    lines = {e["args"]["line"].rpartition(":")[0] for e in found.spans("exp")}
    assert lines == {__file__}
    assert "formula" not in dir(dg.exp.__globals__["formula"])


def test_backward_tells_what_its_products_take(tmp_path):
    path = tmp_path / "out.json"
    gc.collect()  # models of other tests, which are counted while they are alive
    with dg.profiler.record(path):
        train(2)
    found = chrome.read(path)
    told = last(found, "backward")
    assert told["flops"] == 2 * (2 * 4 * 8 * 2)  # the forward pass and the gradient of the weights, not of x
    assert told["activation_bytes"] > 0
    assert found.spans("forward")[0]["args"]["samples"] == 4.0
    memory = last(found, "memory")  # with what other tests have left alive
    assert memory["parameters"] >= 18 * 4
    assert memory["gradients"] >= 18 * 4
    assert memory["resident"] > 1e7
    assert found.about["limits"]["0"]["products"]["flops"] > 1e8


@pytest.mark.parametrize(
    ("build", "shape", "forward"),
    [
        (lambda: nn.Linear(6, 5), (3, 6), 2 * 3 * 6 * 5),
        (lambda: nn.Conv2d(2, 4, 3, padding=1, stride=2), (3, 2, 8, 8), 2 * 3 * 4 * 16 * 2 * 9),
        (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 8, 8), 2 * 2 * 6 * 64 * 18),
        (lambda: nn.ConvTranspose2d(2, 4, 3, stride=2), (3, 2, 8, 8), 2 * 3 * 2 * 64 * 4 * 9),
        (lambda: nn.LSTM(5, 6), (7, 2, 5), 2 * 7 * 2 * 24 * 11),
        (lambda: nn.MultiheadAttention(8, 2), (2, 5, 8), None),
    ],
)
def test_floating_point_operations_of_a_module(build, shape, forward):
    from distgrad.autograd.flops import node_flops
    from distgrad.autograd.graph import reachable_nodes

    module, x = build(), dg.ones(shape, requires_grad=True)
    y = module(x, x, x)[0] if forward is None else module(x)
    y = y[0] if isinstance(y, tuple) else y
    counted = sum(map(node_flops, reachable_nodes([y._node], 0)))
    if forward is None:
        length, batch = (5, 2) if getattr(module, "batch_first", False) else (2, 5)
        forward = 4 * 2 * batch * length * 8 * 8 + 2 * 2 * batch * length * length * 8
    assert counted == 3 * forward
