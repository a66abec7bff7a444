"""What sharding saves and costs: bytes a rank and milliseconds a step, stage by stage.

::

    distgrad bench sharded                              # gptm, 2 and 4 ranks: about three minutes
    distgrad bench sharded --models gptm,gpt100 --ranks 2,4 --no-times --json table.json

**Bytes.** Fresh processes, of one thread each, meet over shared memory and train a GPT by AdamW on 32 tokens,
so that activations are small. What counts is the mean over the ranks of the proportional share of memory
(PSS, in which a page of two processes counts half in each) between a backward pass and the optimizer's
step, when parameters, gradients and state are all there; less what the same process had after as many steps
of one layer of the same width, once that was gone. ``formula`` is that of the paper for float32 parameters,
gradients and two moments, and ``block`` one block, whose parameters and gradients may be under way.

**Times.** The workload's own batch, each rank on a core of its own; the stages take turns, ``--rounds`` long.
A time is the median over the rounds of the slowest rank's median step, and ``ratio`` the median of the
rounds' ratios to plain data parallelism.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
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
from .surroundings import command_of, environment

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
    x = dg.asarray([[i % sizes[0] for i in range(sizes[1])]])
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
    """All stages in turns."""
    num_ranks = 2
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ranks = {
            shard: stack.enter_context(Ranks(shard, workload, num_ranks, folder, "cpu")) for shard in STAGES
        }
        for each in ranks.values():
            each.take(4)  # the first ones compile
        rounds = [
            {shard: each.take(options.steps)["median_ms"] for shard, each in ranks.items()}
            for _ in range(options.rounds)
        ]
    rows = []
    for shard in STAGES:
        ratio = statistics.median(each[shard] / each["none"] for each in rounds)
        median = statistics.median(each[shard] for each in rounds)
        row = {"workload": workload, "ranks": num_ranks, "shard": shard, "ms": median, "ratio": ratio}
        rows.append({**row, "bar": BARS[shard], "holds": ratio <= BARS[shard]})
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to FILE")
    options = parser.parse_args(arguments)
    about = machine()
    print(json.dumps(about), flush=True)
    print("MiB a rank, over one layer that is gone; the formula to within 8 % and a block")
    print(f"{'model':8}{'ranks':>6}  {'shard':12}{'MiB':>9}{'formula':>9}{'ratio':>8}{'block':>8}  holds")
    weighed = []
    for model in options.models.split(","):
        for num_ranks in map(int, options.ranks.split(",")):
            for shard in STAGES:
                weighed.append(weigh(model, shard, num_ranks))
                show_bytes(weighed[-1])
    times: list[Row] = []
    if not options.no_times:
        print("milliseconds a step, 2 ranks of one thread")
        print(f"{'workload':10}{'shard':12}{'ms':>9}{'ratio':>8}{'bar':>7}  holds")
        for workload in options.workloads.split(","):
            for row in time_stages(workload, options):
                times.append(row)
                print(
                    f"{row['workload']:10}{row['shard']:12}{row['ms']:9.2f}{row['ratio']:8.3f}{row['bar']:7.2f}"
                    f"  {'yes' if row['holds'] else 'NO'}",
                    flush=True,
                )
    if options.json is not None:
        options.json.write_text(json.dumps({**about, "bytes": weighed, "times": times}, indent=1) + "\n")


if __name__ == "__main__":
    if "SHARDED_TASK" in os.environ:
        be_weighed(json.loads(os.environ["SHARDED_TASK"]))
    else:
        main()
