"""Clusters, described: hosts, links and ranks, and how long a collective takes there.

A ``cluster.toml``::

    hosts = 128
    ranks_per_host = 8
    computing = 1.0                 # times the profile's seconds: 0.5 for GPUs that are twice as fast
    call_us = 20.0                  # what a collective costs before it moves anything

    [between]                       # each host's line
    latency_us = 5.0
    gbits = 100.0

    [within]                        # between two ranks of a host
    latency_us = 2.0
    gbits = 400.0

    [stragglers]                    # of a step's computing on a rank
    spread = 0.02                   # standard deviation, as a share
    share = 0.001                   # of steps that are slowed down
    factor = 2.0                    # by which

    [failures]
    hours_between = 5000.0          # of one host
    restart_s = 120.0
    checkpoint_every = 500          # steps
    checkpoint_s = 2.0
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distgrad.comm.calls import Call
from distgrad.comm.threads import Link
from distgrad.errors import OptionError

__all__ = ["Cluster", "Failures", "Stragglers"]

_TABLES = ("between", "within", "stragglers", "failures")


@dataclass(frozen=True)
class Stragglers:
    """How the ranks' computing varies.

    Args:
        spread: standard deviation of a step's computing, as a share of it.
        share: of a rank's steps that something slows down.
        factor: by which.
    """

    spread: float = 0.0
    share: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True)
class Failures:
    """How hosts fail, and what it costs.

    Args:
        hours_between: mean time between failures of one host; infinite for none.
        restart_s: until the job runs again.
        checkpoint_every: steps; the work since the last one is done again.
        checkpoint_s: that a checkpoint holds a step up.
    """

    hours_between: float = float("inf")
    restart_s: float = 0.0
    checkpoint_every: int = 0
    checkpoint_s: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """Hosts with ranks, and the links between them.

    Args:
        hosts: how many.
        ranks_per_host: on each.
        between: each host's line to the others, which its ranks share.
        within: between ranks of a host.
        computing: times a profile's seconds.
        call_s: what a collective costs before it moves anything.
        stragglers: how computing varies.
        failures: how hosts fail.
    """

    hosts: int = 1
    ranks_per_host: int = 1
    between: Link = field(default_factory=lambda: Link(0.0, float("inf")))
    within: Link = field(default_factory=lambda: Link(0.0, float("inf")))
    computing: float = 1.0
    call_s: float = 0.0
    stragglers: Stragglers = field(default_factory=Stragglers)
    failures: Failures = field(default_factory=Failures)

    def __post_init__(self) -> None:
        if self.hosts < 1 or self.ranks_per_host < 1:
            raise OptionError(
                f"cluster: expected hosts and ranks_per_host from 1 up, got {self.hosts} and "
                f"{self.ranks_per_host}"
            )

    @property
    def size(self) -> int:
        """Ranks."""
        return self.hosts * self.ranks_per_host

    def resized(self, ranks: int) -> Cluster:
        """The same hosts and links with another number of ranks, hosts filled first.

        Raises:
            OptionError: ranks that do not fill their hosts.
        """
        if ranks <= self.ranks_per_host:
            return dataclasses.replace(self, hosts=1, ranks_per_host=ranks)
        if ranks % self.ranks_per_host:
            raise OptionError(f"cluster: {ranks} ranks do not fill hosts of {self.ranks_per_host}")
        return dataclasses.replace(self, hosts=ranks // self.ranks_per_host)

    def seconds(self, verb: str, num_bytes: float) -> float:
        """What a collective of all ranks takes once all have come: first within the hosts, then between them.

        Args:
            verb: of the communicator.
            num_bytes: of its array.
        """
        if self.size == 1:
            return 0.0
        if self.hosts == 1 or self.ranks_per_host == 1:
            link = self.between if self.ranks_per_host == 1 else self.within
            return self.call_s + _seconds(link, verb, num_bytes, self.size)
        # What leaves a host has been reduced there, or is spread there once it has come.
        inside = _seconds(self.within, verb, num_bytes, self.ranks_per_host)
        gathered = num_bytes * self.ranks_per_host if verb == "all_gather" else num_bytes
        return self.call_s + inside + _seconds(self.between, verb, gathered, self.hosts)

    @staticmethod
    def read(path: Path) -> Cluster:
        """Read a description.

        Raises:
            OptionError: a name or a value that means nothing here.
        """
        try:
            table = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise OptionError(f"cluster: {path} cannot be read ({error})") from None
        for name, value in _numbers(table):
            whole = name in ("hosts", "ranks_per_host", "checkpoint_every")
            if (
                isinstance(value, bool)
                or not isinstance(value, int if whole else int | float)
                or not value >= 0
            ):
                kind = "a whole number" if whole else "a number"
                raise OptionError(f"cluster: {path}: {name} must be {kind} from 0 up, got {value!r}")
            if value == 0 and name in ("computing", "gbits", "factor", "hours_between"):
                raise OptionError(f"cluster: {path}: {name} must be above 0")
        try:
            parts: dict[str, Any] = {
                "between": _link(table.pop("between", {})),
                "within": _link(table.pop("within", {})),
                "stragglers": Stragglers(**table.pop("stragglers", {})),
                "failures": Failures(**table.pop("failures", {})),
                "call_s": 1e-6 * float(table.pop("call_us", 0.0)),
            }
            return Cluster(**table, **parts)
        except (TypeError, ValueError) as error:
            raise OptionError(f"cluster: {path}: {error}; see the guide on scaling for its names") from None


def _numbers(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of a table and those in it."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif name in _TABLES:
            raise OptionError(f"cluster: {name} must be a table, got {value!r}")
        else:
            yield name, value


def _link(table: dict[str, float]) -> Link:
    unknown = table.keys() - {"latency_us", "gbits"}
    if unknown:
        raise OptionError(f"a link has latency_us and gbits, got {', '.join(sorted(unknown))}")
    return Link(1e-6 * table.get("latency_us", 0.0), table.get("gbits", float("inf")) * 1e9 / 8)


def _seconds(link: Link, verb: str, num_bytes: float, size: int) -> float:
    return link.seconds(Call(verb, num_bytes=round(num_bytes)), size) if size > 1 else 0.0
