"""Data-parallel training steps on two ranks of one thread each: distgrad beside PyTorch DDP over Gloo.

::

    distgrad bench ddp                                  # tiny, mlp, gpt, gptm and cnn: some four minutes
    distgrad bench ddp --workloads gpt --rounds 5 --seconds 4 --json table.json

A step is zero_grad, forward, mean cross entropy, backward with its reduction, and AdamW, on a batch of
``workloads.py`` of each rank's own. Every rank is a process of its own, pinned to a core of its own. The
contenders take turns, several rounds long, and wait without computing in between; in its first turn, which
warms it up and does not count, each finds how many steps fit into ``--seconds``. A time is the median over
the rounds of the slowest rank's median step, a ratio the median of the rounds' ratios.

    distgrad    DistributedDataParallel over shared memory
    captured    the same with its step captured (dg.capture)
    torch       PyTorch's DistributedDataParallel over Gloo, with gradients as views of buckets
    alone       distgrad in one process, without data parallelism
    apart       as many such processes at once, which know nothing of each other: what the machine allows

With ``--device cuda`` every rank has a GPU of its own, and both go over NCCL.

``efficiency`` is alone / distgrad, and its limit alone / apart; ``in step`` is that limit for processes which
wait for each other after every step, alone / (the slower of the two in each step of apart), since a machine
that holds one rank up for a moment then holds up both. ``watching`` is the share of a step that the
statistics and the comparisons of the replicas take.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.script import add_device_option, find_device

from .peers import distgrad_step, fully_sharded, join_torch, torch_parallel, torch_step, zero_optimizer
from .step import machine
from .surroundings import command_of, environment, result_file

WORKLOADS = ("tiny", "mlp", "gpt", "gptm", "cnn")
BARS = {"mlp": 1.9, "gpt": 1.9, "gptm": 1.9, "cnn": 1.2}  # times PyTorch DDP's samples a second
CAPTURED_BARS = {"tiny": 5.0, "mlp": 1.2, "gpt": 1.2, "cnn": 1.2}  # of captured steps
WARM_UP_STEPS, FEWEST_STEPS = 6, 3  # gptm's steps take a second or two, so that two must do to warm up

Row = dict[str, Any]


# A rank ----------------------------------------------------------------------------------------------------


def distgrad_rank(
    task: Row, shard: str | None = None, captured: bool = False
) -> tuple[Callable[[], Any], Callable[[], Row]]:
    """The step, and what is known of its communication."""
    import distgrad as dg
    from distgrad import script

    script.join(task["device"], "shm" if task["device"] == "cpu" else None)
    models = []

    def wrap(model: Any) -> Any:
        models.append(dg.parallel.DistributedDataParallel(model, shard=shard))
        return models[0]

    def account() -> Row:
        stats = models[0].stats(reset=True)
        models[0].check_replicas()  # a turn may be too short for one
        per_step = 1e3 / stats.num_steps
        return {
            "counting_ms": per_step * stats.counting_s,
            "comparing_ms": 1e3 * models[0].stats(reset=True).comparing_s / models[0].check_replicas_every,
            "hidden_share": stats.hidden_share,
            "communication_ms": per_step * stats.communication_s,
            "exposed_ms": per_step * stats.exposed_s,
            "buckets": stats.buckets,
        }

    rank = int(os.environ["RANK"])
    return distgrad_step(task["workload"], 1, task["device"], wrap, number=rank, captured=captured), account


def torch_rank(
    task: Row,
    wrap: Callable[[Any], Any] = torch_parallel,
    optimizer_of: Callable[[Any], Any] | None = None,
) -> tuple[Callable[[], Any], Callable[[], Row]]:
    """The step, and nothing more."""
    import torch

    rank, size = int(os.environ["RANK"]), task["ranks"]
    backend = "gloo" if task["device"] == "cpu" else "nccl"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    join_torch(task["store"], rank, size, backend)
    more: Row = {"number": rank, "optimizer_of": optimizer_of}
    return torch_step(task["workload"], 1, task["device"], wrap=wrap, **more), dict


def lone_rank(task: Row) -> tuple[Callable[[], Any], Callable[[], Row]]:
    """The step of one process that has no other."""
    return distgrad_step(task["workload"], 1, task["device"]), dict


PROGRAMS: dict[str, Callable[[Row], tuple[Callable[[], Any], Callable[[], Row]]]] = {
    "distgrad": distgrad_rank,
    "torch": torch_rank,
    "alone": lone_rank,
    "none": distgrad_rank,
}
PROGRAMS["captured"] = functools.partial(distgrad_rank, captured=True)
PROGRAMS |= {  # for sharded.py
    stage: functools.partial(distgrad_rank, shard=stage) for stage in ("optimizer", "gradients", "parameters")
}
PROGRAMS["zero"] = functools.partial(torch_rank, optimizer_of=zero_optimizer)
PROGRAMS["fsdp2"] = functools.partial(torch_rank, wrap=fully_sharded)
OF_TORCH = ("torch", "zero", "fsdp2")
CONTENDERS = ("distgrad", "captured", "torch", "alone", "apart")  # the last two are the same processes


def be_a_rank(task: Row) -> None:
    """Take steps as the lines of standard input ask for, and answer each with a line."""
    rank = int(os.environ["RANK"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    step, account = PROGRAMS[task["program"]](task)
    for line in sys.stdin:
        times = []
        busy_s = time.process_time()
        for _ in range(int(line)):
            start_s = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - start_s))
        busy_s = time.process_time() - busy_s
        result: Row = {"median_ms": statistics.median(times), "min_ms": min(times), "steps": len(times)}
        result |= {"cpu_ms": 1e3 * busy_s / len(times), "times_ms": times}
        print(json.dumps({**result, **account()}), flush=True)
    if task["program"] in OF_TORCH:
        import torch

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


# The program that starts them ------------------------------------------------------------------------------


class Ranks:
    """The processes of one program; they end with the ``with`` block.

    Args:
        program: of ``PROGRAMS``.
        workload: of ``workloads.py``.
        num_ranks: how many processes.
        folder: for PyTorch's store.
        device: where they compute.
    """

    def __init__(self, program: str, workload: str, num_ranks: int, folder: str, device: str) -> None:
        self.program = program
        variables = environment(1)
        variables |= {"WORLD_SIZE": str(num_ranks), "DISTGRAD_JOB_SECRET": secrets.token_hex(16)}
        task = {"program": program, "workload": workload, "ranks": num_ranks, "store": f"{folder}/{program}"}
        variables["DDP_TASK"] = json.dumps({**task, "device": device})
        self._processes = [
            subprocess.Popen(
                command_of("ddp"),
                env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(num_ranks)
        ]

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            if exception[0] is not None:
                process.kill()
            if process.stdin:
                process.stdin.close()  # of all first, since they end together
        for process in self._processes:
            process.wait()

    def take(self, steps: int, num_ranks: int | None = None) -> Row:
        """Have the first ``num_ranks`` take steps at once, and return the slowest one's result."""
        chosen = self._processes[:num_ranks]
        for process in chosen:
            print(steps, file=process.stdin, flush=True)
        lines = [process.stdout.readline() if process.stdout else "" for process in chosen]
        if not all(lines):
            sys.exit(f"ddp: a rank of {self.program} has ended")
        results = [json.loads(line) for line in lines]
        in_step = map(max, zip(*(result["times_ms"] for result in results), strict=True))
        slowest = max(results, key=lambda result: float(result["median_ms"]))
        return {**slowest, "in_step_ms": statistics.median(in_step)}


def compare(workload: str, contenders: list[str], options: argparse.Namespace) -> Row:
    """All contenders on one workload in turns."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ranks = {
            name: stack.enter_context(Ranks(name, workload, options.ranks, folder, options.device))
            for name in contenders
            if name in PROGRAMS
        }
        ranks["apart"] = ranks["alone"]

        def take(name: str, steps: int) -> Row:
            return ranks[name].take(steps, 1 if name == "alone" else None)

        steps = {}
        for name in contenders:
            first = min(take(name, 2)["min_ms"], take(name, 2)["min_ms"])  # the first two may compile
            if first * WARM_UP_STEPS < 1e3 * options.seconds:
                first = take(name, WARM_UP_STEPS)["min_ms"]
            steps[name] = max(FEWEST_STEPS, int(1e3 * options.seconds / first))
        rounds = [{name: take(name, steps[name]) for name in contenders} for _ in range(options.rounds)]
    return summarise(workload, contenders, options.ranks, rounds)


def summarise(workload: str, contenders: list[str], num_ranks: int, rounds: list[dict[str, Row]]) -> Row:
    """A row of the table."""

    def median(name: str, key: str) -> float:
        return statistics.median(each[name][key] for each in rounds)

    def ratio(over: str, under: str) -> float | None:
        if over not in contenders:
            return None
        return statistics.median(each[over]["median_ms"] / each[under]["median_ms"] for each in rounds)

    return {
        "workload": workload,
        "ranks": num_ranks,
        **{f"{name}_ms": median(name, "median_ms") for name in contenders},
        "speed_up_over_torch": ratio("torch", "distgrad"),
        "bar": BARS.get(workload),
        "captured_over_torch": ratio("torch", "captured") if "captured" in contenders else None,
        "captured_bar": CAPTURED_BARS.get(workload),
        "efficiency": ratio("alone", "distgrad"),
        "efficiency_limit": ratio("alone", "apart"),
        "in_step_limit": statistics.median(
            each["alone"]["median_ms"] / each["apart"]["in_step_ms"] for each in rounds
        ),
        "communication_ms": median("distgrad", "communication_ms"),
        "exposed_ms": median("distgrad", "exposed_ms"),
        "hidden_share": median("distgrad", "hidden_share"),
        "watching_share": statistics.median(
            (each["distgrad"]["counting_ms"] + each["distgrad"]["comparing_ms"])
            / each["distgrad"]["median_ms"]
            for each in rounds
        ),
        "rounds": rounds,
    }


def show(row: Row) -> None:
    """A line of the table."""
    torch_ms, speed_up = row.get("torch_ms"), row["speed_up_over_torch"]
    print(
        f"{row['workload']:9}{row['distgrad_ms']:10.2f}"
        + (f"{torch_ms:10.2f}{speed_up:9.2f} x" if speed_up else f"{'-':>10}{'-':>11}")
        + (f"{row['bar']:7.1f}" if row["bar"] else f"{'-':>7}")
        + (f"{row['captured_ms']:10.3f}" if "captured_ms" in row else f"{'-':>10}")
        + (f"{row['captured_over_torch']:9.2f} x" if row["captured_over_torch"] else f"{'-':>11}")
        + (f"{row['captured_bar']:7.1f}" if row["captured_bar"] else f"{'-':>7}")
        + f"{row['alone_ms']:10.2f}{row['apart_ms']:10.2f}{row['efficiency']:12.0%}"
        f"{row['efficiency_limit']:8.0%}{row['in_step_limit']:9.0%}"
        f"{row['communication_ms']:10.2f}{row['exposed_ms']:10.2f}{row['watching_share']:10.2%}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, this process's by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="names, with commas between")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn, but three steps at least")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write all times to FILE")
    add_device_option(parser)
    options = parser.parse_args(arguments)
    find_device(options.device)
    contenders = [name for name in CONTENDERS if name != "torch" or importlib.util.find_spec("torch")]
    if options.device not in (None, "cpu"):
        contenders.remove("captured")  # steps on a GPU are not captured
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
        "captured",
        "speed-up",
        "bar",
        "alone",
        "apart",
        "efficiency",
        "limit",
        "in step",
        "comm",
        "exposed",
        "watching",
    )
    widths = (10, 10, 11, 7, 10, 11, 7, 10, 10, 12, 8, 9, 10, 10, 10)
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
