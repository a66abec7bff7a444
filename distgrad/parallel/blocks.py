"""Blocks of a module whose parameters are there only while they compute.

Memory of a flat buffer keeps its addresses when its pages are given back. So a parameter that is let go and
gathered again lies where it was, and what the graph saved of it is right again too. A node can use a unit's
elements only if it was made while they were there; so backward needs them while it is at the numbers that
nodes had then, whatever the module did with them.
"""

from __future__ import annotations

import itertools
import math
import sys
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.graph import Node, next_number
from distgrad.autograd.modes import is_grad_enabled
from distgrad.autograd.parts import Part
from distgrad.autograd.tensor import Tensor
from distgrad.comm.base import Communicator
from distgrad.comm.work import Work
from distgrad.errors import CommError, OptionError
from distgrad.nn.module import Module
from distgrad.nn.modules.containers import ModuleList, Sequential
from distgrad.parallel.reducer import PeerFailedError, launch_agreed
from distgrad.parallel.replicas import checksums
from distgrad.parallel.sharding import Sharding

__all__ = ["BlockSharding", "Blocks", "Unit", "find_blocks", "unit_keys"]

_MAX_SPANS = 1 << 14  # that are remembered


def find_blocks(module: Module, named: Sequence[str] | None) -> tuple[list[Module], list[Module]]:
    """The modules whose parameters come and go together.

    Args:
        module: the whole.
        named: dotted names of modules; None takes the members of every ``ModuleList`` and ``Sequential``.

    Returns:
        These, without those inside others of them; and every other module that has parameters itself.

    Raises:
        OptionError: a name that no module has.
    """
    modules = dict(module.named_modules())
    if named is None:
        lists = [each for each in modules.values() if isinstance(each, ModuleList | Sequential)]
        chosen = [member for each in lists for member in each.children()]
    else:
        if unknown := [name for name in named if name not in modules]:
            raise OptionError(
                f"DistributedDataParallel: shard_blocks has {unknown[0]!r}, but no module is called that; "
                f"there are {', '.join(list(modules)[1:9])} and so on"
            )
        chosen = [modules[name] for name in named]
    inside = {below for each in chosen for below in each.modules() if below is not each}
    blocks = [each for each in dict.fromkeys(chosen) if each not in inside]
    covered = inside | set(blocks)
    others = [
        each
        for each in modules.values()
        if each not in covered and any(True for _ in each.parameters(recurse=False))
    ]
    return blocks, others


def unit_keys(module: Module, named: Sequence[str] | None) -> dict[Tensor, tuple[int, ...]]:
    """For each parameter the numbers of the blocks that it is in: those of one unit have them in common.

    Args:
        module, named: as for :func:`find_blocks`.
    """
    whole, own = find_blocks(module, named)
    within: dict[Tensor, tuple[int, ...]] = {}
    for place, block in enumerate([*whole, *own]):
        for parameter in block.parameters(recurse=place < len(whole)):
            within[parameter] = (*within.get(parameter, ()), place)
    return within


class Unit:
    """Parameters that are gathered and let go together.

    Attributes:
        parts: where they lie: the sharding of a buffer, and the number of the part.
        works: gathers under way.
        present: whether the elements are there.
        since: the number of the first node that could use them.
        holds: calls of modules, and stretches of a backward pass, that need them.
        pinned: whether somebody used them outside their block, who may do so again.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[BlockSharding, int]] = []
        self.works: list[Work] = []
        self.present = False
        self.since = 0
        self.holds = 0
        self.pinned = False


class BlockSharding(Sharding):
    """Who owns what of a buffer whose parameters are let go between uses."""

    units: dict[int, Unit]  # by the number of the part
    blocks: Blocks
    is_filled = True

    def attach(self, blocks: Blocks, units: Sequence[Unit]) -> None:
        """Say to which unit each part belongs; ranks have what they own alone."""
        self.blocks = blocks
        self.units = dict(enumerate(units))
        for number, unit in self.units.items():
            unit.parts.append((self, number))
        for parameter in self.buffer.parameters:
            parameter.leaf_state().watcher = blocks

    def unit_of(self, parameter: Tensor) -> Unit:
        """The parameters that come and go with this one."""
        return self.units[self._part_of[self._place_of[parameter]]]

    def arrive(self, number: int) -> None:
        """A part is there: let it be read. Collective: no; blocks: no."""
        self._arrive(number)

    def checksums(self, number: int, ranks: Sequence[int]) -> dict[Tensor, NDArray[np.int64]]:
        """Of each parameter of a part, which is there, those of what these ranks own."""
        edges, found = self._edges[number], {}
        for place in self._parts[number]:
            where = self.buffer.slices[place]
            pieces = [slice(max(where.start, edges[r]), min(where.stop, edges[r + 1])) for r in ranks]
            own = [self.buffer.data[each.start : max(each.start, each.stop)] for each in pieces]
            found[self.buffer.parameters[place]] = checksums([Tensor(array) for array in own])
        return found

    def let_go(self, number: int) -> None:
        """Give back the memory of a part that other ranks own. Collective: no; blocks: no."""
        edges, rank = self._edges[number], self.comm.rank
        self._be_absent(number)
        for others in (slice(edges[0], edges[rank]), slice(edges[rank + 1], edges[-1])):
            self.pages.release(self.buffer.data[others])

    def hand_out(self, parameters: Iterable[Tensor]) -> None:
        """Elements that others have of these parameters are out of date: let them go. Collective: no."""
        parameters = list(parameters)
        if self.masters is not None:
            self.masters.publish(parameters)
        self.blocks.let_go(dict.fromkeys(map(self.unit_of, parameters)))

    def bring(self, parameter: Tensor) -> None:
        """Gather a parameter that is used outside its block. Collective: yes; blocks: yes."""
        self.blocks.pin(self.unit_of(parameter))

    def settle(self, parameters: Iterable[Tensor] = ()) -> None:
        """Wait until no gather is under way, and take over what was written into these parameters.

        Collective: no; blocks: yes.
        """
        self.blocks.settle()
        if self.masters is not None:
            self.masters.take_writes(parameters)
            self.masters.bring(parameters)

    def detached(self, parameter: Tensor, root: int | None = None) -> Tensor | None:
        """A copy outside the graph, since the elements will not stay. Collective: yes; blocks: yes."""
        return self.copied(parameter, root)

    def overwrite(self, parameter: Tensor, values: Any) -> None:
        """Set what this rank owns of a parameter, as every rank does. Collective: no; blocks: yes.

        Args:
            parameter: which.
            values: for all of it, or the part that this rank owns.
        """
        self.settle()
        self.set_owned(parameter, values)
        if isinstance(values, Part):
            self.hand_out([parameter])
        elif self.unit_of(parameter).present:
            parameter._overwrite(values)

    def part(self, parameter: Tensor) -> Part:
        """What this rank owns of a parameter, where it lies. Collective: no; blocks: no."""
        if self.masters is not None:
            self.masters.take_writes([parameter])
        return self._part_at(parameter.shape, parameter.leaf_state().flat)


class Blocks:
    """Gathers units before they are used, one block ahead, and lets them go after.

    Args:
        module: the whole.
        comm: the ranks.
        named: as for :func:`find_blocks`.
    """

    def __init__(self, module: Module, comm: Communicator, named: Sequence[str] | None) -> None:
        self.comm = comm
        whole, own = find_blocks(module, named)
        self._blocks = [*whole, *own]
        self._within = unit_keys(module, named)
        self._all: list[Unit] = []
        self._units: dict[Module, list[Unit]] = {}
        self._spans: deque[tuple[float, float, Unit]] = deque(maxlen=_MAX_SPANS)
        self._entered: Counter[Module] = Counter()  # calls that are under way
        self._passed: list[Module] = []  # blocks that this forward pass has come to
        self._before: list[Module] = []  # those of the last one
        self._events: list[tuple[float, bool, Unit]] = []  # of a walk, the next one last
        self._order: Sequence[Node] = []  # of a walk
        self._held: list[Unit] = []  # by a walk
        self._num_walks = 0
        module.register_forward_pre_hook(self._begin, prepend=True)
        for block in self._blocks:
            block.register_forward_pre_hook(self._enter)
            block.register_forward_hook(self._leave, always_call=True)
        module.register_forward_hook(self._end, always_call=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Blocks:
        """The hooks of a module's copy, whose parameters are all its own: they have nothing to do."""
        twin = object.__new__(Blocks)
        twin.__dict__.update({name: type(value)() for name, value in vars(self).items() if name != "comm"})
        return twin

    # -- units

    def unit_key(self, parameter: Tensor) -> tuple[int, ...]:
        """What parameters of one unit have in common: the numbers of the blocks that they are in."""
        return self._within[parameter]

    def attach(self, units: Mapping[tuple[int, ...], Unit]) -> None:
        """Take units, of which ranks have what they own, in the place of those that there were."""
        self._all = list(units.values())
        self._units = {
            block: [unit for key, unit in units.items() if place in key]
            for place, block in enumerate(self._blocks)
        }
        self._spans.clear()
        for unit in self._all:
            for sharding, number in unit.parts:
                sharding.let_go(number)

    def let_go(self, units: Iterable[Unit]) -> None:
        """Let units go. Collective: no; blocks: yes.

        Also units that others have replaced: a parameter that was frozen is of one, and may still be updated.
        """
        for unit in units:
            self._let_go(unit)

    def pin(self, unit: Unit) -> None:
        """Gather a unit that stays until a backward pass has ended. Collective: yes; blocks: yes."""
        self._bring(unit)
        unit.pinned = True

    def checksums(self, parameters: Sequence[Tensor], ranks: Sequence[int]) -> NDArray[np.int64]:
        """Of parameters what several ranks own, as it comes in a gather, ``[ranks, parameters]``.

        Collective: yes; blocks: yes.
        """
        found: dict[Tensor, NDArray[np.int64]] = {}
        for unit in self._all:
            was_present = unit.present
            self._bring(unit)
            for sharding, number in unit.parts:
                found |= sharding.checksums(number, ranks)
            if not (was_present or unit.holds):
                self._let_go(unit)
        return np.array([found[parameter] for parameter in parameters], np.int64).reshape(-1, len(ranks)).T

    def settle(self) -> None:
        """Wait until no gather is under way. Collective: no; blocks: yes."""
        for unit in self._all:
            if unit.works and not unit.present:
                self._let_go(unit)

    def _issue(self, unit: Unit) -> None:
        if not unit.present and not unit.works:
            unit.works = [sharding.gather(number) for sharding, number in unit.parts]

    def _bring(self, unit: Unit) -> None:
        if unit.present:
            return
        self._issue(unit)
        for (sharding, number), work in zip(unit.parts, unit.works, strict=True):
            sharding.wait_for(number, work)
        unit.works = []
        for sharding, number in unit.parts:
            sharding.arrive(number)
        unit.present = True
        unit.since = next_number()

    def _let_go(self, unit: Unit) -> None:
        for work in unit.works:
            work.wait()
        if unit.present:
            stop = next_number()
            if stop > unit.since + 1:  # there are nodes that could have used it
                self._spans.append((unit.since, stop, unit))
        if unit.present or unit.works:
            for sharding, number in unit.parts:
                sharding.let_go(number)
        unit.works, unit.present, unit.pinned = [], False, False

    # -- forward

    def _begin(self, module: Module, args: Any) -> None:
        if not self._num_walks:
            self._before, self._passed = self._passed, []

    def _enter(self, module: Module, args: Any) -> None:
        units = self._units.get(module, ())
        for unit in units:
            unit.holds += 1
        self._entered[module] += 1
        for unit in units:
            self._bring(unit)
        if self._num_walks:  # a checkpoint calls it once more
            return
        place = len(self._passed)
        self._passed.append(module)
        if self._before[place : place + 1] == [module] and place + 1 < len(self._before):
            for unit in self._units.get(self._before[place + 1], ()):
                self._issue(unit)

    def _leave(self, module: Module, args: Any, result: Any) -> None:
        if not self._entered[module]:  # a hook before this one raised
            return
        self._entered[module] -= 1
        for unit in self._units.get(module, ()):
            unit.holds -= 1
            if not (unit.holds or unit.pinned or self._num_walks):
                self._let_go(unit)

    def _end(self, module: Module, args: Any, result: Any) -> None:
        if not (self._num_walks or is_grad_enabled()):
            self._let_unheld_go()

    def _let_unheld_go(self) -> None:
        for unit in self._all:
            if not unit.holds:
                self._let_go(unit)

    # -- backward

    def walk_started(self, order: Sequence[Node]) -> float:
        """Find out where a walk over these nodes, highest number first, needs which units.

        Returns:
            The number below which it is to call :meth:`passing`.
        """
        self._num_walks += 1
        events: list[tuple[float, bool, Unit]] = []
        lowest = order[-1].number if order else math.inf
        recent = itertools.takewhile(lambda span: span[1] > lowest, reversed(self._spans))  # they ascend
        present = [(unit.since, math.inf, unit) for unit in self._all if unit.present]
        for first, stop, unit in [*recent, *present]:
            place = bisect_left(order, 1 - stop, key=lambda node: -node.number)
            if place < len(order) and order[place].number >= first:
                events += [(stop, False, unit), (first, True, unit)]
        if self._num_walks > 1:  # inside another, whose own go on after it
            for _, lets_go, unit in events:
                if not lets_go:
                    self._hold(unit)
            return -1.0
        self._order = order
        self._events = sorted(events, key=lambda event: event[:2])
        return self._events[-1][0] if events else -1.0

    def passing(self, number: int, failed: bool = False) -> float:
        """A walk comes to the node of this number: bring what it needs, and let go what it has left behind.

        Collective: yes; blocks: yes.

        Args:
            number: of the node.
            failed: the walk has failed, and goes on only to where the ranks agree on something.

        Returns:
            The number below which to call again.

        Raises:
            PeerFailedError: the walk of one of the ranks has failed.
        """
        brought = False
        while self._events and number < self._events[-1][0]:
            _, lets_go, unit = self._events.pop()
            if not lets_go:
                self._hold(unit)
                brought = True
                continue
            self._held.remove(unit)
            unit.holds -= 1
            if not unit.holds:
                self._let_go(unit)
        if brought:
            launch_agreed(self.comm, failed)
            coming = next((unit for _, lets_go, unit in reversed(self._events) if not lets_go), None)
            if coming is not None:
                self._issue(coming)
        return self._events[-1][0] if self._events else -1.0

    def _hold(self, unit: Unit) -> None:
        self._bring(unit)
        unit.holds += 1
        self._held.append(unit)

    def walk_failed(self) -> None:
        """Go on with what the other ranks' walks gather, up to where all agree that one has failed.

        Collective: yes; blocks: yes.
        """
        error = sys.exception()
        if self._num_walks > 1 or not isinstance(error, Exception) or isinstance(error, CommError):
            return
        try:
            while self._events:
                mark = self._events[-1][0]
                place = bisect_left(self._order, 1 - mark, key=lambda node: -node.number)
                if place == len(self._order):
                    return
                self.passing(self._order[place].number, failed=True)
        except PeerFailedError:
            return
        except CommError as consequence:
            error.add_note(f"the other ranks could not be told: {consequence}")

    def walk_ended(self) -> None:
        """Let go what is left. Collective: no; blocks: yes."""
        self._num_walks -= 1
        if self._num_walks:
            return
        for unit in self._held:
            unit.holds -= 1
        self._held, self._events, self._order = [], [], []
        self._let_unheld_go()
