"""Steps of many ranks on a virtual clock, by the schedule that real ranks follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.errors import OptionError
from distgrad.scale.cluster import Cluster
from distgrad.scale.schedule import Packet, Profile, Times, end_of_reductions, packets, transfers

__all__ = ["Plan", "Simulation", "simulate"]

_SHARDS = (None, "optimizer", "gradients", "parameters")


@dataclass(frozen=True)
class Plan:
    """How the ranks communicate.

    Args:
        cap_bytes: bytes at which a bucket is full; None as DistributedDataParallel would have it where it
            does not know the network.
        hook: what sums a bucket: ``"none"``, ``"fp16"``, ``"bf16"``, ``"PowerSGD(4)"``, ``"TopK(0.01)"``.
        hook_s_per_byte: seconds that a hook computes a byte of gradients.
        shard: as in DistributedDataParallel.
        period: of local SGD: steps between averages of the parameters; 1 reduces gradients in every step.
    """

    cap_bytes: float | None = None
    hook: str = "none"
    hook_s_per_byte: float = 0.0
    shard: str | None = None
    period: int = 1

    def __post_init__(self) -> None:
        if self.shard not in _SHARDS or self.period < 1 or (self.shard is not None and self.period > 1):
            raise OptionError(
                f"scale: expected shard of {_SHARDS} and a period of local SGD from 1 up, of 1 with "
                f"shard, got {self.shard!r} and {self.period}"
            )


@dataclass(frozen=True)
class Simulation:
    """What came of it.

    Attributes:
        step_s: ``[steps]``, seconds from the end of one step to the next on the last rank.
        computing_s: ``[steps]``, of these what the ranks compute, on average.
        exposed_s: ``[steps]``, what they wait for communication and each other, on average.
        lost_s: seconds lost to failures and checkpoints.
        num_failures: of hosts.
    """

    step_s: Times
    computing_s: Times
    exposed_s: Times
    lost_s: float
    num_failures: int

    @property
    def total_s(self) -> float:
        """All steps, with what failures cost."""
        return float(self.step_s.sum()) + self.lost_s

    def efficiency(self, profile: Profile) -> float:
        """Share of what the ranks would do that wait for nothing and never fail."""
        return profile.computing_s * len(self.step_s) / self.total_s


def simulate(profile: Profile, cluster: Cluster, plan: Plan, steps: int, seed: int = 0) -> Simulation:
    """Run steps on the virtual clock.

    Args:
        profile: what a rank's step takes on a machine of the cluster's kind.
        cluster: where.
        plan: how.
        steps: how many.
        seed: of what is drawn: the ranks' speeds and failures.

    Returns:
        The same for the same arguments, to the bit.
    """
    if steps < 1:
        raise OptionError(f"simulate: expected steps from 1 up, got {steps}")
    rng = np.random.default_rng(seed)
    buckets = packets(profile, plan.cap_bytes)
    clock = np.zeros(cluster.size)
    ends, computing, exposed = np.empty(steps), np.empty(steps), np.empty(steps)
    runner = _Step(profile, cluster, plan, buckets)
    for step in range(steps):
        speed = cluster.computing * _speeds(profile, cluster, rng)
        before = clock
        clock = runner.take(clock, speed, average=plan.period > 1 and (step + 1) % plan.period == 0)
        computing[step] = profile.computing_s * speed.mean()
        ends[step] = clock.max()
        exposed[step] = (clock - before).mean() - computing[step]
    step_s = np.diff(ends, prepend=0.0)
    lost_s, num_failures = _failures(step_s, cluster, rng)
    return Simulation(step_s, computing, exposed, lost_s, num_failures)


def _speeds(profile: Profile, cluster: Cluster, rng: np.random.Generator) -> Times:
    """By what each rank's computing is multiplied in a step."""
    stragglers = cluster.stragglers
    spread = math.hypot(profile.spread, stragglers.spread)
    speed = np.exp(rng.normal(0.0, spread, cluster.size)) if spread else np.ones(cluster.size)
    if stragglers.share:
        speed *= np.where(rng.random(cluster.size) < stragglers.share, stragglers.factor, 1.0)
    return speed


class _Step:
    """The step of all ranks of one schedule."""

    def __init__(self, profile: Profile, cluster: Cluster, plan: Plan, buckets: list[Packet]) -> None:
        self.profile, self.plan = profile, plan
        self.reduces = cluster.size > 1 and plan.period == 1 and bool(buckets)
        self.ready_s = np.array([each.ready_s for each in buckets])
        self.seconds = np.array([self._seconds(each, cluster) for each in buckets])
        self.average_s = cluster.seconds("all_reduce", profile.num_bytes)
        share = 1.0 / cluster.size
        gather = [cluster.seconds("all_gather", share * each.nbytes) for each in buckets]
        self.gather_s = np.array(gather if plan.shard is not None and cluster.size > 1 else [])
        if plan.shard == "parameters" and self.reduces:
            self.seconds = self.seconds + self.gather_s  # let go after forward, they come again in backward
        whole = max(1, profile.num_bytes)
        self.parts = np.array([each.nbytes / whole for each in buckets])  # of forward, that needs this bucket

    def _seconds(self, packet: Packet, cluster: Cluster) -> float:
        calls = transfers(packet, self.plan.hook, self.plan.shard, cluster.size)
        moving = sum(cluster.seconds(verb, num_bytes) for verb, num_bytes in calls)
        return moving + (self.plan.hook_s_per_byte * packet.nbytes if cluster.size > 1 else 0.0)

    def take(self, start: Times, speed: Times, average: bool) -> Times:
        """When each rank ends a step that it starts at ``start``."""
        forward_end = self._forward(start, speed)
        end = forward_end + self.profile.backward_s * speed
        if self.reduces:
            ready = forward_end[:, None] + np.outer(speed, self.ready_s)
            end = np.maximum(end, end_of_reductions(ready, self.seconds)[-1])
        end = end + self.profile.rest_s * speed
        if average:
            end = np.full_like(end, end.max() + self.average_s)
        return end

    def _forward(self, start: Times, speed: Times) -> NDArray[Any]:
        """The end of forward, which waits for parameters that come bucket by bucket, the last one's first."""
        if not self.gather_s.size:
            return start + self.profile.forward_s * speed
        arrived, now = start.max(), start
        for seconds, part in zip(self.gather_s[::-1], self.parts[::-1], strict=True):
            arrived = arrived + seconds
            now = np.maximum(now, arrived) + part * self.profile.forward_s * speed
        return now


def _failures(step_s: Times, cluster: Cluster, rng: np.random.Generator) -> tuple[float, int]:
    """Seconds lost to checkpoints and failures, and how many of these there were."""
    failures = cluster.failures
    every = failures.checkpoint_every
    lost_s = failures.checkpoint_s * (len(step_s) // every) if every else 0.0
    if not math.isfinite(failures.hours_between):
        return lost_s, 0
    between_s = 3600.0 * failures.hours_between / cluster.hosts
    count, at_s, ends = 0, rng.exponential(between_s), np.cumsum(step_s)
    while at_s < ends[-1]:
        step = int(np.searchsorted(ends, at_s))
        saved = step - step % every if every else 0
        lost_s += at_s - (ends[saved - 1] if saved else 0.0) + failures.restart_s
        count += 1
        at_s += rng.exponential(between_s)
    return lost_s, count
