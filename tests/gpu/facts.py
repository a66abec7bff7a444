"""What machine and Python the check of a GPU has found; it ends with 1, in words, where there is no GPU.

Nothing but the standard library is needed to run it: what is missing is what it tells.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys

from real_gpus import REHEARSAL, VARIABLE, num_real_gpus
from rows import say

PACKAGES = (
    *("numpy", "numba", "ml_dtypes", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "mpi4py"),
    *("pytest", "pytest-timeout", "pytest-xdist", "click", "tqdm", "safetensors"),
    *("nvidia-nccl-cu13", "nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cusolver"),
    "nvidia-cudnn-frontend",
)
MODULES = ("numba", "ml_dtypes", "mpi4py.MPI", "cupy", "cupy.cuda.nccl", "cudnn", "torch")


def version(package: str) -> str | None:
    """Of an installed package; None if it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def loads(module: str) -> str:
    """``yes``, or why the module does not load."""
    try:
        importlib.import_module(module)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "yes"


def hardware() -> str:
    """What nvidia-smi says."""
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm,pcie.link.gen.current"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi: {error}"
    return done.stdout.strip() or done.stderr.strip()


def check() -> None:
    """Find the GPUs; ends the program where there are none, or the double alone."""
    import distgrad as dg

    try:
        dg.device("cuda")
    except dg.DeviceError as error:
        raise SystemExit(f"gpu-check: {error}") from None
    is_rehearsal = os.environ.get(VARIABLE) == REHEARSAL
    if not num_real_gpus() and not is_rehearsal:
        raise SystemExit("gpu-check: the double of a GPU is no GPU; tests/gpu/device.sh --rehearsal takes it")
    import cupy

    if is_rehearsal and num_real_gpus():
        raise SystemExit("gpu-check: a rehearsal is for machines without a GPU; leave --rehearsal out here")
    free, total = dg.cuda.mem_get_info()
    say(
        figure="device",
        rehearsal=is_rehearsal,
        gpus=[dg.cuda.get_device_name(index) for index in range(dg.cuda.device_count())],
        capability=list(dg.cuda.get_device_capability()),
        memory_gib=round(total / 2**30, 1),
        free_gib=round(free / 2**30, 1),
        cuda_driver=cupy.cuda.runtime.driverGetVersion(),
        cuda_runtime=cupy.cuda.runtime.runtimeGetVersion(),
        cupy=cupy.__version__,
        accelerators=os.environ.get("CUPY_ACCELERATORS", "CuPy's own choice"),
    )


def main() -> None:
    """Print what is known before anything can fail, look for the GPU, and load what the tests will load."""
    print(hardware())
    print(
        f"Python {platform.python_version()} at {sys.executable}, {os.cpu_count()} cores,",
        platform.platform(),
    )
    installed = {package: version(package) for package in PACKAGES}
    print("installed:", ", ".join(f"{name} {found}" for name, found in installed.items() if found))
    print("missing:", ", ".join(name for name, found in installed.items() if not found) or "none")
    print(f"compute-sanitizer: {shutil.which('compute-sanitizer') or 'missing'}")
    check()
    for module in MODULES:
        print(f"import {module}: {loads(module)}")


if __name__ == "__main__":
    main()
