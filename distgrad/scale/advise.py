"""What would pay: bucket size, compressor, sharding, local SGD and ranks a host, by simulated steps."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.comm.base import Communicator
from distgrad.comm.threads import ThreadWorld
from distgrad.nn.modules.linear import Linear
from distgrad.parallel.compress import PowerSGD, TopK, fp16
from distgrad.parallel.ddp import DistributedDataParallel
from distgrad.scale.cluster import Cluster
from distgrad.scale.model import Model
from distgrad.scale.schedule import Profile, packets
from distgrad.scale.simulate import Plan, simulate

__all__ = ["Advice", "advise", "best_ranks_per_host", "hook_costs"]

_STEPS, _SEED = 30, 0
_CAPS_MIB = (1.0, 4.0, 8.0, 25.0, 100.0)
_PERIODS = (4, 16)
_HOOKS: dict[str, Callable[[], Any]] = {
    "fp16": lambda: fp16,
    "PowerSGD(4)": lambda: PowerSGD(4),
    "TopK(0.01)": lambda: TopK(0.01),
}
_WIDTH, _TRIALS = 1024, 6


@dataclass(frozen=True)
class Advice:
    """A way to communicate, and what it would come to.

    Attributes:
        options: as DistributedDataParallel and LocalSGD take them.
        plan: the same for the simulator.
        step_s: mean seconds of a step.
        efficiency: share of what ranks would do that wait for nothing.
        changes: what training gets otherwise than by plain data parallelism; empty where nothing.
    """

    options: str
    plan: Plan
    step_s: float
    efficiency: float
    changes: str


def hook_costs() -> dict[str, float]:
    """Seconds that each compressor takes for a byte of gradients, measured between two threads."""

    def be_a_rank(comm: Communicator, hook: Any) -> float:
        model = DistributedDataParallel(
            Linear(_WIDTH, _WIDTH, bias=False), comm, hook=hook, check_replicas_every=0
        )
        x = asarray(np.full((1, _WIDTH), comm.rank + 1.0, np.float32))
        least = float("inf")
        for _ in range(_TRIALS):
            model(x).sum().backward()
            least = min(least, model.stats(reset=True).communication_s)
        return least / (4 * _WIDTH**2)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not pay between threads
        return {name: max(ThreadWorld(2).run(be_a_rank, make())) for name, make in _HOOKS.items()}


def _plans(profile: Profile, costs: Mapping[str, float]) -> Iterator[tuple[str, Plan, str]]:
    caps = {len(packets(profile, mib * 2**20)): mib for mib in reversed(_CAPS_MIB)}  # that make a difference
    for mib in caps.values():
        cap = mib * 2**20
        yield f"bucket_cap_mb={mib:g}", Plan(cap), ""
        for hook, cost in costs.items():
            text = f"bucket_cap_mb={mib:g}, hook={hook}"
            yield text, Plan(cap, hook, cost), "gradients are rounded or sent in part"
        for shard in ("optimizer", "parameters"):
            yield f'bucket_cap_mb={mib:g}, shard="{shard}"', Plan(cap, shard=shard), "less memory a rank"
    for period in _PERIODS:
        yield f"LocalSGD(model, {period})", Plan(period=period), f"ranks agree every {period} steps alone"


def advise(profile: Profile, cluster: Cluster, costs: Mapping[str, float]) -> list[Advice]:
    """Ways to communicate on a cluster, the fastest first.

    Args:
        profile: of a rank's step.
        cluster: where.
        costs: of compressors, as :func:`hook_costs` gives them.
    """
    found = []
    for options, plan, changes in _plans(profile, costs):
        result = simulate(profile, cluster, plan, _STEPS, _SEED)
        step_s = float(result.step_s.mean())
        found.append(Advice(options, plan, step_s, result.efficiency(profile), changes))
    return sorted(found, key=lambda each: each.step_s)


def best_ranks_per_host(model: Model) -> tuple[int, float]:
    """How many ranks of a host give most samples a second, and how many times those of one.

    Each has a batch of its own.
    """
    alone_s = model.predict(1).step_s
    one_host = dataclasses.replace(model, ranks_per_host=None)
    most = max(1, model.cores // model.threads)
    rates = {n: n * alone_s / one_host.predict(n).step_s for n in range(1, most + 1)}
    best = max(rates, key=lambda n: (round(rates[n], 3), -n))
    return best, rates[best]
