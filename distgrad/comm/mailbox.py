"""Messages from one rank to another on one host, kept until the receiver takes them.

Every rank writes to memory of its own, which the others can read, a section for each of them: first how far
the section is written, then one message after the other from a page's beginning. Who has read a message gives
its pages back.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import defaultdict, deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distgrad.comm.neighbours import Neighbours

__all__ = ["Mailbox"]

_SECTION_BYTES = 1 << 44  # of addresses, not of memory
_HEADER = struct.Struct("=qq")  # bytes of the key, bytes of the message
_END = struct.Struct("=q")
_PIECE_BYTES = 1 << 30  # Linux moves less than 2**31 bytes a call
_PAGE = mmap.PAGESIZE


class Mailbox:
    """What this rank has sent and is to receive.

    Args:
        neighbours: the ranks.
    """

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._written = dict.fromkeys(neighbours.ranks, _PAGE)  # from the beginning of the section
        self._read = dict.fromkeys(neighbours.ranks, _PAGE)
        self._boxes: dict[tuple[int, str], deque[NDArray[np.uint8]]] = defaultdict(deque)

    def _section(self, rank: int) -> int:
        return self._neighbours.ranks.index(rank) * _SECTION_BYTES

    def send(self, rank: int, key: str, message: NDArray[np.uint8]) -> None:
        """Leave a copy of ``message`` for a rank."""
        outbox = self._neighbours.outboxes[self._neighbours.rank]
        start = self._section(rank)
        at = start + self._written[rank]
        name = key.encode()
        head = np.frombuffer(_HEADER.pack(len(name), message.size) + name, np.uint8)
        for part in (head, message):
            for begin in range(0, part.size, _PIECE_BYTES):
                at += os.pwrite(outbox, part[begin : begin + _PIECE_BYTES].data, at)
        self._written[rank] = -(-(at - start) // _PAGE) * _PAGE
        os.pwrite(outbox, _END.pack(self._written[rank]), start)
        self._neighbours.ring(rank)

    def receive(self, rank: int, key: str, watch: Callable[[float], None]) -> NDArray[np.uint8]:
        """The next message from a rank with that key; ``watch`` as in :meth:`Neighbours.wait_for`.

        Raises:
            RankFailedError: the rank has ended without sending it.
        """
        box = self._boxes[rank, key]

        def is_there() -> bool:
            self._collect(rank)
            return bool(box)

        self._neighbours.wait_for(is_there, rank, watch)
        message = box.popleft()
        if not box:
            del self._boxes[rank, key]
        return message

    def has(self, rank: int, key: str) -> bool:
        """Whether a message from a rank with that key has come."""
        self._collect(rank)
        return bool(self._boxes.get((rank, key)))

    def _collect(self, rank: int) -> None:
        """Take what a rank has sent since the last time."""
        inbox = self._neighbours.outboxes[rank]
        section = self._section(self._neighbours.rank)
        data = os.pread(inbox, _END.size, section)
        end = _END.unpack(data)[0] if data else 0
        while self._read[rank] < end:
            start = at = section + self._read[rank]
            name_bytes, num_bytes = _HEADER.unpack(os.pread(inbox, _HEADER.size, at))
            key = os.pread(inbox, name_bytes, at + _HEADER.size).decode()
            at += _HEADER.size + name_bytes
            message = np.empty(num_bytes, np.uint8)
            for begin in range(0, num_bytes, _PIECE_BYTES):
                at += os.preadv(inbox, [message[begin : begin + _PIECE_BYTES].data], at)
            self._boxes[rank, key].append(message)
            self._read[rank] = -(-(at - section) // _PAGE) * _PAGE
            with mmap.mmap(inbox, at - start, offset=start) as pages:
                pages.madvise(mmap.MADV_REMOVE)
