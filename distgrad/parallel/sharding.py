"""How the elements of flat buffers are spread over ranks, and handed out once their owners updated them.

A buffer is cut into ranges that travel together, and each of these into a part a rank, in the order of the
ranks: what a reduce-scatter leaves with each of them, and an all-gather brings together again. Rules that
treat elements alike take any part. Those that need a parameter whole get parameters in a buffer of their own,
in which those of one owner lie side by side within a range.
"""

from __future__ import annotations

import heapq
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.hostmasters import HostMasters
from distgrad.autograd.masters import Masters
from distgrad.autograd.parts import Part
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES, get_array_module
from distgrad.backend.device import CPU, Device, activated, device_of, follow, to_device
from distgrad.backend.memory import PageReserve
from distgrad.backend.whole import BLOCK
from distgrad.comm.base import Communicator
from distgrad.comm.work import Work
from distgrad.parallel.gathering import be_absent, be_present

__all__ = ["Sharding", "assign_whole", "cut_evenly"]


def assign_whole(sizes: Sequence[int], num_ranks: int) -> list[int]:
    """An owner for each of several parameters, the largest first, each to the rank that has least.

    Source: Graham, SIAM J. Appl. Math. 1969 (at most 4/3 of the best largest share).
    """
    owners = [0] * len(sizes)
    loads = [(0, rank) for rank in range(num_ranks)]
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        load, owner = heapq.heappop(loads)
        owners[place] = owner
        heapq.heappush(loads, (load + sizes[place], owner))
    return owners


def cut_evenly(slices: Sequence[slice], stop: int, loads: list[int]) -> list[int]:
    """Cut neighbours among ranks so that what each has comes to be equal.

    Cuts lie at multiples of ``BLOCK`` elements from a parameter's start, as the norm is summed in those.

    Args:
        slices: the parameters' places.
        stop: one past the range's end.
        loads: what each rank has already; brought up to date.

    Returns:
        Where each rank's part starts, and the end.
    """
    start, size = slices[0].start, len(loads)
    starts = [np.arange(each.start, max(each.stop, each.start + 1), BLOCK) for each in slices]
    places = np.append(np.concatenate(starts), stop)
    level = (sum(loads) + stop - start) / size
    wanted = np.maximum(0.0, level - np.array(loads, float))
    ideal = start + np.cumsum(wanted)[:-1] * ((stop - start) / max(wanted.sum(), 1.0))
    after = np.minimum(np.searchsorted(places, ideal), len(places) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(ideal - places[before] < places[after] - ideal, places[before], places[after])
    edges = [start, *nearest.tolist(), stop]
    for rank, (first, last) in enumerate(itertools.pairwise(edges)):
        loads[rank] += last - first
    return edges


def _moved(values: Any, device: Device) -> Any:
    """An array on a device, or a number as it is."""
    return to_device(values, device) if values.__class__ in ARRAY_MODULES else values


class Sharding:
    """Who owns what of one flat buffer: the :class:`~distgrad.autograd.flat.Shares` of data parallelism.

    Args:
        buffer: the storage.
        parts: the numbers of the parameters that travel together.
        owners: of each parameter, where each has one; None cuts ranges evenly, wherever that is.
        loads: elements that each rank owns in other buffers; brought up to date.
        comm: the ranks that own parts.
        replicas: the ranks of other groups that own what this one does; None where there are none.
        pages: of this rank's buffers, to give memory back.
        releases: give the memory of gradients that other ranks own back, once they are reduced.
        keep_whole: is called with parameters that a rule needs whole.
        offload_dir: a folder for the optimizer's state; None keeps it in memory.
        master_dtype: of the elements that this rank owns, where they are not updated as they lie.
        widens: sum the gradients in that dtype too.
        on_host: keep what this rank owns, and the optimizer's state, on the host, and update it there.

    Attributes:
        rank: in ``comm``.
        is_replica: whether a rank with a lower number, of another group, owns what this one does.
        owned: this rank's ranges.
        pages, releases: as given.
        masters: what is updated in the place of what this rank owns; or None.
    """

    def __init__(
        self,
        buffer: FlatBuffer,
        parts: Sequence[range],
        owners: Sequence[int] | None,
        loads: list[int],
        comm: Communicator,
        *,
        replicas: Communicator | None = None,
        pages: PageReserve,
        releases: bool,
        keep_whole: Callable[[Iterable[Tensor]], None],
        offload_dir: str | None = None,
        master_dtype: np.dtype[Any] | None = None,
        widens: bool = False,
        on_host: bool = False,
    ) -> None:
        self.buffer, self.comm, self.pages, self.releases = buffer, comm, pages, releases
        self.rank, self._replicas = comm.rank, replicas
        self.is_replica = replicas is not None and replicas.rank > 0
        self._parts = list(parts)
        self._keep_whole = keep_whole
        self._offload_dir = offload_dir
        self._home = CPU if on_host else buffer.device  # of what is updated
        self._edges: list[list[int]] = []
        for part in self._parts:
            slices = [buffer.slices[number] for number in part]
            stop = buffer.next_place(slices[-1].stop)
            if owners is None:
                self._edges.append(cut_evenly(slices, stop, loads))
                continue
            theirs = [owners[number] for number in part]
            firsts = [np.searchsorted(theirs, rank) for rank in range(1, comm.size)]
            cuts = [slices[first].start if first < len(slices) else stop for first in firsts]
            self._edges.append([slices[0].start, *cuts, stop])
        self._part_of = {place: number for number, part in enumerate(self._parts) for place in part}
        self._place_of = {parameter: place for place, parameter in enumerate(buffer.parameters)}
        own = (slice(edges[comm.rank], edges[comm.rank + 1]) for edges in self._edges)
        self.owned: Sequence[slice] = [each for each in own if each.start < each.stop]
        self._works: dict[int, Work] = {}  # of the parts that are being handed out
        self._stale: set[int] = set()  # parts of which ranks have what they own alone
        self._times: dict[int, dict[str, float]] = {}  # of gathers, by where a part starts
        self.masters: Masters | None = None
        buffer.shares = self
        if master_dtype is not None:
            kind = HostMasters if on_host else Masters
            self.masters = kind(buffer, master_dtype, self.zeros, widens)

    # -- where parts lie

    @property
    def is_filled(self) -> bool:
        """Whether every rank began with rank 0's elements."""
        return self.masters is not None

    @property
    def parts(self) -> list[range]:
        """The numbers of the parameters that travel together."""
        return self._parts

    def edges(self, start: int) -> list[int]:
        """Where each rank's part of the range that begins at ``start`` does, and the range's end."""
        return next(edges for edges in self._edges if edges[0] == start)

    def counts(self, start: int, stop: int) -> list[int]:
        """How many of the elements ``start … stop - 1`` of one range each rank owns."""
        for edges in self._edges:
            if edges[0] <= start < edges[-1]:
                pairs = itertools.pairwise(edges)
                return [max(0, min(stop, last) - max(start, first)) for first, last in pairs]
        return [0] * self.comm.size

    def _ranges(self) -> Iterator[tuple[slice, slice, list[int]]]:
        """Each range, this rank's part of it, and the lengths of all ranks' parts."""
        for edges in self._edges:
            lengths = [last - first for first, last in itertools.pairwise(edges)]
            own = slice(edges[self.comm.rank], edges[self.comm.rank + 1])
            yield slice(edges[0], edges[-1]), own, lengths

    # -- what ranks tell each other

    def all_gather(self, own: Any, counts: Sequence[int], root: int | None = None) -> Any:
        """Every rank's elements behind one another, on all ranks, or on one, and None elsewhere.

        Collective: yes; blocks: yes.
        """
        comm = self.comm if device_of(own) == self.buffer.device else self.comm.host
        if root is not None:
            found = comm.gather_v(own, root)
            return None if found is None else get_array_module(own).concat(found)
        with activated(device_of(own)) as xp:
            out = xp.zeros(sum(counts), dtype=own.dtype)
        return comm.all_gather(own, out=out, counts=counts)

    def exchange(self, numbers: NDArray[Any]) -> list[NDArray[Any]]:
        """Every rank's numbers, of the host.

        Collective: yes; blocks: yes.
        """
        found: list[NDArray[Any]] = self.comm.host.all_gather_v(numbers)
        return found

    def reduce_scatter(self, start: int, op: str = "sum", weight: float = 1.0) -> Work:
        """Begin to sum gradients into the owners' parts, or to average them, among all ranks or by groups.

        Collective: yes; blocks: no.

        Args:
            start: of the range.
            op: ``sum`` or ``mean``.
            weight: how much this rank's count, where they are summed in the master weights' dtype.
        """
        edges, masters, replicas = self.edges(start), self.masters, self._replicas
        grad, lengths = self.buffer.grad, [last - first for first, last in itertools.pairwise(edges)]
        whole, own = grad[start : edges[-1]], grad[edges[self.rank] : edges[self.rank + 1]]
        widens = masters is not None and masters.grad is not None
        if replicas is None and not widens:
            work: Work = self.comm.reduce_scatter(whole, op, async_op=True, out=own, counts=lengths)
            return work
        if masters is not None and masters.grad is not None:
            own = masters.grad[masters.owned(edges[self.rank], edges[self.rank + 1])[1]]

        def reduce() -> None:
            summed = whole
            if masters is not None and widens:
                summed = whole.astype(masters.dtype)
                summed *= masters.dtype.type(weight)
            self.comm.reduce_scatter(summed, op, out=own, counts=lengths)
            if replicas is not None:
                replicas.all_reduce(own, op)

        return self.comm.submit(reduce, "reduce gradients")

    def gather_gradients(self) -> None:
        """Let every rank have the whole mean of the gradients.

        Collective: yes; blocks: yes.
        """
        for whole, own, lengths in self._ranges():
            grad = self.buffer.grad
            follow(grad)
            self.comm.all_gather(grad[own], out=grad[whole], counts=lengths)

    def keep_whole(self, parameters: Iterable[Tensor]) -> None:
        """From now on one rank owns all of each of these.

        Collective: yes; blocks: yes.
        """
        self._keep_whole(parameters)

    # -- parameters on their way

    def hand_out(self, parameters: Iterable[Tensor]) -> None:
        """Give every rank the owned elements of parameters that were updated, the first layers' first.

        Collective: yes; blocks: no; whoever reads one of them waits.
        """
        parameters = list(parameters)
        if self.masters is not None:
            self.masters.publish(parameters)
        if self.comm.size == 1:
            return
        updated = {self._part_of[self._place_of[parameter]] for parameter in parameters}
        follow(self.buffer.data)
        for number in sorted(updated, reverse=True):
            self._works[number] = self.gather(number)
            self._stale.discard(number)
            self._be_absent(number)

    def gather(self, number: int) -> Work:
        """Begin to bring a part together. Collective: yes; blocks: no."""
        whole, own, lengths = list(self._ranges())[number]
        data = self.buffer.data
        work: Work = self.comm.all_gather(data[own], async_op=True, out=data[whole], counts=lengths)
        return work

    def wait_for(self, number: int, work: Work) -> None:
        """Wait until a part is brought together. Collective: no; blocks: yes."""
        start_s = time.perf_counter()
        work.wait()
        times = self._times.setdefault(self._edges[number][0], {"gather_s": 0.0, "gather_waited_s": 0.0})
        times["gather_s"] += work.seconds or 0.0
        times["gather_waited_s"] += time.perf_counter() - start_s

    def gather_times(self, start: int) -> dict[str, float]:
        """Seconds of gathers of the range from ``start`` since this was last asked, and of waits for them."""
        return self._times.pop(start, {"gather_s": 0.0, "gather_waited_s": 0.0})

    def _be_absent(self, number: int) -> None:
        for place in self._parts[number]:
            be_absent(self.buffer.parameters[place])

    def bring(self, parameter: Tensor) -> None:
        """Wait for a parameter's elements.

        Collective: where ranks have set what they own alone; blocks: yes.
        """
        self._arrive(self._part_of[self._place_of[parameter]])

    def overwrite(self, parameter: Tensor, values: Any) -> None:
        """Set a parameter, as every rank does. Collective: no; blocks: until its elements are there.

        Args:
            parameter: which.
            values: for all of it, or the part that this rank owns.
        """
        if not isinstance(values, Part):
            self.bring(parameter)
            parameter._overwrite(_moved(values, self.buffer.device))
        if self.masters is not None:
            self.set_owned(parameter, values)
        if isinstance(values, Part) and self.comm.size > 1:
            number = self._part_of[self._place_of[parameter]]
            self._stale.add(number)
            self._be_absent(number)

    def set_owned(self, parameter: Tensor, values: Any) -> None:
        """Set what this rank owns of a parameter, its master weights too. Collective: no; blocks: no."""
        own = self._part_at(parameter.shape, parameter.leaf_state().flat)
        if not isinstance(values, Part):
            values = _moved(values, device_of(own.data))
            if getattr(values, "shape", None) != own.shape:  # a number, or what broadcasts
                room = get_array_module(own.data).empty(own.shape, dtype=own.data.dtype)
                room[...] = values
                values = room
            stop = own.start + own.data.size
            values = Part(own.shape, own.start, values.reshape(-1)[own.start : stop])
        own.data[...] = to_device(values.data, device_of(own.data))
        if self.masters is not None:
            self.masters.publish([parameter])

    def detached(self, parameter: Tensor, root: int | None = None) -> Tensor | None:
        """A parameter as a state dict has it, on all ranks: the same elements, or a copy of master weights.

        Collective: with master weights; blocks: until the elements are there.
        """
        if self.masters is not None:
            return self.copied(parameter, root)
        self.bring(parameter)
        return parameter.detach()

    def copied(self, parameter: Tensor, root: int | None) -> Tensor | None:
        """A copy outside the graph, on all ranks, or on one: read-only, since who writes means the parameter.

        Collective: yes; blocks: yes.
        """
        if self.masters is not None:
            self.masters.take_writes([parameter])
        found = self.whole(parameter.shape, parameter.leaf_state().flat, root)
        if isinstance(found, np.ndarray):
            found.flags.writeable = False
        return None if found is None else Tensor(found)

    def whole(
        self, shape: tuple[int, ...], home: tuple[FlatBuffer, int, int], root: int | None = None
    ) -> Any:
        """A copy of what owners have of a parameter that lies there. Collective: yes; blocks: yes."""
        found = self.all_gather(self._part_at(shape, home).data, self.counts(*home[1:]), root)
        return None if found is None else found.reshape(shape)

    def _part_at(self, shape: tuple[int, ...], home: tuple[FlatBuffer, int, int]) -> Part:
        buffer, start, stop = home
        first, last, place = next(buffer.owned(start, stop), (start, start, 0))
        masters = self.masters
        data = buffer.data[first:last] if masters is None else masters.data[place : place + last - first]
        return Part(shape, first - start, data, self.is_replica)

    def part(self, parameter: Tensor) -> Part | None:
        """What this rank owns of a parameter's master weights; None where every rank holds all.

        Collective: no; blocks: no.
        """
        if self.masters is None:
            return None
        self.masters.take_writes([parameter])
        return self._part_at(parameter.shape, parameter.leaf_state().flat)

    def settle(self, parameters: Iterable[Tensor] = ()) -> None:
        """Wait until all that was handed out is in, and take over what was written into these parameters.

        Collective: no; blocks: yes.
        """
        if self.masters is not None:
            self.masters.take_writes(parameters)
            self.masters.bring(parameters)
        for number in {*self._works, *self._stale}:
            self._arrive(number)

    def _arrive(self, number: int) -> None:
        if number in self._stale:
            self._stale.remove(number)
            self._works[number] = self.gather(number)
        work = self._works.pop(number, None)
        if work is not None:
            self.wait_for(number, work)
        for place in self._parts[number]:
            be_present(self.buffer.parameters[place])

    # -- memory

    def release_gradients(self, start: int) -> None:
        """Give back the memory of the gradients in the range from ``start`` that other ranks own.

        Collective: no; blocks: no.
        """
        edges, rank = self.edges(start), self.comm.rank
        for others in (slice(start, edges[rank]), slice(edges[rank + 1], edges[-1])):
            self.pages.release(self.buffer.grad[others])

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Memory for an optimizer's state: where parameters are updated, or in a file that has no name."""
        if self._offload_dir is not None and self._home == CPU and 0 not in shape:
            with tempfile.TemporaryFile(dir=self._offload_dir) as file:
                return np.memmap(file, dtype, "w+", shape=shape).view(np.ndarray)
        with activated(self._home) as xp:
            return xp.zeros(shape, dtype=dtype)
