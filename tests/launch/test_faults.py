"""Faults in one rank of two: the summary names the rank and the line, in time, and nothing is left."""

import re
from dataclasses import dataclass

import pytest

HANG_AFTER_S = 3.0
MARGIN_S = 10.0  # a verdict comes at most so long after the limit
SCRIPT = """
    import concurrent.futures, ctypes, os, re, resource, signal, sys, threading, time
    import numpy as np
    import distgrad.comm
    rank = int(os.environ["RANK"])
    def broken_work():
        raise OSError("unreadable file")
    {before}
    comm = distgrad.comm.init()
    def train():
        for step in range(8):
            x = np.ones(4, np.float32)
            if step == 5 and rank == 1:
                {fault}  # the fault
            comm.all_reduce(x)
            comm.broadcast(x)
    train()
    comm.barrier()
"""


@dataclass(frozen=True)
class Fault:
    """What is planted, and what must be said of it.

    Attributes:
        name: of the test.
        fault: a statement for rank 1, in the place of its sixth all-reduce.
        before: a statement for both ranks, before they meet.
        code: the job's exit code.
        words: what the summary must hold, a regular expression; {line} is the line of the fault.
        hangs: whether it is found by waiting, not by a rank that fails.
        variables: for the ranks.
    """

    name: str
    fault: str = "pass"
    code: int = 1
    words: str = ""
    before: str = "pass"
    hangs: bool = False
    variables: str = ""


CRASH = r"launch: rank 1 on \S+ exited {code} after \S+ s"
PYTHON = r"its Python is at script.py:{line} in train"
SINCE = r"after #9 broadcast\(float32\[4\]\) at script.py:16"
WAITS = r"rank 0 waits for \d+ s in #10 all_reduce\(float32\[4\]\) at script.py:15"

FAULTS = [
    Fault("exception before init", before="assert rank == 0, 'no data'", words="AssertionError: no data$"),
    Fault("exception", "raise ValueError('odd')", words=r"line {line}, in train(.|\n)*ValueError: odd$"),
    Fault(
        "exception in a data worker",
        "concurrent.futures.ProcessPoolExecutor(1).submit(broken_work).result()",
        words=r"line {line}, in train(.|\n)*OSError: unreadable file$",
    ),
    Fault("SIGKILL", "os.kill(os.getpid(), signal.SIGKILL)", 137, r"SIGKILL: likely out of memory"),
    Fault("SIGSEGV", "ctypes.string_at(0)", 139, r"SIGSEGV: invalid memory access"),
    Fault("SIGABRT", "os.abort()", 134, r"SIGABRT: native code gave up"),
    Fault(
        "out of memory",
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33)); np.ones(1 << 40)",
        words=r"line {line}, in train(.|\n)*MemoryError",
    ),
    Fault(
        "exits 0 early",
        "sys.exit(0)",
        words=r"rank 1 (had ended before, with exit code 0|in finalize\(\))\n(.|\n)*waited for rank 1",
    ),
    Fault(
        "leaves without a word",
        "os._exit(0)",
        words=r"; rank 1 had ended before, with exit code 0\n",
    ),
    Fault(
        "skips a collective",
        "comm.broadcast(x); continue",
        words=r"collective #10, .*rank 0 called all_reduce\(float32\[4\]\), rank 1 called broadcast"
        r"(.|\n)*rank 1 at script.py:{line}",
    ),
    Fault(
        "another collective",
        "comm.all_gather(x)",
        words=r"collective #10, .*rank 0 called all_reduce\(float32\[4\]\), rank 1 called all_gather"
        r"(.|\n)*rank 1 at script.py:{line}",
    ),
    Fault(
        "another shape",
        "x = np.ones(5, np.float32)",
        words=r"rank 0 called all_reduce\(float32\[4\]\), rank 1 called all_reduce\(float32\[5\]\)",
    ),
    Fault(
        "another order",
        "comm.broadcast(x); comm.all_reduce(x); continue",
        words=r"collective #10, .*rank 0 called all_reduce\(float32\[4\]\), rank 1 called broadcast"
        r"(.|\n)*rank 1 at script.py:{line}",
    ),
]

HANGS = [
    Fault("infinite loop", "while True: pass", words=rf"rank 1 on \S+ computes {SINCE}, {PYTHON}; {WAITS}"),
    Fault(
        "infinite loop in C, with the GIL",
        "'' in [str(0)] and None or sum(iter(int, 1))",
        words=rf"rank 1 on \S+ computes {SINCE}, {PYTHON}; {WAITS}",
    ),
    Fault(
        "a lock",
        "lock = threading.Lock(); lock.acquire(); lock.acquire()",
        words=rf"rank 1 on \S+ stands still {SINCE}, {PYTHON}; {WAITS}",
    ),
    Fault(
        "SIGSTOP",
        "os.kill(os.getpid(), signal.SIGSTOP)",
        words=rf"rank 1 on \S+ is stopped \(SIGSTOP, or a debugger\) {SINCE}, {PYTHON}; {WAITS}",
    ),
    Fault(
        "never calls init",
        before="rank and time.sleep(1000)",
        words=r"rank 1 on \S+ stands still before dg.comm.init\(\), its Python is at script.py:8 in <module>"
        r"; rank 0 waits for \d+ s in init\(\) at script.py:9",
    ),
    Fault(
        "waits for a message",
        "comm.recv(x, 0)",
        words=r"different collective: the ranks wait in different calls .*rank 0 in #10 all_reduce.* at "
        r"script.py:15; rank 1 in recv\(float32\[4\], source=0, tag=0\) at script.py:{line}",
    ),
    Fault(
        "no rank does anything",
        "pass",
        before="keep = time.sleep",
        words=r"no rank has called a collective or used the processor for \d+ s: rank 0 .* rank 1 ",
    ),
]


def line_of_fault() -> int:
    return next(number for number, line in enumerate(SCRIPT.splitlines(), 1) if "# the fault" in line)


def script_of(fault: Fault) -> str:
    return SCRIPT.format(before=fault.before, fault=fault.fault)


def check(fault: Fault, ended, code: int, words: str) -> None:
    assert ended.code == code, ended.stderr
    summary = "\n".join(ended.summary)
    assert re.search(words.replace("{line}", str(line_of_fault())), summary), summary


QUICK = ("exception", "SIGKILL", "exits 0 early", "another collective", "infinite loop")


def cases(faults: list[Fault]) -> list:
    """The faults as parameters; a sample of each kind is quick enough for every run."""
    return [
        pytest.param(fault, marks=[] if fault.name in QUICK else pytest.mark.slow, id=fault.name)
        for fault in faults
    ]


@pytest.mark.parametrize("fault", cases(FAULTS))
def test_a_crash_is_explained(run, fault):
    ended = run("-n 2", script_of(fault))
    check(fault, ended, fault.code, fault.words)
    assert ended.seconds < MARGIN_S


@pytest.mark.parametrize("fault", cases(HANGS))
def test_a_hang_is_explained(run, fault):
    script = script_of(fault)
    if fault.name == "no rank does anything":
        script = script.replace("comm.broadcast(x)", "step == 5 and keep(1000)")
    ended = run(f"-n 2 --hang-after {HANG_AFTER_S}", script)
    check(fault, ended, 3, fault.words)
    assert HANG_AFTER_S < ended.seconds < HANG_AFTER_S + MARGIN_S


@pytest.mark.slow
@pytest.mark.parametrize("fault", [FAULTS[1], FAULTS[3], FAULTS[7], FAULTS[10]], ids=lambda fault: fault.name)
def test_a_crash_is_explained_with_mpi(run, fault):
    ended = run("-n 2 --backend mpi", script_of(fault))
    check(fault, ended, fault.code, fault.words)
