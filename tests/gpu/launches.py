"""What a training step starts on a GPU, counted on a null one: python tests/gpu/launches.py [WORKLOAD ...]

A line of JSON each: kernels, cuBLAS's products, copies and fills, their sum, how often the host waits before
the step's end, and how often each thing was started.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("CUPY_ACCELERATORS", "")

from gpu_double.runtime import install  # noqa: E402 (after the path is set)

WORKLOADS = ("tiny", "mlp", "cnn", "gpt", "gptm", "resnet20", "lstm", "embedding")


def main(workloads: list[str]) -> None:
    """Count a step of each, after ten, when its memory comes again at every step."""
    scheduler = install(1, "null", device_bytes=100 << 30).scheduler
    from distgrad.scale.bench.peers import distgrad_step

    for name in workloads:
        step = distgrad_step(name, 1, "cuda", wait=False)
        for _ in range(10):
            step()
        scheduler.started.clear()
        waits = scheduler.num_waits
        step()
        started = dict(scheduler.started.most_common())
        copies, fills = started.pop("a copy", 0), started.pop("memset", 0)
        kernels = {each: count for each, count in started.items() if each.startswith("kernel ")}
        row = {
            "workload": name,
            "total": sum(started.values()) + copies + fills,
            "kernels": sum(kernels.values()),
            "products": sum(started.values()) - sum(kernels.values()),
            "copies": copies,
            "fills": fills,
            "waits": scheduler.num_waits - waits,
            "most": started,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(WORKLOADS))
