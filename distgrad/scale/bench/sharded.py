"""What sharding saves and costs: bytes a rank and milliseconds a step, stage by stage.

::

    distgrad bench sharded                              # gptm, 2 and 4 ranks: some five minutes
    distgrad bench sharded --models gptm,gpt100 --ranks 2,4 --no-times --json table.json

**Bytes.** Fresh processes, of one thread each, meet over shared memory and train a GPT by AdamW on 32 tokens
each, so that activations are small. What counts is the mean over the ranks of the proportional share of
memory (PSS, in which a page of two processes counts half in each) between a backward pass and the optimizer's
step, when parameters, gradients and state are all there; less what the same process had after as many steps
of one layer of the same width, once that was gone. ``formula`` is that of the paper for float32 parameters,
gradients and two moments, and ``block`` one block, whose parameters and gradients may be under way.

**Times.** The workload's own batch, each rank on a core of its own; the stages take turns, ``--rounds`` long.
A time is the median over the rounds of the slowest rank's median step, and ``ratio`` the median of the
rounds' ratios to plain data parallelism. ``zero`` and ``fsdp2`` are PyTorch's ZeroRedundancyOptimizer and
``fully_shard`` over Gloo, whose bar is the ratio of the stage that does the same.

**Emulated network.** As ``distgrad bench network``, with parameters handed out behind the next forward pass.
``bound`` is the critical path of reductions, forward and backward in the smallest pieces without any latency.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import math
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .ddp import Ranks
from .models import build
from .step import machine
from .surroundings import command_of, environment, result_file

Row = dict[str, Any]

#: classes, length, layers, heads, width
MODELS = {"gptm": (65, 32, 6, 6, 384), "gpt100": (10000, 32, 12, 12, 768)}
STAGES = ("none", "optimizer", "gradients", "parameters")
FORMULAS: dict[str, Callable[[float], float]] = {  # bytes a parameter on n ranks
    "none": lambda n: 16.0,
    "optimizer": lambda n: 8.0 + 8.0 / n,
    "gradients": lambda n: 4.0 + 12.0 / n,
    "parameters": lambda n: 16.0 / n,
}
BARS = {"none": 1.0, "optimizer": 1.03, "gradients": 1.03, "parameters": 1.20}  # times plain data parallelism
PEERS = {"zero": "optimizer", "fsdp2": "parameters"}  # PyTorch's, and what does the same
EMULATED = ("none", "optimizer", "gradients")
EMULATED_BAR = 1.15  # times the critical path
STEPS = 4
SLACK = 0.08


# A rank that is weighed -------------------------------------------------------------------------------------


def pss_bytes() -> int:
    """This process's proportional share of memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def train(sizes: tuple[int, ...], shard: str) -> Row:
    """Steps of a GPT; the bytes between the last backward pass and its update."""
    import distgrad as dg
    from distgrad import nn
    from distgrad.backend.memory import release_freed_memory
    from distgrad.nn import functional as F

    dg.set_num_threads(1)
    dg.manual_seed(0)
    model: Any = build(nn, F, dg.scaled_dot_product_attention, "gptm", sizes)
    block = sum(p.nbytes for p in model.blocks[0].parameters())
    count = sum(p.size for p in model.parameters())
    model = dg.parallel.DistributedDataParallel(model, shard=None if shard == "none" else shard)
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-3)
    x = dg.asarray([[(i + model.comm.rank) % sizes[0] for i in range(sizes[1])]])
    found = 0
    for step in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), x.reshape(-1)).backward()
        if step == STEPS - 1:
            release_freed_memory()  # activations that are no more
            model.comm.barrier()
            found = pss_bytes()
            model.comm.barrier()
        optimizer.step()
    return {"bytes": found, "block": block, "parameters": count}


def be_weighed(task: Row) -> None:
    """Print what :func:`train` found on this rank, less what a single layer left behind."""
    import distgrad as dg
    from distgrad.backend.memory import release_freed_memory

    dg.comm.init("shm")
    classes, length, _, heads, width = task["sizes"]
    train((classes, length, 1, heads, width), task["shard"])
    gc.collect()
    release_freed_memory()
    before = pss_bytes()
    found = train(tuple(task["sizes"]), task["shard"])
    print(json.dumps({**found, "bytes": found["bytes"] - before}), flush=True)


# The program that starts them -------------------------------------------------------------------------------


def weigh(model: str, shard: str, num_ranks: int) -> Row:
    """The mean over the ranks of what each takes, beside the formula."""
    variables = environment(1) | {"DISTGRAD_KEEP_MEMORY": "0"}  # or freed activations would count
    variables |= {"WORLD_SIZE": str(num_ranks), "DISTGRAD_JOB_SECRET": secrets.token_hex(16)}
    variables["SHARDED_TASK"] = json.dumps({"shard": shard, "sizes": MODELS[model]})
    processes = [
        subprocess.Popen(
            command_of("sharded"),
            env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    texts = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"sharded: a rank of {model} with shard={shard} has ended badly")
    ranks = [json.loads(text) for text in texts]
    found = statistics.mean(rank["bytes"] for rank in ranks)
    formula = FORMULAS[shard](num_ranks) * ranks[0]["parameters"]
    allowed = SLACK * formula + ranks[0]["block"]
    return {
        "model": model,
        "ranks": num_ranks,
        "shard": shard,
        "bytes": found,
        "formula": formula,
        "block": ranks[0]["block"],
        "holds": abs(found - formula) <= allowed,
    }


def time_stages(workload: str, options: argparse.Namespace) -> list[Row]:
    """All stages and peers in turns."""
    num_ranks = 2
    contenders = [*STAGES, *(PEERS if importlib.util.find_spec("torch") else ())]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ranks = {
            shard: stack.enter_context(Ranks(shard, workload, num_ranks, folder, "cpu"))
            for shard in contenders
        }
        for each in ranks.values():
            each.take(4)  # the first ones compile
        turns = [
            {shard: each.take(options.steps) for shard, each in ranks.items()} for _ in range(options.rounds)
        ]
    rounds = [{shard: found["median_ms"] for shard, found in turn.items()} for turn in turns]
    ratios = {shard: statistics.median(each[shard] / each["none"] for each in rounds) for shard in contenders}
    rows = []
    for shard, ratio in ratios.items():
        median = statistics.median(each[shard] for each in rounds)
        bar = ratios[PEERS[shard]] if shard in PEERS else BARS[shard]
        row = {"workload": workload, "ranks": num_ranks, "shard": shard, "ms": median, "ratio": ratio}
        row["buckets"] = turns[-1][shard].get("buckets", [])
        rows.append({**row, "bar": bar, "holds": ratio >= bar if shard in PEERS else ratio <= bar})
    return rows


def critical_path_s(profile: Any, num_ranks: int, bytes_per_s: float) -> float:
    """Seconds of a step whose reductions hide behind backward, and whose gathers behind forward."""
    halves = [4 * math.prod(shape) * (num_ranks - 1) / num_ranks / bytes_per_s for shape, _ in profile.ready]
    reduced_s = 0.0
    for (_, ready_s), half_s in zip(profile.ready, halves, strict=True):
        reduced_s = max(reduced_s, ready_s) + half_s
    gathered_s = forward_s = 0.0
    for (shape, _), half_s in zip(reversed(profile.ready), reversed(halves), strict=True):
        gathered_s += half_s
        forward_s = max(forward_s, gathered_s)
        forward_s += 4 * math.prod(shape) / profile.num_bytes * profile.forward_s
    return forward_s + reduced_s


def time_emulated(gbits: Sequence[float], steps: int) -> list[Row]:
    """Steps of gpt on two ranks over lines of so many Gbit/s."""
    from distgrad.comm import Link
    from distgrad.scale.bench.network import LATENCY_S, Profile, measure
    from distgrad.script import find_device

    num_ranks, rows = 2, []
    profile = Profile.timed("gpt", find_device("cpu"))
    for each in gbits:
        link = Link(LATENCY_S, each * 1e9 / 8)
        for shard in EMULATED:
            found = measure(profile, num_ranks, link, "none", steps, shard=None if shard == "none" else shard)
            bound_s = (
                profile.bound_s(num_ranks, link.bytes_per_s)
                if shard == "none"
                else critical_path_s(profile, num_ranks, link.bytes_per_s)
            )
            ratio = found["step_ms"] / (1e3 * bound_s)
            row = {"workload": "gpt", "ranks": num_ranks, "gbits": each, "shard": shard, **found}
            rows.append(row | {"bound_ms": 1e3 * bound_s, "ratio": ratio, "holds": ratio <= EMULATED_BAR})
    return rows


def show_bytes(row: Row) -> None:
    """A line of the table."""
    print(
        f"{row['model']:8}{row['ranks']:6}  {row['shard']:12}{row['bytes'] / 2**20:9.1f}"
        f"{row['formula'] / 2**20:9.1f}{row['bytes'] / row['formula']:8.2f}{row['block'] / 2**20:8.1f}"
        f"  {'yes' if row['holds'] else 'NO'}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, this process's by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="gptm", help=f"of {', '.join(MODELS)}, with commas between")
    parser.add_argument("--ranks", default="2,4", help="numbers of ranks that are weighed")
    parser.add_argument("--workloads", default="mlp,gptm", help="whose steps are timed")
    parser.add_argument("--no-times", action="store_true", help="weigh only")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each stage")
    parser.add_argument("--steps", type=int, default=8, help="of each turn")
    parser.add_argument("--gbits", type=float, nargs="*", default=[1.0, 10.0], help="of emulated lines")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write all rows to FILE")
    options = parser.parse_args(arguments)
    about = machine()
    print(json.dumps(about), flush=True)
    print("MiB a rank, over one layer that is gone; the formula to within 8 % and a block")
    print(f"{'model':8}{'ranks':>6}  {'shard':12}{'MiB':>9}{'formula':>9}{'ratio':>8}{'block':>8}  holds")
    weighed = []
    for model in filter(None, options.models.split(",")):
        for num_ranks in map(int, options.ranks.split(",")):
            for shard in STAGES:
                weighed.append(weigh(model, shard, num_ranks))
                show_bytes(weighed[-1])
    times, emulated = ([], []) if options.no_times else measure_times(options)
    if options.json is not None:
        tables = {"bytes": weighed, "times": times, "emulated": emulated}
        options.json.write_text(json.dumps({**about, **tables}, indent=1) + "\n")


def show_buckets(rows: Sequence[Row]) -> None:
    """Of each bucket's reduction and gather, in the last step, how much was waited for."""
    print(
        "of that, a bucket: MiB, ms of its reduction and how much of it was exposed, the same of its gather"
    )
    for row in rows:
        for number, each in enumerate(row["buckets"]):
            times = [
                1e3 * each.get(key, 0.0) for key in ("busy_s", "waited_s", "gather_s", "gather_waited_s")
            ]
            print(
                f"{row['workload']:10}{row['shard']:12}{number:4}{each['num_bytes'] / 2**20:9.2f}"
                + "".join(f"{ms:9.2f}" for ms in times),
                flush=True,
            )


def measure_times(options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """The tables of times, printed as they come: over shared memory, and over emulated lines."""
    times: list[Row] = []
    print("milliseconds a step, 2 ranks of one thread")
    print(f"{'workload':10}{'shard':12}{'ms':>9}{'ratio':>8}{'bar':>7}  holds")
    for workload in filter(None, options.workloads.split(",")):
        for row in time_stages(workload, options):
            times.append(row)
            print(
                f"{row['workload']:10}{row['shard']:12}{row['ms']:9.2f}{row['ratio']:8.3f}{row['bar']:7.2f}"
                f"  {'yes' if row['holds'] else 'NO'}",
                flush=True,
            )
        show_buckets(times[-len(STAGES) - len(PEERS) :])
    print("EMULATED network, milliseconds a step of gpt, 2 ranks")
    print(f"{'Gbit/s':8}{'shard':12}{'ms':>9}{'bound':>9}{'ratio':>8}{'hidden':>8}  holds")
    emulated = time_emulated(options.gbits, max(options.steps, 8))
    for row in emulated:
        print(
            f"{row['gbits']:<8g}{row['shard']:12}{row['step_ms']:9.2f}{row['bound_ms']:9.2f}{row['ratio']:8.3f}"
            f"{row['hidden_share']:8.0%}  {'yes' if row['holds'] else 'NO'}",
            flush=True,
        )
    return times, emulated


if __name__ == "__main__":
    if "SHARDED_TASK" in os.environ:
        be_weighed(json.loads(os.environ["SHARDED_TASK"]))
    else:
        main()
