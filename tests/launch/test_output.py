"""Output that is read late, or never, or cannot be written: no job that works is called failed for it."""

import os
import re
import resource
import select
import signal
import subprocess
import sys
import time

import pytest

from .conftest import LIMIT_S

LINES = 4000  # of 200 characters a rank: several times what pipes and the launcher hold
WRITES = f"""
    import os, sys, time
    import distgrad.comm
    comm = distgrad.comm.init()
    with open(f"runs{{comm.rank}}", "a") as file:
        file.write("x")
    for count in range({LINES}):
        print(f"{{count:06d}} ".ljust(199, "x"))
    comm.barrier()
    print("over")
"""


def lines_of(rank, stdout):
    return [line for line in stdout.splitlines() if line.startswith(f"[{rank}] ")]


def check_lines(stdout, num_ranks=2):
    """See every line of every rank, once and in its order."""
    expected = [f"{count:06d} ".ljust(199, "x") for count in range(LINES)]
    for rank in range(num_ranks):
        assert [line[4:] for line in lines_of(rank, stdout)] == [*expected, "over"]


@pytest.mark.parametrize("backend", ["shm", "mpi"], ids=["without MPI", "by mpiexec"])
def test_a_reader_that_pauses_holds_the_ranks_up_and_no_more(start, tmp_path, backend):
    job = start(f"-n 2 --backend {backend} --hang-after 1 --max-restarts 2", WRITES)
    time.sleep(4)  # nobody reads: the ranks wait, and are not judged
    assert job.process.poll() is None
    ended = job.end()
    assert (ended.code, ended.stderr) == (0, "")
    check_lines(ended.stdout)
    assert [(tmp_path / f"runs{rank}").read_text() for rank in range(2)] == ["x", "x"]
    assert job.processes() == []


def test_one_stream_that_is_not_read_leaves_the_other_to_flow(start):
    script = """
        import sys
        for count in range(590):  # more than the launcher's pipe holds
            print("x" * 199, file=sys.stderr)
        for count in range(10000):
            print("x" * 199)
    """
    job = start("-n 1", script)
    lines = [job.process.stdout.readline() for _ in range(10000)]  # at a few kilobytes a second, or none
    assert set(lines) == {"[0] " + "x" * 199 + "\n"}
    ended = job.end()
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (0, "", 590)


def test_a_job_that_is_over_waits_for_its_reader(start):
    job = start("-n 2 --hang-after 1 --max-restarts 2", "print('x' * 70000)")  # more than a pipe holds
    time.sleep(3)
    assert job.process.poll() is None
    ended = job.end()
    assert (ended.code, ended.stderr) == (0, "")
    assert sorted(map(len, ended.stdout.splitlines())) == [70004, 70004]


def test_a_failure_is_told_when_its_reader_goes_on(start):
    script = "print('x' * 70000)\nraise ValueError('out of luck')"
    job = start("-n 1", script)
    time.sleep(4)
    assert job.process.poll() is None
    ended = job.end()
    assert ended.code == 1
    assert ended.summary[-1] == "ValueError: out of luck"
    assert len(ended.stdout) == 70005


def await_that(condition):
    """Wait for a condition."""
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def await_silence(job):
    """Let the ranks write until nothing more goes into the pipe, not all pages of which need be full."""

    def is_full():
        end = os.open(f"/proc/self/fd/{job.process.stdout.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            return not select.select([], [end], [], 0)[1]
        finally:
            os.close(end)

    await_that(is_full)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_reader_that_never_goes_on_does_not_keep_a_signal_from_ending_the_job(start, number, code):
    job = start("-n 2", WRITES)
    await_silence(job)
    job.process.send_signal(number)
    assert job.process.wait(LIMIT_S) == code
    assert job.processes() == []
    assert f"launch: stopped by {number.name} after " in job.process.stderr.read()


def test_a_reader_that_never_goes_on_does_not_keep_the_time_limit_from_ending_the_job(start):
    job = start("-n 2 --timeout 3", WRITES)
    assert job.process.wait(LIMIT_S) == 124
    assert job.processes() == []
    assert "launch: stopped after --timeout 3 s; still running: rank 0, 1" in job.process.stderr.read()


def test_a_time_limit_also_ends_the_wait_for_a_reader(start):
    job = start("-n 1 --timeout 2", "print('x' * 70000)")
    assert job.process.wait(LIMIT_S) == 124
    assert "every rank had ended and nobody read what they wrote" in job.process.stderr.read()


def test_a_hang_is_found_while_a_pipe_is_full(start, tmp_path):
    """Of ranks that wait for each other; what fills the pipe is the launcher's own affair."""
    script = """
        import os, time
        import distgrad.comm
        comm = distgrad.comm.init()
        open(f"ran{comm.rank}", "w").close()
        print("y" * 30000)
        if comm.rank == 1:
            print("y" * 60000)
            time.sleep(1000)
        comm.barrier()
    """
    job = start("-n 2 --hang-after 2", script)
    await_that(lambda: len(list(tmp_path.glob("ran*"))) == 2)
    await_that(lambda: len(job.processes()) <= 1)  # the launcher, which waits for its reader
    assert job.process.poll() is None
    ended = job.end()
    assert ended.code == 3
    assert ended.summary[0].startswith("launch: never arrived: rank 1 on ")
    assert len(ended.stdout) == 120015  # three lines and their prefixes


def test_a_launcher_that_was_stopped_judges_nobody(start):
    """As by Ctrl-Z: the ranks go on, and their watchers wait for it."""
    script = """
        import sys, time
        import distgrad.comm
        comm = distgrad.comm.init()
        comm.rank or print("ready", file=sys.stderr)
        for count in range(300):
            print("x" * 2000)
            comm.barrier()
            time.sleep(0.01)
    """
    job = start("-n 2 --hang-after 1 --max-restarts 1", script)
    assert job.process.stderr.readline() == "[0] ready\n"
    job.process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    job.process.send_signal(signal.SIGCONT)
    ended = job.end()
    assert (ended.code, ended.stderr) == (0, "")
    assert [len(lines_of(rank, ended.stdout)) for rank in range(2)] == [300, 300]


def test_two_streams_into_one_pipe_keep_their_order(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, time\n"
        "for count in range(200):\n"
        "    os.write(1 + count % 2, b'%d\\n' % count)\n"
        "    time.sleep(0.005)\n"  # two pipes: what is written at once has no order
    )
    done = subprocess.run(
        [sys.executable, "-m", "distgrad.launch", "script.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == b" ".join(b"[0] %d" % count for count in range(200)).split()


def test_a_pipe_that_others_made_nonblocking_is_waited_for(tmp_path):
    (tmp_path / "script.py").write_text("print('x' * 500000)")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    job = subprocess.Popen(
        [sys.executable, "-m", "distgrad.launch", "script.py"], cwd=tmp_path, stdout=writer
    )
    os.close(writer)
    time.sleep(1)
    with open(reader, "rb") as file:
        assert len(file.read()) == 500005
    assert job.wait(LIMIT_S) == 0


def run_with_files_of(limit_bytes, folder, options, script, stdout):
    """Run a job whose files may have so many bytes: EFBIG comes as ENOSPC does, without a disk to fill."""
    (folder / "script.py").write_text(script)
    return subprocess.run(
        [sys.executable, "-m", "distgrad.launch", *options.split(), "script.py"],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )


@pytest.mark.parametrize("lines", [1, 2000])
def test_output_onto_a_full_disk_ends_the_job_in_words(tmp_path, lines):
    script = f"open('runs', 'a').write('x')\nfor _ in range({lines}): print('x' * 99)"
    with open("/dev/full", "wb") as full:
        done = run_with_files_of(1 << 30, tmp_path, "-n 1 --max-restarts 2", script, full)
    assert done.returncode == 74, done.stderr
    assert done.stderr == (
        "launch: standard output cannot be written (No space left on device); "
        "stopped the job, whose words get lost\n"
    )
    assert (tmp_path / "runs").read_text() == "x"


def test_logs_onto_a_full_disk_are_cut_short_in_words_and_the_job_goes_on(tmp_path):
    script = "import sys\nfor count in range(400): print('x' * 99)"
    done = run_with_files_of(20000, tmp_path, "-n 2 --log-dir logs", script, subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 800
    words = r"launch: logs/rank(\d)\.txt: File too large; no more is written to it, and the job goes on"
    assert sorted(re.fullmatch(words, line)[1] for line in done.stderr.splitlines()) == ["0", "1"]
    for rank in range(2):
        assert 0 < (tmp_path / "logs" / f"rank{rank}.txt").stat().st_size <= 20000


@pytest.mark.parametrize("megabytes", [1, 5])
def test_a_long_line_passes(run, megabytes):
    ended = run("-n 4", f"import os; print(os.environ['RANK'] * {megabytes * 1_000_000})")
    assert (ended.code, ended.stderr) == (0, "")
    for rank in map(str, range(4)):
        pieces = [line[4:] for line in lines_of(rank, ended.stdout)]
        assert "".join(pieces) == rank * megabytes * 1_000_000
        assert [len(piece) == 1 << 20 for piece in pieces[:-1]] == [True] * (len(pieces) - 1)
