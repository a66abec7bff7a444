"""Numbers out of traces whose answers are known, and the page of them, looked at in a browser."""

import gzip
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distgrad as dg
from distgrad import nn
from distgrad.cli import main
from distgrad.errors import DataError
from distgrad.profiler import chrome, svg
from distgrad.profiler.advice import advise
from distgrad.profiler.page import render
from distgrad.profiler.summary import PARTS, summarize

MS = 1000.0  # microseconds
TRACKS = {"steps": 1, "compute": 101, "operations": 201, "communication": 301, "data": 401}


class Writer:
    """Puts a trace together by hand."""

    def __init__(self, ranks):
        self.events = []
        self.about = {
            "format": chrome.FORMAT,
            "command": ["train.py", "<fast>"],
            "clocks": [{"rank": r, "host": f"h{r}", "error_s": 2e-5 if r else 0.0} for r in range(ranks)],
            "limits": {str(r): {"products": {"flops": 1e9}} for r in range(ranks)},
            "lost": {"0": 0}, "ended": {"0": True, "1": False},
        }  # fmt: skip
        for rank in range(ranks):
            for name in TRACKS:
                self.add("thread_name", rank, name, ph="M", args={"name": name})

    def add(self, name, rank, track, ts=0.0, dur=None, ph="X", **more):
        event = {"ph": ph, "name": name, "pid": rank, "tid": TRACKS[track], **more}
        if ph != "M":
            event["ts"] = ts
        if dur is not None:
            event["dur"] = dur
        self.events.append(event)

    def step(self, rank, number, start, data=1.0, compute=4.0, wait=1.0, blame=None, **about):
        """A step of 10 ms that begins at ``start`` (ms): data, forward, backward with a wait, optimizer."""
        at = start * MS
        self.add("step", rank, "steps", at, 10 * MS, args={"step": number, **about})
        self.add("data.next", rank, "data", at, data * MS, args={})
        at += data * MS
        self.add("forward", rank, "compute", at, compute / 4 * MS, args={"samples": 8.0})
        at += compute / 4 * MS
        waits = {"waited_for": blame} if blame is not None else {}
        work = {"flops": 2e6, "activation_bytes": 64}
        self.add("backward", rank, "compute", at, (compute * 0.75 + wait) * MS, args=work)
        at += compute * 0.75 * MS
        moved = {"bucket": 0, "bytes": 4000, "busy_s": 2e-3}
        self.add("bucket.wait", rank, "compute", at, wait * MS, args={**moved, **waits})
        seconds = {**waits, "waited_s": wait * 0.9e-3} if waits else {"waited_s": 0.0}
        call = {"group": "world", "number": number, "bytes": 4000}
        self.add("all_reduce", rank, "communication", at, wait * MS, args={**call, **seconds})
        self.add("optimizer.step", rank, "compute", at + wait * MS, 0.5 * MS, args={})

    def usage(self, rank, at, **values):
        self.add("usage", rank, "steps", at * MS, ph="C", args=values)
        held = {"resident": 5e6 + at, "parameters": 1000, "gradients": 1000, "activations": 64}
        self.add("memory", rank, "steps", at * MS, ph="C", args=held)

    def trace(self, tmp_path):
        path = tmp_path / "out.json"
        whole = {"displayTimeUnit": "ms", "otherData": self.about, "traceEvents": self.events}
        path.write_text(json.dumps(whole))
        return path


def straggling(tmp_path, usage=None, **late):
    """Two ranks of five steps, of which rank 1 is late."""
    writer = Writer(2)
    for number in range(5):
        writer.step(0, number, number * 10.0, wait=3.0, blame=1, loss=1.0 / (1 + number))
        writer.step(1, number, number * 10.0, wait=0.5, **late)
    for at in (0.0, 60.0):
        writer.usage(0, at, ready_s=0.0, steal_s=0.0, major_faults=0.0, minor_faults=at, cpu_s=at / 1e3)
        rates = {name: rate * at / 1e3 for name, rate in (usage or {}).items()}
        zeros = {"ready_s": 0.0, "steal_s": 0.0, "major_faults": 0.0, "minor_faults": 0.0, "cpu_s": 0.0}
        writer.usage(1, at, **zeros | rates)
    return writer.trace(tmp_path)


def test_a_step_is_divided_into_its_parts(tmp_path):
    found = summarize(chrome.read(straggling(tmp_path, compute=6.0)))
    assert set(found.parts[0]) == set(PARTS)
    expected = {"data": 1.0, "forward": 1.0, "backward": 3.0, "waiting for ranks": 2.7, "optimizer": 0.5}
    for name, milliseconds in expected.items():
        assert found.parts[0][name] == pytest.approx(milliseconds / 1e3, abs=1e-9), name
    assert found.parts[0]["exposed communication"] == pytest.approx(0.3e-3)
    assert sum(found.parts[0].values()) == pytest.approx(10e-3)
    assert list(found.steps[0]) == [1, 2, 3, 4]  # the first is left out
    assert found.step_s == pytest.approx(10e-3)
    assert found.hidden_s == pytest.approx({0: 0.0, 1: 1.5e-3})
    assert found.buckets[0].waited_s == pytest.approx(3e-3)
    assert found.samples_per_s == pytest.approx(2 * 8 / 10e-3)
    assert found.flops_per_s == pytest.approx(2 * 2e6 / 10e-3)
    assert found.utilization == pytest.approx(0.2)
    assert found.told == {"loss": 0.2}
    assert found.waits == {(0, 1): pytest.approx(2.7e-3)}
    assert any("h1 (rank 1) is right to 20 µs" in note for note in found.notes)
    assert "Rank 1 came to no end." in found.notes


@pytest.mark.parametrize(
    ("late", "usage", "cause"),
    [
        ({"compute": 6.0}, None, "compute"),
        ({"data": 4.0}, None, "data"),
        ({"compute": 1.0}, None, "program"),
        ({"compute": 6.0}, {"ready_s": 0.3}, "no core"),
        ({"compute": 6.0}, {"steal_s": 0.3}, "steal"),
        ({"compute": 6.0}, {"major_faults": 5000.0}, "page faults"),
        ({"compute": 4.0, "data": 3.2}, None, "data"),
    ],
)
def test_who_is_late_and_why(tmp_path, late, usage, cause):
    found = summarize(chrome.read(straggling(tmp_path, usage, **late)))
    (straggler,) = found.stragglers
    assert (straggler.rank, straggler.cause) == (1, cause)
    assert straggler.waited_s == pytest.approx(2.7e-3)
    (do,) = [do for what, do in advise(found) if "wait for rank 1 for 27% of a step" in what]
    assert do.endswith(".")


@pytest.mark.parametrize(("hosts", "cause"), [(["a", "b"], "network"), (["a", "a"], "host")])
def test_a_rank_that_takes_no_longer_blames_what_lies_between(tmp_path, hosts, cause):
    writer = Writer(2)
    for each, host in zip(writer.about["clocks"], hosts, strict=True):
        each["host"] = host
    for number in range(5):
        writer.step(0, number, number * 10.0, wait=3.0, blame=1)
        writer.step(1, number, number * 10.0, wait=3.0)
    found = summarize(chrome.read(writer.trace(tmp_path)))
    (straggler,) = found.stragglers
    assert straggler.cause == cause
    (do,) = [do for what, do in advise(found) if "wait for rank 1" in what]
    assert ("links" in do) == (cause == "network")


def test_collectives_of_the_programs_own_are_not_taken_for_its_time(tmp_path):
    writer = Writer(2)
    for number in range(5):
        for rank in (0, 1):
            writer.step(rank, number, number * 10.0)
        call = {"group": "world", "number": 100 + number, "bytes": 0, "waited_s": 2e-4, "waited_for": 1}
        writer.add("barrier", 0, "communication", (number * 10.0 + 9.0) * MS, 0.3 * MS, args=call)
    found = summarize(chrome.read(writer.trace(tmp_path)))
    gained = {name: found.parts[0][name] - found.parts[1][name] for name in PARTS}
    expected = {"waiting for ranks": 2e-4, "exposed communication": 1e-4, "other": -3e-4}
    assert {name: x for name, x in gained.items() if abs(x) > 1e-9} == pytest.approx(expected)
    assert found.waits == {(0, 1): pytest.approx(2e-4)}


@pytest.mark.parametrize("name", ["nowhere/page.html", "out.json/page.html", "."])
def test_a_page_that_cannot_be_written_is_refused(tmp_path, name):
    trace = straggling(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="must be a file that can be written"):
        dg.profiler.report(trace, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_shares_are_of_all_steps_also_where_one_is_much_longer(tmp_path):
    writer = Writer(1)
    for number in range(5):
        writer.step(0, number, number * 10.0, data=0.2, compute=9.0, wait=0.2)
    start = 5 * 10.0 * MS
    writer.add("step", 0, "steps", start, 200 * MS, args={"step": 5})
    moved = {"bucket": 0, "bytes": 4000, "busy_s": 0.19}
    writer.add("bucket.wait", 0, "compute", start + MS, 190 * MS, args=moved)
    page = dg.profiler.report(writer.trace(tmp_path)).read_text()
    (share,) = re.findall(r"<b>(\d+)%</b><span>of all steps exposed communication", page)
    assert int(share) == 80  # 190.8 ms of 240, in the five that are counted


def test_a_run_without_faults_gets_no_advice(tmp_path):
    writer = Writer(1)
    for number in range(5):
        writer.step(0, number, number * 10.0, data=0.2, compute=9.0, wait=0.2)
    assert advise(summarize(chrome.read(writer.trace(tmp_path)))) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            b'{"traceEvents": [{"ph": "X", "name": "step", "pid": 1, "tid": 1, "ts": 0, "dur": 1}]}',
            "none of dist",
        ),
        (b'[{"ph": "X", "name": "step", "pid": 1, "tid": 1, "ts": 0, "dur": 1}]', "none of distgrad's"),
        (gzip.compress(b"[]" * 999)[:40] + b"torn" * 9, "must be a trace in Chrome's JSON format"),
        (gzip.compress(b"[]")[:9], "must be a trace in Chrome's JSON format"),
        (b"{}", "no list of traceEvents"),
    ],
)
def test_what_is_no_trace_of_ours_is_refused(text, told, tmp_path):
    path = tmp_path / "out.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=told):
        dg.profiler.report(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_trace_without_steps_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no step"):
        dg.profiler.report(Writer(1).trace(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 s"), (2.5e-6, "2.5 µs"), (0.0123, "12.3 ms"), (3.0, "3 s"), (2.5e9, "2.5 Gs")],
)
def test_quantities(value, text):
    assert svg.quantity(value, "s") == text


# -- the page


class Structure(html.parser.HTMLParser):
    """Sees that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.opened, self.count = [], {}
        self.feed(text)
        assert self.opened == []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in ("meta", "br"):
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag


def page_of(tmp_path):
    path = straggling(tmp_path, compute=6.0)
    whole = json.loads(path.read_text())
    for rank in (0, 1):
        whole["traceEvents"].append(
            {"ph": "X", "name": "matmul", "pid": rank, "tid": 201, "ts": 1.0, "dur": 500.0,
             "args": {"op": "forward", "line": "train.py:7"}}
        )  # fmt: skip
    path.write_text(json.dumps(whole))
    return dg.profiler.report(path)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path):
    page = page_of(tmp_path)
    assert page.name == "out.json.html"
    text = page.read_text()
    counted = Structure(text).count
    assert counted["svg"] >= 4
    assert not re.search(r"https?:|src=|url\(|@import|<script|<link", text)
    assert "train.py &lt;fast&gt;" in text
    for shown in (
        "Rank 1 computes longer",
        "train.py:7",
        "of the measured limit (MFU)",
        "20%",
        "activations",
    ):
        assert shown in text, shown
    assert "nan" not in text.lower()


def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium to look at the page with; make machine installs it")
    return found


def look(page, picture, scheme):
    """What a browser shows of a page: the colour at its edge, and how many points have each colour."""
    image = pytest.importorskip("PIL.Image", reason="no Pillow to read a picture with; pip install pillow")
    done = subprocess.run(
        [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={picture.with_suffix('')}", f"--blink-settings=preferredColorScheme={scheme}",
         "--window-size=900,2400", f"--screenshot={picture}", page.as_uri()],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert picture.exists(), done.stderr
    with image.open(picture) as opened:
        shown = opened.convert("RGB")
        points = {colour: number for number, colour in shown.getcolors(1 << 24)}
        return shown.getpixel((1, 1)), points


@pytest.mark.parametrize(("scheme", "back"), [(0, (0x15, 0x17, 0x1B)), (1, (0xFF, 0xFF, 0xFF))])
def test_a_browser_shows_the_page_dark_and_light(tmp_path, scheme, back):
    edge, points = look(page_of(tmp_path), tmp_path / "picture.png", scheme)
    assert edge == back
    data, forward, backward = (0x42, 0x69, 0xD0), (0xEF, 0xB1, 0x18), (0xFF, 0x72, 0x5C)
    assert all(points.get(colour, 0) > 300 for colour in (data, forward, backward)), points
    # Backward takes three times as long as forward and data; beside the bars, other plots have these colours.
    assert points[back] > 0.5 * sum(points.values())


def test_the_command_writes_the_page(tmp_path):
    from click.testing import CliRunner

    path = straggling(tmp_path, data=4.0)
    done = CliRunner().invoke(main, ["report", str(path), "-o", str(tmp_path / "page.html")])
    assert (done.exit_code, done.output) == (0, f"{tmp_path / 'page.html'}\n")
    (tmp_path / "no.json").write_text("{}")
    done = CliRunner().invoke(main, ["report", str(tmp_path / "no.json")])
    assert done.exit_code == 1
    assert "Chrome's JSON format" in done.output
    done = CliRunner().invoke(main, ["report", str(tmp_path / "absent.json")])
    assert done.exit_code == 1


def test_statistics_make_a_page_too(tmp_path):
    model = dg.parallel.DistributedDataParallel(nn.Linear(8, 2))
    with pytest.raises(DataError, match="no step yet"):
        dg.profiler.report(model.stats(), tmp_path / "now.html")
    with pytest.raises(DataError, match="name that of the page"):
        dg.profiler.report(model.stats())
    model(dg.ones((4, 8))).sum().backward()
    text = dg.profiler.report(model.stats(), tmp_path / "now.html").read_text()
    assert "statistics of 1 steps" in text
    assert Structure(text).count["table"] >= 2


def test_names_are_shown_as_they_are():
    args = {"step": 0, "<b>": 1.0}
    step = {"ph": "X", "name": "step", "pid": 0, "tid": 1, "ts": 0.0, "dur": 5.0, "args": args}
    found = summarize(
        chrome.Trace([step], {"format": chrome.FORMAT, "command": ["<script>"]}, [0], {(0, 1): "steps"})
    )
    assert "<script>" not in render(found)
    assert "&lt;b&gt;" in render(found)


def test_left_over_parts_become_a_trace_first(tmp_path):
    program = (
        "import os, sys\nimport distgrad as dg\n"
        f"manager = dg.profiler.record({str(tmp_path / 'a.json')!r})\nrecorder = manager.__enter__()\n"
        "dg.profiler.step()\ndg.profiler.step()\nrecorder.flush()\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert dg.profiler.report(tmp_path / "a.json") == Path(tmp_path / "a.json.html")
    assert {path.name for path in tmp_path.iterdir()} - {"a.json.spool"} == {"a.json", "a.json.html"}
