"""The same bits on any number of ranks: fixed shards, summed along one fixed binary tree.

Floating-point sums depend on their order, and matrix products on their shapes and threads. So the batch of
all ranks is cut into a fixed number of shards, each of which is computed by itself, on one thread, wherever
it lands; and what the shards give is summed along one tree over the shards, whichever ranks hold its nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.rng import default_generator
from distgrad.backend.threads import set_num_threads
from distgrad.comm.base import Communicator
from distgrad.errors import CommMismatchError, OptionError, RankFailedError, ShapeError
from distgrad.nn.module import Module
from distgrad.nn.parameter import write
from distgrad.parallel.batchnorm import SyncBatchNorm
from distgrad.parallel.reducer import Reducer

__all__ = ["Partials", "Shards", "Tree", "owned_shards"]

_SHARD_BITS = 24  # of a stream's number; the step has the rest


def owned_shards(rank: int, size: int, num_shards: int) -> range:
    """The shards that a rank computes: neighbours, as many on each rank as can be."""
    return range(num_shards * rank // size, num_shards * (rank + 1) // size)


class Tree:
    """The binary tree along which shards are summed; it knows nothing of ranks.

    Args:
        num_leaves: number of shards.

    Attributes:
        middles: for every node that sums ``first … stop - 1``, as a pair, where its right half begins.
    """

    def __init__(self, num_leaves: int) -> None:
        self.num_leaves = num_leaves
        self.middles: dict[tuple[int, int], int] = {}
        pending = [(0, num_leaves)]
        while pending:
            first, stop = pending.pop()
            if stop - first > 1:
                middle = self.middles[first, stop] = (first + stop + 1) // 2
                pending += [(first, middle), (middle, stop)]

    def cover(self, leaves: range) -> list[tuple[int, int]]:
        """The largest nodes that ``leaves`` hold whole, from left to right."""
        nodes: list[tuple[int, int]] = []
        for leaf in leaves:
            nodes.append((leaf, leaf + 1))
            self.join(nodes)
        return nodes

    def join(
        self, nodes: list[tuple[int, int]], values: list[NDArray[Any]] | None = None
    ) -> list[NDArray[Any]]:
        """Replace neighbours at the end of ``nodes`` by their sum as long as they are a node's two halves.

        Returns:
            The arrays whose values were added to others.
        """
        added = []
        while len(nodes) > 1 and self.middles.get((nodes[-2][0], nodes[-1][1])) == nodes[-1][0]:
            nodes[-2:] = [(nodes[-2][0], nodes[-1][1])]
            if values is not None:
                added.append(values.pop())
                values[-1] += added[-1]
        return added

    def total(self, nodes: dict[tuple[int, int], NDArray[Any]]) -> NDArray[Any]:
        """The sum at the root; ``nodes`` are those of all ranks, and are overwritten."""

        def value(first: int, stop: int) -> NDArray[Any]:
            if (first, stop) in nodes:
                return nodes[first, stop]
            middle = self.middles[first, stop]
            left = value(first, middle)
            left += value(middle, stop)
            return left

        return value(0, self.num_leaves)


class Partials:
    """The sums of what one rank's shards give, and their sum over all ranks.

    Args:
        tree: over all shards.
        comm: the ranks.
        length: elements of what a shard gives.
        dtype: of the sums.
    """

    def __init__(self, tree: Tree, comm: Communicator, length: int, dtype: Any) -> None:
        self._tree, self._comm, self._length, self._dtype = tree, comm, length, np.dtype(dtype)
        self._nodes: list[tuple[int, int]] = []
        self._values: list[NDArray[Any]] = []
        self._spare: list[NDArray[Any]] = []  # memory that is in nobody's use

    def add(self, shard: int, values: NDArray[Any], weight: float = 1.0) -> None:
        """Take what ``shard`` gave, ``[length]``, times a weight, copied; shards come in their order."""
        memory = self._spare.pop() if self._spare else np.empty(self._length, self._dtype)
        np.copyto(memory, values)
        if weight != 1.0:
            memory *= memory.dtype.type(weight)
        self._nodes.append((shard, shard + 1))
        self._values.append(memory)
        self._spare += self._tree.join(self._nodes, self._values)

    def clear(self) -> None:
        """Forget what was added, but not the memory."""
        self._spare += self._values
        self._nodes, self._values = [], []

    def total(self, out: NDArray[Any]) -> None:
        """The sum over all shards, the same bits on every rank: each rank sums a slice of all nodes.

        Collective: yes; blocks: yes.

        Args:
            out: ``[length]``, overwritten by the sum.
        """
        comm, size = self._comm, self._comm.size
        covers = [self._tree.cover(owned_shards(r, size, self._tree.num_leaves)) for r in range(size)]
        if size == 1:
            out[...] = self._tree.total(dict(zip(self._nodes, self._values, strict=True)))
            return
        if size == 2 and out.dtype == self._dtype and [len(cover) for cover in covers] == [1, 1]:
            np.copyto(out, self._values[0])
            comm.all_reduce(out)  # the root's two halves: which is added to which makes no difference
            return
        part = -(-self._length // size)
        slices: dict[tuple[int, int], NDArray[Any]] = {}
        for place in range(max(map(len, covers))):  # the ranks' first nodes, then their second ...
            sent = np.zeros(part * size, self._dtype)
            if place < len(self._values):
                sent[: self._length] = self._values[place]
            received = comm.all_to_all(sent.reshape(size, part))
            slices |= {cover[place]: received[r] for r, cover in enumerate(covers) if place < len(cover)}
        out[...] = comm.all_gather(self._tree.total(slices)).reshape(-1)[: self._length]


@dataclass
class _Step:
    """What the shards of one step have given so far.

    Attributes:
        partials: a bucket's, for each bucket.
        buffers: the floating buffers', times the shards' weights.
        news: of all shards the weights, then of all parameters how often they were used, then the samples.
        start: the buffers before the step.
    """

    partials: list[Partials]
    buffers: Partials
    news: NDArray[np.float64]
    start: list[NDArray[Any]]


class Shards:
    """Cuts batches into shards, runs the loop over those of this rank, and sums what they give.

    Args:
        module: whose buffers are joined.
        comm: the ranks.
        num_shards: how many, on all ranks together.
        seed: what random numbers are keyed by, besides the step and the shard.
        sharded: what of the module each rank keeps a part of. With ``"parameters"`` all run it equally often,
            those with fewer shards on no samples at last, since its blocks are gathered by all at once.

    Attributes:
        step: number of the coming step, from 0.
        seed: as given.
        active: whether a step's loop is under way.
    """

    def __init__(
        self, module: Module, comm: Communicator, num_shards: int, seed: int, sharded: str | None = None
    ) -> None:
        if num_shards < 1 or num_shards >= 1 << _SHARD_BITS:
            raise OptionError(f"DistributedDataParallel: shards must be from 1 to 2^24 - 1, got {num_shards}")
        for name, child in module.named_modules():
            if isinstance(child, SyncBatchNorm):
                raise OptionError(
                    f"DistributedDataParallel: {name} is a SyncBatchNorm, whose sums depend on the ranks; "
                    "with exact=True use BatchNorm, which takes each shard's own statistics"
                )
        set_num_threads(1)  # a BLAS with threads of its own has other bits with each number of them
        self.comm = comm
        self.seed = seed
        self.step = 0
        self.active = False
        self._reference = 1.0
        self._reducer: Reducer | None = None
        self._partials: list[Partials] = []  # of its buckets
        self._module = module
        self._tree = Tree(num_shards)
        self._own = owned_shards(comm.rank, comm.size, num_shards)
        self._together = sharded == "parameters"
        most = max(len(owned_shards(rank, comm.size, num_shards)) for rank in range(comm.size))
        self._num_empty = most - len(self._own) if self._together else 0  # passes that nothing comes of

    def loop(self, reducer: Reducer, arrays: Sequence[Any]) -> Iterator[Any]:
        """This rank's shards of a batch, one after the other; past the last one the gradients are means.

        Collective: yes, until its end; blocks: at its end.
        """
        rows = _count_rows(arrays)
        self._reference = 2.0 ** round(math.log2(max(rows, 1)))  # the same on any ranks
        reducer.set_aside(self._reference)
        self.active = True
        state = default_generator.get_state()
        step = self._begin(reducer)
        failed = True
        try:
            for number, shard in enumerate(self._own):
                if number:
                    self._set_back(step)
                stream = (self.step << _SHARD_BITS | shard) + 1
                default_generator.set_state({"seed": self.seed, "stream": stream, "block": 0})  # no new seed
                first, stop = (rows * edge // self._tree.num_leaves for edge in (shard, shard + 1))
                if stop > first or self._together:
                    parts = tuple(array[first:stop] for array in arrays)
                    yield parts if len(parts) > 1 else parts[0]
                self._gather(reducer, step, shard)
            for number in range(self._num_empty):
                if number or self._own:
                    self._set_back(step)
                parts = tuple(array[:0] for array in arrays)
                yield parts if len(parts) > 1 else parts[0]
                self._forget(reducer)
            failed = False
        finally:  # also where the loop was left: the others wait
            default_generator.set_state(state)
            self.active = False
            self.step += 1
            try:
                self._end(reducer, step, rows, failed)
            finally:
                for partials in step.partials:
                    partials.clear()

    def _begin(self, reducer: Reducer) -> _Step:
        if self._reducer is not reducer:
            self._reducer = reducer
            self._partials = [
                Partials(
                    self._tree, self.comm, b.gradients.size, np.result_type(b.gradients.dtype, np.float32)
                )
                for b in reducer.buckets
            ]
        floating = sum(buffer.size for buffer in self._floating())
        num_parameters = sum(len(bucket.leaves) for bucket in reducer.buckets)
        return _Step(
            self._partials,
            Partials(self._tree, self.comm, floating, np.float64),
            np.zeros(self._tree.num_leaves + num_parameters + 2),
            [buffer._data.copy() for buffer in self._module.buffers()],
        )

    def _floating(self) -> list[Tensor]:
        return [buffer for buffer in self._module.buffers() if buffer.dtype.char in FLOATING]

    def _gather(self, reducer: Reducer, step: _Step, shard: int) -> None:
        """Take a shard's gradients and buffers, and make room for the next one's."""
        weight = step.news[shard] = reducer.take_weight()
        place = self._tree.num_leaves
        for bucket, partials in zip(reducer.buckets, step.partials, strict=True):
            for leaf, where in zip(bucket.leaves, bucket.slices, strict=True):
                if leaf.grad is None:
                    bucket.gradients[where] = 0
                else:
                    step.news[place] += 1
                leaf.grad = None
                place += 1
            partials.add(shard, bucket.gradients, weight / self._reference if bucket.is_narrow else 1.0)
        if step.start:
            floating = [buffer._data.reshape(-1).astype(np.float64) for buffer in self._floating()]
            step.buffers.add(shard, weight * np.concatenate([np.zeros(0), *floating]))

    def _forget(self, reducer: Reducer) -> None:
        """Let a pass have been none."""
        reducer.take_weight()
        for bucket in reducer.buckets:
            for leaf in bucket.leaves:
                leaf.grad = None

    def _set_back(self, step: _Step) -> None:
        """Let buffers be what they were before the step."""
        for buffer, values in zip(self._module.buffers(), step.start, strict=True):
            write(buffer, values, "exact shards")

    def _end(self, reducer: Reducer, step: _Step, rows: int, failed: bool) -> None:
        """Join what all ranks have; every rank comes here once a step, or ends."""
        reducer.take_weight()
        reducer.enabled = reducer.averaged = True
        reducer.count_step()
        if failed and self._together:  # the others wait in a gather, where they hear of it
            for bucket in reducer.buckets:
                bucket.finish(usable=False)
            return
        step.news[-2:] = rows, failed
        news = self.comm.all_reduce(
            step.news
        )  # a shard's entry is 0 on all ranks but one, so the sum is exact
        if news[-1] or news[-2] != rows * self.comm.size:
            for bucket in reducer.buckets:
                bucket.finish(usable=False)
            if failed:
                return  # with the exception that left the loop
            if news[-1]:
                raise RankFailedError(
                    f"shards: the loop was left before its end on {round(news[-1])} ranks; no gradients are "
                    "left on any rank. The ranks are in step: go on with the next batch on all of them"
                )
            raise CommMismatchError(
                f"shards: the ranks' batches must be the same, but this rank's has {rows} samples, and all "
                f"ranks' together {round(news[-2])}; give every rank the batch of all ranks"
            )
        weights, used = np.split(news[:-2], [self._tree.num_leaves])
        total = math.fsum(weights.tolist())
        share = self._reference / total if total > 0.0 else 0.0
        place = 0
        for bucket, partials in zip(reducer.buckets, step.partials, strict=True):
            sums = np.empty(bucket.gradients.size, np.float32) if bucket.is_narrow else bucket.gradients
            partials.total(sums)
            sums *= sums.dtype.type(share)
            if bucket.is_narrow:
                with np.errstate(all="ignore"):
                    bucket.gradients[...] = sums.astype(bucket.gradients.dtype)
            bucket.settle(used[place : place + len(bucket.leaves)])
            place += len(bucket.leaves)
        if step.start and total > 0.0:
            means = np.empty(sum(buffer.size for buffer in self._floating()))
            step.buffers.total(means)
            self._join_buffers(means / total)

    def _join_buffers(self, means: NDArray[np.float64]) -> None:
        """Floating buffers become the shards' weighted mean; counts the largest of the ranks'."""
        start = 0
        for buffer in self._module.buffers():
            if buffer.dtype.char in FLOATING:
                values = means[start : start + buffer.size].reshape(buffer.shape)
                start += buffer.size
            else:
                values = self.comm.all_reduce(np.array(buffer._data), "max")
            write(buffer, values.astype(buffer.dtype), "exact shards")


def _count_rows(arrays: Sequence[Any]) -> int:
    """The samples of a batch: the length that all its arrays' first axes have."""
    lengths = [len(array) for array in arrays]
    if not lengths or len(set(lengths)) > 1:
        raise ShapeError(
            f"shards: expected arrays of the whole batch with one first axis, got lengths {lengths}"
        )
    return lengths[0]
