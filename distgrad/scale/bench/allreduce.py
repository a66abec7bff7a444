"""All-reduce of float32 among ranks of one host: distgrad beside MPI, PyTorch's Gloo and a plain copy.

::

    distgrad bench allreduce                      # 1 KB to 256 MB, 2 and 4 ranks
    distgrad bench allreduce --ranks 2 --sizes 1024 1048576 --json table.json
    distgrad bench allreduce --device cuda        # among GPUs: NCCL by distgrad, and by PyTorch

It starts its own ranks, of one thread each. The contenders take turns in the same processes, several rounds
long; a time is the median over the rounds of the slowest rank's mean, a ratio the median of the rounds'
ratios. Who is not installed is named and left out.

    arena     distgrad, an array in memory of comm.allocate: reduced where it lies
    array     distgrad, any other array: copied into shared memory and back
    scatter   distgrad, the array of ``arena``: reduce_scatter into its own part of it
    gather    and all_gather of that part into all of it
    pair      the two, one behind the other, which give what ``arena`` gives
    MPI       MPI_Allreduce in place, by mpi4py and the MPI library that it loads
    MPI pair  its Reduce_scatter and Allgatherv
    Gloo      torch.distributed.all_reduce; on GPUs by NCCL, under that name
    memcpy    every rank copies as many bytes for itself
    limit     every rank reads and writes as many bytes as it must in ``arena``, but those of an array of its
              own, in place and in one pass: what the machine's memory allows the ranks together
    limits    likewise for ``pair``: its own part and the others' are added into one, and copied

limit/arena and limits/pair are the shares of what the memory allows that ``arena`` and ``pair`` reach. The
pair reads and writes a quarter more bytes than one all-reduce, but brings twice as many lines into a core: a
line that is overwritten is fetched first, and in an all-reduce every line that is fetched is written too.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.backend.device import CPU, Device, activated, to_device
from distgrad.script import add_device_option, find_device, join, synchronize

from .surroundings import command_of, result_file

SIZES = [1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 25 << 20, 1 << 26, 1 << 28]
NAMES = {
    "cpu": (
        "arena",
        "array",
        "scatter",
        "gather",
        "pair",
        "MPI",
        "MPI pair",
        "Gloo",
        "memcpy",
        "limit",
        "limits",
    ),
    "cuda": ("arena", "array", "scatter", "gather", "pair", "NCCL", "memcpy"),
}
PARTIAL = ("scatter", "gather", "memcpy", "limit", "limits")  # contenders that do not give the sum
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
LIMIT_S = 900.0
NUM_WARM_UPS = 5000  # distgrad compiles its collectives after so many
Contender = tuple[Any, Callable[[], object]]  # the array that is reduced in place, and how


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="numbers of ranks")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes of the array")
    parser.add_argument("--rounds", type=int, default=7, help="how often every contender has its turn")
    parser.add_argument("--turn", type=float, default=0.05, help="seconds that a turn takes at least")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="what is measured")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write all times to FILE")
    add_device_option(parser)
    return parser.parse_args(arguments)


# A rank ----------------------------------------------------------------------------------------------------


def limits(num_ranks: int, count: int) -> dict[str, Contender]:
    """What reads and writes as much of this rank's own memory as ``arena`` and ``pair`` do."""
    own = np.zeros(count, np.float32)  # a part of every rank's array, as many as ranks, is as large as one
    parts = np.zeros((num_ranks, count // num_ranks), np.float32)
    copies = np.zeros_like(parts)

    def move() -> None:
        for part in parts[1:]:
            np.add(parts[0], part, out=parts[0])
        np.copyto(copies[1:], parts[1:])

    return {"limit": (own, lambda: np.negative(own, out=own)), "limits": (own, move)}


def contenders(comm: dg.comm.Communicator, num_bytes: int, device: Device) -> dict[str, Contender]:
    """Who is there to reduce an array of ``num_bytes``."""
    count = num_bytes // 4
    arena = comm.allocate(num_bytes, device).view(np.float32)
    with activated(device) as xp:
        array, copy = xp.zeros(count, np.float32), xp.ones(count, np.float32)
    edges = [count * rank // comm.size for rank in range(comm.size + 1)]
    counts = np.diff(edges).tolist()
    mine = slice(edges[comm.rank], edges[comm.rank + 1])

    def scatter() -> object:
        return comm.reduce_scatter(arena, out=arena[mine], counts=counts)

    def gather() -> object:
        return comm.all_gather(arena[mine], out=arena, counts=counts)

    found: dict[str, Contender] = {
        "arena": (arena, lambda: comm.all_reduce(arena)),
        "array": (array, lambda: comm.all_reduce(array)),
        "scatter": (arena, scatter),
        "gather": (arena, gather),
        "pair": (arena, lambda: (scatter(), gather())),
    }
    if "PMI_RANK" in os.environ and device == CPU:
        from mpi4py import MPI

        buffer = np.zeros(count, np.float32)
        part = np.zeros(counts[comm.rank], np.float32)
        parts = [buffer, counts, edges[:-1], MPI.FLOAT]

        def pair() -> None:
            MPI.COMM_WORLD.Reduce_scatter(buffer, part, counts)
            MPI.COMM_WORLD.Allgatherv(part, parts)

        found["MPI"] = (buffer, lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, buffer))
        found["MPI pair"] = (buffer, pair)
    if importlib.util.find_spec("torch") is not None:
        import torch

        tensor = torch.zeros(count, device=str(device))
        shared = tensor.numpy() if device == CPU else dg.from_dlpack(tensor)._data
        name = "Gloo" if device == CPU else "NCCL"
        found[name] = (shared, lambda: torch.distributed.all_reduce(tensor))
    found["memcpy"] = (copy, lambda: xp.copyto(copy, array))
    if device == CPU:
        found |= limits(comm.size, count)
    return found


def check(comm: dg.comm.Communicator, name: str, contender: Contender, device: Device) -> None:
    """See that a contender reduces, before its time counts."""
    x, call = contender
    if name not in PARTIAL:
        x[:] = to_device((np.arange(x.size) % 7 + comm.rank).astype(np.float32), device)
        call()
        synchronize(device)
        total = comm.size * (np.arange(x.size) % 7) + comm.size * (comm.size - 1) // 2
        assert np.array_equal(to_device(x, CPU), total.astype(np.float32)), f"{name} gives a wrong sum"
    x[:] = 0


def take_turn(
    comm: dg.comm.Communicator, call: Callable[[], object], num_calls: int, device: Device
) -> float:
    """Seconds a call on the slowest rank."""
    clock = CLOCKS[os.environ["ALLREDUCE_CLOCK"]]
    comm.barrier()
    start_s = clock()
    for _ in range(num_calls):
        call()
    synchronize(device)
    return float(comm.host.all_reduce(np.array([clock() - start_s]), "max")[0]) / num_calls


def measure(
    comm: dg.comm.Communicator, num_bytes: int, rounds: int, turn_s: float, device: Device
) -> dict[str, list[float]]:
    """Seconds a call, one number a round, for every contender."""
    found = contenders(comm, num_bytes, device)
    num_calls = {}
    for name, contender in found.items():
        check(comm, name, contender, device)
        take_turn(comm, contender[1], 3, device)
        num_calls[name] = max(1, int(turn_s / take_turn(comm, contender[1], 3, device)))
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, (_, call) in found.items():
            times[name].append(take_turn(comm, call, num_calls[name], device))
    return times


def be_a_rank(task: dict[str, Any]) -> None:
    """Measure what ``task`` says; the first rank prints the result."""
    os.environ.setdefault("RANK", os.environ.get("PMI_RANK", ""))
    _, device = join(task["device"], "shm" if task["device"] == "cpu" else None)
    comm = dg.comm.get_world()
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)
        if device != CPU:
            torch.cuda.set_device(device.index)
        store = torch.distributed.FileStore(task["store"], comm.size)
        torch.distributed.init_process_group(
            "gloo" if device == CPU else "nccl", store=store, rank=comm.rank, world_size=comm.size
        )
    for _ in range(NUM_WARM_UPS):
        comm.barrier()
    times = {size: measure(comm, size, task["rounds"], task["turn"], device) for size in task["sizes"]}
    if comm.rank == 0:
        Path(task["result"]).write_text(json.dumps(times))
    if importlib.util.find_spec("torch") is not None:
        torch.distributed.destroy_process_group()


# The program that starts them ------------------------------------------------------------------------------


def run(num_ranks: int, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Start the ranks, under mpiexec if it is there, and return every contender's times by size."""
    dropped = (
        "OPENBLAS_CORETYPE",
        "OPENBLAS_L2_SIZE",
    )  # some machines set them, and they halve NumPy's speed
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "WORLD_SIZE": str(num_ranks)}
    environment |= {"DISTGRAD_JOB_SECRET": secrets.token_hex(16)}
    mpiexec = Path(sys.executable).parent / "mpiexec"
    with tempfile.TemporaryDirectory() as folder:
        task = {"sizes": options.sizes, "rounds": options.rounds, "turn": options.turn}
        task["device"] = options.device
        task |= {"store": f"{folder}/store", "result": f"{folder}/result"}
        command = command_of("allreduce")
        environment |= {"ALLREDUCE_TASK": json.dumps(task), "ALLREDUCE_CLOCK": options.clock}
        if mpiexec.exists() and options.device == "cpu":
            started = [subprocess.Popen([str(mpiexec), "-n", str(num_ranks), *command], env=environment)]
        else:
            ranks = [{**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]
            started = [subprocess.Popen(command, env=rank) for rank in ranks]
        try:
            codes = [process.wait(LIMIT_S) for process in started]
        finally:
            for process in started:
                process.kill()
        if any(codes):
            sys.exit(f"allreduce: the ranks ended with {codes}")
        return json.loads(Path(task["result"]).read_text())


def ratio(times: dict[str, list[float]], name: str) -> str:
    """How many times longer ``name`` takes than distgrad in an arena; of ``limits``, than its pair."""
    if name not in times:
        return "-"
    pairs = zip(times[name], times["pair" if name == "limits" else "arena"], strict=True)
    return f"{statistics.median(theirs / ours for theirs, ours in pairs):.2f}"


def label(num_bytes: int) -> str:
    """A number of bytes as one reads it."""
    power = (num_bytes.bit_length() - 1) // 10
    return f"{num_bytes / 1024**power:g} {('B', 'KB', 'MB', 'GB')[power]}"


def table(num_ranks: int, results: dict[str, dict[str, list[float]]], names: tuple[str, ...]) -> str:
    """Microseconds of every contender, and how many times longer the others take than ``arena``."""
    rows = [f"{num_ranks} ranks, microseconds a call"]
    others = names[2:]
    heads = [*names, *(f"{name}/{'pair' if name == 'limits' else 'arena'}" for name in others)]
    rows.append(f"{'bytes':>8}" + "".join(f"{head:>15}" for head in heads))
    for size, times in results.items():
        cells = [f"{1e6 * statistics.median(times[name]):.1f}" if name in times else "-" for name in names]
        cells += [ratio(times, name) for name in others]
        rows.append(f"{label(int(size)):>8}" + "".join(f"{cell:>15}" for cell in cells))
    missing = sorted({name for times in results.values() for name in names if name not in times})
    if missing:
        rows.append(f"not installed, so left out: {', '.join(missing)}")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, this process's by default."""
    options = read_options(arguments)
    names = NAMES[find_device(options.device).kind]
    everything = {}
    for num_ranks in options.ranks:
        everything[num_ranks] = run(num_ranks, options)
        print(table(num_ranks, everything[num_ranks], names), flush=True)
    if options.json is not None:
        report = {"cores": len(os.sched_getaffinity(0)), "unit": "seconds a call", "ranks": everything}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    if "ALLREDUCE_TASK" in os.environ:
        be_a_rank(json.loads(os.environ["ALLREDUCE_TASK"]))
    else:
        main()
