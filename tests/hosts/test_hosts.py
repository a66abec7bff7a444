"""Jobs on several hosts over ssh and TCP, and what is said when one of them fails."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import failures_guide
import mpi4py
import pytest

from distgrad.launch import rank

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "mnist.py"
ENDS_WITHIN_S = 10.0
WORK = """
import os, time
import numpy as np
import distgrad.comm
comm = distgrad.comm.init()
for step in range(100000):
    comm.all_reduce(np.ones(1000, np.float32))
    if step == 400 and comm.rank == 0:
        print("under way", flush=True)
    time.sleep(0.004)
"""


def test_ranks_of_two_hosts_find_their_places_and_each_other(launch):
    script = """
import os
import numpy as np
import distgrad.comm
comm = distgrad.comm.init()
x = np.full(3, 10.0 ** comm.rank)
comm.all_reduce(x)
names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE NODE_RANK".split()
place = [os.environ[name] for name in names]
print(os.uname().nodename, *place, int(x[0]), os.environ["DISTGRAD_SUPERVISOR"])
"""
    code, output = launch("--hosts h1:2,h2:2", script).end()
    assert code == 0, output
    lines = [line.rpartition(":")[0] for line in sorted(output.splitlines())]
    assert lines == [
        "[0] h1 0 0 4 2 0 1111 10.77.0.1",
        "[1] h1 1 1 4 2 0 1111 10.77.0.1",
        "[2] h2 2 0 4 2 1 1111 10.77.0.1",
        "[3] h2 3 1 4 2 1 1111 10.77.0.1",
    ]


def test_open_mpi_starts_ranks_on_other_hosts(launch, open_mpi):
    script = (
        WORK.replace("100000", "401") + "assert step == 400\nprint(os.environ['RANK'], os.environ['GIVEN'])\n"
    )
    job = launch("--hosts h1:1,h2:2 --env GIVEN=colour", script, python=open_mpi)
    code, output = job.end()
    assert code == 0, output
    assert {f"[{rank}] {rank} colour" for rank in range(3)} < set(output.splitlines())
    script = WORK + "    assert step < 450 or comm.rank == 0, 'no luck'\n"
    job = launch("--hosts h1:1,h2:1", script, python=open_mpi)
    code, output = job.end()
    assert code == 1, output
    failures_guide.check("Several hosts", "an exception on another host", output)
    job.await_nothing_left(5)


TESTS = Path(__file__).parents[1]
CONTRACT = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from contracts.communicator import CHECKS, CHECKS_OF_MANY
import distgrad.comm
comm = distgrad.comm.init(timeout_s=30)
assert (comm.backend, comm.size, comm.local_size) == ("mpi", 4, 2)
for name, check in {{**CHECKS, **CHECKS_OF_MANY}}.items():
    check(comm)
print("checks", len(CHECKS) + len(CHECKS_OF_MANY))
"""
EQUALITY = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import numpy as np
from parallel.problems import batches, parameters_of, train
import distgrad.comm
comm = distgrad.comm.init(timeout_s=30)
steps = batches(5, 11) + batches(2, 3, seed=2)
expected, near = parameters_of(train(steps)), comm.split_by_host()[0]
sharded = [{{"shard": stage}} for stage in ("optimizer", "gradients", "parameters")]
for options in ({{}}, *sharded, {{"shard": "parameters", "shard_group": near}}):
    ranks = parameters_of(train(steps, comm, bucket_cap_mb=0.001, **options))
    np.testing.assert_allclose(ranks, expected, rtol=1e-9, atol=1e-12)
    assert len(set(comm.all_gather_object(ranks.tobytes()))) == 1
print("equal to one process")
"""


@pytest.mark.slow
def test_the_contract_holds_between_hosts(launch):
    """Shared memory within each host and MPI between them: every check of the suite."""
    code, output = launch("--hosts h1:2,h2:2", CONTRACT).end()
    assert code == 0, output
    assert len(re.findall(r"^\[\d\] checks \d\d$", output, re.MULTILINE)) == 4, output


def test_data_parallel_training_on_two_hosts_equals_one_process(launch):
    code, output = launch("--hosts h1:2,h2:2", EQUALITY).end()
    assert code == 0, output
    assert output.count("equal to one process") == 4, output


def test_a_reader_that_pauses_holds_up_the_ranks_of_other_hosts_and_no_more(launch):
    script = """
import distgrad.comm
comm = distgrad.comm.init()
for count in range(4000):
    print(f"{count:06d} ".ljust(199, "x"))
comm.barrier()
"""
    job = launch("--hosts h1:1,h2:1 --hang-after 3", script)
    time.sleep(12)  # longer than a watcher waits for a launcher that has been cut off
    assert job.process.poll() is None
    code, output = job.end()
    assert code == 0, output
    for prefix in ("[0] ", "[1] "):
        lines = [line[4:10] for line in output.splitlines() if line.startswith(prefix)]
        assert lines == [f"{count:06d}" for count in range(4000)]


def test_the_guides_first_job_runs_on_two_hosts(launch):
    page = (ROOT / "docs" / "guide" / "first-cluster-job.md").read_text()
    job = launch("--hosts h1:1,h2:1", re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)[1])
    code, output = job.end()
    assert code == 0, output
    assert re.search(r"epoch 4: loss 0\.\d+ on 2 ranks of 2 hosts", output), output
    job.await_nothing_left(5)


@pytest.mark.slow
@pytest.mark.parametrize("hosts", ["h1:2,h2:2", "h1:2,h2:2,h3:2"])
def test_the_example_trains(launch, hosts):
    job = launch(f"--hosts {hosts}", EXAMPLE, "--epochs", "2", "--target-accuracy", "0.85")
    code, output = job.end()
    assert code == 0, output
    hashes = re.findall(r"parameters of rank \d+: sha256 (\w+)", output)
    assert len(hashes) == 2 * hosts.count("h")
    assert len(set(hashes)) == 1
    job.await_nothing_left(5)


@pytest.mark.slow
def test_a_host_whose_processes_are_killed_is_named(launch, network):
    job = launch("--hosts h1:1,h2:1", WORK)
    job.await_line("under way")
    for process in network.hosts[1].processes(job.mark):
        subprocess.run(network.hosts[1].inside("kill", "-KILL", process), capture_output=True, check=False)
    code, output = job.end()
    assert code == 137, output
    failures_guide.check("Several hosts", "a host's processes are killed", output)
    job.await_nothing_left(5)


@pytest.mark.slow
def test_a_link_that_goes_down_is_seen_and_the_other_side_ends_by_itself(launch, network):
    job = launch("--hosts h1:1,h2:1 --hang-after 4", WORK)
    job.await_line("under way")
    network.hosts[1].set_link("down")
    down_s = time.monotonic()
    code, output = job.end()
    assert time.monotonic() - down_s < 4 + ENDS_WITHIN_S
    assert code == 3, output
    failures_guide.check("Several hosts", "a link goes down", output)
    job.await_nothing_left(2 * 4 + ENDS_WITHIN_S)


def test_a_launcher_that_is_killed_leaves_no_process_on_any_host(launch, network):
    job = launch("--hosts h1:1,h2:1,h3:1", WORK)
    job.await_line("under way")
    assert len(job.left()) == 3
    first = network.hosts[0]
    named = {
        process: subprocess.check_output(first.inside("cat", f"/proc/{process}/cmdline"))
        for process in first.processes(job.mark)
    }
    (launcher,) = (process for process, words in named.items() if b"-m\0distgrad.launch\0" in words)
    subprocess.run(first.inside("kill", "-KILL", launcher), check=True)
    job.await_nothing_left(ENDS_WITHIN_S)


@pytest.mark.parametrize(
    ("hosts", "fault"),
    [
        ("h1:1,nowhere:1", "the name does not resolve"),
        ("h1:1,10.77.0.9:1", "nobody at the address"),
    ],
)
def test_a_host_that_is_not_there(launch, hosts, fault):
    code, output = launch(f"--hosts {hosts}", WORK).end()
    assert code == 2, output
    failures_guide.check("Several hosts", fault, output)


def test_a_refused_key(launch):
    code, output = launch("--hosts h1:1,h2:1,h3:1", WORK, key="stranger").end()
    assert code == 2, output
    failures_guide.check("Several hosts", "the key is refused", output)
    hosts = [line.split(": ")[1] for line in output.splitlines()]
    assert hosts == ["host h2", "host h3"]


@pytest.mark.parametrize(
    ("folder", "fault"),
    [
        (os.path.dirname(sys.executable), "no Python"),
        (os.path.dirname(rank.__file__), "no distgrad"),
        (os.path.dirname(mpi4py.__file__), "a package is missing"),
    ],
)
def test_a_host_that_lacks_something(launch, network, folder, fault):
    elsewhere = [path for path in sys.path if os.path.isdir(os.path.join(path, "mpi4py"))]
    if fault == "a package is missing" and len(elsewhere) > 1:
        pytest.skip(f"mpi4py would still be found, as it is in {', '.join(elsewhere)}")
    network.hosts[2].hide(folder)
    try:
        code, output = launch("--hosts h1:1,h2:1,h3:1", WORK).end()
    finally:
        network.hosts[2].show(folder)
    assert code == 2, output
    failures_guide.check("Several hosts", fault, output)
    assert output.count("\n") == 1


def test_an_exception_on_another_host_is_printed_last(launch):
    code, output = launch(
        "--hosts h1:1,h2:1", WORK + "    assert step < 450 or comm.rank == 0, 'no luck'\n"
    ).end()
    assert code == 1
    failures_guide.check("Several hosts", "an exception on another host", output)
    assert output.endswith("AssertionError: no luck\n")


def test_the_guide_names_these_faults_and_no_others():
    tried = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert all(f'"{fault}"' in tried for fault in failures_guide.quotations("Several hosts"))
