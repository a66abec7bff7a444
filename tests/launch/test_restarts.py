"""Jobs that are started anew, and jobs that are slow and no fault."""

import re
import time
from pathlib import Path

import failures_guide
import pytest
from distgrad.launch.arguments import make_parser
from distgrad.launch.job import Verdict
from distgrad.launch.restarts import RestartPolicy

FLAKY = """
    import os, sys, pathlib
    here = pathlib.Path(f"tries{os.environ['RANK']}")
    here.write_text(here.read_text() + "x" if here.exists() else "x")
    tries = len(here.read_text())
    print("try", tries)
    print(os.environ["DISTGRAD_ATTEMPT"], os.environ["DISTGRAD_ATTEMPT_CAUSE"])
    if os.environ["RANK"] == "1" and tries <= 2:
        raise OSError(f"fault {tries}")
"""


def test_a_job_is_started_anew_and_its_causes_are_listed(run, tmp_path):
    ended = run("-n 2 --max-restarts 3 --log-dir logs", FLAKY)
    assert ended.code == 0, ended.stderr
    assert "launch: restart 1 of 3 now\n" in ended.stderr
    assert "launch: restart 2 of 3 in 1 s\n" in ended.stderr
    assert ended.seconds > 1.0
    first, *causes, last = ended.summary
    assert first == "launch: restarted 2 times, after"
    assert [re.match(r"  (\d)\. rank 1 on \S+ exited 1 after ", cause)[1] for cause in causes] == ["1", "2"]
    assert last == "Exit code 0"
    for number, folder in enumerate(("logs", "logs/attempt1", "logs/attempt2")):
        printed, told, *_ = (tmp_path / folder / "rank1.txt").read_text().splitlines()
        assert printed == f"try {number + 1}"
        cause = causes[number - 1].partition(". ")[2] if number else ""  # of the attempt before
        assert told == f"{number} {cause}"


def test_restarts_run_out(run):
    ended = run("-n 2 --max-restarts 1", FLAKY)
    assert ended.code == 1
    assert ended.stderr.count("launch: restart ") == 1
    assert ended.summary[-1] == "Exit code 1"


def test_an_interrupted_job_is_not_started_anew(run):
    ended = run("-n 2 --max-restarts 3 --timeout 0.5", "import time; time.sleep(100)")
    assert ended.code == 124
    assert "restart" not in ended.stderr


def test_a_signal_ends_the_restarts_whenever_it_comes(start):
    """Between two attempts, or while one that has failed is being ended."""
    for moment in ("launch: restart 2 of 9 in 1 s", "launch: restart 3 of 9 in 2 s", "[1] stays"):
        stay = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        stay += "if os.environ['RANK'] == '1': print('stays', file=sys.stderr); time.sleep(100)\n"
        stay += "time.sleep(0.5); raise ValueError"
        job = start("-n 2 --max-restarts 9", "raise ValueError" if "restart" in moment else stay)
        while not job.process.stderr.readline().startswith(moment):
            assert job.process.poll() is None
        time.sleep(0.3 if "restart" in moment else 1.0)  # then the other rank is asked in vain
        job.process.terminate()
        ended = job.end()
        assert ended.code == (143 if "restart" in moment else 1), ended.stderr
        assert ended.stderr.count("launch: restart ") == 0, ended.stderr


def test_what_would_fail_again_is_not_started_anew(run):
    ended = run("-n 2 --max-restarts 3 --no-restart-codes 5,6", "import sys; sys.exit(5)")
    assert ended.code == 5
    assert ended.stderr.endswith("launch: not started anew: exit code 5 is one of --no-restart-codes\n")
    ended = run("-n 2 --max-restarts 3", "import nothing_of_that_name")
    assert ended.code == 1
    failures_guide.check("Restarts", "a module is missing", ended.stderr)
    assert ended.stderr.count("launch: ") == 2


class Time:
    """A clock that goes when it is told to."""

    now_s = 1000.0

    def __call__(self):
        return self.now_s


def test_the_policy_counts_within_its_window_and_backs_off_without_progress():
    clock, failed = Time(), Verdict(1, "failed")
    policy = RestartPolicy(2, 60.0, clock=clock)
    said = []
    for progress in (False, False):
        assert policy.refusal(failed, num_steps=0) is None
        said.append(policy.restart(progress))
    assert said == ["restart 1 of 2 within 60 s now", "restart 2 of 2 within 60 s in 1 s"]
    assert policy.refusal(failed, num_steps=9) == ""
    clock.now_s += 61
    assert policy.refusal(failed, num_steps=0) is None
    policy = RestartPolicy(20, clock=clock)
    pauses = [(policy.restart(False), policy.pause_s)[1] for _ in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert policy.restart(True) == "restart 10 of 20 now"
    assert policy.restart(False) == "restart 11 of 20 in 1 s"


@pytest.mark.parametrize(
    ("verdict", "steps", "again"),
    [
        (Verdict(1, "", "Traceback\n  File\nNameError: name 'x' is not defined\n"), 0, False),
        (Verdict(1, "", "Traceback\n  File\nNameError: name 'x' is not defined\n"), 1, True),
        (Verdict(1, "", "ImportError: first\n\nDuring …\n\nOSError: then\n"), 0, True),
        (Verdict(1, "", "  File 'x'\n    x = = 2\nSyntaxError: invalid syntax\n"), 0, False),
        (Verdict(1, "", "Traceback\n  File\ndistgrad.errors.OptionError: SGD: lr must …\n"), 0, False),
        (Verdict(1, "", "Traceback\n  File\ndistgrad.errors.DataError: a file\n"), 0, True),
        (Verdict(2, ""), 0, False),
        (Verdict(2, ""), 3, True),
        (Verdict(137, ""), 0, True),
        (Verdict(143, "", final=True), 9, False),
    ],
)
def test_mistakes_in_the_script_are_told_from_what_may_pass(verdict, steps, again):
    assert (RestartPolicy(3).refusal(verdict, steps) is None) is again


def test_near_the_time_limit_the_ranks_save_and_end(start, tmp_path):
    script = Path(__file__).with_name("elastic_training.py").read_text()
    job = start(
        "-n 2 --time-limit 0:58 --grace 53 --preempt-code 99", script, str(tmp_path / "run"), "1000000"
    )
    ended = job.end()
    assert ended.code == 99, ended.stderr
    failures_guide.check("Restarts", "the time limit is near", ended.stderr)
    job.await_no_process()


def test_ranks_that_do_not_heed_the_time_limit_are_ended_at_it(run):
    ended = run("-n 2 --time-limit 3 --grace 2 --max-restarts 2", "import time; time.sleep(100)")
    assert ended.code == 124
    assert "launch: stopped after --time-limit 3 s; still running: rank 0, 1" in ended.stderr
    assert "restart" not in ended.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--time-limit 10", "--time-limit 10 s leaves nothing before the 10 s of --grace"),
        ("--time-limit 1:2:3:4", "must be seconds, or a time like 2:30:00"),
        ("--time-limit 0", "must be a positive number of seconds"),
        ("--preempt-code 256", "must be an exit code from 0 to 255"),
        ("--no-restart-codes 0", "must be exit codes from 1 to 255"),
        ("--requeue", "--requeue is for a job of Slurm's"),
    ],
)
def test_what_is_no_time_or_code_is_refused(run, options, said):
    ended = run(options, "pass", SLURM_JOB_ID="") if options == "--requeue" else run(options, "pass")
    assert ended.code == 2
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("2:30", 150), ("1:00:00", 3600), ("1-12", 129600), ("1-12:30", 131400)],
)
def test_times_are_written_as_slurm_does(text, seconds):
    parsed = make_parser("x").parse_args(["--time-limit", text, "x.py"])
    assert parsed.time_limit == seconds


STEPS = """
    import os, time
    import numpy as np
    import distgrad.comm
    comm = distgrad.comm.init()
    def compute(seconds):
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            pass
    x = np.ones(3)
    for seconds in {steps}:
        if comm.rank == {slow}:
            compute(seconds)
        comm.all_reduce(x)
    print(int(x[0]))
"""


@pytest.mark.slow
def test_a_rank_that_is_slower_than_the_limit_is_reported_and_waited_for(run):
    ended = run("-n 2 --hang-after 4", STEPS.format(steps=[3.5, 7], slow=1))
    assert ended.code == 0, ended.stderr
    failures_guide.check("Fault and summary", "slow, and no fault", ended.stderr)
    assert ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_hang_may_be_reported_only(run):
    ended = run("-n 2 --hang-after 2 --hang-report-only", STEPS.format(steps=[0, 6], slow=1))
    assert ended.code == 0, ended.stderr
    assert ended.stderr.count("launch: never arrived: rank 1 on ") == 1
    assert ended.stderr.endswith("; going on\n")


@pytest.mark.slow
def test_steps_of_twenty_seconds_raise_no_alarm(run):
    ended = run("-n 2 --hang-after 30", STEPS.format(steps=[20, 20], slow=0))
    assert (ended.code, ended.stderr) == (0, "")
