"""Device and pinned memory of the double: host memory that is poisoned when it is taken and given back.

The poison is 0xFF in every byte: NaN in every floating-point format, which a sum, a product or a comparison
with a right result shows. (0xA5 would be -2.9e-16 as float32, and vanish in a sum.)
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
from dataclasses import dataclass

from gpu_double.build import DoubleError

POISON = 0xFF
DEVICE, PINNED = "device", "pinned"


@dataclass(frozen=True)
class Block:
    """One allocation.

    Attributes:
        pointer: its first byte.
        num_bytes: that were asked for.
        device: whose memory it is; for pinned memory, that was current.
        kind: ``device`` or ``pinned``.
    """

    pointer: int
    num_bytes: int
    device: int
    kind: str


class Memory:
    """All allocations, in order of their addresses.

    Args:
        device_bytes: that each device has.
    """

    def __init__(self, device_bytes: int) -> None:
        self.device_bytes = device_bytes
        self.used_bytes: dict[int, int] = {}
        self._starts: list[int] = []
        self._blocks: dict[int, tuple[Block, mmap.mmap]] = {}

    def allocate(self, num_bytes: int, device: int, kind: str) -> int | None:
        """Address of new, poisoned memory; None if the device has no more."""
        used = self.used_bytes.get(device, 0)
        if kind == DEVICE and used + num_bytes > self.device_bytes:
            return None
        pages = mmap.mmap(-1, max(num_bytes, 1))
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        ctypes.memset(pointer, POISON, num_bytes)
        bisect.insort(self._starts, pointer)
        self._blocks[pointer] = Block(pointer, num_bytes, device, kind), pages
        if kind == DEVICE:
            self.used_bytes[device] = used + num_bytes
        return pointer

    def free(self, pointer: int, kind: str) -> None:
        """Give back; the pages are unmapped, so what still touches them ends with a segmentation fault."""
        if pointer == 0:
            return
        block, _ = self._blocks.get(pointer, (None, None))
        if block is None or block.kind != kind:
            raise DoubleError(f"free of {pointer:#x}, which is no {kind} memory that was allocated")
        del self._blocks[pointer]
        self._starts.remove(pointer)
        if kind == DEVICE:
            self.used_bytes[block.device] -= block.num_bytes

    def find(self, pointer: int) -> Block | None:
        """The allocation that holds the address; None for any other host memory."""
        i = bisect.bisect_right(self._starts, pointer) - 1
        if i < 0:
            return None
        block, _ = self._blocks[self._starts[i]]
        return block if pointer < block.pointer + max(block.num_bytes, 1) else None

    def check(self, pointer: int, num_bytes: int, device: int | None, what: str) -> None:
        """Raise where a GPU would report an illegal access.

        Args:
            pointer: that a kernel, a copy or a collective is given.
            num_bytes: that it reads or writes there; 0 if not known.
            device: on which it runs; None where any device's memory will do.
            what: the kernel's, copy's or collective's name.
        """
        if pointer == 0 and num_bytes == 0:
            return
        block = self.find(pointer)
        if block is None:
            raise DoubleError(f"{what} is given {pointer:#x}, which is no device memory")
        if block.kind == DEVICE and device not in (None, block.device):
            raise DoubleError(
                f"{what} on device {device} is given {pointer:#x}, which is memory of device {block.device}"
            )
        if pointer + num_bytes > block.pointer + block.num_bytes:
            beyond = pointer + num_bytes - block.pointer - block.num_bytes
            raise DoubleError(f"{what} goes {beyond} bytes past the end of an allocation")
