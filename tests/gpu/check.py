"""Rung 8: all tests of rungs 4 to 6 on this host's GPUs, and the figures; ``make gpu-check`` runs it.

    python tests/gpu/check.py [--json gpu-check.json]

Without a GPU it ends at once and says what is missing. What needs several is left out on a host with one.
The exit status is 0 if every test passed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gpu_double.ladder import Step, climb
from workloads import WORKLOADS

import distgrad as dg
from distgrad.comm import libnccl

ROOT = Path(__file__).parents[2]
TESTS = (
    Step(8, "one GPU", ("tests/gpu/test_real_gpu.py", "tests/backend/test_cuda_kernels.py"), "gpu"),
    Step(
        8,
        "several ranks",
        tuple(f"tests/gpu_double/test_{name}.py" for name in ("communicator", "ddp", "orders")),
    ),
)
Report = dict[str, Any]


def about() -> Report:
    """The hardware and the libraries; ends the program where there is no GPU."""
    try:
        dg.device("cuda")
    except dg.DeviceError as error:
        raise SystemExit(f"gpu-check: {error}") from None
    import cupy

    return {
        "gpus": [dg.cuda.get_device_name(i) for i in range(dg.cuda.device_count())],
        "capability": list(dg.cuda.get_device_capability()),
        "cuda_driver": cupy.cuda.runtime.driverGetVersion(),
        "cuda_runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
        "nccl": libnccl.version_text(libnccl.open_provider().version()),
    }


def run_tests(keyword: str) -> list[Report]:
    """The tests, on the real GPUs also where they are made for the double."""
    os.environ["DISTGRAD_REAL_GPU"] = "1"
    found = []
    for step in TESTS:
        result = climb(step, ["-k", keyword] if keyword else [])
        found.append({"what": step.what, "tests": dict(result.counts), "seconds": result.seconds})
        found[-1]["passed"] = result.status == 0
        print(f"{step.what:<16}{dict(result.counts)} in {result.seconds:.0f} s", flush=True)
        if not found[-1]["passed"]:
            print(result.printed, flush=True)
    del os.environ["DISTGRAD_REAL_GPU"]
    return found


def run_benchmark(name: str, *options: str) -> Report | None:
    """The JSON that a benchmark leaves; None, with its output shown, if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        program = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--device", "cuda"]
        done = subprocess.run([*program, "--json", str(report), *options], check=False)
        return dict(json.loads(report.read_text())) if done.returncode == 0 else None


def figures(options: argparse.Namespace) -> Report:
    """Throughput of steps, and with several GPUs bandwidth and how much of the communication hides."""
    ranks, seconds = str(dg.cuda.device_count()), str(options.seconds)
    common = ("--workloads", options.workloads, "--seconds", seconds)
    found = {"step": run_benchmark("step", *common, "--peers", "torch eager", "--threads", "1")}
    if dg.cuda.device_count() > 1:
        found["allreduce"] = run_benchmark("allreduce", "--ranks", ranks, "--sizes", *map(str, options.sizes))
        found["ddp"] = run_benchmark("ddp", "--ranks", ranks, *common)
    return found


def summarise(found: Report) -> list[Report]:
    """Samples a second, gigabytes a second, and shares of a step, from what the benchmarks left."""
    rows: list[Report] = []
    for row in (found.get("step") or {"results": []})["results"]:
        samples = WORKLOADS[row["workload"]].inputs[1][0]
        rate = {"samples_per_s": 1e3 * samples / row["median_ms"], "peak_mib": row.get("peak_mib")}
        rows.append({"figure": "step", "workload": row["workload"], "name": row["name"], **rate})
    for ranks, sizes in (found.get("allreduce") or {"ranks": {}})["ranks"].items():
        for size, times in sizes.items():
            moved = 2 * (int(ranks) - 1) / int(ranks) * int(size)
            best = {name: 1e-9 * moved / min(each) for name, each in times.items() if name != "memcpy"}
            rows.append({"figure": "all-reduce", "bytes": int(size), "gb_per_s": best})
    for row in (found.get("ddp") or {"results": []})["results"]:
        share = {"communication": row["communication_ms"] / row["distgrad_ms"], "hidden": row["hidden_share"]}
        peer = {"speed_up_over_torch": row["speed_up_over_torch"], "efficiency": row["efficiency"]}
        rows.append({"figure": "data parallel", "workload": row["workload"], **share, **peer})
    return rows


def main() -> int:
    """Test, measure, and write both down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, default=Path("gpu-check.json"), help="where the report goes")
    parser.add_argument("--keyword", default="", help="only tests of these names, as pytest's -k")
    parser.add_argument("--workloads", default="mlp,cnn,gpt,gptm,resnet20", help="with commas between")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1 << 20, 25 << 20, 1 << 28], help="bytes")
    options = parser.parse_args()
    report = {"machine": about()}
    print(json.dumps(report["machine"]), flush=True)
    report["tests"] = run_tests(options.keyword)
    found = figures(options)
    report |= {"figures": summarise(found), "benchmarks": found}
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    for row in report["figures"]:
        print(json.dumps(row))
    print(f"written to {options.json}")
    whole = all(each["passed"] for each in report["tests"]) and all(
        each is not None for each in found.values()
    )
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
