"""Jobs that lose a host and go on, and take it again when it is back."""

import re

import failures_guide
import pytest

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
SECTION = "Restarts"
TRAIN = """
import sys, time
from pathlib import Path
import numpy as np
import distgrad as dg
comm = dg.comm.init()
dg.manual_seed(1)
net = dg.nn.Sequential(dg.nn.Linear(6, 8), dg.nn.ReLU(), dg.nn.Dropout(0.1), dg.nn.Linear(8, 3))
model = dg.parallel.DistributedDataParallel(net, exact=True, shards=6)
optimizer = dg.optim.AdamW(model.parameters(), lr=0.01)
manager = dg.checkpoint.CheckpointManager(sys.argv[1], every=5)
manager.add(model=model, optimizer=optimizer)
start = step = manager.restore_latest() or 0
last = int(sys.argv[2]) if len(sys.argv) > 2 else None
if comm.rank == 0:
    print(f"attempt {dg.comm.attempt()}: {comm.size} ranks from step {start}", flush=True)
while step != last and not comm.broadcast_object(last is None and Path("enough").exists()):
    rng = np.random.default_rng(step)
    x, y = rng.standard_normal((12, 6)).astype(np.float32), rng.integers(0, 3, 12)
    optimizer.zero_grad()
    for part, labels in model.shards(x, y):
        dg.nn.functional.cross_entropy(model(dg.asarray(part)), dg.asarray(labels)).backward()
    optimizer.step()
    manager.step()
    step += 1
    if last is None:
        time.sleep(0.02)
    if step == start + 10 and comm.rank == 0:
        print("under way with", comm.size, flush=True)
manager.close()
if comm.rank == 0:
    print("bits", step, dg.parallel.parameter_hash(model))
"""


def listen(job, words: str) -> str:
    """What the job writes until a line holds ``words``, with that line."""
    said = ""
    while words not in said:
        line = job.process.stdout.readline()
        assert line, f"the job ended before it wrote {words!r}: {said}"
        said += line
    return said


def bits(said: str) -> tuple[str, str]:
    """After how many steps a job ended, and the bits of its parameters."""
    return re.search(r"bits (\d+) (\w+)", said).groups()


def undisturbed(launch, folder, num_steps: str) -> tuple[str, str]:
    """The same of a job on one rank that nothing happens to."""
    code, said = launch("-n 1 --hosts h1:1", TRAIN, str(folder / "whole"), num_steps).end()
    assert code == 0, said
    return bits(said)


def test_a_host_that_is_cut_off_is_left_out_and_taken_again_when_it_is_back(launch, network, tmp_path):
    options = "--hosts h1:1,h2:1,h3:1 --min-ranks 2 --hang-after 4"
    job = launch(options, TRAIN, "run")
    said = listen(job, "under way with 3")
    network.hosts[2].set_link("down")
    said += listen(job, "under way with 2")
    network.hosts[2].set_link("up")
    said += listen(job, "under way with 3")
    (tmp_path / "enough").touch()
    code, rest = job.end()
    said += rest
    assert code == 0, said
    failures_guide.check(SECTION, "a host is cut off, and comes back", said)
    assert undisturbed(launch, tmp_path, bits(said)[0]) == bits(said)
    job.await_nothing_left(2 * 4 + 10)


def test_a_host_that_appears_is_taken(launch, network, tmp_path):
    (tmp_path / "named").write_text("h1:1\nh2:1\n")
    job = launch("--hosts-from named --min-ranks 2 --max-ranks 3", TRAIN, "run")
    said = listen(job, "under way with 2")
    (tmp_path / "new").write_text("h1:1\nh2:1\nh3:1\n")
    (tmp_path / "new").rename(tmp_path / "named")
    said += listen(job, "under way with 3")
    (tmp_path / "enough").touch()
    code, rest = job.end()
    said += rest
    assert code == 0, said
    failures_guide.check(SECTION, "a new host is named", said)
    assert "restarted" not in said  # which would count as a failure
    assert undisturbed(launch, tmp_path, bits(said)[0]) == bits(said)
    job.await_nothing_left(5)


def test_too_few_hosts_that_are_left_are_named(launch, network, tmp_path):
    job = launch("--hosts h1:1,h2:1 -n 2 --min-ranks 2 --max-restarts 3 --hang-after 4", TRAIN, "run")
    said = listen(job, "under way with 2")
    network.hosts[1].set_link("down")
    code, rest = job.end()
    assert code == 3, said + rest
    failures_guide.check(SECTION, "too few hosts are left", said + rest)


def test_a_lost_host_costs_a_step_and_no_disk(launch, network, tmp_path):
    """Its part lies with its neighbour's agent too."""
    script = TRAIN.replace("every=5", "memory=True").replace(
        "step += 1\n", "step += 1; print('done', step)\n"
    )
    job = launch("--hosts h1:1,h2:1,h3:1 --min-ranks 2 --max-restarts 1 --hang-after 4", script, "run")
    said = listen(job, "under way with 3")
    network.hosts[2].set_link("down")
    said += listen(job, "under way with 2")
    (tmp_path / "enough").touch()
    code, rest = job.end()
    said += rest
    assert code == 0, said
    before, _, after = said.partition("attempt 1: 2 ranks from step ")
    done = [int(step) for step in re.findall(r"done (\d+)", before)]
    assert int(after.split()[0]) >= max(done) - 1
    assert not list((tmp_path / "run").glob("step-*"))
    assert undisturbed(launch, tmp_path, bits(said)[0]) == bits(said)
    network.hosts[2].set_link("up")
    job.await_nothing_left(60)
