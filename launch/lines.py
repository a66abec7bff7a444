"""The launcher's end of the lines to the ranks: who may come in, and what they say."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .frames import CALL, CHUNK_BYTES, MARK, NONCE_BYTES, PROOF_BYTES, Frame, FrameReader, pack, prove
from .loop import Loop

__all__ = ["Lines"]

STRANGER_S = 10.0  # how long a caller has until its greeting is complete
MAX_STRANGERS = 64  # and as many more as ranks are still to come; for each the oldest has to go
_SWEEP_S = 1.0
_PAUSE_S = 0.1  # before the next caller, when there is no descriptor for one


@dataclass
class _Caller:
    """A connection, and how far it has proved to be a rank.

    Attributes:
        line: the connection.
        came_s: since when, in ``time.monotonic()``.
        said: what came of the next message of the proof.
        expected: the proof that opens the line; empty before the first message has come.
        claimed: the rank that it says it is.
        reader: what comes after the proof; None before.
    """

    line: socket.socket
    came_s: float = field(default_factory=time.monotonic)
    said: bytes = b""
    expected: bytes = b""
    claimed: int = -1
    reader: FrameReader | None = None


class Lines:
    """Listens on one address until every rank has come, and lets in whoever knows the job's secret.

    Whoever has not proved that is a stranger: of what it says, only the fixed number of bytes that a proof
    has is read; it has a deadline; there is room for a fixed number of them, in which the newest takes the
    place of the oldest; and whatever goes wrong ends its line alone.

    Args:
        loop: what waits for them.
        address: the address of this machine to listen on; the port is a free one.
        num_ranks: how many are to come.
        secret: what a rank must know.
        greet: called with a rank's number and greeting; returns what it is told to start with, or None to
            refuse it.
        handle: called with a rank's number and each of its messages.
        hung_up: called with the rank's number when its line has ended.

    Attributes:
        address: ``host:port``, for the ranks.
    """

    def __init__(
        self,
        loop: Loop,
        address: str,
        num_ranks: int,
        secret: str,
        *,
        greet: Callable[[int, dict[str, Any]], dict[str, Any] | None],
        handle: Callable[[int, Frame, bytes], None],
        hung_up: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._secret = secret
        self._greet = greet
        self._handle = handle
        self._hung_up = hung_up
        self._lines: dict[int, socket.socket] = {}
        self._missing = set(range(num_ranks))
        self._strangers: dict[socket.socket, _Caller] = {}  # the oldest first
        self._server = socket.create_server((address, 0), backlog=max(socket.SOMAXCONN, num_ranks))
        self._server.setblocking(False)
        self.address = f"{address}:{self._server.getsockname()[1]}"
        self._listen()
        loop.at(_SWEEP_S, self._sweep)

    def __contains__(self, rank: int) -> bool:
        return rank in self._lines

    def send(self, rank: int, kind: Frame, payload: dict[str, Any]) -> None:
        """Send a rank a message, if it is there; its end is about to be noticed otherwise."""
        line = self._lines.get(rank)
        if line is not None:
            try:
                line.send(pack(kind, payload), socket.MSG_DONTWAIT)
            except (ConnectionError, BlockingIOError, TimeoutError):  # gone, or cut off
                return

    # Strangers

    def _listen(self) -> None:
        if self._missing:
            self._loop.watch(self._server, self._accept)

    def _accept(self) -> None:
        try:
            line, _ = self._server.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return
        except OSError:  # no descriptor, or no memory, is left for it
            if self._strangers:
                self._drop(next(iter(self._strangers)))
            else:
                self._loop.pause(self._server)
                self._loop.at(_PAUSE_S, self._listen)
            return
        line.setblocking(False)
        self._strangers[line] = caller = _Caller(line)
        self._loop.watch(line, lambda: self._hear(caller))
        if len(self._strangers) > MAX_STRANGERS + len(self._missing):
            self._drop(next(iter(self._strangers)))

    def _drop(self, line: socket.socket) -> None:
        del self._strangers[line]
        self._loop.unwatch(line)

    def _sweep(self) -> None:
        """Let go of strangers whose time is over."""
        limit_s = time.monotonic() - STRANGER_S
        for caller in [caller for caller in self._strangers.values() if caller.came_s < limit_s]:
            self._drop(caller.line)
        if self._missing:
            self._loop.at(_SWEEP_S, self._sweep)

    def _hear(self, caller: _Caller) -> None:
        """Take in what a stranger says; it is a rank once it has greeted."""
        try:
            hello = self._examine(caller)
        except BlockingIOError:  # nothing has come after all
            return
        except Exception:  # whatever it is, it is the stranger's
            self._drop(caller.line)
            return
        if hello is not None:
            self._admit(caller, hello)

    def _examine(self, caller: _Caller) -> dict[str, Any] | None:
        """Read on; return the greeting once the proof and it are complete.

        Raises:
            ConnectionError: it has gone, or does not know the secret.
        """
        if caller.reader is not None:
            for kind, body in caller.reader.feed(_read(caller.line, CHUNK_BYTES)):
                if kind is not Frame.HELLO:
                    raise ConnectionRefusedError
                hello: dict[str, Any] = json.loads(body)
                return hello
            return None
        wanted = PROOF_BYTES if caller.expected else CALL.size
        caller.said += _read(caller.line, wanted - len(caller.said))
        if len(caller.said) == wanted:
            self._judge(caller, caller.said)
            caller.said = b""
        return None

    def _judge(self, caller: _Caller, said: bytes) -> None:
        """Answer a message of the proof, which is complete."""
        if not caller.expected:
            mark, caller.claimed, _ = CALL.unpack(said)
            if mark != MARK:
                raise ConnectionRefusedError
            nonce = os.urandom(NONCE_BYTES)
            caller.line.send(nonce + prove(self._secret, "launcher", said, nonce))
            caller.expected = prove(self._secret, "rank", said, nonce)
        elif hmac.compare_digest(said, caller.expected):
            caller.reader = FrameReader()
        else:
            raise ConnectionRefusedError

    # Ranks

    def _admit(self, caller: _Caller, hello: dict[str, Any]) -> None:
        """Let a rank in, or tell it that there is nothing for it to do."""
        rank, line, reader = caller.claimed, caller.line, caller.reader
        start = self._greet(rank, hello) if rank in self._missing else None
        line.setblocking(True)
        with contextlib.suppress(OSError):  # gone; its line tells
            if start is None:
                line.sendall(pack(Frame.REFUSED, {"why": "the job ends, or has that rank already"}))
            else:
                line.sendall(pack(Frame.START, start))
        if start is None or reader is None:
            self._drop(line)
            return
        del self._strangers[line]
        self._lines[rank] = line
        self._loop.pause(line)
        self._loop.watch(line, lambda: self._receive(rank, line, reader))
        self._missing.remove(rank)
        if not self._missing:
            self._close()

    def _receive(self, rank: int, line: socket.socket, reader: FrameReader) -> None:
        try:
            data = line.recv(CHUNK_BYTES)
            messages = list(reader.feed(data))
        except (OSError, ValueError):  # gone, or cut off, or not one of ours
            data, messages = b"", []
        for kind, body in messages:
            self._handle(rank, kind, body)
        if not data:
            self._loop.unwatch(line)
            del self._lines[rank]
            self._hung_up(rank)

    def _close(self) -> None:
        """Every rank has come: nobody else is let in, nor is who sees that others have been sent away."""
        self._loop.unwatch(self._server)
        for line in list(self._strangers):
            self._drop(line)


def _read(line: socket.socket, num_bytes: int) -> bytes:
    """Some of the bytes that have come.

    Raises:
        ConnectionError: the other end has gone.
    """
    data = line.recv(num_bytes)
    if not data:
        raise ConnectionAbortedError
    return data
