"""Ranks started from a prompt or a notebook's cell."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import CommError, LaunchError


def in_a_program(source, timeout=60, **options):
    """Run a program as a notebook would: its functions are in no file."""
    command = [sys.executable, "-c", textwrap.dedent(source)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_rank_returns(ranks):
    done = in_a_program(f"""
        import numpy as np
        import distgrad as dg

        offset = 10

        def work(factor):
            comm = dg.comm.init()
            print("here is", comm.rank, flush=True)
            return comm.rank, comm.size, float(comm.all_reduce(np.array([factor * comm.rank + offset]))[0])

        found = dg.spawn(work, 2.0, ranks={ranks})
        total = 2.0 * sum(range({ranks})) + 10 * {ranks}
        assert found == [(rank, {ranks}, total) for rank in range({ranks})], found
        assert dg.spawn(lambda: dg.comm.get_world().size, ranks=2) == [2, 2]
        assert not dg.comm.is_initialized()
    """)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert lines == [f"[rank {rank}] here is {rank}" for rank in range(ranks)]


def test_training_gives_one_process_bits_and_workers_see_what_was_defined_here():
    done = in_a_program("""
        import numpy as np
        import distgrad as dg
        from distgrad import nn
        from distgrad.data import DataLoader, DistributedSampler, TensorDataset

        data = TensorDataset(dg.asarray(np.arange(12, dtype=np.float32).reshape(12, 1) / 12))

        def train():
            model = dg.parallel.DistributedDataParallel(nn.Linear(1, 1), exact=True, shards=4)
            optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
            for epoch in range(3):
                for x in model.shards(data.tensors[0]):
                    ((model(x) - x) ** 2).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            return dg.parallel.parameter_hash(model)

        dg.manual_seed(0)
        hashes = {value for ranks in (1, 2, 3) for value in dg.spawn(train, ranks=ranks)}
        assert len(hashes) == 1, hashes
    """)
    assert done.returncode == 0, done.stderr


def test_the_rank_that_raised_is_shown():
    def fail():
        comm = dg.comm.init()
        if comm.rank == 1:
            raise ZeroDivisionError("on purpose")
        comm.all_reduce(np.ones(1))
        time.sleep(60)

    start_s = time.monotonic()
    with pytest.raises(LaunchError, match=r"(?s)rank 1 failed:.*on purpose|rank 0 failed:.*rank 1"):
        dg.spawn(fail, ranks=2)
    assert time.monotonic() - start_s < 30


def test_a_rank_that_is_killed_is_named():
    def die():
        if dg.comm.init().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(LaunchError, match=r"rank 1 ended with exit code 137 SIGKILL"):
        dg.spawn(die, ranks=2)


def test_time_runs_out():
    with pytest.raises(LaunchError, match="have not ended in time"):
        dg.spawn(time.sleep, 60, ranks=2, timeout_s=1)


def test_what_it_refuses():
    with pytest.raises(CommError, match="ranks must be a whole number from 1"):
        dg.spawn(int, ranks=0)

    def again():
        return dg.spawn(int, ranks=2)

    with pytest.raises(LaunchError, match=r"this process is rank \d of 2 already"):
        dg.spawn(again, ranks=2)


class Odd:
    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda: os._exit(0), r"rank \d ended with exit code 0 before its function had returned"),
        (lambda: os._exit(3), r"rank \d ended with exit code 3"),
        (lambda: sys.exit(3), r"(?s)rank \d failed:.*SystemExit: 3"),
        (lambda: time.sleep, "OK"),
        (lambda: lambda: 1, r"(?s)rank \d failed:.*pickle"),
        (Odd, r"what rank \d returned cannot be unpickled here \(ZeroDivisionError: division by zero\)"),
    ],
    ids=["left", "left-3", "exit-3", "fine", "not-pickled", "not-unpickled"],
)
def test_every_end_is_told_as_what_it_was(function, told):
    if told == "OK":
        assert dg.spawn(function, ranks=2) == [time.sleep] * 2
        return
    with pytest.raises(LaunchError, match=told):
        dg.spawn(function, ranks=2)


def test_results_and_lines_of_many_megabytes_come_through(capfd):
    def much():
        print("x" * 20_000_000)
        return np.zeros(50_000_000, np.uint8)

    found = dg.spawn(much, ranks=2, timeout_s=60)
    assert [array.nbytes for array in found] == [50_000_000] * 2
    assert len(capfd.readouterr().out) == 2 * (20_000_000 + len("[rank 0] \n"))


def test_a_bar_that_was_drawn_over_is_not_shown(capfd):
    def draw():
        print("|..|\r|x.|\r    \rdone\r")

    dg.spawn(draw, ranks=1)
    assert capfd.readouterr().out == "[rank 0] done\n"


@pytest.mark.parametrize("raises", [False, True])
def test_what_a_rank_leaves_running_neither_holds_the_call_nor_outlives_it(tmp_path, raises):
    def leave():
        subprocess.Popen(["sleep", "600"], env={"LEFT": str(tmp_path)})
        if os.fork() == 0:  # it holds the pipes of the results too
            os.execvpe("sleep", ["sleep", "600"], {"LEFT": str(tmp_path)}) if raises else time.sleep(600)
        if raises:
            raise ZeroDivisionError("on purpose")

    if raises:
        with pytest.raises(LaunchError, match="on purpose"):
            dg.spawn(leave, ranks=2, timeout_s=60)
    else:
        assert dg.spawn(leave, ranks=2, timeout_s=60) == [None, None]
    deadline_s = time.monotonic() + 60
    while alive(f"LEFT={tmp_path}"):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def alive(marker):
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_an_interrupt_or_the_end_of_the_program(number, tmp_path):
    marker = f"DISTGRAD_SPAWN_TEST={tmp_path}"
    source = """
        import time
        import distgrad as dg

        def sleep():
            print("ready", flush=True)
            time.sleep(60)

        dg.spawn(sleep, ranks=2)
    """
    command = [sys.executable, "-u", "-c", textwrap.dedent(source)]
    environment = {**os.environ, "DISTGRAD_SPAWN_TEST": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        assert sorted(lines) == ["[rank 0] ready\n", "[rank 1] ready\n"]
        assert len(alive(marker)) == 3
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in errors
        assert not list(tmp_path.glob("distgrad-spawn-*"))
    deadline_s = time.monotonic() + 60
    while alive(marker):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
