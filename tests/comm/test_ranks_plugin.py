"""Multi-rank tests themselves: what they show when a rank fails, hangs or skips, under either command."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ranks_plugin import run_ranks

TESTS = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path):
    """A folder with this project's test set-up and room for a planted test file."""
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "ranks_plugin.py"):
        (tmp_path / "tests" / name).write_text((TESTS / name).read_text())
    # Plugins that it does not copy are this folder's.
    settings = (TESTS.parent / "pyproject.toml").read_text()
    settings = settings.replace('pythonpath = ["tests"]', f'pythonpath = ["tests", "{TESTS}"]')
    (tmp_path / "pyproject.toml").write_text(settings)
    (tmp_path / "temporary").mkdir()

    def write(text):
        file = tmp_path / "tests" / "test_planted.py"
        file.write_text(
            "import sys, time\nimport pytest\nfrom distgrad.comm import init\n" + textwrap.dedent(text)
        )
        return file

    return write


def run_pytest(file, *options):
    temporary = file.parents[1] / "temporary"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *options],
        cwd=file.parents[1],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert not list(temporary.glob("distgrad-ranks-*")), "a job's folder is left"
    return done.returncode, done.stdout + done.stderr


def test_passes_run_on_every_rank_with_their_parameters(project):
    file = project("""
        @pytest.fixture
        def world():
            return init()

        @pytest.mark.ranks(2)
        class TestGroup:
            @pytest.mark.parametrize("text", ["a b/[c]'d'", "$HOME"])
            def test_param(self, text, world, tmp_path):
                assert text in ("a b/[c]'d'", "$HOME")
                assert (world.backend, world.size) == ("mpi", 2)
                ranks = world.all_gather_object((world.rank, str(tmp_path)))
                assert [rank for rank, _ in ranks] == [0, 1]
                assert ranks[0][1] != ranks[1][1]
    """)
    code, output = run_pytest(file, "-x")
    assert code == 0, output
    assert "2 passed" in output


def test_the_first_failing_rank_is_shown_and_ends_the_job(project):
    file = project("""
        @pytest.mark.ranks(3)
        def test_fail():
            world = init()
            print("before on rank", world.rank)
            if world.rank == 1:
                planted = 41
                assert planted == 42
            world.barrier()

        def test_other():
            pass
    """)
    code, output = run_pytest(file)
    assert code == 1
    assert "1 failed, 1 passed" in output
    assert "rank 1 of 3 failed first" in output
    assert "assert planted == 42" in output
    assert "before on rank 1" in output
    assert "before on rank 0" not in output


def test_a_hang_shows_every_ranks_stack(project):
    file = project("""
        def wait_for_nothing():
            time.sleep(60)

        @pytest.mark.ranks(2, timeout=4)
        def test_hang():
            world = init()
            wait_for_nothing() if world.rank == 0 else world.barrier()
    """)
    code, output = run_pytest(file)
    assert code == 1
    assert "2 ranks: timed out after 4 s" in output
    rank_0, rank_1, *_ = output.split("----- rank 1 -----")  # the summary may say it all once more
    assert "in wait_for_nothing" in rank_0
    assert "in barrier" in rank_1
    assert "in test_hang" in rank_1


def test_a_skip_and_a_death_are_not_passes(project):
    file = project("""
        @pytest.mark.ranks(2)
        def test_skip():
            pytest.skip("planted reason")

        @pytest.mark.ranks(2)
        def test_leave():
            import os
            init()
            os._exit(3)

        @pytest.mark.ranks(2)
        def test_broken_fixture(no_such_fixture):
            pass
    """)
    code, output = run_pytest(file)
    assert code == 1
    assert "1 skipped" in output
    assert "planted reason" in output
    assert "2 failed" in output
    assert "the starter ended with" in output
    assert "fixture 'no_such_fixture' not found" in output


def test_with_mpi_runs_the_folder():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--with-mpi",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        str(TESTS / "mpi"),
    ]
    job = run_ranks(2, command, timeout=90)
    assert job.returncode == 0, job.output
    assert job.output.count(" passed") == 2
    assert "skipped" not in job.output


@pytest.mark.parametrize("fault", ["assert world.rank == 0", "pytest.fail('no')", "sys.exit(1)"])
def test_with_mpi_a_failing_rank_ends_the_job(project, fault):
    file = project(f"""
        @pytest.mark.mpi
        def test_first():
            world = init()
            if world.rank == 1:
                {fault}
            world.barrier()

        @pytest.mark.mpi
        def test_second():
            init().barrier()
    """)
    job = run_ranks(
        2, [sys.executable, "-m", "pytest", "--with-mpi", "-p", "no:cacheprovider", str(file)], timeout=60
    )
    assert job.returncode not in (0, None)
    assert job.seconds < 30
    assert "rank 1 failed: " in job.output
    assert fault in job.output
