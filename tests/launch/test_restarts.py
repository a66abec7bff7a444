"""Jobs that are started anew, and jobs that are slow and no fault."""

import re
import time

import failures_guide
import pytest

FLAKY = """
    import os, sys, pathlib
    here = pathlib.Path(f"tries{os.environ['RANK']}")
    here.write_text(here.read_text() + "x" if here.exists() else "x")
    tries = len(here.read_text())
    print("try", tries)
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
    assert (tmp_path / "logs" / "rank1.txt").read_text().count("try") == 3


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
