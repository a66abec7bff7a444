"""From the start of Python to the end of a first training step, with nothing compiled before.

    python tests/gpu/cold_start.py distgrad|torch [--device cpu] [--small]

Each workload has a process and an empty cache of kernels of its own; a few run at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def one_step(library: str, workload: str, device: str, begun_s: float) -> None:
    """The measured process: import, make the model, step once."""
    from contenders import Contender
    from rows import say

    contender = Contender(library, device)
    step = contender.step(workload)
    made_s = time.time() - begun_s
    step()
    contender.synchronize()
    whole_s = time.time() - begun_s
    say(
        figure="cold start",
        library=library,
        name=workload,
        model_s=round(made_s, 2),
        step_s=round(whole_s, 2),
    )


def start(options: argparse.Namespace, workload: str) -> int:
    """Run :func:`one_step` in a process of its own; its exit status."""
    command = [sys.executable, __file__, options.library, "--device", options.device]
    with tempfile.TemporaryDirectory() as cache:
        command += ["--workload", workload, "--begun", str(time.time())]
        env = {**os.environ, "CUPY_CACHE_DIR": str(Path(cache) / "cupy")}
        return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, check=False).returncode


def main() -> int:
    """Measure all workloads; 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("library", choices=("distgrad", "torch"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="to try the measurement itself")
    parser.add_argument("--workload", help="in this process")
    parser.add_argument("--begun", type=float, help="when it was asked for, in seconds since 1970")
    options = parser.parse_args()
    if options.workload:
        one_step(options.library, options.workload, options.device, options.begun)
        return 0
    from figures import FEW_STEPS, STEPS

    names = FEW_STEPS if options.small else STEPS
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4)) as pool:
        return int(any(pool.map(lambda name: start(options, name), names)))


if __name__ == "__main__":
    raise SystemExit(main())
