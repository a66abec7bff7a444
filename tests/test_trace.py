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
    assert [fields["optimizer"] for *_, fields in found.named("optimizer.step")] == ["SGD", "SGD"]
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
