"""What the shared-memory backend does beside the contract: ranks that end, memory that is given back."""

import gc
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ranks_plugin import run_ranks

from distgrad.comm import init
from distgrad.errors import CommError

PROGRAM = """
import os, signal, sys, time
import numpy as np
import distgrad.comm
comm = distgrad.comm.init(timeout_s=30)
comm.all_reduce(np.ones(3))
comm.family.timeout_s = 2  # from here on: how far apart ranks start depends on the machine
if comm.rank == 1:
    {fault}
{call}
print("passed", comm.rank)
"""
CALLS = {
    "blocking": "comm.all_reduce(np.ones(5), 'max')",
    "asynchronous": "comm.all_reduce(comm.allocate(10**6).view(np.float32), async_op=True).wait()",
    "in a group": "comm.split(0).barrier()",
    "message": "comm.recv(np.zeros(1), source=1)",
}


def run_program(text, tmp_path, n=3, **environment):
    program = tmp_path / "program.py"
    program.write_text(text)
    return run_ranks(n, [sys.executable, str(program)], timeout=60, env=environment, backend="shm")


def run_with(fault, tmp_path, call=CALLS["blocking"]):
    job = run_program(PROGRAM.format(fault=fault, call=call), tmp_path)
    assert "passed" not in job.output, job.output
    assert job.returncode not in (0, None), job.output
    return job


ENDS = {
    "exception": "raise ValueError('planted')",
    "exit": "sys.exit(0)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "at once": "os._exit(3)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_rank_that_ends_makes_the_others_calls_raise(end, tmp_path):
    job = run_with(ENDS[end], tmp_path)
    errors = re.findall(r"RankFailedError: collective #1 all_reduce, group 'world': rank (\d)", job.output)
    assert sorted(errors) == ["0", "2"]
    assert job.output.count("waited for rank 1 of the world, which ended without it") >= 2
    assert ("ValueError: planted" in job.output) == (end == "exception")
    assert job.seconds < 25


@pytest.mark.parametrize("call", ["asynchronous", "in a group", "message"])
def test_any_call_raises_when_a_rank_was_killed(call, tmp_path):
    job = run_with(ENDS["killed"], tmp_path, CALLS[call])
    assert job.output.count("waited for rank 1 of the world, which ended without it") >= 2
    assert job.seconds < 25


def test_a_rank_that_skips_a_collective_is_reported(tmp_path):
    job = run_with("time.sleep(4); os._exit(0)", tmp_path)
    assert "CommTimeoutError: collective #1 all_reduce, group 'world': rank 0 called" in job.output
    assert (
        "all_reduce(float64[5], op=max) and waited 2 s for rank 1 of the world; look for a rank" in job.output
    )
    assert "rank 1: in no collective; rank 2: in #1 all_reduce, group 'world', at" in job.output
    assert "#0 all_reduce(float64[3]) at" in job.output


def test_a_rank_that_never_joins_is_reported(tmp_path):
    job = run_program(
        "import os, distgrad.comm\nos.environ['RANK'] == '1' or distgrad.comm.init()\n",
        tmp_path,
        DISTGRAD_TIMEOUT="1",
    )
    assert job.returncode not in (0, None)
    assert "comm.init: waited 1 s for rank 1, 2 of the world" in job.output.replace("ranks", "rank") or (
        "comm.init: waited 1 s for rank 1 of the world" in job.output
    )
    assert job.seconds < 20


def test_a_second_process_of_one_rank_is_an_error(tmp_path):
    job = run_program(
        "import os, sys, subprocess, distgrad.comm\n"
        "comm = distgrad.comm.init(timeout_s=20)\n"
        "if comm.rank == 1 and 'child' not in sys.argv:\n"
        "    child = subprocess.run([sys.executable, __file__, 'child'], capture_output=True, text=True)\n"
        "    assert child.returncode and 'rank 1 of this job exists already' in child.stderr, child.stderr\n"
        "comm.barrier()\n",
        tmp_path,
        n=2,
    )
    assert (job.returncode, job.output) == (0, "")


def test_no_file_is_left_of_ranks_that_were_killed(tmp_path):
    before = set(os.listdir("/dev/shm"))
    job = run_program(
        "import os, numpy as np, distgrad.comm\ncomm = distgrad.comm.init(timeout_s=20)\n"
        "x = comm.allocate(1 << 20); comm.all_reduce(x.view(np.float32)); comm.send(x, 0)\n"
        "print([name for name in os.listdir('/dev/shm') if 'distgrad' in name])\n"
        "os.kill(os.getpid(), 9)",
        tmp_path,
        n=2,
    )
    assert job.returncode == 9
    assert set(os.listdir("/dev/shm")) <= before | {
        name for name in os.listdir("/dev/shm") if "mpich" in name
    }
    assert not job.output.replace("[]", "").strip()


@pytest.mark.ranks(2, backend="shm")
def test_a_fork_that_ends_is_not_the_rank_that_ends():
    comm = init(timeout_s=20)
    comm.barrier()
    child = os.fork()
    if child == 0:
        comm.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert comm.all_reduce(np.ones(1))[0] == 2


@pytest.mark.ranks(2, backend="shm")
def test_messages_wait_without_a_receiver_and_give_their_memory_back():
    comm = init(timeout_s=20)
    other = 1 - comm.rank
    for i in range(300):
        comm.send(np.full(20_000 + i, i), other)
    outboxes = comm.family.neighbours.outboxes.values()
    comm.barrier()
    assert min(os.fstat(outbox).st_blocks for outbox in outboxes) * 512 > 300 * 160_000
    comm.barrier()
    for i in range(300):
        x = np.empty(20_000 + i, np.int64)
        comm.recv(x, other)
        assert x[0] == x[-1] == i
    comm.barrier()
    assert max(os.fstat(outbox).st_blocks for outbox in outboxes) * 512 < 100_000


def count_maps():
    return Path("/proc/self/maps").read_text().count("memfd:distgrad")


@pytest.mark.ranks(3, backend="shm")
def test_memory_and_groups_that_nobody_holds_are_given_back():
    comm = init(timeout_s=20)
    kept = comm.allocate(100_000).view(np.float64)
    view = kept[10:20]
    del kept
    gc.collect()
    before, descriptors = count_maps(), len(os.listdir("/proc/self/fd"))
    for i in range(50):
        x = comm.allocate(100_000 + 2 * i).view(np.uint16)
        x[:] = comm.rank
        assert comm.all_reduce(x)[-1] == 3
        assert comm.split(comm.rank % 2).all_reduce(x) is x
    del x
    gc.collect()
    assert count_maps() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
    view[:] = comm.rank
    np.testing.assert_array_equal(comm.all_reduce(view), np.full(10, 3.0))


@pytest.mark.ranks(2, backend="shm")
def test_slices_are_reduced_in_place_and_by_everyone(monkeypatch):
    """An array in allocated memory does not go through the slots; each rank reduces its own half."""
    from distgrad.comm import hostgroup

    comm = init(timeout_s=20)
    lengths = []
    reduce_arrays = hostgroup.reduce_arrays
    monkeypatch.setattr(
        hostgroup,
        "reduce_arrays",
        lambda arrays, *rest: (lengths.append(len(arrays[0])), reduce_arrays(arrays, *rest)),
    )
    monkeypatch.setattr(hostgroup.HostGroup, "_reduce_piece", None)
    x = comm.allocate(4 * 100_000).view(np.float32)
    x[:] = comm.rank + 1
    comm.all_reduce(x)
    np.testing.assert_array_equal(x, np.full(100_000, 3, np.float32))
    assert sum(comm.all_gather_object(lengths[0])) == 100_000
    assert abs(lengths[0] - 50_000) < 64


def reduced(comm, length, dtype, op):
    """The bits of an array's reduction, in an arena and through the slots."""
    x = comm.allocate(8 * length)[: length * np.dtype(dtype).itemsize].view(dtype)
    x[:] = np.random.default_rng(comm.rank).standard_normal(length) * 10
    y = x.copy()
    comm.all_reduce(x, op)
    comm.all_reduce(y, op)
    assert x.tobytes() == y.tobytes()
    return x.tobytes()


@pytest.mark.ranks(3, backend="shm", timeout=90)
def test_compiled_collectives_give_the_bits_of_the_others(monkeypatch):
    """Also where one rank runs them and another does not yet."""
    from distgrad.comm import meeting

    monkeypatch.setattr(meeting, "_MEETINGS_BEFORE_COMPILING", (10**9, 10**9))
    comm = init(timeout_s=60)
    cases = [
        (length, dtype, op)
        for length in (0, 1, 7, 4000, 40_001, 300_001)
        for dtype in ("float32", "float64", "int64", "float16")
        for op in ("sum", "min", "max", "prod")
    ]
    with np.errstate(all="ignore"):
        expected = [reduced(comm, *case) for case in cases]
    assert comm._host._state is None
    for compiling in ({1}, {0, 1, 2}):
        if comm.rank in compiling and comm._host._state is None:
            comm._host._compile()
        comm.barrier()
        assert (comm._host._state is not None) == (comm.rank in compiling)
        with np.errstate(all="ignore"):
            for case, bits in zip(cases, expected, strict=True):
                assert reduced(comm, *case) == bits, case
        assert len(set(comm.all_gather_object(bits))) == 1


@pytest.mark.slow
@pytest.mark.ranks(3, backend="shm", timeout=240)
@pytest.mark.parametrize("compiling", [{0, 2}, {0, 1, 2}])
def test_compiled_parts_have_the_bits_of_an_all_reduce(compiling):
    from contracts.communicator import CHECKS

    comm = init(timeout_s=200)
    if comm.rank in compiling:
        comm._host._compile()
    for name in ("parts_are_cut_along_the_first_axis", "parts_that_lie_in_different_places_are_reduced"):
        CHECKS[name](comm)


@pytest.mark.ranks(2, backend="shm", timeout=90)
def test_compiled_collectives_wait_for_a_rank_that_is_late_at_any_meeting(monkeypatch):
    """Rank 0 comes late to every meeting, by more than rank 1 sleeps at once."""
    from distgrad.comm import meeting

    monkeypatch.setattr(meeting, "_MEETINGS_BEFORE_COMPILING", (10**9, 10**9))
    comm = init(timeout_s=60)
    comm._host.rank == 0 or comm._host._compile()
    arena = comm.allocate(4 * 50_000).view(np.float32)
    meet = meeting.Meeting.meet
    if comm.rank == 0:
        monkeypatch.setattr(meeting.Meeting, "meet", lambda self: (time.sleep(0.12), meet(self)))
    for x in (np.empty(10, np.float32), np.empty(50_000, np.float32), arena):
        x[:] = np.arange(x.size) % 100 + comm.rank
        np.testing.assert_array_equal(comm.all_reduce(x), 2 * (np.arange(x.size) % 100) + 1)


@pytest.mark.ranks(3, backend="shm", timeout=90)
@pytest.mark.parametrize("pages", ["large", "small"])
def test_memory_of_several_large_pages_is_each_ranks_own(pages, monkeypatch):
    """Also where the kernel refuses them."""
    from distgrad.comm import mapping, meeting

    if pages == "small":
        monkeypatch.setattr(meeting, "enlarge_pages", lambda memory: 0)
        monkeypatch.setattr(mapping, "_find_room", lambda num_bytes: None)
    comm = init(timeout_s=60)
    size = 1_500_007
    memory = comm.allocate(4 * size)
    assert memory.ctypes.data % (4096 if pages == "small" else mapping.LARGE_PAGE_BYTES) == 0
    assert not memory.any()
    x = memory.view(np.float32)
    for compile_now in (False, True):
        if compile_now:
            comm._host._compile()
        x[:] = np.arange(size) % 1000 + comm.rank
        comm.barrier()
        assert comm.all_reduce(x[5:]) is not x
        np.testing.assert_array_equal(x[5:], 3 * (np.arange(size) % 1000)[5:] + 3)
        np.testing.assert_array_equal(x[:5], np.arange(5) + comm.rank)


@pytest.mark.parametrize(
    "call",
    ["blocking", *(pytest.param(each, marks=pytest.mark.slow) for each in ("asynchronous", "in a group"))],
)
def test_a_compiled_wait_ends_with_the_rank_it_waits_for(call, tmp_path):
    fault = "for _ in range(100): comm.barrier()\nif comm.rank == 1: os.kill(os.getpid(), signal.SIGKILL)"
    text = PROGRAM.replace("if comm.rank == 1:\n    {fault}", fault).format(call=CALLS[call])
    text = "import numba" + text.replace("timeout_s = 2", "timeout_s = 50")
    job = run_program(text, tmp_path)
    assert "passed" not in job.output
    assert job.output.count("waited for rank 1 of the world, which ended without it") >= 2
    assert job.seconds < 45


@pytest.mark.ranks(2, backend="shm")
def test_a_compiled_wait_gives_up_past_the_deadline():
    from distgrad.errors import CommTimeoutError

    comm = init(timeout_s=20)
    comm._host._compile()
    comm.barrier()
    comm.family.timeout_s = 1
    if comm.rank == 0:
        with pytest.raises(CommTimeoutError, match="waited 1 s for rank 1 of the world; look for"):
            comm.all_reduce(np.ones(3))
    else:
        time.sleep(3)


@pytest.mark.ranks(2, backend="shm")
def test_a_world_can_be_set_up_again():
    from distgrad.comm import finalize

    for i in range(3):
        comm = init(timeout_s=20)
        assert comm.all_reduce(np.array([comm.rank + i]))[0] == 1 + 2 * i
        finalize()
        with pytest.raises(CommError, match=r"#1 barrier, group 'world': the communicator is closed"):
            comm.barrier()


@pytest.mark.ranks(5, backend="shm", timeout=90)
def test_a_soak_with_random_delays(tmp_path):
    comm = init(timeout_s=60)
    rng, own = np.random.default_rng(0), np.random.default_rng(comm.rank)
    memory = comm.allocate(8 * 60_000).view(np.float64)
    for _ in range(300):
        start, length, inside = rng.integers(0, 1000), rng.integers(0, 50_000), rng.random() < 0.5
        x = memory[start : start + length] if inside else np.empty(length)
        x[:] = comm.rank + 1
        if own.random() < 0.1:
            time.sleep(own.random() * 2e-3)
        work = comm.all_reduce(x, async_op=bool(rng.random() < 0.5))
        if not isinstance(work, np.ndarray):
            work.wait()
        assert (x == 15).all()


def test_a_rank_without_its_place_is_an_error(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "DISTGRAD_JOB_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        CommError, match=r"got RANK=None, WORLD_SIZE=None and no secret; start with: distgrad run"
    ):
        init("shm")
    for name, value in {"RANK": "2", "WORLD_SIZE": "2", "DISTGRAD_JOB_SECRET": "s"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CommError, match="got RANK=2, WORLD_SIZE=2 and a secret"):
        init("shm")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(CommError, match="only 1 of 2 are on this one; use backend 'mpi'"):
        init("shm")
