"""Jobs that go on with the hosts and slots that are left, or that come."""

import re
import time
from pathlib import Path

import failures_guide
import pytest
from distgrad.launch.plan import Host
from distgrad.launch.roster import Roster, Sizes

from distgrad.errors import LaunchError
from distgrad.launch import roster as rosters

from .conftest import Job

SCRIPT = Path(__file__).with_name("elastic_training.py")


@pytest.fixture
def train(start, tmp_path):
    """Run the training script with options and arguments; returns how it ended, with its parameters' bits."""

    def run(options: str, *arguments: object) -> tuple[object, str]:
        job: Job = start(options, SCRIPT.read_text(), *map(str, arguments))
        ended = job.end()
        job.await_no_process()
        bits = re.findall(r"bits (\w+)", ended.stdout)
        return ended, bits[0] if bits else ""

    return run


def test_four_ranks_become_three_and_four_again_with_the_bits_of_a_run_that_never_stopped(train, tmp_path):
    whole, bits = train("-n 2", tmp_path / "whole", 24)
    assert whole.code == 0, whole.stderr
    (tmp_path / "hosts").write_text("localhost:4\n")
    options = "--hosts-from hosts --min-ranks 2 --max-ranks 4 --max-restarts 2 --log-dir logs"
    ended, found = train(options, tmp_path / "changing", 24, 4, 3, 4)
    assert ended.code == 0, ended.stderr
    attempts = re.findall(r"attempt (\d): (\d) ranks from step (\d+)", ended.stdout)
    assert [each[:2] for each in attempts] == [("0", "4"), ("1", "3"), ("2", "4")]
    steps = [int(each[2]) for each in attempts]
    assert steps[0] < steps[1] < steps[2], ended.stderr
    assert f"checkpoint: saved at step {steps[2]} (SIGUSR1)" in ended.stderr  # it loses nothing
    assert found == bits
    assert "launch: restart 1 of 2 now\nlaunch: 3 ranks on localhost:3 (4 before)\n" in ended.stderr
    assert "launch: there is room for 4 ranks; asked 3 ranks to save and end\n" in ended.stderr
    assert "launch: 4 ranks on localhost:4 (3 before)\n" in ended.stderr
    failures_guide.check("Restarts", "a slot is gone with it, `--min-ranks 2`", ended.stderr)
    assert ended.summary[0] == "launch: restarted 1 times, after"
    for folder, size in (("logs", 4), ("logs/attempt1", 3), ("logs/attempt2", 4)):
        names = {path.name for path in (tmp_path / folder).glob("rank*.txt")}
        assert names == {f"rank{rank}.txt" for rank in range(size)}


def test_too_few_that_are_left_end_the_job_with_the_failures_code(train, tmp_path):
    (tmp_path / "hosts").write_text("localhost:3\n")
    ended, _ = train("--hosts-from hosts -n 3 --min-ranks 2", tmp_path / "run", 24, 3, 1)
    assert ended.code == 137, ended.stderr
    said = "launch: --min-ranks asks for 2 ranks, but there is room for 1 of them on localhost:1"
    assert said in ended.stderr
    assert ended.summary[-1] == "Exit code 137"


def test_a_host_whose_ranks_keep_failing_gives_a_slot_fewer(run):
    script = """
        import os
        print("ranks", os.environ["WORLD_SIZE"], flush=True)
        if os.environ["RANK"] == "2":
            os.kill(os.getpid(), 9)
    """
    ended = run("-n 3 --min-ranks 2 --max-restarts 4", script)
    assert ended.code == 0, ended.stderr
    failures_guide.check("Restarts", "a host's ranks fail first twice in a row", ended.stderr)


def test_hosts_that_nobody_names_at_the_start_are_an_error_and_may_be_waited_for(run, tmp_path):
    ended = run("--hosts-from hosts -n 2", "pass")
    assert ended.code == 2
    assert "launch: --hosts-from: hosts is no file, and cannot be run: No such file" in ended.stderr
    (tmp_path / "hosts").write_text("# none yet\n")
    ended = run("--hosts-from hosts -n 2", "pass")
    assert ended.code == 2
    assert "launch: --min-ranks asks for 2 ranks, but no host can be used" in ended.stderr
    (tmp_path / "come").write_text(
        "#!/bin/sh\ncount=$(cat count 2>/dev/null)\necho x$count >count\n"
        '[ "$count" = xx ] && echo localhost:2\nexit 0\n'
    )
    (tmp_path / "come").chmod(0o755)
    ended = run("--hosts-from ./come -n 2 --wait-for-hosts 60", "print('here')")
    assert ended.code == 0, ended.stderr
    assert "launch: waiting 60 s for room for 2 ranks\n" in ended.stderr
    assert ended.stdout.count("here") == 2


def test_a_command_that_hangs_ends_with_the_launcher(start, tmp_path):
    (tmp_path / "hangs").write_text("#!/bin/sh\necho $$ >&2\ntouch asked\nsleep 1000\n")
    (tmp_path / "hangs").chmod(0o755)
    (tmp_path / "first").write_text("#!/bin/sh\ntest -e later && exec ./hangs\ntouch later; echo localhost\n")
    (tmp_path / "first").chmod(0o755)
    job = start("--hosts-from ./first", "pass")
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "asked").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    job.process.terminate()
    ended = job.end()
    assert ended.code == 143, ended.stderr
    assert "launch: stopped by SIGTERM\n" in ended.stderr
    job.await_no_process()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-n 2 --min-ranks 3", "expected --min-ranks <= -n <= --max-ranks, got 3, 2 and 2"),
        ("-n 4 --min-ranks 2 --max-ranks 3", "got 2, 4 and 3"),
        ("--hosts a:1 --hosts-from x", "--hosts and --hosts-from were both given"),
        ("--hosts-from /bin/false", "--hosts-from: /bin/false exited 1"),
        ("--hosts-from 'unbalanced", '--hosts-from "\'unbalanced": No closing quotation'),
        ("--hosts-from=", "--hosts-from must name a file or a command, got nothing"),
        ("--hosts-from garbage", "launch: garbage, line 1: expected 'name slots=4', 'name:4' or 'name'"),
        ("--hosts-from cat@garbage", "launch: cat garbage, line 1: expected 'name slots=4'"),
        ("--hostfile garbage", "launch: garbage, line 1: expected 'name slots=4'"),
        ("--hosts=-v:1", "--hosts must be like a:4,b:4, got '-v:1'"),
        ("--hosts a..b:1", "host a..b: the name does not resolve ("),
        (f"--hosts a:{'9' * 5000}", "--hosts must be like a:4,b:4"),
        ("--ssh 'x", '--ssh: must be a command, got "\'x": No closing quotation'),
        ("--metrics-port 65536", "must be a port from 1 to 65535, got '65536'"),
        ("-n 2 --wait-for-hosts 5", "--wait-for-hosts is for a job that goes on with the hosts there are"),
        ("-n 2 --restart-window 5", "are for a job that is started anew; give --max-restarts too"),
        ("-n 2 --no-restart-codes 5", "are for a job that is started anew; give --max-restarts too"),
    ],
)
def test_options_that_contradict_each_other(start, tmp_path, options, said):
    (tmp_path / "garbage").write_bytes(b"\xff\xfe\0 " + bytes(range(128, 256)) * 40)
    words = [word.replace("@", " ") for word in options.split(" ")]
    ended = start(words, "pass").end()
    assert ended.code == 2
    assert said in ended.stderr


class Time:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def roster_of(hosts, problems=None, sizes=None, clock=None):
    told = {} if problems is None else problems
    return Roster(
        lambda: hosts,
        lambda asked: {host.name: told[host.name] for host in asked if host.name in told},
        sizes or Sizes(1, 1, 8),
        clock or Time(),
    )


def test_a_host_that_does_not_answer_is_left_out_until_it_does():
    problems = {"b": "no route leads there"}
    roster = roster_of([Host("a", 2), Host("b", 2)], problems)
    usable = roster.look()
    assert (usable.hosts, usable.left_out) == ([Host("a", 2)], problems)
    assert roster.change([Host("a", 2)], usable) == ""
    assert roster.look({"a": None, "b": "known to be down"}).left_out == {"b": "known to be down"}
    problems.clear()
    assert roster.change([Host("a", 2)], roster.look()) == "there is room for 4 ranks"


def test_a_running_job_leaves_a_host_that_is_named_no_more_if_enough_are_left():
    hosts = [Host("a", 2), Host("b", 2)]
    roster = roster_of(hosts, sizes=Sizes(2, 2, 4))
    assert roster.change(hosts, roster.look()) == ""
    present = list(hosts)
    hosts[1:] = []
    assert roster.change(present, roster.look()) == "the job is to leave b"
    hosts[:] = [Host("a", 1)]
    assert roster.change(present, roster.look()) == ""  # it goes on as long as it can
    hosts[:] = [Host("c", 4)]
    assert roster.change(present, roster.look()) == "the job is to leave a, b"


def test_slots_that_fail_come_back_and_the_fewest_ranks_are_kept():
    clock = Time()
    roster = roster_of([Host("a", 2), Host("b", 1)], sizes=Sizes(1, 2, 3), clock=clock)
    roster.blame(["a"])
    assert roster.look().slots == 3
    roster.blame(["a"])
    assert roster.look().hosts == [Host("a", 1), Host("b", 1)]
    roster.blame(["a"])
    assert roster.look().slots == 2
    clock.now_s += 601
    assert roster.look().slots == 3
    for name in "abab":
        roster.blame([name])
        assert roster.look().slots == 3  # not the same host twice in a row


def test_a_watch_that_finds_something_says_so_once_and_only_if_it_stays(monkeypatch):
    monkeypatch.setattr(rosters, "POLL_S", 0.001)
    looks = iter([[2], [2, 2], [2], LaunchError("launch: nobody"), [2, 2], [2, 2], [2, 2]])

    def named():
        slots = next(looks)
        if isinstance(slots, LaunchError):
            raise slots
        return [Host(name, number) for name, number in zip("ab", slots, strict=False)]

    found, failed = [], []
    watch = rosters.HostWatch(
        Roster(named, lambda asked: {}, Sizes(1, 1, 4)), [Host("a", 2)], found.append, failed.append
    )
    watch.start()
    watch.join(60)
    assert not watch.is_alive()
    assert (found, failed) == (["there is room for 4 ranks"], ["launch: nobody"])
    assert len(list(looks)) == 1


def test_the_guide_names_these_restarts_and_no_others():
    folders = (Path(__file__).parent, Path(__file__).parents[1] / "hosts")
    tried = "".join(path.read_text() for folder in folders for path in folder.glob("test_*.py"))
    assert all(f'"{fault}"' in tried for fault in failures_guide.quotations("Restarts"))
