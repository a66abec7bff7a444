"""Data-parallel training steps on two ranks of one thread each: distgrad beside PyTorch DDP over Gloo.

::

    python benchmarks/ddp.py                                  # mlp, gpt, gptm and cnn
    python benchmarks/ddp.py --workloads gpt --rounds 3 --seconds 5 --json table.json

A step is zero_grad, forward, mean cross entropy, backward with its reduction, and AdamW, on the whole batch
of ``workloads.py`` on each rank. Every rank is a process of its own, pinned to a core of its own. The
contenders take turns in fresh processes, several rounds long; in a workload's first turn a lone process
finds how many steps fit into ``--seconds``, which all take then. A time is the median over the rounds of the
slowest rank's median step, a ratio the median of the rounds' ratios.

    distgrad    DistributedDataParallel over shared memory
    torch       PyTorch's DistributedDataParallel over Gloo, with gradients as views of buckets
    alone       distgrad in one process, without data parallelism
    apart       as many such processes at once, which know nothing of each other: what the machine allows

``efficiency`` is alone / distgrad, and its limit alone / apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import distgrad_step, torch_step
from step import THREAD_VARIABLES, UNSET, machine

WORKLOADS = ("mlp", "gpt", "gptm", "cnn")
BARS = {"mlp": 1.9, "gpt": 1.9, "gptm": 1.9, "cnn": 1.2}  # times PyTorch DDP's samples a second
TIME_LIMIT_S = 600.0
WARM_UP_STEPS, FEWEST_STEPS = 6, 5  # gptm's steps take a second or two, so that two must do to warm up

Row = dict[str, Any]


# A rank ----------------------------------------------------------------------------------------------------


def distgrad_rank(task: Row) -> tuple[Callable[[], Any], Callable[[], Row]]:
    """The step, and what is known of its communication."""
    import distgrad as dg

    comm = dg.comm.init("shm")
    models = []

    def wrap(model: Any) -> Any:
        models.append(dg.parallel.DistributedDataParallel(model, comm))
        return models[0]

    def account() -> Row:
        stats = models[0].stats()
        per_step = 1e3 / stats.num_steps
        return {
            "hidden_share": stats.hidden_share,
            "communication_ms": per_step * stats.communication_s,
            "exposed_ms": per_step * stats.exposed_s,
        }

    return distgrad_step(task["workload"], 1, wrap), account


def torch_rank(task: Row) -> tuple[Callable[[], Any], Callable[[], Row]]:
    """The step, and nothing more."""
    import torch

    rank, size = int(os.environ["RANK"]), task["ranks"]
    store = torch.distributed.FileStore(task["store"], size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)

    def wrap(model: Any) -> Any:
        return torch.nn.parallel.DistributedDataParallel(
            model, gradient_as_bucket_view=True, static_graph=True
        )

    return torch_step(task["workload"], 1, wrap=wrap), dict


def lone_rank(task: Row) -> tuple[Callable[[], Any], Callable[[], Row]]:
    """The step of one process that has no other."""
    return distgrad_step(task["workload"], 1), dict


CONTENDERS = {"distgrad": distgrad_rank, "torch": torch_rank, "alone": lone_rank, "apart": lone_rank}


def be_a_rank(task: Row) -> None:
    """Take the steps that ``task`` asks for and leave the result in its file."""
    rank = int(os.environ["RANK"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    step, account = CONTENDERS[task["contender"]](task)
    steps = task["steps"]
    for _ in range(WARM_UP_STEPS if steps is None or steps > 2 * WARM_UP_STEPS else 2):
        start_s = time.perf_counter()
        step()
        if steps is None and time.perf_counter() - start_s > task["seconds"] / (2 * WARM_UP_STEPS):
            break  # so slow that the others will warm up by two steps too
    times = []
    busy_s, end_s = time.process_time(), time.perf_counter() + task["seconds"]
    while len(times) < FEWEST_STEPS or (time.perf_counter() < end_s if steps is None else len(times) < steps):
        start_s = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start_s))
    busy_s = time.process_time() - busy_s
    result = {"median_ms": statistics.median(times), "min_ms": min(times), "steps": len(times), **account()}
    result["cpu_ms"] = 1e3 * busy_s / len(times)
    Path(f"{task['result']}.{rank}").write_text(json.dumps(result))
    if task["contender"] == "torch":
        import torch

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


# The program that starts them ------------------------------------------------------------------------------


def run(contender: str, workload: str, num_ranks: int, seconds: float, steps: int | None = None) -> Row:
    """One contender's turn: start its ranks, and return the slowest one's result.

    Args:
        contender: whose.
        workload: of ``workloads.py``.
        num_ranks: how many processes.
        seconds: that a lone process takes steps for, if their number is not given.
        steps: how many to take.
    """
    num_ranks = 1 if contender == "alone" else num_ranks
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= dict.fromkeys(THREAD_VARIABLES, "1")
    environment |= {"WORLD_SIZE": str(num_ranks), "DISTGRAD_JOB_SECRET": secrets.token_hex(16)}
    with tempfile.TemporaryDirectory() as folder:
        task = {"contender": contender, "workload": workload, "ranks": num_ranks, "steps": steps}
        task["seconds"] = seconds
        task |= {"store": f"{folder}/store", "result": f"{folder}/result"}
        environment["DDP_TASK"] = json.dumps(task)
        processes = [
            subprocess.Popen([sys.executable, __file__], env={**environment, "RANK": str(rank)})
            for rank in range(num_ranks)
        ]
        try:
            codes = [process.wait(TIME_LIMIT_S) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(codes):
            sys.exit(f"ddp: {contender} on {workload}: the ranks ended with {codes}")
        results = [json.loads(Path(f"{task['result']}.{rank}").read_text()) for rank in range(num_ranks)]
    return dict(max(results, key=lambda result: result["median_ms"]))


def compare(workload: str, contenders: list[str], options: argparse.Namespace) -> Row:
    """All contenders on one workload in turns."""
    steps = int(run("alone", workload, 1, options.seconds)["steps"])
    rounds = [
        {name: run(name, workload, options.ranks, options.seconds, steps) for name in contenders}
        for _ in range(options.rounds)
    ]

    def median(name: str, key: str) -> float:
        return statistics.median(each[name][key] for each in rounds)

    def ratio(over: str, under: str) -> float | None:
        if over not in contenders:
            return None
        return statistics.median(each[over]["median_ms"] / each[under]["median_ms"] for each in rounds)

    return {
        "workload": workload,
        "ranks": options.ranks,
        "steps": steps,
        **{f"{name}_ms": median(name, "median_ms") for name in contenders},
        "speed_up_over_torch": ratio("torch", "distgrad"),
        "bar": BARS.get(workload),
        "efficiency": ratio("alone", "distgrad"),
        "efficiency_limit": ratio("alone", "apart"),
        "communication_ms": median("distgrad", "communication_ms"),
        "exposed_ms": median("distgrad", "exposed_ms"),
        "hidden_share": median("distgrad", "hidden_share"),
        "rounds": rounds,
    }


def show(row: Row) -> None:
    """A line of the table."""
    torch_ms, speed_up = row.get("torch_ms"), row["speed_up_over_torch"]
    print(
        f"{row['workload']:9}{row['distgrad_ms']:10.2f}"
        + (f"{torch_ms:10.2f}{speed_up:9.2f} x" if speed_up else f"{'-':>10}{'-':>11}")
        + (f"{row['bar']:7.1f}" if row["bar"] else f"{'-':>7}")
        + f"{row['alone_ms']:10.2f}{row['apart_ms']:10.2f}{row['efficiency']:10.0%}"
        f"{row['efficiency_limit']:8.0%}{row['communication_ms']:10.2f}{row['exposed_ms']:10.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="names, with commas between")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each contender")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of each measurement, but five steps at least"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    options = parser.parse_args()
    contenders = [name for name in CONTENDERS if name != "torch" or importlib.util.find_spec("torch")]
    if "torch" not in contenders:
        print("torch is not installed, so left out", flush=True)
    about = machine()
    print(json.dumps(about), flush=True)
    print(f"milliseconds a step, {options.ranks} ranks of one thread", flush=True)
    heads = (
        "distgrad",
        "torch",
        "speed-up",
        "bar",
        "alone",
        "apart",
        "efficiency",
        "limit",
        "comm",
        "exposed",
    )
    widths = (10, 10, 11, 7, 10, 10, 10, 8, 10, 10)
    print(f"{'':9}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    rows = []
    for workload in options.workloads.split(","):
        rows.append(compare(workload, contenders, options))
        show(rows[-1])
    if options.json is not None:
        options.json.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if "DDP_TASK" in os.environ:
        be_a_rank(json.loads(os.environ["DDP_TASK"]))
    else:
        main()
