"""Time of a whole training step (zero_grad, forward, mean cross entropy, backward, AdamW) beside the peers.

    distgrad bench step [--workloads mlp,gpt] [--peers 'torch eager,jax'] [--threads 1,2] [--json FILE]
    distgrad bench step --device cuda [--workloads mlp,gpt] [--peers 'torch eager'] [--threads 1]

Every measurement runs in a fresh process, pinned to as many cores as it has threads, and the libraries take
turns: a ratio compares neighbours in time. Beside the clock stands the processor's time ("busy"), which a
machine shared with others distorts less. ``OPENBLAS_CORETYPE`` and ``OPENBLAS_L2_SIZE`` are unset for all
of them, since either would choose another matrix kernel than the processor's own.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.backend.device import Device, activated
from distgrad.backend.products import matmul_stack
from distgrad.script import add_device_option, find_device, synchronize

from .peers import STEPS
from .surroundings import UNSET, command_of, environment, result_file
from .workloads import WORKLOADS, Product

WARM_UP_STEPS = 5
MIN_STEPS = 15
MAX_STEPS = 2000
TIME_LIMIT_S = 600
LIBRARIES = ("numpy", "numba", "torch", "jax", "jaxlib", "optax")
LIMIT = "products alone"

Row = dict[str, Any]


# -- in the measured process


def timed(step: Callable[[], Any], seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds of each step, after some to warm up: by the clock, and of the processor's time."""
    for _ in range(WARM_UP_STEPS):
        step()
    times: list[float] = []
    busy: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_STEPS or (time.perf_counter() < end and len(times) < MAX_STEPS):
        start, busy_start = time.perf_counter(), time.process_time()
        step()
        busy.append(1e3 * (time.process_time() - busy_start))
        times.append(1e3 * (time.perf_counter() - start))
    return times, busy


def _best(multiply: Callable[[], Any], device: Device) -> tuple[float, float]:
    """Milliseconds of a call at the best rate seen, by the clock and of the processor's time."""

    def run() -> None:
        multiply()
        synchronize(device)

    return min(zip(*timed(run, 0.05), strict=True))


def _ways(
    shape: tuple[int, int, int], number: int, dtype: str, device: Device, threads: int
) -> Iterator[tuple[float, float]]:
    """What one of ``number`` equal products takes: cut among threads, on one, and several side by side."""
    rows, inner, columns = shape
    with activated(device) as xp:
        a, b = xp.ones((rows, inner), dtype), xp.ones((inner, columns), dtype)
        out = xp.empty((rows, columns), dtype)
    dg.set_num_threads(threads)
    yield _best(lambda: xp.matmul(a, b, out=out), device)
    if device.kind != "cpu" or threads == 1:
        return
    dg.set_num_threads(1)
    yield _best(lambda: xp.matmul(a, b, out=out), device)
    dg.set_num_threads(threads)
    some = min(number, 4 * threads)
    if some >= threads:
        x, y = np.ones((some, inner, columns), dtype), np.empty((some, rows, columns), dtype)
        clock, busy = _best(lambda: matmul_stack(a, x, y), device)
        yield clock / some, busy / some


def product_time(product: Product, dtype: str, device: Device, threads: int = 1) -> tuple[float, float]:
    """Milliseconds of a matrix product and its gradients' products, the best of the ways to compute them.

    By the clock, and of the processor's time.
    """
    m, n, k = product.m, product.n, product.k
    shapes = [(m, k, n), (n, m, k)] + [(m, n, k)] * product.input_gradient
    each = [min(_ways(shape, product.count, dtype, device, threads)) for shape in shapes]
    times = product.count * product.share
    return times * sum(clock for clock, _ in each), times * sum(busy for _, busy in each)


def limit_time(name: str, device: Device, threads: int = 1) -> tuple[float, float]:
    """Milliseconds of a step's matrix products alone, by the clock and of the processor's time."""
    work = WORKLOADS[name]
    kinds: dict[Product, int] = {}
    for product in work.products:
        kinds[product] = kinds.get(product, 0) + 1
    clock = busy = 0.0
    for product, count in kinds.items():
        each = product_time(product, work.dtype, device, threads)
        clock, busy = clock + count * each[0], busy + count * each[1]
    return clock, busy


def measure(name: str, workload: str, threads: int, seconds: float, device: str) -> Row:
    """One library on one workload, in this process."""
    if name == LIMIT:
        dg.set_num_threads(threads)
        clock, busy = limit_time(workload, find_device(device), threads)
        return {"median_ms": clock, "cpu_ms": busy}
    start = time.perf_counter()
    step = STEPS[name](workload, threads, device)
    step()
    first = time.perf_counter() - start
    times, used = timed(step, seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "cpu_ms": statistics.median(used),
        "peak_mib": peak,
        "first_s": first,
    }


# -- in the parent


def run_child(name: str, workload: str, threads: int, seconds: float, device: str) -> Row:
    """:func:`measure` in a fresh process on as many cores as threads.

    Raises:
        RuntimeError: with the end of the process's output, if it failed.
    """
    variables = environment(threads)
    if threads == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    command = [*command_of("step"), "--child", name, workload, str(threads), str(seconds), device]
    done = subprocess.run(
        command,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT_S,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        raise RuntimeError(f"{name} on {workload}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(
    workload: str, threads: int, names: list[str], rounds: int, seconds: float, device: str
) -> list[Row]:
    """All libraries on one workload in turns; medians over the rounds."""
    runs: dict[str, list[Row]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(run_child(name, workload, threads, seconds, device))
    rows = []
    for name, results in runs.items():
        row = {key: statistics.median(result[key] for result in results) for key in results[0]}
        pairs = list(zip(results, runs["distgrad"], strict=True))
        for key, label in (("median_ms", "ratio_to_distgrad"), ("cpu_ms", "cpu_ratio_to_distgrad")):
            row[label] = statistics.median(theirs[key] / ours[key] for theirs, ours in pairs)
        rows.append({"workload": workload, "threads": threads, "name": name, **row})
    return rows


def machine() -> Row:
    """Processor, versions and the BLAS kernel that NumPy's matrix products run."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {
        each: importlib.metadata.version(each) for each in LIBRARIES if importlib.util.find_spec(each)
    }
    return {
        "processor": model[0].split(":", 1)[1].strip() if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "blas": blas_kernel(),
        "unset": list(UNSET),
    }


def blas_kernel() -> str:
    """The name of the kernel family in NumPy's own OpenBLAS; asked of a process without ``UNSET``."""
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    for name in ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename"):
        function = getattr(library, name, None)
        if function is not None:
            function.restype = ctypes.c_char_p
            return f"OpenBLAS {function().decode()}"
    return "not OpenBLAS"


def show(rows: list[Row]) -> None:
    """One workload's results as lines of a table."""
    for row in rows:
        share = next((each["ratio_to_distgrad"] for each in rows if each["name"] == LIMIT), None)
        note = f"{100 * share:5.0f} % of the limit" if row["name"] == "distgrad" and share else ""
        peak = f"{row['peak_mib']:7.0f} MiB" if "peak_mib" in row else " " * 11
        first = f"first {row['first_s']:5.1f} s" if "first_s" in row else ""
        print(
            f"{row['workload']:10} {row['threads']} {row['name']:15} {row['median_ms']:10.3f} ms "
            f"{row['ratio_to_distgrad']:6.2f} x  busy {row['cpu_ms']:10.3f} ms "
            f"{row['cpu_ratio_to_distgrad']:6.2f} x {peak} {first} {note}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, this process's by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="names, with commas between")
    parser.add_argument("--peers", default=",".join(list(STEPS)[1:]), help="names, with commas between")
    parser.add_argument("--threads", default="1,2", help="numbers, with commas between")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each library")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--json", type=result_file, help="write the results to this file")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    add_device_option(parser)
    options = parser.parse_args(arguments)
    if options.child:
        name, workload, threads, seconds, device = options.child
        print(json.dumps(measure(name, workload, int(threads), float(seconds), device)))
        return
    if any(name in os.environ for name in UNSET):  # for this process's own NumPy, whose kernel is reported
        os.execve(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:]],
            {key: value for key, value in os.environ.items() if key not in UNSET},
        )
    find_device(options.device)
    names = ["distgrad", LIMIT]
    for peer in filter(None, options.peers.split(",")):
        if peer not in STEPS:
            parser.error(f"--peers: {peer!r} is none of {list(STEPS)[1:]}")
        if peer == "captured" and options.device not in (None, "cpu"):
            print("skipped captured: steps on a GPU are not captured", flush=True)
        elif peer != "captured" and importlib.util.find_spec(peer.split()[0]) is None:
            print(f"skipped {peer}: {peer.split()[0]} is not installed", flush=True)
        else:
            names.append(peer)
    about = machine()
    print(json.dumps(about), flush=True)
    results = []
    for threads in map(int, options.threads.split(",")):
        for workload in options.workloads.split(","):
            if workload not in WORKLOADS:
                parser.error(f"--workloads: {workload!r} is none of {list(WORKLOADS)}")
            rows = compare(workload, threads, names, options.rounds, options.seconds, options.device)
            show(rows)
            results += rows
    if options.json:
        options.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
