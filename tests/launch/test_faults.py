"""Faults in one rank of two: what is printed is what the guide says, in time, and nothing is left."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import failures_guide
import pytest

HANG_AFTER_S = 3.0
MARGIN_S = 30.0  # a verdict comes at most so long after the limit, also where others use the processors
SECTION = "Fault and summary"
SCRIPT = """
    import concurrent.futures, ctypes, os, resource, signal, sys, threading, time
    import numpy as np
    import distgrad as dg
    rank = int(os.environ["RANK"]); print("at", time.monotonic())  # after the imports
    def broken_work():
        raise OSError("unreadable file")
    {before}
    comm = dg.comm.init()
    weights = dg.zeros(4, requires_grad=True)
    optimizer = dg.optim.SGD([weights], lr=0.1)
    def train():
        for step in range(8):
            x = np.ones(4, np.float32)
            if step == 5 and rank == 1:
                {fault}
            comm.all_reduce(x)
            (2 * weights).sum().backward()
            optimizer.step()
            {after}
            comm.broadcast(x)
    train()
    comm.barrier()
"""


@dataclass(frozen=True)
class Fault:
    """What is planted; what must be printed stands in the guide under the same name.

    Attributes:
        name: in the guide.
        fault: a statement for rank 1, in the place of its sixth all-reduce.
        code: the job's exit code.
        before: a statement for both ranks, before they meet.
        after: a statement for both ranks, after each update.
        options: of the launcher.
        is_quick: whether it is tried in every run of the tests.
    """

    name: str
    fault: str = "pass"
    code: int = 1
    before: str = "pass"
    after: str = "pass"
    options: str = ""
    is_quick: bool = False

    @property
    def script(self) -> str:
        return SCRIPT.format(before=self.before, fault=self.fault, after=self.after)


HANG = f"--hang-after {HANG_AFTER_S:g}"
# Rank 0 opens a socket, in no folder, once it has told that it is in call #10, and rank 1 waits for that.
NAME = f"\\x00{uuid.uuid4()}"
TELLING = (
    "import socket; told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    "from distgrad.comm.progress import Progress; begin = Progress.begin; Progress.begin = lambda *words: "
    f"(begin(*words), rank or words[1].number != 10 or told.bind('{NAME}'))"
)
TOLD = f"all(iter(lambda: time.sleep(0.01) or told.connect_ex('{NAME}') != 0, False))"
FAULTS = [
    Fault("exception before `init`", before="assert rank == 0, 'no data'"),
    Fault("exception in the forward pass", f"{TOLD}; raise ValueError('odd')", before=TELLING, is_quick=True),
    Fault(
        "exception in the backward pass",
        "y = 2 * weights; y.register_hook(lambda g: 1 // 0); y.sum().backward()",
    ),
    Fault(
        "exception in a data worker",
        "concurrent.futures.ProcessPoolExecutor(1).submit(broken_work).result()",
    ),
    Fault(
        "SIGKILL, also by the kernel when memory runs out",
        "os.kill(os.getpid(), signal.SIGKILL)",
        137,
        is_quick=True,
    ),
    Fault("SIGSEGV", "ctypes.string_at(0)", 139),
    Fault("SIGABRT", "os.abort()", 134),
    Fault(
        "out of memory under a limit",
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33)); np.ones(1 << 40)",
    ),
    Fault("ends early with exit code 0", "sys.exit(0)", is_quick=True),
    Fault("leaves by `os._exit(0)`", "os._exit(0)"),
    Fault("`MPI_Abort(7)`", "from mpi4py import MPI; MPI.COMM_WORLD.Abort(7)", 7, options="--backend mpi"),
    Fault("skips a collective", "comm.broadcast(x); continue"),
    Fault("calls another collective", "comm.all_gather(x)", is_quick=True),
    Fault("calls it with another shape", "x = np.ones(5, np.float32)"),
    Fault("calls two in another order", "comm.broadcast(x); comm.all_reduce(x); continue"),
    Fault("infinite loop in Python", "while True: pass", 3, options=HANG, is_quick=True),
    Fault("infinite loop in C, with the GIL held", "sum(iter(int, 1))", 3, options=HANG),
    Fault(
        "a lock that nobody opens", "lock = threading.Lock(); lock.acquire(); lock.acquire()", 3, options=HANG
    ),
    Fault("SIGSTOP", "os.kill(os.getpid(), signal.SIGSTOP)", 3, options=HANG),
    Fault("never calls `init`", code=3, before="rank and time.sleep(1000)", options=HANG),
    Fault("ends before `init` with exit code 0", code=3, before="rank and sys.exit()", options=HANG),
    Fault("all hang before `init`", code=3, before="time.sleep(1000)", options=HANG),
    Fault("waits for a message that nobody sends", "comm.recv(x, 0)", 3, options=HANG),
    Fault("no rank does anything", code=3, after="time.sleep(1000 * (step == 5))", options=HANG),
    Fault("takes too long", "time.sleep(1000)", 124, options="--timeout 4"),
]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[] if fault.is_quick else pytest.mark.slow, id=fault.name.replace("`", ""))
        for fault in FAULTS
    ],
)
def test_a_fault_is_explained_and_leaves_nothing(run, room, fault: Fault, tmp_path: Path) -> None:
    ended = run(f"-n 2 {fault.options}", fault.script, room=room)
    assert ended.code == fault.code, ended.stderr
    failures_guide.check(SECTION, fault.name, "\n".join(ended.summary))
    limit_s = float(fault.options.split()[1]) if fault.code in (3, 124) else 0.0
    assert limit_s < ended.seconds
    assert ended.seconds_since(ended.stdout) < limit_s + MARGIN_S
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py"]  # no core, no file


def test_the_guide_names_these_faults_and_no_others() -> None:
    tried = [fault.name for fault in FAULTS]
    assert [*tried, "slow, and no fault"] == list(failures_guide.quotations(SECTION))  # test_restarts.py's


def test_a_wrong_quotation_is_found(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(failures_guide, "GUIDE", tmp_path / "guide.md")
    row = "| x | first `rank 1 on node1 ended after 0.7 s`, `…b` |"
    (tmp_path / "guide.md").write_text(
        f"## Part\n\n| fault | printed |\n|---|---|\n{row}\n\n## Other\n| y | `z` |\n"
    )
    failures_guide.check("Part", "x", "rank 1 on vm.example ended after 12 s\nab")
    for printed in ("rank 2 on vm ended after 1 s\nab", "ab\nrank 1 on vm ended after 1 s", "rank 1"):
        with pytest.raises(AssertionError, match="the guide says of x: "):
            failures_guide.check("Part", "x", printed)
