"""Traces as the protobuf messages that Perfetto publishes: events of Chrome's JSON, and tracks of its own."""

import gzip
import json

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, trace

messages = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
json_format = pytest.importorskip("google.protobuf.json_format")

#: The keys of Chrome's JSON events, by the fields of ``ChromeTraceEvent``.
FIELDS = {"name": "name", "ph": "phase", "pid": "process_id", "tid": "thread_id", "ts": "timestamp"}
FIELDS |= {"dur": "duration", "s": "scope", "cat": "category_group_name", "args": "args"}
KINDS = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
BEGIN, END, COUNTER, INSTANT = 1, 2, 4, 3  # TrackEvent.Type
SEQUENCE = 1


def chrome_event(event):
    """A ``ChromeTraceEvent``, whose microseconds are whole; what it has no field or type for raises."""
    values = {FIELDS[key]: value for key, value in event.items()}
    values["phase"] = ord(event["ph"])
    for name in {"timestamp", "duration"} & values.keys():
        values[name] = round(values[name])
    values["args"] = [
        {"name": name, KINDS[type(value)]: value} for name, value in event.get("args", {}).items()
    ]
    return json_format.ParseDict(values, messages.ChromeTraceEvent())


def native(events):
    """The same as a ``Trace`` of Perfetto's own: a track a thread, and a track a counter."""
    whole, tracks = messages.Trace(), {}

    def track(*key):
        if key not in tracks:
            tracks[key] = len(tracks) + 1
            descriptor = whole.packet.add().track_descriptor
            descriptor.uuid = tracks[key]
            return tracks[key], descriptor
        return tracks[key], None

    def put(at_us, number, kind, **fields):
        packet = whole.packet.add(timestamp=round(1e3 * at_us), trusted_packet_sequence_id=SEQUENCE)
        packet.track_event.CopyFrom(messages.TrackEvent(type=kind, track_uuid=number, **fields))

    for event in events:
        process, about = track(event["pid"])
        if about is not None:
            about.process.pid = event["pid"]
        if event["ph"] == "C":
            for name, value in event["args"].items():
                number, about = track(event["pid"], event["name"], name)
                if about is not None:
                    about.parent_uuid, about.name = process, name
                    about.counter.SetInParent()
                put(event["ts"], number, COUNTER, double_counter_value=value)
            continue
        number, about = track(event["pid"], event.get("tid", 0))
        if about is not None:
            about.parent_uuid, about.thread.pid, about.thread.tid = process, event["pid"], event.get("tid", 0)
        if event["ph"] == "X":
            put(event["ts"], number, BEGIN, name=event["name"])
            put(event["ts"] + event["dur"], number, END)
        elif event["ph"] == "i":
            put(event["ts"], number, INSTANT, name=event["name"])
    return whole


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Of a recording with spans, events, counters, operations and fields of every type."""
    path = tmp_path_factory.mktemp("trace") / "out.json.gz"
    model = dg.parallel.DistributedDataParallel(nn.Linear(8, 2))
    optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
    with dg.profiler.record(path, ops=True):
        for _ in range(3):
            optimizer.zero_grad()
            model(dg.ones((4, 8))).sum().backward()
            optimizer.step()
        trace.event("odd", value=np.float32(0.5), path=path, flag=True, none=None, text="ü")
        dg.profiler.step(loss=1.5)
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_events_are_chromes_as_perfetto_describes_them(events):
    parsed = [chrome_event(event) for event in events]
    again = messages.ChromeEventBundle.FromString(
        messages.ChromeEventBundle(trace_events=parsed).SerializeToString()
    )
    phases = {chr(event.phase) for event in again.trace_events}
    assert {"X", "M", "C", "i"} == phases
    spans = [event for event in again.trace_events if chr(event.phase) == "X"]
    assert {"forward", "backward", "bucket.wait", "optimizer.step", "step"} <= {span.name for span in spans}
    assert {span.process_id for span in spans} == {0}
    kinds = {arg.WhichOneof("value") for event in again.trace_events for arg in event.args}
    assert set(KINDS.values()) == kinds


def test_spans_close_in_the_order_in_which_perfetto_closes_them(events):
    again = messages.Trace.FromString(native(events).SerializeToString())
    assert all(packet.IsInitialized() for packet in again.packet)
    order = sorted(
        (packet for packet in again.packet if packet.HasField("track_event")),
        key=lambda packet: (packet.timestamp, packet.track_event.type == BEGIN),
    )
    opened = {}
    for packet in order:
        event = packet.track_event
        depth = opened.get(event.track_uuid, 0) + {BEGIN: 1, END: -1}.get(event.type, 0)
        assert depth >= 0
        opened[event.track_uuid] = depth
    assert set(opened.values()) == {0}


GOOD = {"ph": "X", "name": "a", "pid": 0, "tid": 1, "ts": 1.0, "dur": 2.0, "args": {}}
PLANTED = [
    {"pid": "one"},
    {"tid": 1.5},
    {"name": 3},
    {"args": {"a": [1]}},
    {"args": {"a": None}},
    {"since": 2.0},
]


@pytest.mark.parametrize("change", PLANTED)
def test_a_planted_fault_is_refused(change):
    chrome_event(GOOD)
    with pytest.raises((json_format.ParseError, KeyError, TypeError)):
        chrome_event({**GOOD, **change})
