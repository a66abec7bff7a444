"""A filter in the kernel for what a socket takes: messages that do not begin right use none of its room."""

from __future__ import annotations

import contextlib
import socket
import struct
from array import array

__all__ = ["accept_prefix"]

_SO_ATTACH_FILTER = 26
_LOAD_WORD, _LOAD_ZERO, _STORE, _RECALL = 0x20, 0x00, 0x02, 0x61  # A = message[k]; A = k; M[k] = A; X = M[k]
_XOR_CONSTANT, _OR_X = 0xA4, 0x4C
_JUMP_IF_EQUAL, _RETURN = 0x15, 0x06
_WHOLE = 0xFFFFFFFF


def accept_prefix(receiver: socket.socket, prefix: bytes) -> None:
    """Let a datagram socket take messages that begin with ``prefix``; the kernel drops others at once.

    Every word is looked at, so that the time that a message takes says nothing about the prefix. Where the
    kernel has no such filters, others' messages arrive, and whoever reads them has to look.

    Collective: no; blocks: no.

    Args:
        receiver: the socket, before it has an address.
        prefix: a multiple of four bytes.

    Source: McCanne and Jacobson, The BSD Packet Filter: A New Architecture for User-level Packet Capture,
    USENIX 1993.
    """
    steps = [(_LOAD_ZERO, 0, 0, 0), (_STORE, 0, 0, 0)]
    for place, (word,) in enumerate(struct.iter_unpack("!I", prefix)):
        steps += [(_LOAD_WORD, 0, 0, 4 * place), (_XOR_CONSTANT, 0, 0, word)]
        steps += [(_RECALL, 0, 0, 0), (_OR_X, 0, 0, 0), (_STORE, 0, 0, 0)]
    steps += [(_JUMP_IF_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _WHOLE), (_RETURN, 0, 0, 0)]
    program = array("B", b"".join(struct.pack("=HBBI", *step) for step in steps))
    address, _ = program.buffer_info()
    with contextlib.suppress(OSError):
        receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(steps), address))
