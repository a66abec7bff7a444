"""The hosts that a job of changing size may use now, and why others are left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from distgrad.errors import LaunchError

from . import plan

__all__ = ["POLL_S", "HostWatch", "Roster", "Sizes", "Usable", "names_of"]

POLL_S = 2.0  # between two looks at the hosts while a job runs
PROBE_AGAIN_S = 10.0  # before a host that did not answer is asked again
_FORGET_S = 600.0  # after so long a failure is forgotten, and what was left out for it is tried again
_MANY = 2  # failures in a row, the last of which costs a host a slot


@dataclass(frozen=True)
class Sizes:
    """How many ranks a job may have.

    Attributes:
        start: at least, to begin with.
        fewest: at least, to go on with.
        most: at most.
    """

    start: int
    fewest: int
    most: int


@dataclass(frozen=True)
class Usable:
    """What a look at the hosts has found.

    Attributes:
        hosts: those that can be used, each with its slots.
        left_out: why others cannot, or a part of their slots, by their names.
    """

    hosts: list[plan.Host]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """How many ranks there is room for."""
        return sum(host.slots for host in self.hosts)


class Roster:
    """Knows which hosts answer, and whose ranks keep failing.

    A host that does not answer is left out until it does. One whose ranks were the first to fail twice in a
    row has a slot fewer from then on, and one more with each further failure (memory may not do for all its
    ranks, or a GPU be broken), as long as enough are left; ten minutes later it has them back.

    Args:
        named: the hosts that there are by name.
        problems: why some of them cannot be used now, by their names.
        sizes: how many ranks the job may have.
        clock: seconds.
    """

    def __init__(
        self,
        named: Callable[[], list[plan.Host]],
        problems: Callable[[Sequence[plan.Host]], Mapping[str, str]],
        sizes: Sizes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sizes = sizes
        self._named, self._problems, self._clock = named, problems, clock
        self._failures: dict[str, list[float]] = {}  # in a row, by the host that failed first

    def blame(self, names: Collection[str]) -> None:
        """Note whose ranks were the first to fail; none for a failure that lies with no host."""
        now_s = self._clock()
        self._failures = {
            name: [*(at for at in self._failures.get(name, []) if now_s - at < _FORGET_S), now_s]
            for name in names
        }

    def look(self, known: Mapping[str, str | None] | None = None) -> Usable:
        """See which hosts can be used.

        Args:
            known: hosts that are not asked, since what would be found is known: why they cannot be used, or
                None if they can.

        Raises:
            LaunchError: nobody can name the hosts.
        """
        known = known or {}
        named = self._named()
        asked = [host for host in named if host.name not in known]
        told = {name: why for name, why in known.items() if why is not None}
        told |= self._problems(asked) if asked else {}
        usable = [host for host in named if host.name not in told]
        return self._without_failing(usable, {h.name: told[h.name] for h in named if h.name in told})

    def _without_failing(self, found: list[plan.Host], left_out: dict[str, str]) -> Usable:
        """Take slots from the hosts that keep failing, as long as enough are left."""
        now_s, spare = self._clock(), sum(host.slots for host in found) - self.sizes.fewest
        hosts = []
        for host in found:
            times = [at for at in self._failures.get(host.name, []) if now_s - at < _FORGET_S]
            taken = max(0, min(len(times) - _MANY + 1, host.slots, spare))
            spare -= taken
            if taken:
                left_out[host.name] = f"its ranks were the first to fail {len(times)} times in a row"
                if taken < host.slots:
                    left_out[host.name] += f"; {taken} of its {host.slots} slots left out"
            if host.slots > taken:
                hosts.append(plan.Host(host.name, host.slots - taken))
        return Usable(hosts, left_out)

    def change(self, present: Sequence[plan.Host], usable: Usable) -> str:
        """Why a job that runs should be planned anew; empty if it should not.

        Args:
            present: its hosts, each with as many slots as ranks run there.
            usable: what has been found.
        """
        slots = {host.name: host.slots for host in usable.hosts}
        number, room = sum(host.slots for host in present), min(usable.slots, self.sizes.most)
        gone = [host.name for host in present if slots.get(host.name, 0) < host.slots]
        if gone and room >= self.sizes.fewest:
            return f"the job is to leave {', '.join(gone)}"
        return f"there is room for {room} ranks" if room > number else ""


class HostWatch(threading.Thread):
    """Looks now and then whether a running job should be planned anew, and says so once.

    Args:
        roster: what knows the hosts.
        present: the job's hosts, each with as many slots as ranks run there.
        found: called, in this thread, with why.
        failed: called, in this thread, with why nobody can name the hosts, once.
    """

    def __init__(
        self,
        roster: Roster,
        present: Sequence[plan.Host],
        found: Callable[[str], None],
        failed: Callable[[str], None],
    ) -> None:
        super().__init__(name="launch hosts", daemon=True)  # a command that hangs must not keep the process
        self._roster, self._present = roster, present
        self._found, self._failed = found, failed
        self._ended = threading.Event()
        self._silent: dict[str, tuple[str, float]] = {}  # why, and until when it is not asked again

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def run(self) -> None:
        """Look until :meth:`end`, or until something is found in two looks one after the other."""
        last, complained = "", False
        while not self._ended.wait(POLL_S):
            try:
                why = self._look()
            except LaunchError as error:
                if not complained:
                    self._failed(str(error))
                complained, last = True, ""
                continue
            if why and why == last:
                self._found(why)
                return
            last = why

    def _look(self) -> str:
        now_s = time.monotonic()
        self._silent = {name: each for name, each in self._silent.items() if each[1] > now_s}
        known: dict[str, str | None] = {name: why for name, (why, _) in self._silent.items()}
        usable = self._roster.look(known | {host.name: None for host in self._present})
        until_s = time.monotonic() + PROBE_AGAIN_S
        answered = {host.name for host in usable.hosts}
        for name in usable.left_out.keys() - known.keys() - answered:
            self._silent[name] = usable.left_out[name], until_s
        return self._roster.change(self._present, usable)


def names_of(hosts: Sequence[plan.Host]) -> str:
    """``a:4, b:2``."""
    return ", ".join(f"{host.name}:{host.slots}" for host in hosts)
