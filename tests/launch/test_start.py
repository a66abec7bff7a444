"""Everything before and around the ranks: the starter, frames, exit codes, and what is cleared away."""

import mmap
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distgrad.launch.__main__ import main
from distgrad.launch.frames import Frame, FrameReader, pack
from distgrad.launch.plan import Host
from distgrad.launch.rank import kill_marked
from hypothesis import given
from hypothesis import strategies as st

from distgrad.errors import MissingDependencyError
from distgrad.launch import entry, exit_codes, mpirun, start

ROOT = Path(__file__).parents[2]


@given(st.lists(st.tuples(st.sampled_from(Frame), st.binary(max_size=20)), max_size=5), st.integers(1, 9))
def test_frames_arrive_in_any_pieces(messages, step):
    stream = b"".join(pack(kind, body) for kind, body in messages)
    reader = FrameReader()
    pieces = [stream[start : start + step] for start in range(0, len(stream), step)]
    assert [frame for piece in pieces for frame in reader.feed(piece)] == messages


def test_frames_that_are_too_long_or_unknown_are_refused():
    with pytest.raises(ValueError, match="message of 101 bytes, at most 100"):
        list(FrameReader(100).feed(pack(Frame.STDOUT, bytes(101))))
    with pytest.raises(ValueError, match="71"):
        list(FrameReader().feed(b"GET / HTTP/1.1\r\n"[:1] + bytes(4)))


def test_exit_codes_in_words():
    assert exit_codes.exit_code(3 << 8) == 3
    assert exit_codes.exit_code(signal.SIGKILL) == 137
    assert exit_codes.explain(137) == "SIGKILL: likely out of memory, or killed from outside"
    assert exit_codes.explain(139).startswith("SIGSEGV: invalid memory access")
    assert exit_codes.explain(143) == "SIGTERM"
    assert exit_codes.explain(1) == exit_codes.explain(255) == ""


def test_starter_takes_the_mpiexec_beside_python(tmp_path, monkeypatch):
    beside, elsewhere = tmp_path / "env", tmp_path / "usr"
    for folder in (beside, elsewhere):
        folder.mkdir()
        (folder / "mpiexec").write_text("#!/bin/sh\n")
        (folder / "mpiexec").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    given = {"PATH": str(elsewhere), "PMI_RANK": "4", "PMI_FD": "9"}
    here = [Host("here", 2)]
    own = mpirun.mpiexec(here, ("train.py", "--lr", "1"), given, "")
    assert own.command[0] == str(beside / "mpiexec")
    assert own.command[own.command.index("-n") + 1] == "2"
    assert own.command[-4:] == ("PMI_RANK", "train.py", "--lr", "1")
    assert own.note == ""
    (beside / "mpiexec").unlink()
    other = mpirun.mpiexec(here, ("train.py",), given, "")
    assert other.command[0] == str(elsewhere / "mpiexec")
    assert str(elsewhere / "mpiexec") in other.note
    with pytest.raises(MissingDependencyError, match=r'pip install "distgrad\[mpi\]"'):
        mpirun.mpiexec(here, ("train.py",), {"PATH": str(beside)}, "")


VERSIONS = {
    "MPICH": "HYDRA build details:\n    Version: 5.0.2",
    "Intel MPI": "Intel(R) MPI Library for Linux* OS, Version 2021.18",
    "Open MPI": "mpiexec (Open MPI) 5.0.11",
}


@pytest.fixture
def mpiexec(tmp_path, monkeypatch):
    """Put an ``mpiexec`` that says whose it is beside this Python."""

    def put(kind):
        path = tmp_path / "mpiexec"
        path.write_text(f"#!/bin/sh\necho '{VERSIONS[kind]}'\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return str(path)

    return put


@pytest.mark.parametrize("kind", VERSIONS)
def test_whose_an_mpiexec_is(kind, mpiexec):
    assert mpirun.family(mpiexec(kind)) == kind
    assert mpirun.family("/nowhere/mpiexec").startswith("unknown (")


@pytest.mark.parametrize("reach", ["", "/bin/sh -o BatchMode=yes", "/bin/srun --overlap"])
def test_open_mpi_is_told_what_it_does_not_do_by_itself(reach, mpiexec):
    path = mpiexec("Open MPI")
    hosts = [Host("a", 2), Host("b", 1)]
    starter = mpirun.mpiexec(hosts, ("train.py",), {"PATH": "/bin", "OMPI_MCA_btl": "tcp,self"}, reach)
    places = "a:2,b:1" if reach else "localhost:2,localhost:1"
    options = f"--host {places} --map-by slot:OVERSUBSCRIBE --bind-to none -x * -n 3"
    rank_program = (sys.executable, entry.__file__, "OMPI_COMM_WORLD_RANK", "train.py")
    assert starter.command == (path, *options.split(), *rank_program)
    assert starter.environment["OMPI_MCA_btl"] == "tcp,self"  # the user's own stands
    agent = {"/bin/sh -o BatchMode=yes": reach}.get(reach)
    assert starter.environment.get("PRTE_MCA_plm_ssh_agent") == agent
    assert ("PRTE_MCA_plm_slurm_args" in starter.environment) is ("srun" in reach)
    assert ("OMPI_ALLOW_RUN_AS_ROOT" in starter.environment) is (os.geteuid() == 0)
    assert not any("HWLOC" in name for name in starter.environment)


def test_intels_mpiexec_is_given_a_part_for_each_host(mpiexec):
    path = mpiexec("Intel MPI")
    hosts = [Host("a", 2), Host("b", 1)]
    starter = mpirun.mpiexec(hosts, ("train.py",), {}, "/bin/sh -o BatchMode=yes")
    program = (sys.executable, entry.__file__, "PMI_RANK", "train.py")
    where = ("-launcher", "ssh", "-launcher-exec", "/bin/sh", "-disable-auto-cleanup")
    parts = ("-host", "a", "-n", "2", *program, ":", "-host", "b", "-n", "1", *program)
    assert starter.command == (path, *where, *parts)
    assert starter.environment["I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS"] == "-o BatchMode=yes"
    assert "HWLOC_XMLFILE" not in starter.environment  # its Hydra crashes over it


def test_without_mpi_one_process_starts_all_ranks_and_no_mpi_job_is_seen():
    given = {"PATH": "/bin", "PMI_RANK": "4", "PMIX_ID": "1", "OMPI_COMM_WORLD_SIZE": "9"}
    alone = start.without_mpi(1, ("train.py",), given)
    assert alone.command[0] == sys.executable
    assert alone.command[2:] == ("0:1", "train.py")
    assert alone.environment == {"PATH": "/bin"}
    assert start.without_mpi(3, ("train.py",), given).environment["DISTGRAD_BACKEND"] == "shm"


def test_other_hosts_are_reached_through_ssh(monkeypatch):
    hosts = [Host("a", 2), Host("b", 1)]
    starter = mpirun.mpiexec(hosts, ("train.py",), dict(os.environ), "/bin/sh -o BatchMode=yes")
    command = " ".join(starter.command)
    assert "-launcher ssh -launcher-exec /bin/sh -hosts a:2,b:1" in command
    assert command.endswith("-n 3 " + " ".join((sys.executable, entry.__file__, "PMI_RANK train.py")))
    assert starter.environment["HYDRA_LAUNCHER_EXTRA_ARGS"] == "-o BatchMode=yes"
    assert starter.environment["DISTGRAD_BACKEND"] == "mpi"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "0", "x.py"], "must be a whole number of at least 1, got '0'"),
        (["-n", "two", "x.py"], "must be a whole number of at least 1, got 'two'"),
        (["--env", "=1", "x.py"], "must be NAME=VALUE, or a NAME that is set here, got '=1'"),
        (["-x", "NOT_SET", "x.py"], "must be NAME=VALUE, or a NAME that is set here, got 'NOT_SET'"),
        (["--max-restarts", "-1", "x.py"], "must be a whole number of at least 0, got '-1'"),
        (["--timeout", "-1", "x.py"], "must be a positive number of seconds, got '-1'"),
        (["--time", "1", "x.py"], "unrecognized arguments: --time"),
        (["-n", "2"], "the following arguments are required: script"),
    ],
)
def test_wrong_options_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_missing_script_is_refused_before_anything_starts(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["-n", "2", "--log-dir", "logs", "nowhere.py"]) == 2
    assert f"there is no file nowhere.py (seen from {tmp_path})" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_a_log_folder_that_cannot_be_made_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("")
    Path("file").write_text("")
    assert main(["--log-dir", "file/logs", "script.py"]) == 2
    said = "launch: log files cannot be written in file/logs: Not a directory; name another folder with"
    assert capsys.readouterr().err == f"{said} --log-dir\n"


@pytest.mark.parametrize("option", ["-n", "-np", "-ppn", "--nproc-per-node", "--nproc_per_node"])
def test_dry_run_prints_commands_and_variables(option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my script.py").write_text("raise SystemExit(1)")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    options = [option, "3", "--backend", "mpi", "--env", "OMP_NUM_THREADS=5", "--dry-run"]
    assert main([*options, "my script.py", "-n", "9"]) == 0
    command, *ranks = capsys.readouterr().out.splitlines()
    assert "mpiexec" in command
    assert command.endswith("PMI_RANK 'my script.py' -n 9")
    assert [line.split(":")[0].split(" on ")[0] for line in ranks] == [f"# rank {rank}" for rank in range(3)]
    assert all("WORLD_SIZE=3" in line and "MKL_NUM_THREADS=" in line for line in ranks)
    assert not any("OMP_NUM_THREADS" in line for line in ranks)


def test_dry_run_works_away_from_the_hosts(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("")
    hosts = ["--hosts", "a.nowhere.invalid:2,b.nowhere.invalid:1"]
    assert main([*hosts, "--dry-run", "script.py"]) == 0
    command, *ranks = capsys.readouterr().out.splitlines()
    assert "-hosts a.nowhere.invalid:2,b.nowhere.invalid:1" in command
    assert [line.partition(":")[0] for line in ranks] == [
        f"# rank {rank} on {host}.nowhere.invalid" for rank, host in enumerate("aab")
    ]
    assert main([*hosts, "script.py"]) == 2  # to be started, they have to be there
    assert "the name does not resolve" in capsys.readouterr().err


def test_kill_marked_finds_a_process_that_left_its_session_and_no_other():
    command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    secrets = (os.urandom(8).hex(), os.urandom(8).hex())
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, "DISTGRAD_JOB_SECRET": secret},
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        for secret in secrets
    ]
    try:
        for child in processes:
            assert child.stdout.readline() == b"up\n"
        assert kill_marked(secrets[0]) == 1
        assert processes[0].wait(5) == -signal.SIGKILL
        assert processes[1].poll() is None
        assert kill_marked(secrets[0]) == 0
    finally:
        for child in processes:
            child.kill()
            child.wait()
            child.stdout.close()


@pytest.mark.parametrize("library", ["mpich_shm_", "sm_segment.host."])  # MPICH's, Open MPI's
def test_remove_segments_spares_what_is_older_or_in_use(library):
    folder = Path("/dev/shm")
    paths = [folder / f"{library}{os.urandom(4).hex()}_{kind}" for kind in ("old", "left", "mapped", "open")]
    old, left, mapped, opened = paths
    try:
        old.write_bytes(b"x")
        time.sleep(0.02)
        since_s = time.time()
        time.sleep(0.02)
        for path in (left, mapped, opened):
            path.write_bytes(b"x")
        with mapped.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 1)
        with opened.open("rb"):
            removed = mpirun.remove_segments(since_s)
        memory.close()
        assert str(left) in removed
        assert [path.exists() for path in paths] == [True, False, True, True]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def test_remove_segments_goes_on_where_a_process_ends_meanwhile(monkeypatch):
    left, scandir = Path(f"/dev/shm/mpich_shm_{os.urandom(4).hex()}"), os.scandir

    def ended(path="."):
        if str(path) == f"/proc/{os.getpid()}/fd":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", ended)
    since_s = time.time() - 1.0
    try:
        left.write_bytes(b"x")
        assert str(left) in mpirun.remove_segments(since_s)
    finally:
        left.unlink(missing_ok=True)


def test_the_command_starts_ranks_without_loading_the_engine(tmp_path):
    (tmp_path / "script.py").write_text("")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import distgrad_command
sys.argv = ["distgrad", "run", "script.py"]
try:
    distgrad_command.main()
except SystemExit as end:
    loaded = {name.split(".")[0] for name in sys.modules} & {"numpy", "click", "mpi4py"}
    print(end.code, *sorted(loaded), *sorted(name for name in sys.modules if name.startswith("distgrad.")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, *loaded = done.stdout.split()
    assert first == "0"
    assert "distgrad.launch.supervise" in loaded
    assert not [name for name in loaded if not name.startswith(("distgrad.launch", "distgrad.e"))], loaded


@pytest.mark.parametrize("words", ["-m distgrad.launch", "-mdistgrad.launch", "-m distgrad run"])
def test_python_m_starts_ranks_without_loading_the_engine(words, tmp_path):
    (tmp_path / "script.py").write_text("import sys; print(sys.argv)")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words.split(), "-n", "2", "script.py", "-m", "7"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == [f"[{rank}] ['script.py', '-m', '7']" for rank in range(2)]
    loaded = set(re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "distgrad.launch.supervise" in loaded
    engine = {name for name in loaded if name.startswith("distgrad.")}
    assert {name for name in engine if not name.startswith(("distgrad.launch", "distgrad.e"))} == set()
    assert not loaded & {"numpy", "click", "mpi4py"}


def test_the_command_passes_everything_to_the_launcher(tmp_path):
    (tmp_path / "script.py").write_text("import sys; print(sys.argv[1:]); sys.exit(5)")
    command = [sys.executable, "-m", "distgrad"]
    job = subprocess.run(
        [*command, "run", "--quiet", "script.py", "--help", "-n", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (job.returncode, job.stdout) == (5, "[0] ['--help', '-n', '2']\n")
    assert re.fullmatch(r"launch: rank 0 on \S+ exited 5 after \d\.\d s; stopped 0 other ranks\n", job.stderr)
    listed = subprocess.run(
        [*command, "run", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert listed.returncode == 0
    assert "--log-dir" in listed.stdout
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert re.fullmatch(r"distgrad, version \d+\.\d+\S*\n", version.stdout)
