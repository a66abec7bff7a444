"""What goes over the line between a rank and the launcher: first the proof who both are, then frames.

Each end proves that it knows the job's secret, and neither sends it. All three messages have a fixed length,
so that nothing which a stranger says is interpreted::

    rank        CALL: mark of this protocol, rank, nonce of the rank
    launcher    nonce of the launcher, HMAC-SHA256(secret, "launcher" + CALL + both nonces)
    rank        HMAC-SHA256(secret, "rank" + CALL + both nonces)

The nonces are new for each line, so what was overheard on another one opens none. What follows is neither
encrypted nor signed.

Source: the challenge and response of ISO/IEC 9798-4 (mutual authentication in three passes by a check value);
Krawczyk, Bellare and Canetti, HMAC: Keyed-Hashing for Message Authentication, RFC 2104.
"""

from __future__ import annotations

import enum
import hmac
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

CHUNK_BYTES = 1 << 16
MARK = b"dgline 1"  # another one for every other protocol
NONCE_BYTES = 16
PROOF_BYTES = 32
CALL = struct.Struct(f"!{len(MARK)}sI{NONCE_BYTES}s")
_HEADER = struct.Struct("!BI")


class Frame(enum.IntEnum):
    """What a message on the line between a rank and the launcher holds."""

    HELLO = 1  # JSON {host, cores}: the rank's first
    START = 2  # JSON {environment: {name: value}, cores: [number], patience_s}: the launcher's answer
    STDOUT = 3  # bytes as the script wrote them
    STDERR = 4
    FAILED = 5  # JSON {code, traceback}: an exception that nothing caught
    ENDED = 6  # JSON {status}: the script's status as os.waitpid gives it: the rank's last
    SIGNAL = 7  # JSON {number}: for the rank's process group
    PROGRESS = 8  # JSON {sequence, number, waiting, text, step, cpu_s, io_bytes, state, heeds}: where it is
    STACKS = 9  # bytes: a piece of the Python stacks that STACKS_SIGNAL asked for
    REFUSED = 10  # JSON {why}: the launcher's answer if there is nothing for that rank to do
    TAKEN = 11  # JSON {bytes: [stdout, stderr]}: how much the launcher has disposed of; answers PROGRESS too


def pack(kind: Frame, payload: bytes | dict[str, Any]) -> bytes:
    """One message, ready to be sent."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return _HEADER.pack(kind, len(body)) + body


class FrameReader:
    """Messages out of a stream of bytes that arrives in pieces.

    Args:
        limit_bytes: the longest message that is accepted.
    """

    def __init__(self, limit_bytes: int = 1 << 26) -> None:
        self.limit_bytes = limit_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Frame, bytes]]:
        """Yield every message that ``data`` completes.

        Raises:
            ValueError: what came is not a message, or longer than the limit.
        """
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending)
            if length > self.limit_bytes:
                raise ValueError(
                    f"launch: message of {length} bytes, at most {self.limit_bytes} are accepted"
                )
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            body = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            yield Frame(kind), body


def prove(secret: str, who: str, call: bytes, nonce: bytes) -> bytes:
    """What only one who knows the secret can say.

    Args:
        secret: the job's.
        who: the end that says it, ``launcher`` or ``rank``: the one's proof is none for the other.
        call: the rank's first message, with its nonce.
        nonce: the launcher's.
    """
    return hmac.digest(secret.encode(), who.encode() + call + nonce, "sha256")


def call(line: socket.socket, secret: str, rank: int, deadline_s: float) -> bytes:
    """The rank's side: have the launcher prove itself; return the proof that it waits for.

    Raises:
        ConnectionError: the line was closed.
        TimeoutError: no answer came before ``time.monotonic()`` was ``deadline_s``.
        PermissionError: whoever answers does not know the secret.
    """
    first = CALL.pack(MARK, rank, os.urandom(NONCE_BYTES))
    line.sendall(first)
    answer = b""
    while len(answer) < NONCE_BYTES + PROOF_BYTES:
        line.settimeout(max(1e-3, deadline_s - time.monotonic()))
        data = line.recv(NONCE_BYTES + PROOF_BYTES - len(answer))
        if not data:
            raise ConnectionError("the launcher closed the line before it had proved itself")
        answer += data
    nonce, proof = answer[:NONCE_BYTES], answer[NONCE_BYTES:]
    if not hmac.compare_digest(proof, prove(secret, "launcher", first, nonce)):
        raise PermissionError("whoever listens there does not know the job's secret")
    return prove(secret, "rank", first, nonce)
