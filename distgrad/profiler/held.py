"""Memory that is alive now: for what, and which line of the program asked for it."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from distgrad.profiler.owners import KINDS, holders

__all__ = ["Held", "Memory", "assert_no_leak", "memory"]


@dataclass(frozen=True)
class Held:
    """What one line holds of one kind.

    Attributes:
        kind: ``parameters``, ``gradients``, ``state``, ``buffers``, ``activations``, or ``other``.
        line: ``file:line`` of the operation that made it; empty where none did.
        num_arrays: how many blocks of memory.
        num_bytes: their size.
    """

    kind: str
    line: str
    num_arrays: int
    num_bytes: int


@dataclass(frozen=True)
class Memory:
    """All that is alive, the largest first.

    Attributes:
        held: by kind and line.
    """

    held: tuple[Held, ...]

    @property
    def num_bytes(self) -> int:
        """Of all."""
        return sum(each.num_bytes for each in self.held)

    def by_kind(self) -> dict[str, int]:
        """Bytes by what they are for."""
        total: dict[str, int] = defaultdict(int)
        for each in self.held:
            total[each.kind] += each.num_bytes
        return dict(total)

    def __str__(self) -> str:
        lines = [f"{'kind':12} {'arrays':>7} {'bytes':>14}  line"]
        lines += [f"{e.kind:12} {e.num_arrays:7} {e.num_bytes:14,}  {e.line}" for e in self.held]
        return "\n".join(lines)


def _block(array: Any) -> Any:
    """The array whose memory this one looks at."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array


def _found() -> Iterator[tuple[str, Any, str]]:
    """Kind, array and line of all that is held; the same memory may come several times."""
    readers: dict[type, Callable[[Any], Any] | None] = {}
    for each in gc.get_objects():
        kind = type(each)
        if kind not in readers:
            readers[kind] = next((holders[base] for base in kind.__mro__ if base in holders), None)
        reader = readers[kind]
        if reader is not None:
            yield from reader(each)


def memory() -> Memory:
    """What is alive now of tensors, graphs, optimizers and modules, by what it is for and by line.

    ::

        print(dg.profiler.memory())

    Memory that several hold is counted once, for the first of the kinds in the order of
    :attr:`Held.kind`. It looks through all objects of Python's, which takes some 50 ms. Arrays that only the
    program itself holds, without a tensor, are not known.
    """
    order = {kind: place for place, kind in enumerate((*KINDS, "other"))}
    blocks: dict[int, tuple[str, str, Any]] = {}
    for kind, array, line in _found():
        block = _block(array)
        before = blocks.get(id(block))
        if before is None or order[kind] < order[before[0]]:
            blocks[id(block)] = (kind, line or (before[1] if before is not None else ""), block)
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for kind, line, block in blocks.values():
        entry = sums[kind, line]
        entry[0], entry[1] = entry[0] + 1, entry[1] + block.nbytes
    held = (Held(kind, line, count, size) for (kind, line), (count, size) in sums.items())
    return Memory(tuple(sorted(held, key=lambda each: -each.num_bytes)))


def assert_no_leak(function: Callable[[], Any], warm_up: int = 2, calls: int = 3) -> None:
    """Call a function again and again, and see that nothing more is alive after it.

    ::

        def test_a_step_leaks_nothing():
            dg.profiler.assert_no_leak(step)

    Args:
        function: what is called, a training step say.
        warm_up: calls before the first look: optimizers make their state in the first.
        calls: calls between the two looks.

    Raises:
        AssertionError: arrays were left by every call; with what they are for, and the lines that made them.
    """

    def look() -> dict[tuple[str, str], Held]:
        gc.collect()
        return {(each.kind, each.line): each for each in memory().held}

    for _ in range(warm_up):
        function()
    before = look()
    for _ in range(calls):
        function()
    grown = []
    for key, each in look().items():
        old = before.get(key)
        more = each.num_arrays - (old.num_arrays if old else 0)
        if more >= calls:
            size = each.num_bytes - (old.num_bytes if old else 0)
            grown.append(f"{more} arrays of {each.kind} more, {size:,} bytes, from {each.line or 'no line'}")
    if grown:
        raise AssertionError(f"assert_no_leak: after {calls} calls there are " + "; ".join(grown))
