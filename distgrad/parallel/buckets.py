"""Buckets: which gradients travel together, and in what order."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.graph import Leaf
from distgrad.autograd.hostmasters import HostMasters
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, Device, at_hand, follow
from distgrad.backend.streams import synchronize
from distgrad.comm.base import Communicator
from distgrad.comm.reduction import is_narrow
from distgrad.comm.work import Work
from distgrad.parallel.gathering import home_of
from distgrad.trace import annotate

__all__ = [
    "Bucket",
    "Hook",
    "all_reduce",
    "find_cap",
    "plan_buckets",
    "store",
    "suitable_cap",
    "time_all_reduce",
]

_MIB = 1 << 20
_FIRST_BYTES = _MIB  # a small first bucket starts the communication early
_SMALLEST_BYTES = _MIB // 8  # below it the calls cost more than what they carry
_LARGEST_BYTES = 25 * _MIB
_MAX_BUCKETS = 8  # wished for; those of the largest size may be more
_CALL_S = 0.3e-3  # what a bucket costs the processor beside backward: two threads hand the interpreter around
_TRIAL_BYTES = 1 << 22
_TRIALS = 3
_WEIGHT, _FAILURES, _USED = 0, 1, 2  # what stands where in a tail
_SPARE = 3  # of a tail's numbers, behind the first of a bucket's parameters; behind the others it is one
_NOWHERE = np.zeros(0, np.intp)


def time_all_reduce(comm: Communicator, num_bytes: int, device: Device = CPU) -> float:
    """Seconds that an all-reduce of ``num_bytes`` on a device takes; the first rank's, on all of them.

    Collective: yes; blocks: yes.
    """
    trial = comm.allocate(max(4, min(num_bytes, _TRIAL_BYTES) // 4 * 4), device).view(np.float32)
    times = []
    for _ in range(_TRIALS):
        comm.barrier()
        start_s = time.perf_counter()
        comm.all_reduce(trial)
        synchronize(device)
        times.append(time.perf_counter() - start_s)
    best_s = np.array([min(times)])
    return float(comm.host.broadcast(best_s)[0]) * max(1.0, num_bytes / trial.nbytes)


def time_call(comm: Communicator, device: Device) -> float:
    """Seconds that a bucket more costs, whatever is in it; the first rank's, on all of them.

    A device and its links are asked, by an all-reduce of next to nothing. On the host it is the processor's
    time beside backward, which no call alone shows.

    Collective: on a device; blocks: there.
    """
    return _CALL_S if device == CPU else time_all_reduce(comm, 0, device)


def suitable_cap(num_bytes: int, transfer_s: float | None = None, call_s: float = _CALL_S) -> float:
    """Bytes at which a bucket is full.

    The last of ``k`` buckets cannot hide, and each costs a call: ``transfer_s / k + k call_s`` is least for
    ``k = sqrt(transfer_s / call_s)``.

    Args:
        num_bytes: of all gradients.
        transfer_s: seconds that they travel, all together; None if that is not known.
        call_s: as :func:`time_call` has it.
    """
    count = float(_MAX_BUCKETS)
    if transfer_s is not None:
        count = min(max(math.sqrt(transfer_s / call_s), 1.0), count)
    return min(max(num_bytes / count, _SMALLEST_BYTES), _LARGEST_BYTES)


def find_cap(
    bucket_cap_mb: float | None,
    parameters: Sequence[tuple[str, Tensor]],
    comm: Communicator,
    device: Device,
    hook: Hook | None,
    exact: bool,
) -> float:
    """Bytes at which a bucket is full, as the user says or as suits the network.

    Collective: where it is measured; blocks: then.
    """
    if bucket_cap_mb is not None:
        return bucket_cap_mb * _MIB
    if exact:
        return math.inf  # nothing is reduced before the loop's end, so one bucket costs least
    num_bytes = sum(parameter.nbytes for _, parameter in parameters)
    if hook is not None or comm.size == 1:  # some hooks' results depend on the buckets
        return suitable_cap(num_bytes)
    return suitable_cap(num_bytes, time_all_reduce(comm, num_bytes, device), time_call(comm, device))


def store(parameters: Iterable[Tensor], comm: Communicator, hook: Hook | None) -> list[FlatBuffer]:
    """Move parameters into memory of the communicator, one buffer a dtype and device, in the order given.

    Args:
        parameters: in about the order in which their gradients become ready, so that those which lie side by
            side can travel together early.
        comm: gives the memory.
        hook: as for :class:`Bucket`, which may need room for its tail.
    """
    alike: dict[tuple[np.dtype, Device], list[Tensor]] = {}
    for parameter in parameters:
        alike.setdefault((parameter.dtype, home_of(parameter)), []).append(parameter)
    return [
        FlatBuffer(
            group,
            spare=_SPARE if takes_tail(dtype, device, hook) else 0,
            allocate=functools.partial(comm.allocate, device=device),
            device=device,
        )
        for (dtype, device), group in alike.items()
    ]


def takes_tail(dtype: np.dtype, device: Device, hook: Hook | None) -> bool:
    """Whether a bucket's tail may travel among its gradients: on the host, as they are, not in 16 bits."""
    return hook is None and device == CPU and not is_narrow(dtype)


def plan_buckets(parameters: Sequence[Tensor], ready: Sequence[int], cap_bytes: float) -> list[range]:
    """Cut a buffer into buckets of neighbours.

    A bucket ends where it is full, or half full before a parameter whose gradient comes at another time.

    Args:
        parameters: of the buffer, in its order.
        ready: for each of them, the place at which its gradient becomes ready.
        cap_bytes: a bucket that has come to it is full; the first one is at 1 MiB.

    Returns:
        For each bucket the numbers of its parameters in the buffer, in the order in which they are full.
    """
    limit = min(cap_bytes, _FIRST_BYTES)
    edges, filled = [0], 0
    for number, (before, after) in enumerate(itertools.pairwise(ready), 1):
        filled += parameters[number - 1].nbytes
        if filled >= (limit if abs(after - before) == 1 else limit / 2):
            edges.append(number)
            limit, filled = cap_bytes, 0
    buckets = [range(*edge) for edge in itertools.pairwise([*edges, len(ready)])]
    return sorted(buckets, key=lambda bucket: max(ready[number] for number in bucket))


class Bucket:
    """Parameters whose gradients are reduced together.

    They lie side by side in flat storage, so that a bucket is a range of it and nothing is packed. Along with
    them goes a tail of ``2 + n`` numbers, which are summed over the ranks too: the rank's weight, whether its
    backward pass failed, and for each of the n parameters whether the rank used it. The hosts must know it.
    So it travels among the gradients, in the spare places behind the parameters, where these lie on the host;
    else, and where they are of 16 bits, which would round the weights, it takes a way of its own from host to
    host. Where ranks own parts of the bucket the tail would reach but one of them, and it goes that way too.

    Gradients hold their weights, in a unit near one rank's, except those of 16 bits, which weights would take
    out of range: what a rank has gathered is its own mean, and weights enter where it is summed in float32.
    A hook of theirs gets them multiplied by the rank's share in the weight of all.

    Args:
        flat: the storage.
        places: the numbers of the bucket's parameters in it, neighbours.
        names: of these parameters.
        comm: the ranks.
        hook: sums the gradients; None is :func:`all_reduce`.

    Attributes:
        names: of the parameters.
        parameters: the parameters.
        flat: their flat buffer.
        start: where in the buffer's arrays the bucket starts.
        slices: for each parameter its place in ``gradients``; what lies between is 0.
        gradients: ``[elements]``, weighted; their sum over the ranks in ``own`` once it is reduced.
        own: the part that this rank owns: all of it, unless the buffer has shares.
        counts: elements of each rank's part; None where every rank owns all.
        comm: the ranks.
        weight: how much this rank's gradients count, in a unit that all ranks share.
        total: the sum of the ranks' weights in the same unit; known to functions that the hook submits.
        is_narrow: whether the gradients are of 16 bits.
        used: for each parameter whether any rank used it; likewise.
        tail: ``[2 + n]``, on the host.
        joined: whether the tail travels among the gradients.
        alike: whether it is summed as the gradients are, whichever way it travels.
        leaves_tail: whether the bucket does not reduce its tail, as no hook must know it.
        has_mean: whether the ranks' sum is divided by their number on its way: where that costs nothing.
        sums: what becomes the sum, and the mean, in this rank's part: ``gradients[own]``, or the memory
            beside master weights, of which that is then a rounded copy.
        is_widened: whether it is the latter.
        pending: gradients that this backward pass still owes.
        launched: whether the reduction of this step has been issued.
    """

    def __init__(
        self, flat: FlatBuffer, places: range, names: Sequence[str], comm: Communicator, hook: Hook | None
    ) -> None:
        self.flat = flat
        self.names = list(names)
        self.parameters = [flat.parameters[place] for place in places]
        where = [flat.slices[place] for place in places]
        self.start = where[0].start
        self.gradients: NDArray[Any] = flat.grad[self.start : flat.next_place(where[-1].stop)]
        self.slices = [slice(each.start - self.start, each.stop - self.start) for each in where]
        self.tail = np.zeros(_USED + len(self.parameters))
        self.is_narrow = is_narrow(flat.dtype)
        self.own, self.counts = slice(0, self.gradients.size), None
        if flat.shares is not None:
            edges = flat.shares.edges(self.start)
            rank = flat.shares.rank
            self.own = slice(edges[rank] - self.start, edges[rank + 1] - self.start)
            self.counts = [stop - start for start, stop in itertools.pairwise(edges)]
        self._masters = None if flat.shares is None else flat.shares.masters
        self.sums: Any = self.gradients[self.own]
        if self._masters is not None and self._masters.grad is not None:
            first, last = self.start + self.own.start, self.start + self.own.stop
            self.sums = self._masters.grad[self._masters.owned(first, last)[1]]
        self.is_widened = self.sums.dtype != flat.dtype
        self.alike = takes_tail(flat.dtype, flat.device, hook)
        self.joined = self.alike and self.counts is None
        behind = [each.stop for each in self.slices]
        self._spare = np.array([behind[0] + 1, behind[0] + 2, *behind]) if self.joined else _NOWHERE
        self.leaves_tail = hook is None and not self.joined
        self.has_mean = self.leaves_tail and not self.is_narrow and comm.has_mean
        self._hook = all_reduce if hook is None else hook
        self.comm = comm
        self.leaves: list[Leaf] = [parameter.leaf_state() for parameter in self.parameters]
        self.pending = 0
        self._weight = 0.0
        self._divided_by = 1  # what the sum of this step already is
        self._work: Work | None = None
        self._tail_work: Work | None = None  # of the tail alone
        self._release: Work | None = None  # of memory
        self._sent: Work | None = None  # to the host
        self._kept: NDArray[Any] | None = None
        self._kept_leaves: set[Leaf] = set()

    @property
    def launched(self) -> bool:
        """Whether the reduction of this step has been issued."""
        return self._work is not None

    @property
    def weight(self) -> float:
        """How much this rank's gradients count."""
        return self._weight

    @property
    def total(self) -> float:
        """The sum of the ranks' weights, of which the summed gradients are that many times the mean."""
        summed = self.summed_weight
        return float(summed > 0.0) if self.is_narrow and not self.is_widened else summed

    @property
    def summed_weight(self) -> float:
        """The sum of the ranks' weights, in the unit of :meth:`launch`."""
        return float(self._summed_tail()[_WEIGHT])

    @property
    def used(self) -> list[bool]:
        """Whether any rank used it, for each parameter."""
        return [used > 0.0 for used in self._summed_tail()[_USED:].tolist()]

    def _summed_tail(self) -> NDArray[Any]:
        if self._tail_work is not None:
            self._tail_work.wait()
        return self.tail

    def keep(self) -> None:
        """Set gradients aside that are means already; they are added to the coming mean."""
        self._kept_leaves = {leaf for leaf in self.leaves if leaf.grad is not None}
        if self._kept_leaves:
            follow(self.gradients)
            if self._masters is not None:
                self._masters.take_writes(self.parameters)
                self._masters.forget_gradients(p for p in self.parameters if p.grad is None)
            for leaf, where in zip(self.leaves, self.slices, strict=True):
                if leaf.grad is None:
                    self.gradients[where] = 0
                leaf.grad = None
            if not at_hand(self.sums) or self.sums.any():
                self._kept = self.sums.copy()

    def gather(self, leaf: Leaf) -> None:
        """Bring a gradient that has a graph of its own (``create_graph=True``) into the bucket."""
        if leaf.grad is None or leaf.grad._data is leaf.buffer:
            return
        leaf.buffer[...] = leaf.grad._data
        leaf.grad = Tensor(leaf.buffer)

    def weigh(self, weight: float, before: float, unit: float) -> None:
        """Scale what a backward pass of some weight will add to what passes of the weight ``before`` gave."""
        scale = weight / unit
        if self.is_narrow:
            total = before + weight
            scale = weight / total if total else 0.0
            if before and weight:
                follow(self.gradients)
                with np.errstate(all="ignore"):  # where there is no gradient anything may lie
                    self.gradients *= self.gradients.dtype.type(before / total)
        for leaf in self.leaves:
            leaf.scale = scale

    def launch(self, weight: float, unit: float, failed: bool = False) -> None:
        """Issue the reduction.

        Collective: yes; blocks: no, but for a hook of 16-bit gradients until the ranks know their weights.

        Args:
            weight: how much the gradients count.
            unit: of weights.
            failed: the gradients are unusable; every rank gets to know.
        """
        self._weight = self.tail[_WEIGHT] = weight / unit
        self.tail[_FAILURES] = failed
        follow(self.gradients)
        for place, (leaf, where) in enumerate(zip(self.leaves, self.slices, strict=True), _USED):
            used = leaf.grad is not None and not failed
            self.tail[place] = used
            if not used:
                self.gradients[where] = 0
        if self.joined:
            self.gradients[self._spare] = self.tail
        elif not self.leaves_tail:
            self._tail_work = self.comm.host.all_reduce(self.tail, async_op=True)
            if self.is_narrow:
                self._weight = self._weight / self.summed_weight if self._weight else 0.0
                self.gradients *= self.gradients.dtype.type(self._weight)
        self._divided_by = self.comm.size if self.has_mean else 1
        self._work = self._hook(self)
        if self._sends:
            self._sent = self.comm.submit(self._send, "send gradients to the host")
        if self._releases:
            self._release = self.comm.submit(self._let_go, "release gradients")

    @property
    def _sends(self) -> bool:
        """Whether gradients go to the host behind their reduction; a hook's may come to be after it."""
        return isinstance(self._masters, HostMasters) and self._hook is all_reduce

    def _send(self) -> None:
        assert isinstance(self._masters, HostMasters)
        self._masters.send(self.start + self.own.start, self.start + self.own.stop)

    @property
    def _releases(self) -> bool:
        shares = self.flat.shares
        return shares is not None and shares.releases and self.comm.size > 1

    def _let_go(self) -> None:
        assert self.flat.shares is not None
        self.flat.shares.release_gradients(self.start)

    def wait(self) -> None:
        """Wait for the sums: the host, or on a device the current stream.

        Collective: no; blocks: yes, except on a device.
        """
        with annotate("bucket.wait"):
            for work in (self._tail_work, self._work, self._sent, self._release):
                if work is not None:
                    work.wait()
        if self.joined:
            self.tail[:] = self.gradients[self._spare]

    @property
    def num_failures(self) -> int:
        """How many ranks could not compute their gradients."""
        return round(float(self.tail[_FAILURES]))

    def finish(self, usable: bool = True, factor: float = 1.0) -> None:
        """Turn the sums into the mean, and add what was kept; parameters that no rank used have no gradient.

        Args:
            usable: if not, only what was kept stays.
            factor: of the mean.
        """
        total, own = self.total / self._divided_by, self.sums
        scale = 1.0 if total == factor else factor / total if total > 0.0 else 0.0
        as_sent = usable and self._kept is None
        follow(own)
        if self.joined:
            self.gradients[self._spare] = 0
        if not usable:
            self.gradients[...] = own[...] = 0
        elif scale != 1.0:
            own *= scale
        if self._kept is not None:
            own += self._kept
        if self.is_widened:
            with np.errstate(over="ignore"):
                self.gradients[self.own] = own
        for parameter, leaf, used in zip(self.parameters, self.leaves, self.used, strict=True):
            if leaf not in self._kept_leaves and not (usable and used):
                leaf.grad = None
            elif leaf.grad is None:
                leaf.grad = Tensor(leaf.buffer)
            else:
                leaf.grad.changed("all_reduce")
            if self.is_widened and leaf.grad is not None and self._masters is not None:
                self._masters.note(parameter)
        if isinstance(self._masters, HostMasters):
            first = self.start + self.own.start
            self._masters.sent(first, self.parameters if as_sent else None, scale)
        self._kept = None
        self._kept_leaves = set()
        self._work = self._tail_work = self._release = self._sent = None
        self._divided_by = 1

    def settle(self, used: NDArray[Any]) -> None:
        """Take ``gradients`` for the mean over all ranks, made elsewhere, and add what was kept.

        Args:
            used: for each parameter how often it was used.
        """
        self.tail[_WEIGHT], self.tail[_FAILURES], self.tail[_USED:] = 1.0, 0.0, used
        if self._releases:
            self._let_go()
        self.finish()

    @property
    def work(self) -> Work:
        """The reduction of this step."""
        assert self._work is not None
        return self._work

    @property
    def num_bytes(self) -> int:
        """What a reduction moves."""
        return self.gradients.nbytes + (0 if self.joined else self.tail.nbytes)

    def statistics(self) -> dict[str, Any]:
        """What a reduction moves, and of how many parameters."""
        return {"num_parameters": len(self.leaves), "num_bytes": self.num_bytes}

    def gather_times(self) -> dict[str, float]:
        """Where ranks own parts, what bringing the parameters together took since this was last asked."""
        shares = self.flat.shares
        return {} if shares is None else shares.gather_times(self.start)


#: Sums ``bucket.gradients``, which hold weights, over ``bucket.comm``, in place, behind the Work it returns;
#: of a bucket that ranks own parts of ``bucket.gradients[bucket.own]`` is enough.
Hook = Callable[[Bucket], Work]


def all_reduce(bucket: Bucket) -> Work:
    """Sum a bucket's gradients, those of 16 bits to their mean: the hook that takes the place of None.

    Where ranks own parts of the bucket each sums its own.

    Collective: yes; blocks: no.
    """
    comm, gradients, shares = bucket.comm, bucket.gradients, bucket.flat.shares
    op = "mean" if bucket.has_mean else "sum"
    if shares is not None and (bucket.is_widened or not bucket.is_narrow):
        scattered: Work = shares.reduce_scatter(bucket.start, op, bucket.weight)
        return scattered
    work: Work = (
        comm.all_reduce(gradients, "mean", async_op=True, weight=bucket.weight)
        if bucket.is_narrow and bucket.leaves_tail
        else comm.all_reduce(gradients, op, async_op=True)
    )
    return work
