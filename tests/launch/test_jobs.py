"""Whole jobs: what ranks find, what reaches the screen, and how a failure ends all of them."""

import json
import os
import re
import sys

import pytest
from distgrad.launch.job import Options
from distgrad.launch.logs import Console
from distgrad.launch.plan import Host, place
from distgrad.launch.rank import usable_cores
from distgrad.launch.start import Starter
from distgrad.launch.supervise import Supervisor

ENDS_WITHIN_S = 30.0  # also where others use the processors


def test_ranks_find_their_place_and_their_lines_stay_whole(run, tmp_path):
    ended = run(
        "-n 3 --env COLOUR=blue=green --env OMP_NUM_THREADS=7 -x OPENBLAS_NUM_THREADS --log-dir logs",
        """
        import json, os, sys
        names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE NODE_RANK COLOUR OMP_NUM_THREADS".split()
        place = {name: os.environ[name] for name in names}
        place |= {"argv": sys.argv, "path": sys.path[0], "name": __name__, "file": __file__}
        place["main"] = sys.modules["__main__"].__dict__ is globals()
        place["threads"] = os.environ["OPENBLAS_NUM_THREADS"]
        print(json.dumps(place, sort_keys=True))
        rank = os.environ["RANK"]
        for count in range(2000):
            line = f"{rank} {count} " + rank * (count % 300) + "\\n"
            for start in range(0, len(line), 97):  # many writes a line
                os.write(1 + count % 2, line[start : start + 97].encode())
        os.write(1, b"no newline at the end")
        """,
        "--flag",
        "-n",
        "9",
        OPENBLAS_NUM_THREADS="3",
    )
    assert (ended.code, ended.stderr.count("launch:")) == (0, 0)
    for rank in map(str, range(3)):
        place, *out = [line[4:] for line in ended.stdout.splitlines() if line.startswith(f"[{rank}] ")]
        assert f'"RANK": "{rank}"' in place
        assert f'"LOCAL_RANK": "{rank}"' in place
        for part in (
            '"WORLD_SIZE": "3"',
            '"LOCAL_WORLD_SIZE": "3"',
            '"NODE_RANK": "0"',
            '"COLOUR": "blue=green"',
            '"OMP_NUM_THREADS": "7"',
            '"threads": "3"',
            '"argv": ["script.py", "--flag", "-n", "9"]',
            f'"path": "{tmp_path}"',
            '"name": "__main__"',
            '"file": "script.py"',
            '"main": true',
        ):
            assert part in place
        lines = [f"{rank} {count} " + rank * (count % 300) for count in range(2000)]
        assert out == [*lines[::2], "no newline at the end"]
        assert [line[4:] for line in ended.stderr.splitlines() if line[1] == rank] == lines[1::2]
        log = (tmp_path / "logs" / f"rank{rank}.txt").read_text().splitlines()
        assert sorted(log) == sorted([place, *lines, "no newline at the end"])


@pytest.mark.parametrize("backend", ["shm", "mpi"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_bound_ranks_have_cores_and_as_many_threads_of_their_own(run, number, backend):
    script = """
        import json, os, threading
        found = []
        thread = threading.Thread(target=lambda: found.extend(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        print(json.dumps([sorted(os.sched_getaffinity(0)), sorted(found), os.environ["OMP_NUM_THREADS"]]))
    """
    cores = usable_cores()
    each = max(1, len(cores) // number)
    dealt = [cores[each * rank : each * (rank + 1)] or [cores[rank % len(cores)]] for rank in range(number)]
    for options, expected in (("--bind", dealt), ("", [sorted(os.sched_getaffinity(0))] * number)):
        ended = run(f"-n {number} --backend {backend} {options}", script, OMP_NUM_THREADS="")
        assert (ended.code, ended.stderr) == (0, "")
        for rank, line in enumerate(sorted(ended.stdout.splitlines())):
            assert line.startswith(f"[{rank}] ")
            own, of_thread, threads = json.loads(line[4:])
            assert own == of_thread == expected[rank]
            assert threads == str(len(dealt[rank]))
        said = f"launch: {number} ranks share {len(cores)} core"
        assert ended.crowd.count("\n") == ended.crowd.count(said) == (number > len(cores))


def test_one_rank_as_a_module_quietly(run, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(
        "import sys\nfrom . import helper\nprint(__name__, __package__, sys.argv[1:], helper.WORD)\n"
        "print(repr(sys.stdin.read()))\n"
    )
    (tmp_path / "package" / "helper.py").write_text("WORD = 'helped'\n")
    for options, lines in (("-n 2 --quiet", 2), ("-n 2", 4), ("", 2)):
        ended = run(f"{options} -m package", "", "--quiet")
        assert (ended.code, ended.stderr) == (0, "")
        shown = ended.stdout.splitlines()
        assert len(shown) == lines
        assert "[0] __main__ package ['script.py', '--quiet'] helped" in shown
        assert "[0] ''" in shown  # standard input is empty


@pytest.mark.parametrize(
    ("prepare", "wait"),
    [
        ("pass", "time.sleep(1000)"),
        ("from mpi4py import MPI", "MPI.COMM_WORLD.Barrier()"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "time.sleep(1000)"),
    ],
    ids=["sleep", "barrier", "ignoring SIGTERM"],
)
def test_an_exception_ends_the_others_and_is_printed_last(run, prepare, wait, tmp_path):
    ended = run(
        f"-n 3 --quiet --log-dir logs {'--backend mpi' if 'mpi4py' in prepare else ''}",
        f"""
        import os, signal, time
        {prepare}
        if os.environ["RANK"] == "1":
            time.sleep(0.3)
            def fail():
                print("at", time.monotonic())
                raise ValueError("out of luck")
            fail()
        {wait}
        """,
    )
    assert ended.code == 1
    assert ended.seconds_since((tmp_path / "logs" / "rank1.txt").read_text()) < ENDS_WITHIN_S
    first, *traceback = ended.summary
    words = r"launch: rank 1 on \S+ exited 1 after \d\.\d s; stopped 2 other ranks. See logs/rank1.txt"
    assert re.fullmatch(words, first)
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[1].startswith('  File "script.py", line ')
    assert traceback[-1] == "ValueError: out of luck"
    assert ended.stderr.count("out of luck") == 2  # the line of code, and the error


def test_every_exception_is_printed_once(run):
    ended = run("-n 2", "this is no Python")
    assert ended.code == 1
    assert ended.stderr.count("SyntaxError") == 1
    assert ended.summary[-1].startswith("SyntaxError: ")
    ended = run(
        "-n 2",
        """
        import atexit, os, sys, time
        previous = sys.excepthook
        def hook(*failure):
            print("hook called", file=sys.stderr)
            previous(*failure)
        sys.excepthook = hook
        try:
            time.sleep(0.3 * int(os.environ["RANK"]))
            raise KeyError(os.environ["RANK"])
        finally:
            atexit.register(print, "goodbye")
        """,
    )
    assert ended.code == 1
    assert ended.summary[-1] == "KeyError: '0'"
    assert ended.stderr.count("KeyError: '0'") == 1
    assert ended.stderr.count("KeyError: '1'") <= 1
    assert "[0] hook called" in ended.stderr
    assert "[0] goodbye" in ended.stdout
    ended = run("-n 2 -m no.such.module", "")
    assert ended.code == 1
    assert ended.stderr.count("ModuleNotFoundError") == 1


@pytest.mark.parametrize(
    ("ending", "code", "words"),
    [
        ("sys.exit(3)", 3, r"exited 3 after \d\.\d s; stopped 1 other rank"),
        ("sys.exit('a reason')", 1, r"exited 1 after .*"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            137,
            r"exited 137 after .* \(SIGKILL: likely out of memory.*\);.*",
        ),
        (  # the rank's watcher, once it has passed on what the rank printed
            "time.sleep(0.5); os.kill(os.getppid(), signal.SIGKILL)",
            137,
            r"exited 137 after .*",
        ),
        ("ctypes.string_at(0)", 139, r"exited 139 after .* \(SIGSEGV: invalid memory access .*\);.*"),
        ("MPI.COMM_WORLD.Abort(7); time.sleep(100)", 7, r"called MPI_Abort\(7\) after .*"),
    ],
    ids=["exit", "message", "killed", "watcher killed", "segfault", "abort"],
)
def test_the_rank_that_ends_first_is_named(run, ending, code, words):
    ended = run(
        "-n 2 --backend mpi",
        f"""
        import ctypes, os, signal, sys, time
        from mpi4py import MPI
        if MPI.COMM_WORLD.rank == 1:
            time.sleep(0.2)
            print("at", time.monotonic(), flush=True)
            {ending}
            time.sleep(100)
        MPI.COMM_WORLD.Barrier()
        """,
    )
    assert ended.code == code
    assert ended.seconds_since(ended.stdout) < ENDS_WITHIN_S
    assert re.fullmatch(rf"launch: rank 1 on \S+ {words}", ended.summary[0])
    assert ("[1] a reason" in ended.stderr) is ("reason" in ending)
    assert ("Fatal Python error: Segmentation fault" in ended.stderr) is ("ctypes" in ending)


def test_a_rank_may_end_early_and_the_time_limit_shows_where_the_others_stand(run):
    ended = run(
        "-n 3 --timeout 1.5 --quiet",
        """
        import os, time
        def stand_still():
            time.sleep(1000)
        if os.environ["RANK"] != "0":
            stand_still()
        """,
    )
    assert ended.code == 124
    assert 1.5 < ended.seconds < 1.5 + ENDS_WITHIN_S
    assert "\n".join(ended.summary) == (
        "launch: stopped after --timeout 1.5 s; still running: rank 1, 2; ended before: rank 0. "
        "The stacks of the running ranks stand above"
    )
    stacks = (
        r'Stacks of ranks 1 and 2:\n.*\n  File "script.py", line 4 in stand_still\n  File "script.py", line 6'
    )
    assert re.match(stacks, ended.stderr)
    ended = run("-n 2 --timeout 60", "import os, time; time.sleep(0.5 * int(os.environ['RANK']))")
    assert (ended.code, ended.stderr) == (0, "")


def test_processes_that_a_rank_leaves_end_with_the_job(run):
    ended = run(
        "-n 2",
        """
        import subprocess, sys
        sleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(1000)"]
        for detached in (False, True):
            child = subprocess.Popen(sleep, start_new_session=detached, stdout=subprocess.PIPE)
            child.stdout.readline()
        print("leaving")
        """,
    )
    assert ended.code == 0
    assert sorted(ended.stdout.splitlines()) == ["[0] leaving", "[1] leaving"]


def test_one_rank_inside_another_mpi_job_is_a_world_of_one(run):
    script = "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"
    ended = run("", script, PMI_RANK="3", PMI_SIZE="5", PMI_FD="99")
    assert (ended.code, ended.stdout) == (0, "[0] 1\n")


def test_a_rank_may_leave_as_soon_as_it_has_joined(run):
    script = """
        import os, time
        import distgrad.comm.neighbours as neighbours
        received = neighbours.Neighbours._receive
        def late(self, topic, missing):
            if topic.startswith("group"):
                time.sleep(0.5)  # the first rank has sent the memory, and ended
            return received(self, topic, missing)
        neighbours.Neighbours._receive = late
        import distgrad.comm
        distgrad.comm.init("shm")
        print("joined")
        os._exit(0)
    """
    ended = run("-n 2", script)
    assert (ended.code, ended.stderr) == (0, "")
    assert sorted(ended.stdout.splitlines()) == ["[0] joined", "[1] joined"]


def test_output_that_nobody_reads_ends_the_job(start):
    job = start("-n 2", "while True: print('y' * 50)")
    job.await_lines("[0] " + "y" * 50, "[1] " + "y" * 50)
    job.process.stdout.close()
    assert job.process.wait(ENDS_WITHIN_S) == 141
    assert job.processes() == []
    assert job.process.stderr.read() == ""


def test_a_starter_that_fails_is_quoted(capfdbinary):
    specs = place([Host("here", 2)], 2)
    starter = Starter(("/bin/sh", "-c", "echo no room; exit 7"), os.environ)
    console = Console(sys.stdout.buffer, sys.stderr.buffer, 2)
    assert Supervisor(specs, lambda _: starter, os.environ, console, Options()).run() == 7
    assert console.flush(5)
    assert capfdbinary.readouterr().err == (
        b"launch: the starter exited 7 before rank 0, 1 had started. It said:\nno room\n"
    )
