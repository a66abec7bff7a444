"""Jobs in Slurm allocations: Slurm's own daemons, started by hand on hosts in network namespaces."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import failures_guide
import pytest

from .conftest import LIMIT_S, ROOT, Host, Network, run

pytestmark = pytest.mark.timeout(180)
TEMPLATE = ROOT / "launch" / "templates" / "slurm_cpu.sbatch"
NUM_NODES = 2
_TOOLS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client"}
_CONFIGURATION = """
ClusterName=dg
SlurmctldHost=h1(10.77.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
TmpFS={folder}/tmp_%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=30
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""
SCRIPT = """
import os, sys
import numpy as np
import distgrad.comm
comm = distgrad.comm.init()
x = np.full(3, 10.0 ** comm.rank)
comm.all_reduce(x)
place = [os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")]
words = ("sum", os.uname().nodename, comm.rank, comm.size, comm.local_rank, int(x[0]), *place)
sys.stdout.write(" ".join(map(str, words)) + "\\n")  # at once: mpirun and srun mix the pieces of lines
sys.stdout.flush()
"""


def offer_pmix(host: Host, library: Path) -> None:
    """Let Slurm find Debian's PMIx, which it looks for under a name that only the development package has."""
    folder = library.parent
    layers = f"lowerdir={folder},upperdir=/mnt/upper,workdir=/mnt/work"
    script = f"""
        mount -t tmpfs pmix /mnt
        mkdir /mnt/upper /mnt/work
        mount -t overlay pmix -o {layers} {folder}
        test -e {folder}/libpmix.so || ln -s {library.name} {folder}/libpmix.so
    """
    run(*host.inside("sh", "-ec", script))


class Slurm:
    """A cluster of the first hosts of a network.

    Attributes:
        pmix: the library of the PMIx that its ranks can be started by; None without one.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.variables = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PYTHONPATH": str(ROOT),
            "PYTHON": sys.executable,
        }
        node = "NodeName=h{0} NodeAddr=10.77.0.{0} CPUs=2 CoresPerSocket=2 State=UNKNOWN"
        nodes = "\n".join(node.format(index) for index in range(1, NUM_NODES + 1))
        (folder / "slurm.conf").write_text(_CONFIGURATION.format(folder=folder, nodes=nodes))
        (folder / "cgroup.conf").write_text("")
        for name in (
            "state",
            *(f"{kind}_h{i}" for kind in ("spool", "tmp") for i in range(1, NUM_NODES + 1)),
        ):
            (folder / name).mkdir()
        self.pmix = next(Path("/usr/lib").glob("*/pmix2/lib/libpmix.so.2"), None)
        if self.pmix is not None:
            for host in network.hosts[:NUM_NODES]:
                offer_pmix(host, self.pmix)
        commands = [(network.hosts[0], ["slurmctld", "-D", "-c"])]
        commands += [(host, ["slurmd", "-D", "-N", host.name]) for host in network.hosts[:NUM_NODES]]
        self.daemons = [
            subprocess.Popen(
                host.inside(*command), env=self.variables, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for host, command in commands
        ]  # fmt: skip
        deadline_s = time.monotonic() + 30
        while self.run("sinfo", "-h", "-t", "idle", "-o", "%D")[1].strip() != str(NUM_NODES):
            assert time.monotonic() < deadline_s, "the nodes of the Slurm cluster do not come up"
            time.sleep(0.1)

    def run(self, *command: str, folder: Path = ROOT) -> tuple[int, str]:
        """Run a command on the first host; return its exit code and what it wrote."""
        done = subprocess.run(
            self.network.hosts[0].inside("env", "-C", str(folder), *command), env=self.variables,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def close(self) -> None:
        """End the daemons."""
        for host, name in [
            (self.network.hosts[0], "slurmctld"),
            *((h, "slurmd") for h in self.network.hosts),
        ]:
            script = (
                f'for p in /proc/[0-9]*; do [ "$(cat $p/comm)" = {name} ] && kill -KILL ${{p#/proc/}}; done'
            )
            subprocess.run(host.inside("sh", "-c", script), capture_output=True, check=False)
        for daemon in self.daemons:
            daemon.wait(10)


@pytest.fixture(scope="module")
def slurm(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Two nodes of two processors."""
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"a Slurm cluster needs the packages {', '.join(missing)}; run: make machine")
    cluster = Slurm(network, tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.close()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script that every rank runs, in a folder of its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


STUDIED = """
import distgrad as dg

comm = dg.comm.init()
model = dg.parallel.DistributedDataParallel(dg.nn.Linear(64, 64), comm)
optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
if comm.rank == 0:
    open("log.txt", "x").close()  # of each run its own
while True:
    optimizer.zero_grad()
    model(dg.ones((8, 64))).sum().backward()
    optimizer.step()
"""


def sums(output: str) -> list[str]:
    return sorted(re.findall(r"sum (h\d .*)", output))


EXPECTED = [
    "h1 0 4 0 1111 0 0 4 0",
    "h1 1 4 1 1111 1 1 4 0",
    "h2 2 4 0 1111 2 0 4 1",
    "h2 3 4 1 1111 3 1 4 1",
]


def test_the_batch_template(slurm: Slurm, script: Path) -> None:
    code, output = slurm.run("sbatch", "--wait", str(TEMPLATE), str(script), folder=script.parent)
    (log,) = script.parent.glob("distgrad-*.log")
    assert code == 0, output + log.read_text()
    assert sums(log.read_text()) == EXPECTED
    (logs,) = script.parent.glob("logs-*")
    assert sorted(path.name for path in logs.iterdir()) == [f"rank{rank}.txt" for rank in range(4)]


def test_inside_an_allocation(slurm: Slurm, script: Path) -> None:
    launch = [sys.executable, "-m", "distgrad.launch"]
    allocate = ["salloc", "-Q", "-N", "2", "-n", "4"]
    code, output = slurm.run(*allocate, *launch, str(script))
    assert code == 0, output
    assert sums(output) == EXPECTED
    code, output = slurm.run(*allocate, *launch, "-n", "3", "--dry-run", str(script))
    assert code == 0, output
    assert "-launcher slurm" in output
    assert "-hosts h1:2,h2:1" in output


@pytest.mark.slow
def test_a_scaling_study_inside_an_allocation(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(STUDIED)
    allocate = ["salloc", "-Q", "-N", "2", "-n", "4", sys.executable, "-m", "distgrad", "scale", "--slurm"]
    options = ["--ranks", "1,4", "--repeat", "1", "--steps", "20", "train.py"]
    code, output = slurm.run(*allocate, *options, folder=tmp_path)
    assert code == 0, output
    runs = tmp_path / "scale-train" / "runs"
    about = [json.loads((runs / "distgrad-4-0" / f"rank{rank}.json").read_text()) for rank in range(4)]
    hosts = [each["host"] for each in about]
    assert hosts == ["h1", "h1", "h2", "h2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scale-train", "train.py"]


def test_inside_an_allocation_with_open_mpi(slurm: Slurm, script: Path, open_mpi: str) -> None:
    allocate = ["salloc", "-Q", "-N", "2", "-n", "4", open_mpi, "-m", "distgrad.launch"]
    code, output = slurm.run(*allocate, str(script))
    assert code == 0, output
    assert sums(output) == EXPECTED
    code, output = slurm.run(*allocate, "--hosts", "localhost:2", "--backend", "mpi", str(script))
    assert code == 0, output
    assert sums(output) == ["h1 0 2 0 11 0 0 2 0", "h1 1 2 1 11 1 1 2 0"]


@pytest.mark.parametrize("library", ["MPICH", "Open MPI"])
def test_mpirun_inside_an_allocation(slurm: Slurm, script: Path, library: str, request) -> None:
    python = sys.executable if library == "MPICH" else request.getfixturevalue("open_mpi")
    root = ["OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"]
    start = ["env", *root, str(Path(python).with_name("mpirun")), "-n", "4", python, str(script)]
    code, output = slurm.run("salloc", "-Q", "-N", "2", "-n", "4", *start)
    assert code == 0, output
    assert sums(output) == EXPECTED


def test_a_failure_in_an_allocation_is_named(slurm: Slurm, script: Path) -> None:
    script.write_text(SCRIPT + "assert comm.rank != 3, 'no luck'\ncomm.barrier()\n")
    launch = [sys.executable, "-m", "distgrad.launch"]
    code, output = slurm.run("salloc", "-Q", "-N", "2", "-n", "4", *launch, str(script))
    assert code == 1, output
    summary = output[output.index("launch: rank 3 on h2 exited 1 after") :]
    assert summary.rstrip().endswith("AssertionError: no luck")


@pytest.mark.parametrize("plugin", ["pmi2", "none"])
def test_srun_starts_the_script_itself(slurm: Slurm, script: Path, plugin: str) -> None:
    code, output = slurm.run("srun", f"--mpi={plugin}", "-N", "2", "-n", "4", sys.executable, str(script))
    if plugin == "pmi2":
        assert code == 0, output
        assert sums(output) == EXPECTED
    else:
        assert code != 0
        failures_guide.check("Several hosts", "`srun --mpi=none python train.py`", output)


def test_srun_starts_open_mpi_by_pmix(slurm: Slurm, script: Path, open_mpi: str) -> None:
    if slurm.pmix is None:
        pytest.skip("srun --mpi=pmix needs the package libpmix2, which comes with Debian's Slurm")
    command = ["-N", "2", "-n", "4", open_mpi, str(script)]
    code, output = slurm.run("srun", "--mpi=pmix", *command)
    assert code == 0, output
    assert sums(output) == EXPECTED
    code, output = slurm.run("srun", "--mpi=pmi2", *command)
    assert code != 0
    failures_guide.check("Several hosts", "`srun --mpi=none python train.py`", output)


def test_srun_starts_mpich_by_what_it_does_not_know(slurm: Slurm, script: Path) -> None:
    if slurm.pmix is None:
        pytest.skip("srun --mpi=pmix needs the package libpmix2, which comes with Debian's Slurm")
    code, output = slurm.run("srun", "--mpi=pmix", "-N", "2", "-n", "4", sys.executable, str(script))
    assert code != 0
    failures_guide.check("Several hosts", "`srun --mpi=pmix python train.py` with MPICH", output)


@pytest.mark.slow
def test_srun_starts_the_script_twenty_times_in_a_row(slurm: Slurm, script: Path) -> None:
    for _ in range(20):
        code, output = slurm.run("srun", "--mpi=pmi2", "-N", "2", "-n", "4", sys.executable, str(script))
        assert code == 0, output
        assert sums(output) == EXPECTED


def test_several_launchers_at_once_are_refused(slurm: Slurm, script: Path) -> None:
    command = ["srun", "-N", "2", "-n", "4", sys.executable, "-m", "distgrad.launch", str(script)]
    code, output = slurm.run(*command)
    assert code != 0
    failures_guide.check("Several hosts", "`srun distgrad run`", output)


ENDLESS = """
import sys, time
from pathlib import Path
import distgrad as dg
comm = dg.comm.init()
net = dg.nn.Linear(4, 2)
model = dg.parallel.DistributedDataParallel(net)
optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
manager = dg.checkpoint.CheckpointManager("run")
manager.add(model=model, optimizer=optimizer)
start = step = manager.restore_latest() or 0
print(f"rank {comm.rank} of {comm.size} from step {start}", flush=True)
while not comm.broadcast_object(start > 0 and step == start + 5):
    optimizer.zero_grad()
    (model(dg.ones((3, 4))) ** 2).mean().backward()
    optimizer.step()
    manager.step()
    step += 1
    time.sleep(0.02)
    if step == 5 and comm.rank == 0:
        print("under way", flush=True)
manager.close()
print("done", flush=True)
"""
BATCH = """#!/bin/sh
#SBATCH -N 2 -n 2 --requeue --open-mode=append -o log {more}
exec {python} -m distgrad.launch --grace 50 {options} script.py
"""


def submit(slurm: Slurm, folder: Path, options: str, more: str = "") -> str:
    """Submit a job that trains until it goes on from a checkpoint; returns its number."""
    (folder / "script.py").write_text(ENDLESS)
    (folder / "batch").write_text(BATCH.format(python=sys.executable, options=options, more=more))
    code, output = slurm.run("sbatch", "--parsable", "batch", folder=folder)
    assert code == 0, output
    return output.strip()


def await_log(folder: Path, words: str, number: int = 1) -> str:
    """What the job has written once it holds ``words`` so often."""
    deadline_s = time.monotonic() + 2 * LIMIT_S
    said = ""
    while said.count(words) < number:
        assert time.monotonic() < deadline_s, f"no {words!r} in: {said}"
        time.sleep(0.1)
        said = (folder / "log").read_text() if (folder / "log").exists() else ""
    return said


def state(slurm: Slurm, job: str) -> str:
    """How a job stands with Slurm."""
    _, output = slurm.run("scontrol", "show", "job", job, "--oneliner")
    return re.search(r"JobState=(\w+) .*ExitCode=(\d+)", output).expand(r"\1 \2")


@pytest.mark.slow
def test_a_job_that_is_preempted_saves_is_requeued_and_goes_on(slurm: Slurm, tmp_path: Path) -> None:
    """As ``#SBATCH --signal=B:USR1@120`` has it: the launcher gets the signal, and passes it on."""
    job = submit(slurm, tmp_path, "--requeue")
    await_log(tmp_path, "under way")
    code, output = slurm.run("scancel", "--batch", "--signal=USR1", job)
    assert code == 0, output
    said = await_log(tmp_path, "launch: requeued; it goes on where it stands")
    step = re.search(r"checkpoint: saved at step (\d+) \(SIGUSR1\)", said)[1]
    deadline_s = time.monotonic() + 2 * LIMIT_S
    while f"rank 1 of 2 from step {step}" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline_s, state(slurm, job)
        slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")  # Slurm waits two minutes by itself
        time.sleep(0.5)
    said = await_log(tmp_path, "done", 2)
    failures_guide.check("Restarts", "Slurm preempts a job, `--requeue`", said)


@pytest.mark.slow
def test_a_job_that_slurm_ends_saves_first(slurm: Slurm, tmp_path: Path) -> None:
    """The launcher's exit code is the job's."""
    job = submit(slurm, tmp_path, "--preempt-code 77")
    await_log(tmp_path, "under way")
    code, output = slurm.run("scancel", "--batch", "--signal=TERM", job)
    assert code == 0, output
    said = await_log(tmp_path, "launch: stopped by SIGTERM")
    assert re.search(r"checkpoint: saved at step \d+ \(SIGTERM\)", said), said
    deadline_s = time.monotonic() + LIMIT_S
    while not state(slurm, job).startswith("FAILED"):
        assert time.monotonic() < deadline_s, state(slurm, job)
        time.sleep(0.2)
    assert state(slurm, job) == "FAILED 77"


@pytest.mark.slow
def test_a_node_that_was_down_is_left_out(slurm: Slurm, tmp_path: Path) -> None:
    """Also when Slurm takes it for usable again, as here its daemon answers: it is no more the job's."""
    job = submit(slurm, tmp_path, "-n 2 --min-ranks 1 --max-restarts 3", "--no-kill")
    await_log(tmp_path, "under way")
    code, output = slurm.run("scontrol", "update", "nodename=h2", "state=down", "reason=lost")
    assert code == 0, output
    said = await_log(tmp_path, "rank 0 of 1 from step")
    slurm.run("scancel", "--full", job)
    row = "Slurm takes a node from a job submitted with `--no-kill`, `--min-ranks 1`"
    failures_guide.check("Restarts", row, said)
    deadline_s = time.monotonic() + LIMIT_S
    while state(slurm, job).startswith(("RUNNING", "COMPLETING")):
        assert time.monotonic() < deadline_s, state(slurm, job)
        time.sleep(0.2)
