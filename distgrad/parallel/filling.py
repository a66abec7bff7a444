"""The first numbers of a module that was built of shapes, a block at a time.

They are those of the same module built in memory, where its parts draw theirs in the order of ``children()``,
and a module after its children; the first of those that share a tensor draws it. Rank 0 calls each
``reset_parameters()`` so, on a copy of one block that is in memory; of what it draws the others, too, keep
what they own.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.parts import kept_dtype
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU
from distgrad.backend.meta import META
from distgrad.backend.rng import default_generator
from distgrad.comm.base import Communicator
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.nn.parameter import Buffer, Parameter, write
from distgrad.nn.placing import make_empty
from distgrad.parallel.blocks import find_blocks
from distgrad.parallel.replicas import broadcast
from distgrad.tracebacks import warn_once

__all__ = ["Filling"]


class Filling:
    """What a module lacks that has parameters or buffers on ``"meta"``.

    Args:
        module: before it is laid out.
        comm: the ranks.
        blocks: as for :func:`~distgrad.parallel.blocks.find_blocks`.

    Raises:
        OptionError: a module whose first numbers nobody knows, or one half of which is in memory.
    """

    def __init__(self, module: Module, comm: Communicator, blocks: Sequence[str] | None) -> None:
        self._module, self._comm, self._blocks = module, comm, blocks
        self._missing = {each for each in _tensors(module) if each.device == META}
        trained = [each for each in module.parameters() if each.requires_grad]
        count = sum(each in self._missing for each in trained)
        if count not in (0, len(trained)):
            raise OptionError(
                f"DistributedDataParallel: {count} of {len(trained)} parameters lie on 'meta'; build all of "
                "the module there, or in memory"
            )
        for name, each in module.named_modules():
            if self._missing & set(_tensors(each, recurse=False)) and not hasattr(each, "reset_parameters"):
                raise OptionError(
                    f"DistributedDataParallel: {name or 'the module'} lies on 'meta', and its class "
                    f"{type(each).__name__} has no reset_parameters(), which would give its first numbers; "
                    "write one, or build it in memory"
                )
        make_empty(self._missing - set(trained), CPU)  # they are not spread

    def run(self, storage: Sequence[FlatBuffer]) -> None:
        """Let all ranks have the same numbers: those of rank 0, or the first ones.

        Collective: yes; blocks: yes.

        Args:
            storage: what holds the parameters.
        """
        if self._missing:
            self._fill_all()
        else:
            for buffer in storage:
                if buffer.shares is None or not buffer.shares.is_filled:
                    self._comm.broadcast(buffer.data)
        broadcast([each for each in self._module.parameters() if not each.requires_grad], self._comm)
        broadcast(list(self._module.buffers()), self._comm)

    def _fill_all(self) -> None:
        whole, _ = find_blocks(self._module, self._blocks)
        before = default_generator.get_state()["block"]
        for block, recurse in _pieces(self._module, set(whole)):
            self._fill(block, recurse)
        drawn = self._comm.broadcast_object(default_generator.get_state()["block"] - before)
        if self._comm.rank:  # goes on from where it would be, had it drawn them too
            state = default_generator.get_state()
            default_generator.set_state(state | {"block": state["block"] + drawn})

    def _fill(self, block: Module, recurse: bool) -> None:
        """Let rank 0 draw the numbers of a block, or of a module alone, and keep this rank's."""
        memo: dict[int, Any] = {} if recurse else {id(child): child for child in block.children()}
        there = list(_tensors(block, recurse))
        for tensor in there:
            memo[id(tensor)] = _in_memory(tensor)
        below = [each for child in block.children() for each in _tensors(child) if id(each) not in memo]
        before = [each._num_changes() for each in below]
        if self._comm.rank == 0:
            twin = copy.deepcopy(block, memo)
            for each in _after_children(twin) if recurse else [twin]:
                if any(True for _ in _tensors(each, recurse=False)):
                    each.reset_parameters()
        changed = [place for place, each in enumerate(below) if each._num_changes() != before[place]]
        if changed := self._comm.broadcast_object(changed):
            raise OptionError(
                f"DistributedDataParallel: the reset_parameters() of {type(block).__name__} sets "
                f"{self._name_of(below[changed[0]])} of a module in it, which is filled by itself; let that "
                "module's own do it, or name both as one block in shard_blocks"
            )
        self._check_drawn(there, [memo[id(tensor)] for tensor in there])
        for tensor in there:
            if tensor in self._missing:  # what two modules share is drawn twice, and kept once
                self._missing.remove(tensor)
                values = memo[id(tensor)]._data
                self._comm.broadcast(values)
                write(tensor, values, "reset_parameters")

    def _check_drawn(self, there: Sequence[Tensor], drawn: Sequence[Tensor]) -> None:
        """Refuse what rank 0 has not drawn, on all ranks, and warn of what a constructor set otherwise."""
        missing = [place for place, tensor in enumerate(there) if tensor in self._missing]
        unwritten = [place for place in missing if not drawn[place]._num_changes()]
        if unwritten := self._comm.broadcast_object(unwritten):
            raise OptionError(
                f"DistributedDataParallel: {self._name_of(there[unwritten[0]])} lies on 'meta', and the "
                "reset_parameters() of its module does not set it; let it set all parameters and buffers, by "
                "dg.nn.init or copy_, or build the module in memory"
            )
        lost = [place for place in missing if there[place]._num_changes() > drawn[place]._num_changes()]
        if lost and self._comm.rank == 0:
            warn_once(
                "filling",
                f"DistributedDataParallel: {self._name_of(there[lost[0]])} was set once more after "
                "reset_parameters(), on 'meta', where numbers are not kept: it gets those of "
                "reset_parameters() alone; set it there, or load its numbers after wrapping",
                0,
            )

    def _name_of(self, tensor: Tensor) -> str:
        named = itertools.chain(self._module.named_parameters(), self._module.named_buffers())
        return next(name for name, each in named if each is tensor)


def _tensors(module: Module, recurse: bool = True) -> Iterator[Tensor]:
    yield from module.parameters(recurse=recurse)
    yield from module.buffers(recurse=recurse)


def _in_memory(tensor: Tensor) -> Tensor:
    room = np.empty(tensor.shape, kept_dtype(tensor))
    if isinstance(tensor, Parameter):
        return Parameter(room, tensor.requires_grad)
    return Buffer(room, persistent=tensor.persistent) if isinstance(tensor, Buffer) else Tensor(room)


def _pieces(module: Module, blocks: set[Module]) -> Iterator[tuple[Module, bool]]:
    """Blocks, and modules outside them that have something themselves, each after its children."""
    if module in blocks:
        yield module, True
        return
    for child in module.children():
        yield from _pieces(child, blocks)
    if any(True for _ in _tensors(module, recurse=False)):
        yield module, False


def _after_children(module: Module) -> Iterator[Module]:
    for child in module.children():
        yield from _after_children(child)
    yield module
