"""Ranks that communicate by NCCL: started where there is a GPU for each, and refused in words elsewhere."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
from distgrad.launch.__main__ import main
from distgrad.launch.plan import Host
from gpu_double.runtime import unavailable

from distgrad.errors import LaunchError
from distgrad.launch import gpus, mpirun, ssh, start

TESTS = Path(__file__).parents[1]


@pytest.fixture
def has_cupy(monkeypatch):
    """Let this Python have CuPy, or not."""
    find_spec = importlib.util.find_spec

    def set_to(there):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: (there or None) if name == "cupy" else find_spec(name)
        )

    return set_to


@pytest.mark.parametrize(
    ("visible", "number"),
    [("0", 1), ("0,1", 2), ("GPU-8932f937, MIG-1", 2), ("", 0), ("-1", 0), ("0,-1,2", 1)],
)
def test_what_cuda_makes_visible(visible, number):
    assert gpus.count({"CUDA_VISIBLE_DEVICES": visible}) == number


def test_the_drivers_files_are_counted(tmp_path):
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus.count({}, f"{tmp_path}/{Path(gpus.FILES).name}") == 2


@pytest.mark.parametrize(
    ("options", "visible", "words"),
    [
        ("-n 1", "", "it shows no GPU to 1 rank, and backend nccl needs one for each"),
        ("-n 3", "0,1", "it shows 2 GPUs to 3 ranks, and backend nccl needs one for each; start no more"),
        ("--nproc-per-node gpu --hosts localhost", "", "'gpu' was asked for, but this machine shows no GPU"),
    ],
)
def test_too_few_gpus_are_refused_before_the_start(
    options, visible, words, has_cupy, tmp_path, monkeypatch, capsys
):
    has_cupy(True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (tmp_path / "script.py").write_text("")
    try:
        code = main([*options.split(), "--backend", "nccl", "script.py"])
    except SystemExit as end:
        code = end.code
    assert code == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "gpu" in options or printed.endswith(f" (counted by CUDA_VISIBLE_DEVICES={visible})\n")


def test_without_cupy_the_command_that_installs_it_is_named(has_cupy, tmp_path, monkeypatch, capsys):
    has_cupy(False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTGRAD_BACKEND", "nccl")
    (tmp_path / "script.py").write_text("")
    assert main(["-n", "2", "script.py"]) == 2
    words = f"launch: backend nccl needs CuPy, which {sys.executable} does not have; run: pip install "
    assert capsys.readouterr().err == words + '"distgrad[cuda13]" (CUDA 13 drivers) or "distgrad[cuda12]"\n'


def test_ranks_are_told_the_backend():
    for number in (1, 3):
        starter = start.without_mpi(number, ("train.py",), {}, on_gpus=True)
        assert starter.environment == {"DISTGRAD_BACKEND": "nccl"}
    starter = mpirun.mpiexec([Host("a", 1), Host("b", 1)], ("train.py",), {}, "/bin/ssh", on_gpus=True)
    assert starter.environment["DISTGRAD_BACKEND"] == "nccl"


@pytest.fixture
def answer(tmp_path):
    """The command of an ssh server that says of itself what is asked for."""

    def put(**found):
        found = {"missing": [], "lacks": [], "version": list(sys.version_info[:2]), "gpus": 0} | found
        (tmp_path / "ssh").write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
        (tmp_path / "ssh").chmod(0o755)
        return str(tmp_path / "ssh")

    return put


def test_other_hosts_are_asked_for_cupy_and_gpus(answer):
    ssh.check_hosts([Host("b", 2)], answer(gpus=2), [], on_gpus=True)
    ssh.check_hosts([Host("b", 2)], answer(gpus=0), [], on_gpus=False)
    with pytest.raises(LaunchError, match="launch: host b: it shows 1 GPU to 2 ranks, and backend nccl"):
        ssh.check_hosts([Host("b", 2)], answer(gpus=1), [], on_gpus=True)
    with pytest.raises(LaunchError, match=r"lacks \['cupy'\]; run there: pip .*\"distgrad\[mpi,cuda13\]\""):
        ssh.check_hosts([Host("b", 2)], answer(lacks=["cupy"]), [], on_gpus=True)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from gpu_double.runtime import install
install(num_devices=2)
import distgrad as dg
comm = dg.comm.init()
import cupy
x = cupy.full(4, 10.0 ** comm.rank)
comm.all_reduce(x)
print(comm.backend, comm.host.backend, comm.size, comm.device, int(x.sum()), flush=True)
{end}
import os
comm.barrier()
os._exit(0)  # CuPy's own clean-up asks a driver that is not there
"""


@pytest.fixture
def on_double():
    """Variables of ranks that run on the doubles of CuPy and NCCL."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    return {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "CUPY_ACCELERATORS": "",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }


def test_ranks_exchange_what_is_on_their_gpus(run, on_double):
    ended = run("-n 2 --backend nccl", SCRIPT.format(end=""), str(TESTS), **on_double)
    assert ended.code == 0, ended.stderr
    assert sorted(ended.stdout.splitlines()) == [f"[{rank}] nccl shm 2 cuda:{rank} 44" for rank in range(2)]


def test_the_doctor_measures_ranks_with_gpus(run, on_double):
    script = """
        import runpy, sys
        sys.path.insert(0, sys.argv[1])
        from gpu_double.runtime import install
        install(num_devices=2)
        runpy.run_module("distgrad.doctor", run_name="__main__")
        import os
        sys.stdout.flush()
        os._exit(0)  # CuPy's own clean-up asks a driver that is not there
    """
    ended = run("-n 2 --backend nccl", script, str(TESTS), **on_double)
    assert ended.code == 0, ended.stderr
    found = json.loads(ended.stdout.removeprefix("[0] self-test "))
    assert min(found["latency_us"], found["bandwidth_gb_s"]) > 0


@pytest.mark.slow
def test_a_gpu_job_that_hangs_is_explained(run, on_double):
    end = "if comm.rank == 0: comm.barrier()\nwhile True: pass"
    ended = run("-n 2 --backend nccl --hang-after 3", SCRIPT.format(end=end), str(TESTS), **on_double)
    assert ended.code == 3, ended.stderr
    assert "launch: never arrived: rank 1 on " in ended.summary[0]
