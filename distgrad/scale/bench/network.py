"""Data-parallel steps on an EMULATED network: how much of the communication hides, and what compressors save.

::

    distgrad bench network                               # gpt on 2 ranks at 1 and 10 Gbit/s
    distgrad bench network --ranks 4 --gbits 0.1 1 --json table.json

The ranks are threads of one process, and their line is a clock: a collective takes alpha seconds a message
plus its bytes over the bandwidth (``distgrad.comm.Link``). So that ranks do not share cores, arithmetic is a
clock too: one real backward pass of the workload is timed, gradient by gradient, and each rank then waits as
long before it hands the same gradients out. Everything in between, buckets, hooks and the communication
thread, is real, and so is the arithmetic of compressors.

``bound`` is the critical path: forward, then backward or the transfer of what is ready by then, whichever
ends last, for gradients that travel in the smallest pieces and without any latency.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import distgrad as dg
from distgrad import nn, optim
from distgrad.backend.device import Device
from distgrad.comm import Link, ThreadWorld
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel, PowerSGD, TopK, bf16, fp16
from distgrad.script import add_device_option, find_device, synchronize

from .models import build
from .replayed import SCALE, Recording, ReplayedHook, Replaying, Spent, shrunk
from .surroundings import result_file
from .workloads import WORKLOADS

LATENCY_S = 20e-6
WARM_UP_STEPS = 4
RECORDED_STEPS = 4
HOOKS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "fp16": lambda: fp16,
    "bf16": lambda: bf16,
    "PowerSGD(4)": lambda: PowerSGD(4),
    "TopK(0.01)": lambda: TopK(0.01),
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Profile:
    """When each gradient of a workload is ready.

    Args:
        forward_s: time of the forward pass.
        ready: shapes and seconds after the start of backward, in the order of readiness.
    """

    forward_s: float
    ready: list[tuple[tuple[int, ...], float]]

    @staticmethod
    def timed(name: str, device: Device) -> Profile:
        """The profile of real steps in this process.

        Args:
            name: of the workload.
            device: where it runs; on a GPU a gradient's time is when the device has it.
        """
        dg.set_num_threads(1)
        work = WORKLOADS[name]
        model = build(nn, F, dg.scaled_dot_product_attention, name, work.sizes).to(device)
        x, y = (dg.asarray(array, device=device) for array in work.batch())
        seen: list[tuple[tuple[int, ...], float]] = []

        def ready(parameter: Any) -> None:
            synchronize(device)
            seen.append((parameter.shape, time.perf_counter()))

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(ready)
        runs = []
        for _ in range(WARM_UP_STEPS + 5):
            seen.clear()
            model.zero_grad()
            start_s = time.perf_counter()
            loss = F.cross_entropy(model(x), y)
            synchronize(device)
            forward_s = time.perf_counter() - start_s
            start_s = time.perf_counter()
            loss.backward()
            runs.append(Profile(forward_s, [(shape, at_s - start_s) for shape, at_s in seen]))
        runs.sort(key=lambda run: run.ready[-1][1])
        return runs[len(runs) // 2]

    @property
    def num_bytes(self) -> int:
        """Bytes of all gradients."""
        return sum(4 * math.prod(shape) for shape, _ in self.ready)

    def bound_s(self, num_ranks: int, bytes_per_s: float) -> float:
        """The critical path of forward, backward and the transfer of float32 gradients."""
        seconds = [
            4 * np.prod(shape) * 2 * (num_ranks - 1) / num_ranks / bytes_per_s for shape, _ in self.ready
        ]
        ends = [at_s + sum(seconds[i:]) for i, (_, at_s) in enumerate(self.ready)]
        return self.forward_s + max(float(end) for end in ends)


class Wait(dg.autograd.Function):
    """Hands a parameter's gradient out when its time has come."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        x, _parameter, ctx.gradient, ctx.clock, ctx.at_s = args
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        left_s = ctx.clock[0] + ctx.at_s - time.perf_counter()
        if left_s > 0:
            time.sleep(left_s)
        return grad_outputs[0], ctx.gradient, None, None, None


class Replay(nn.Module):
    """Has the parameters of a profile, and takes as long as it says."""

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self.profile = profile
        self.weights = nn.ParameterList(
            [nn.Parameter(dg.zeros(shape)) for shape, _ in reversed(profile.ready)]
        )
        rng = np.random.default_rng(0)
        self.gradients = [dg.asarray(rng.standard_normal(w.shape).astype(np.float32)) for w in self.weights]
        self.clock = [0.0]

    def forward(self, x: Any) -> Any:
        """Wait as long as the forward pass, weight by weight; backward then hands out the gradients."""
        times = [at_s for _, at_s in reversed(self.profile.ready)]
        end_s = 0.0
        for weight, gradient, at_s in zip(self.weights, self.gradients, times, strict=True):
            weight.detach().numpy()  # comes here first, where ranks own parts of it
            x = Wait.apply(x, weight, gradient, self.clock, at_s)
            share = weight.nbytes / self.profile.num_bytes
            end_s = max(end_s, time.perf_counter()) + share * self.profile.forward_s
            time.sleep(max(0.0, end_s - time.perf_counter()))
        self.clock[0] = time.perf_counter()
        return x.sum()


def measure(
    profile: Profile,
    num_ranks: int,
    link: Link | Recording | Replaying | None,
    hook: str | list[Spent],
    steps: int,
    cap_mb: float | None = None,
    shard: str | None = None,
) -> Row:
    """Median, lower quartile and least of the steps, and what was sent, on the slowest rank.

    Args:
        profile: what a rank computes.
        num_ranks: how many.
        link: between them; None for the memory that they share; or what records the communication threads'
            computing, or replays it.
        hook: of ``HOOKS``, or the calls of one that is replayed.
        steps: that count.
        cap_mb, shard: as ``bucket_cap_mb`` and ``shard`` of DistributedDataParallel.
    """

    watched = None if link is None or isinstance(link, Link) else link

    def be_a_rank(comm: Any) -> Row:
        reduce = HOOKS[hook]() if isinstance(hook, str) else ReplayedHook(hook)
        options: Row = {"hook": reduce, "bucket_cap_mb": cap_mb, "shard": shard}
        model = DistributedDataParallel(Replay(profile), comm, check_replicas_every=0, **options)
        x = dg.asarray(np.ones(1, np.float32))
        # Where ranks own parts, the optimizer's step hands the parameters out.
        update = (lambda: None) if shard is None else optim.SGD(model.parameters(), lr=0.0).step
        times = []
        for step in range(WARM_UP_STEPS + steps):
            if step == WARM_UP_STEPS:
                model.stats(reset=True)
                if watched is not None:
                    comm.barrier()  # behind what is still to come, as parameters that are handed out
                    watched.begin(comm.rank)
            model.zero_grad()
            start_s = time.perf_counter()
            model(x).backward()
            update()
            times.append(time.perf_counter() - start_s)
        stats = model.stats()
        return {
            "step_ms": 1e3 * statistics.median(times[WARM_UP_STEPS:]),
            "quartile_ms": 1e3 * statistics.quantiles(times[WARM_UP_STEPS:], n=4)[0],
            "least_ms": 1e3 * min(times[WARM_UP_STEPS:]),
            "communication_ms": 1e3 * stats.communication_s / stats.num_steps,
            "sent_bytes": stats.sent_bytes / stats.num_steps,
            "hidden_share": stats.hidden_share,
        }

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table says what pays
        world = ThreadWorld(num_ranks, link=link if isinstance(link, Link | None) else link.link)
        results = world.run(be_a_rank)
    return dict(max(results, key=lambda result: float(result["step_ms"])))


def record_calls(
    profile: Profile, num_ranks: int, hook: str, cap_mb: float, shard: str | None
) -> list[Spent]:
    """What the communication threads of that many ranks compute in a step, call by call."""
    at_once = Profile(0.0, [(shape, 0.0) for shape, _ in profile.ready])
    recording = Recording()
    measure(at_once, num_ranks, recording, hook, RECORDED_STEPS, cap_mb, shard)
    return recording.step(RECORDED_STEPS)


def measure_replayed(
    profile: Profile,
    calls: list[Spent],
    num_ranks: int,
    link: Link | None,
    hook: str,
    steps: int,
    cap_mb: float,
    shard: str | None = None,
) -> Row:
    """The same as :func:`measure` for more ranks than cores: what threads compute is replaced by sleeps.

    Args:
        calls: of :func:`record_calls`, for as many ranks.
        profile, num_ranks, link, hook, steps, cap_mb, shard: as there.
    """
    small = Profile(profile.forward_s, [(shrunk(shape), at_s) for shape, at_s in profile.ready])
    replayed = hook if hook == "none" else calls
    return measure(small, num_ranks, Replaying(calls, link), replayed, steps, cap_mb / SCALE, shard)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, this process's by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workloads", default="gpt", help="names, with commas between")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--gbits", type=float, nargs="+", default=[1.0, 10.0], help="bandwidths in Gbit/s")
    parser.add_argument("--hooks", default=",".join(HOOKS), help="names, with commas between")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write all results to FILE")
    add_device_option(parser)
    options = parser.parse_args(arguments)
    device = find_device(options.device)
    print(f"EMULATED network, {options.ranks} ranks, alpha = {1e6 * LATENCY_S:.0f} us; milliseconds a step")
    heads = ("workload", "Gbit/s", "hook", "step", "bound", "step/bound", "hidden", "MB sent", "of plain")
    print("".join(f"{head:>12}" for head in heads))
    rows = []
    for workload in options.workloads.split(","):
        profile = Profile.timed(workload, device)
        for gbits in options.gbits:
            link = Link(LATENCY_S, gbits * 1e9 / 8)
            bound_ms = 1e3 * profile.bound_s(options.ranks, link.bytes_per_s)
            plain = 2 * (options.ranks - 1) / options.ranks * profile.num_bytes
            for hook in options.hooks.split(","):
                row = measure(profile, options.ranks, link, hook, options.steps)
                row |= {"workload": workload, "gbits": gbits, "hook": hook, "bound_ms": bound_ms}
                row |= {"step_over_bound": row["step_ms"] / bound_ms, "sent_share": row["sent_bytes"] / plain}
                rows.append(row)
                print(
                    f"{workload:>12}{gbits:12g}{hook:>12}{row['step_ms']:12.2f}{bound_ms:12.2f}"
                    f"{row['step_over_bound']:12.2f}{row['hidden_share']:12.0%}"
                    f"{row['sent_bytes'] / 1e6:12.3f}{row['sent_share']:12.1%}",
                    flush=True,
                )
    if options.json is not None:
        options.json.write_text(
            json.dumps({"emulated": True, "latency_s": LATENCY_S, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
