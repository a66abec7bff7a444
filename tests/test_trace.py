"""Spans and events: what is reported to listeners, and that nothing is paid for when there are none."""

import time
from contextlib import contextmanager

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, trace


class Recorder:
    def __init__(self):
        self.spans, self.events = [], []

    def span(self, name, start_s, end_s, fields):
        self.spans.append((name, start_s, end_s, fields))

    def event(self, name, time_s, fields):
        self.events.append((name, time_s, fields))

    def named(self, name):
        return [span for span in self.spans if span[0] == name]


@contextmanager
def recorded():
    recorder = Recorder()
    trace.subscribe(recorder)
    try:
        yield recorder
    finally:
        trace.unsubscribe(recorder)


def test_a_span_holds_its_body_and_its_fields():
    with recorded() as found:
        before_s = time.perf_counter()
        with trace.span("work", rank=3):
            time.sleep(0.01)
        trace.event("here", bytes=7)
    ((name, start_s, end_s, fields),) = found.spans
    assert (name, fields) == ("work", {"rank": 3})
    assert before_s <= start_s <= end_s - 0.01 <= time.perf_counter()
    ((name, _, fields),) = found.events
    assert (name, fields) == ("here", {"bytes": 7})


def test_a_span_whose_body_raises_is_reported():
    with recorded() as found, pytest.raises(ZeroDivisionError), trace.span("work"):
        _ = 1 / 0
    assert [span[0] for span in found.spans] == ["work"]


def test_nobody_hears_what_comes_after():
    with recorded() as found:
        pass
    with trace.span("work"):
        trace.event("here")
    assert not found.spans
    assert not found.events
    assert not trace.listening()


def test_a_span_costs_little_when_nobody_listens():
    def per_call(n=20_000):
        start_s = time.process_time()
        for _ in range(n):
            with trace.span("work", rank=0, step=1):
                pass
        return (time.process_time() - start_s) / n

    assert min(per_call() for _ in range(5)) < 0.6e-6  # 0.2 on an idle core


def test_a_step_of_training_is_seen_whole(tmp_path):
    x, y = np.ones((6, 4), np.float32), np.zeros((6, 2), np.float32)
    loader = dg.data.DataLoader(dg.data.TensorDataset(x, y), batch_size=3)
    ddp = dg.parallel.DistributedDataParallel(nn.Linear(4, 2))
    optimizer = dg.optim.SGD(ddp.parameters(), lr=0.1)
    with recorded() as found:
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(ddp(inputs), targets).backward()
            optimizer.step()
        dg.save(ddp.state_dict(), tmp_path / "file")
        dg.load(tmp_path / "file")
    assert [fields["batch"] for *_, fields in found.named("data.next")] == [0, 1, 2]  # the last finds the end
    for name in ("forward", "backward"):
        assert [(fields["rank"], fields["step"]) for *_, fields in found.named(name)] == [(0, 0), (0, 1)]
    steps = [fields for *_, fields in found.named("optimizer.step")]
    assert steps == [{"step": 0, "optimizer": "SGD"}, {"step": 1, "optimizer": "SGD"}]
    num_bytes = sum(p.nbytes for p in ddp.parameters())
    assert [fields["bytes"] >= num_bytes for *_, fields in found.named("bucket.wait")] == [True, True]
    assert [fields["bytes"] for *_, fields in found.named("checkpoint.save")] == [num_bytes]
    assert len(found.named("checkpoint.load")) == 1
    for forward, backward, step in zip(
        *map(found.named, ("forward", "backward", "optimizer.step")), strict=True
    ):
        assert forward[1] <= forward[2] <= backward[1] <= backward[2] <= step[1] <= step[2]


def test_statistics_and_spans_are_of_one_clock():
    ddp = dg.parallel.DistributedDataParallel(nn.Linear(4, 2))
    with recorded() as found:
        ddp(dg.ones((3, 4))).sum().backward()
        statistics = ddp.stats()
    ((_, start_s, end_s, _),) = found.named("backward")
    assert end_s - start_s == pytest.approx(statistics.backward_s, abs=1e-12)
    waited = [end_s - start_s for _, start_s, end_s, _ in found.named("bucket.wait")]
    assert sum(waited) == pytest.approx(statistics.exposed_s, abs=1e-9)


def test_every_collective_is_seen_with_its_number_and_who_waited():
    def run(comm):
        x = np.ones(100_000, np.float32)
        comm.all_reduce(x)
        if comm.rank == 1:
            time.sleep(0.2)
        comm.all_reduce(x, async_op=True).wait()
        part = comm.split(0, group="part")
        part.broadcast(x[:10])
        comm.submit(lambda: comm.all_gather(x[:5]), "gather").wait()
        comm.barrier()
        if comm.rank == 0:
            comm.send(x[:3], 1)
        else:
            comm.recv(x[:3], 0)

    with recorded() as found:
        dg.comm.ThreadWorld(2, timeout_s=20).run(run)
    for rank in (0, 1):
        seen = [(name, start_s, end_s, f) for name, start_s, end_s, f in found.spans if f["rank"] == rank]
        told = [(name, f["group"], f["number"], f["bytes"]) for name, _, _, f in seen]
        assert told == [
            ("all_reduce", "world", 0, 400_000),
            ("all_reduce", "world", 1, 400_000),
            ("split", "world", 2, 0),
            ("broadcast", "part", 0, 40),
            ("all_gather", "world", 3, 20),
            ("submit", "world", 3, 0),
            ("barrier", "world", 4, 0),
            (("send", "recv")[rank], "world", -1, 12),
        ]
        assert all(0 <= f["waited_s"] <= end_s - start_s for _, start_s, end_s, f in seen)
    first, second = (
        next(f for _, _, _, f in found.named("all_reduce") if f["rank"] == r and f["number"] == 1)
        for r in (0, 1)
    )
    assert first["waited_s"] > 0.15 > second["waited_s"]


def test_a_call_that_fails_is_seen():
    comm = dg.comm.ThreadWorld(1, timeout_s=5)
    with recorded() as found, pytest.raises(dg.errors.CommTimeoutError):
        comm.run(lambda comm: comm.recv(np.ones(1), 0))
    assert [name for name, *_ in found.spans] == ["recv"]


@pytest.mark.ranks(2, backend="shm")
def test_who_waits_for_a_late_rank_on_a_host():
    comm = dg.comm.init("shm", timeout_s=30)
    x = np.ones(100_000, np.float32)
    for compiled in (False, True):
        if compiled:
            comm._host._compile()
        comm.barrier()
        with recorded() as found:
            time.sleep(0.2 * comm.rank)
            comm.all_reduce(x)
        ((_, start_s, end_s, fields),) = found.named("all_reduce")
        waited_s = comm.all_gather(np.array([fields["waited_s"]])).ravel()
        assert waited_s[0] > waited_s[1]
        assert fields["waited_s"] <= end_s - start_s
        assert fields["blocks"]
    with recorded() as found:
        for _ in range(8):
            time.sleep(0.02 * comm.rank)  # compiled code looks up every 50 ms
            comm.all_reduce(x)
    waited_s = sum(fields["waited_s"] for _, _, _, fields in found.named("all_reduce"))
    assert comm.rank == 1 or waited_s > 0.001


def test_collectives_of_a_step_say_whose_they_are():
    ddp = dg.parallel.DistributedDataParallel(nn.Linear(4, 2))
    with recorded() as found:
        for _ in range(2):
            ddp(dg.ones((3, 4))).sum().backward()
    num_bytes = sum(p.nbytes for p in ddp.parameters())
    issued = [
        (f["step"], f["bucket"], f["bytes"] >= num_bytes)
        for name, _, f in found.events
        if name == "bucket.issue"
    ]
    assert issued == [(0, 0, True), (1, 0, True)]
    assert {f["step"] for *_, f in found.named("all_reduce")} == {0, 1}


def test_a_collective_costs_no_more_when_nobody_listens():
    """Against the same without the span."""
    from distgrad.comm.calls import Call

    def per_call(function, n=5000):
        call = Call("recv")  # of which nothing is left but its body
        start_s = time.process_time()
        for _ in range(n):
            function(call, int)
        return (time.process_time() - start_s) / n

    def both(comm):
        found = [(per_call(comm._perform), per_call(comm._carry_out)) for _ in range(25)]
        seen, unseen = map(min, zip(*found, strict=True))
        return seen - unseen

    (added_s,) = dg.comm.ThreadWorld(1).run(both)
    assert added_s < 0.5e-6  # 0.1 on an idle core
