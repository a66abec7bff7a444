"""A model of a program's scaling, fitted to runs on one or two numbers of ranks alone.

The computing and its spread come from the run on the fewest ranks, the link from the reductions of another:
``seconds(bytes) = α + β bytes`` by their least times, since the longer ones waited for other ranks. Ranks of
one host share its memory and cores, which slows each down by ``1 + κ (n − 1)``, and by ``n threads / cores``
where there are more than cores.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.comm.threads import Link
from distgrad.errors import DataError
from distgrad.scale.cluster import Cluster
from distgrad.scale.schedule import Gradient, Profile
from distgrad.scale.simulate import Plan, Simulation, simulate

__all__ = ["Model", "Prediction", "fit", "fit_line"]

Row = dict[str, Any]
_STEPS, _SEED = 60, 0  # of a prediction


@dataclass(frozen=True)
class Prediction:
    """A step on some number of ranks.

    Attributes:
        ranks: how many.
        step_s: median seconds of a step.
        computing_s: of these what a rank computes.
        exposed_s: what it waits for communication and other ranks.
    """

    ranks: int
    step_s: float
    computing_s: float
    exposed_s: float


@dataclass(frozen=True)
class Model:
    """What was fitted.

    Args:
        profile: a step of one rank alone.
        call_s: what a reduction costs before it moves anything.
        bytes_per_s: what moves between two ranks.
        contention: κ, by which a rank is slowed down for each other one on its host.
        cores: of a host.
        threads: of a rank.
        ranks_per_host: the most; None where all ranks share a host.
        interference: share by which the communication behind it slows computing down.
        bucket_bytes: at which a bucket is full, as the runs had it.
        fitted_to: the numbers of ranks.
    """

    profile: Profile
    call_s: float = 0.0
    bytes_per_s: float = float("inf")
    contention: float = 0.0
    cores: int = 1
    threads: int = 1
    ranks_per_host: int | None = None
    interference: float = 0.0
    bucket_bytes: float | None = None
    fitted_to: tuple[int, ...] = (1,)

    def slowdown(self, on_host: int) -> float:
        """By how much a rank computes slower beside the others of its host."""
        crowd = max(1.0, on_host * self.threads / self.cores)
        return (1.0 + self.contention * (min(on_host * self.threads, self.cores) / self.threads - 1)) * crowd

    def cluster(self, ranks: int) -> Cluster:
        """The cluster on which so many ranks would run."""
        on_host = min(ranks, self.ranks_per_host or ranks)
        rate = self.bytes_per_s / max(1.0, self.slowdown(on_host) / self.slowdown(min(2, on_host)))
        link = Link(0.0, rate)
        hosts = -(-ranks // on_host)
        computing = self.slowdown(on_host) * (1.0 + (self.interference if ranks > 1 else 0.0))
        return Cluster(hosts, on_host, link, link, computing=computing, call_s=self.call_s)

    def simulate(self, ranks: int, plan: Plan | None = None, share: float = 1.0) -> Simulation:
        """Steps on so many ranks, of which each computes a share of the profile's samples."""
        plan = Plan(self.bucket_bytes) if plan is None else plan
        return simulate(self.profile.shared(share), self.cluster(ranks), plan, _STEPS, _SEED)

    def predict(self, ranks: int, plan: Plan | None = None, share: float = 1.0) -> Prediction:
        """A step on so many ranks."""
        found = self.simulate(ranks, plan, share)
        medians = (float(np.median(each)) for each in (found.step_s, found.computing_s, found.exposed_s))
        return Prediction(ranks, *medians)


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """α and β of ``seconds = α + β size``, neither below 0, by least squares of the relative error."""
    x, y = np.array(sizes, float), np.array(seconds, float)
    weights = 1.0 / np.maximum(y, 1e-9)
    candidates = []
    for columns in ((True, True), (True, False), (False, True)):
        design = np.stack([np.ones_like(x) * columns[0], x * columns[1]], 1) * weights[:, None]
        found = np.linalg.lstsq(design, y * weights, rcond=None)[0]
        if (found >= 0).all():
            candidates.append((float(((design @ found - y * weights) ** 2).sum()), tuple(map(float, found))))
    alpha, beta = min(candidates)[1]
    return alpha, beta


def fit(
    alone: list[Row],
    together: list[Row] | None = None,
    copies: list[Row] | None = None,
    *,
    cores: int,
    threads: int = 1,
    ranks_per_host: int | None = None,
    share: float = 1.0,
) -> Model:
    """Fit a model to what the ranks of two runs wrote.

    Args:
        alone: of a run on the fewest ranks.
        together: of a run on more; without it nothing is known of communication, which then costs nothing.
        copies: of as many processes that do not communicate, which say what sharing a host costs.
        cores: of a host.
        threads: of a rank.
        ranks_per_host: the most.
        share: of the samples of a rank alone that each of those together has.

    Raises:
        DataError: the first run shows no step.
    """
    if not alone or not alone[0]["steps"]:
        raise DataError("scale: a model wants a run with steps; the one on the fewest ranks shows none")
    profile = _profile(alone)
    model = Model(
        profile, cores=cores, threads=threads, ranks_per_host=ranks_per_host, fitted_to=(len(alone),)
    )
    if together is None or len(together) < 2:
        return model
    return _with_communication(model, alone, together, copies or together, share)


def _profile(ranks: list[Row]) -> Profile:
    steps = [step for rank in ranks for step in rank["steps"]]
    backward = [max(0.0, step["backward_s"] - step["exposed_s"]) for step in steps]
    waiting = [step["exposed_s"] + step["blocking_s"] for step in steps]
    computing = [step["step_s"] - wait for step, wait in zip(steps, waiting, strict=True)]
    median = statistics.median
    forward_s, backward_s = median(step["forward_s"] for step in steps), median(backward)
    whole = median(computing)
    quartiles = statistics.quantiles(computing, n=4) if len(computing) > 3 else [whole, whole, whole]
    spread = (quartiles[2] - quartiles[0]) / 1.349 / whole  # of a normal distribution
    rest_s = max(0.0, whole - forward_s - backward_s)
    return Profile(forward_s, backward_s, rest_s, _gradients(ranks[0]["buckets"], backward_s), spread)


def _gradients(passes: list[Row], backward_s: float) -> tuple[Gradient, ...]:
    """When bytes are ready: of the last pass's buckets, each at its median share of backward."""
    if not passes:
        return ()
    last = [each for each in passes if len(each["full"]) == len(passes[-1]["full"])]
    found = []
    for place, (_, nbytes) in enumerate(passes[-1]["full"]):
        shares = [one["full"][place][0] / max(one["backward_s"], 1e-9) for one in last]
        found.append(Gradient(nbytes, min(1.0, statistics.median(shares)) * backward_s))
    return tuple(found)


def _with_communication(
    model: Model, alone: list[Row], together: list[Row], copies: list[Row], share: float
) -> Model:
    size = len(together)
    passes = [
        each for rank in together for each in rank["buckets"] if len(each["full"]) == len(each["busy_s"])
    ]
    least: dict[int, float] = {}
    for each in passes:
        for (_, nbytes), busy_s in zip(each["full"], each["busy_s"], strict=True):
            least[nbytes] = min(busy_s, least.get(nbytes, busy_s))
    call_s, per_byte = fit_line(list(least), list(least.values())) if least else (0.0, 0.0)
    sent = 2.0 * (size - 1) / size
    computing = [_computing_s(ranks) for ranks in (alone, together, copies)]
    apart = size * model.threads if model.ranks_per_host is None else 1
    crowd = max(1.0, apart / model.cores)
    others = max(1, min(size, model.cores // model.threads) - 1)
    contention = max(0.0, computing[2] / computing[0] / crowd - 1.0) / others
    shared = model.profile.shared(share).computing_s / model.profile.computing_s
    interference = max(0.0, computing[1] / (shared * computing[2]) - 1.0) if copies is not together else 0.0
    sizes = [nbytes for _, nbytes in passes[-1]["full"]] if passes else []
    return dataclasses.replace(
        model,
        call_s=call_s,
        bytes_per_s=sent / per_byte if per_byte else float("inf"),
        contention=contention,
        interference=interference,
        bucket_bytes=float(max(sizes)) if sizes else None,
        fitted_to=(len(alone), size),
    )


def _computing_s(ranks: list[Row]) -> float:
    waiting = ("exposed_s", "blocking_s", "data_s", "checkpoint_s")
    steps = itertools.chain.from_iterable(rank["steps"] for rank in ranks)
    return statistics.median(step["step_s"] - sum(step[part] for part in waiting) for step in steps)
