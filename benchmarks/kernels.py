"""Each fused kernel beside its plain NumPy formula and PyTorch's operation, forward and backward.

::

    python benchmarks/kernels.py                                       # all, one and two threads
    python benchmarks/kernels.py --cases softmax,group_norm --threads 1 --json rows.json

A row is one operation of the public API on one shape; "formula" is the same call where Numba is missing. A
library runs all cases in a process of its own, and the libraries take turns. A figure is the least of a
process's times, since others on the machine only add to them, and of the processes' figures the median; a
ratio above 1 says that the kernel is faster. ``OPENBLAS_CORETYPE`` and ``OPENBLAS_L2_SIZE`` are unset.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = ("kernel", "formula", "torch")
LIMIT_S = 600
MOST_RUNS = 200

Row = dict[str, Any]
Call = Callable[[Any, Any], Any]

ROWS, WIDE = (4096, 512), (256, 8192)
IMAGES = (16, 64, 56, 56)
HEADS = (8, 6, 256, 64)

#: By name: the shapes of the inputs, and the operation from ``functional`` and those inputs. A whole number
#: in front of a shape makes integers below it.
CASES: dict[str, tuple[list[Any], Call]] = {
    "gelu": ([ROWS], lambda F, x: F.gelu(*x)),
    "gelu tanh": ([ROWS], lambda F, x: F.gelu(*x, approximate="tanh")),
    "silu": ([ROWS], lambda F, x: F.silu(*x)),
    "relu": ([ROWS], lambda F, x: F.relu(*x)),
    "tanh": ([ROWS], lambda F, x: x[0].tanh()),
    "sigmoid": ([ROWS], lambda F, x: x[0].sigmoid()),
    "softmax": ([ROWS], lambda F, x: F.softmax(x[0], -1)),
    "softmax wide": ([WIDE], lambda F, x: F.softmax(x[0], -1)),
    "log_softmax": ([ROWS], lambda F, x: F.log_softmax(x[0], -1)),
    "cross_entropy": ([ROWS, (512, ROWS[:1])], lambda F, x: F.cross_entropy(*x, reduction="none")),
    "layer_norm": ([ROWS, ROWS[1:], ROWS[1:]], lambda F, x: F.layer_norm(x[0], ROWS[1:], *x[1:])),
    "rms_norm": ([ROWS, ROWS[1:]], lambda F, x: F.rms_norm(x[0], ROWS[1:], x[1])),
    "batch_norm": (
        [IMAGES, (64,), (64,)],
        lambda F, x: F.batch_norm(x[0], None, None, *x[1:], training=True),
    ),
    "group_norm": ([IMAGES, (64,), (64,)], lambda F, x: F.group_norm(x[0], 16, *x[1:])),
    "instance_norm": ([IMAGES, (64,), (64,)], lambda F, x: F.instance_norm(x[0], weight=x[1], bias=x[2])),
    "max_pool2d": ([IMAGES], lambda F, x: F.max_pool2d(x[0], 2)),
    "max_pool2d 3 stride 2": ([IMAGES], lambda F, x: F.max_pool2d(x[0], 3, 2, 1)),
    "avg_pool2d": ([IMAGES], lambda F, x: F.avg_pool2d(x[0], 2)),
    "avg_pool2d 3 stride 2": ([IMAGES], lambda F, x: F.avg_pool2d(x[0], 3, 2, 1)),
    "adaptive_avg_pool2d": ([IMAGES], lambda F, x: F.adaptive_avg_pool2d(x[0], 7)),
    "adaptive_avg_pool2d 1": ([IMAGES], lambda F, x: F.adaptive_avg_pool2d(x[0], 1)),
    "lp_pool2d": ([IMAGES], lambda F, x: F.lp_pool2d(x[0], 2.0, 2)),
    "embedding": ([(5000, (256, 64)), (5000, 128)], lambda F, x: F.embedding(*x)),
    "embedding_bag": ([(5000, (256, 64)), (5000, 128)], lambda F, x: F.embedding_bag(*x)),
    "linear": ([ROWS, (512, 512), (512,)], lambda F, x: F.linear(*x)),
    "conv2d": ([IMAGES, (64, 64, 3, 3)], lambda F, x: F.conv2d(*x, padding=1)),
    "attention": ([HEADS] * 3, lambda F, x: F.scaled_dot_product_attention(*x)),
    "attention causal": ([HEADS] * 3, lambda F, x: F.scaled_dot_product_attention(*x, is_causal=True)),
    "dropout": ([ROWS], lambda F, x: F.dropout(x[0], 0.1)),
}


# -- in the measured process


def is_integers(shape: Any) -> bool:
    """Whether an entry of a case is a limit with a shape."""
    return isinstance(shape[-1], tuple)


def arrays_of(name: str) -> list[np.ndarray]:
    """A case's inputs, the same in every process."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, shape[0], shape[1])
        if is_integers(shape)
        else rng.standard_normal(shape).astype(np.float32)
        for shape in CASES[name][0]
    ]


def least_ms(call: Callable[[], Any], seconds: float) -> float:
    """The least time of a call, after one to warm up."""
    call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < MOST_RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def measure(library: str, cases: list[str], threads: int, seconds: float) -> dict[str, float]:
    """Milliseconds of each case and direction in one library."""
    if library == "formula":
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find(name, *rest)
    if library == "torch":
        import torch as lib
        from torch.nn import functional as F

        make, grad = lib.from_numpy, lib.autograd.grad
    else:
        import distgrad as lib  # type: ignore[no-redef]
        from distgrad.nn import functional as F  # type: ignore[no-redef]

        make, grad = lib.asarray, lib.autograd.grad
    lib.set_num_threads(threads)
    results = {}
    for name in cases:
        shapes, operation = CASES[name]
        x = [make(array) for array in arrays_of(name)]
        with lib.no_grad():
            results[f"{name} forward"] = least_ms(lambda: operation(F, x), seconds)  # noqa: B023 (called here)
        wanted = [each for each, shape in zip(x, shapes, strict=True) if not is_integers(shape)]
        for each in wanted:
            each.requires_grad = True
        y = operation(F, x)
        g = make(np.random.default_rng(1).standard_normal(tuple(y.shape)).astype(np.float32))
        backward = lambda: grad(y, wanted, g, retain_graph=True)  # noqa: B023, E731
        results[f"{name} backward"] = least_ms(backward, seconds)
    return results


# -- in the parent


def run_child(library: str, cases: list[str], threads: int, seconds: float) -> dict[str, float]:
    """:func:`measure` in a fresh process on as many cores as threads.

    Raises:
        RuntimeError: with the end of the process's output, if it failed.
    """
    from distgrad.scale.bench.surroundings import environment  # here: what is measured loads its own library

    variables = environment(threads)
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    done = subprocess.run(
        [sys.executable, __file__, "--child", library, ",".join(cases), str(threads), str(seconds)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        raise RuntimeError(f"kernels: {library} failed:\n{done.stderr[-2000:]}")
    times: dict[str, float] = json.loads(done.stdout)
    return times


def compare(cases: list[str], threads: int, libraries: list[str], rounds: int, seconds: float) -> list[Row]:
    """A row for every case and direction."""
    times: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
    for _ in range(rounds):
        for library, each in times.items():
            each.append(run_child(library, cases, threads, seconds))
    rows = []
    for name in times["kernel"][0]:
        row: Row = {"case": name, "threads": threads}
        for library, each in times.items():
            row[f"{library}_ms"] = round(statistics.median(one[name] for one in each), 4)
        for library in libraries[1:]:
            row[f"{library}_ratio"] = round(row[f"{library}_ms"] / row["kernel_ms"], 2)
        rows.append(row)
    return rows


def line(row: Row, libraries: list[str]) -> str:
    """A row of the table; what loses is marked."""
    text = f"{row['case']:32} {row['threads']} {row['kernel_ms']:9.3f} ms"
    for library in libraries[1:]:
        text += f"  {library} {row[f'{library}_ms']:9.3f} ms {row[f'{library}_ratio']:6.2f} x"
    loses = [library for library in libraries[1:] if row[f"{library}_ratio"] < 1]
    return text + (f"  loses to {' and '.join(loses)}" if loses else "")


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--cases", default=",".join(CASES), help="names, with commas between")
    parser.add_argument("--threads", default="1,2", help="numbers, with commas between")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each library")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each measurement")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        library, cases, threads, seconds = options.child
        print(json.dumps(measure(library, cases.split(","), int(threads), float(seconds))))
        return
    chosen = options.cases.split(",")
    for name in chosen:
        if name not in CASES:
            parser.error(f"--cases: {name!r} is none of {list(CASES)}")
    libraries = [name for name in LIBRARIES if name != "torch" or importlib.util.find_spec("torch")]
    if "torch" not in libraries:
        print("skipped torch: it is not installed", flush=True)
    rows = []
    for threads in map(int, options.threads.split(",")):
        for row in compare(chosen, threads, libraries, options.rounds, options.seconds):
            rows.append(row)
            print(line(row, libraries), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"rounds": options.rounds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
