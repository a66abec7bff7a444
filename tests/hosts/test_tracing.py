"""A trace of two hosts with clocks of their own, over their network."""

import re
import time

import pytest

from distgrad.profiler import chrome, reporting

pytestmark = pytest.mark.timeout(120)
LIMIT_US = 100.0

SCRIPT = """
import glob, json, os, time

real = time.perf_counter
origin_s = float(os.environ["ORIGIN_S"])
ahead = int(os.environ["RANK"]) >= 2  # a host whose clock is ahead and fast
if ahead:
    readlink = os.readlink
    time.perf_counter = lambda: real() + 3.7 + 50e-6 * (real() - origin_s)
    os.readlink = lambda path, **named: "planted" if path.endswith("ns/time") else readlink(path, **named)

import numpy as np
import distgrad as dg
from distgrad import nn, trace
from distgrad.profiler.clocks import relate

comm = dg.comm.init()
dg.manual_seed(0)
model = dg.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10)))
optimizer = dg.optim.SGD(model.parameters(), lr=0.01)
x = dg.tensor(np.full((32, 256), comm.rank, np.float32))


def known():
    pings = []
    for path in glob.glob("out.json.gz.spool/*.jsonl"):
        for line in open(path):
            if line.startswith('{"pings"') and line.endswith("]}\\n"):
                pings += json.loads(line)["pings"]
    times = [ping[0] for ping in pings] or [0.0]
    return max(times) > min(times) + 3 and relate(sorted(pings)).error_s < 90e-6


end_s, ready, steps = real() + 60, False, 0
while (not ready or steps < 12) and real() < end_s:
    true_s = real()
    at_s = true_s + (3.7 + 50e-6 * (true_s - origin_s)) * ahead
    trace.report("mark", at_s, at_s, true_s=true_s)
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
    time.sleep(0.01)
    steps += 1
    ready = comm.broadcast_object(known() if comm.rank == 0 else None)
"""


def test_two_hosts_whose_clocks_differ_make_one_trace(launch, tmp_path):
    options = f"--hosts h1:2,h2:2 --trace out.json.gz --env ORIGIN_S={time.perf_counter()}"
    job = launch(options, SCRIPT)
    code, output = job.end()
    assert code == 0, output
    said = re.search(r"the clock of h2 was \+3\.7\d+ s off, drifting .* with at most (\d+) µs left", output)
    assert said, output
    found = chrome.read(next(tmp_path.rglob("out.json.gz")))
    assert found.ranks == [0, 1, 2, 3]
    shifts = {
        rank: [span["ts"] - span["args"]["true_s"] * 1e6 for span in found.spans("mark", rank)]
        for rank in found.ranks
    }
    left_us = max(abs(shift - shifts[0][0]) for rank in (2, 3) for shift in shifts[rank])
    assert left_us <= min(LIMIT_US, float(said[1]) + 0.5)
    page = reporting.report(next(tmp_path.rglob("out.json.gz"))).read_text()
    assert "The clock of h2 (rank 2) is right to" in page
    job.await_nothing_left(5)
