"""The launcher's end of the lines to the ranks: who may come in, and what they say."""

from __future__ import annotations

import hmac
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .loop import Loop
from .rank import CHUNK_BYTES, Frame, FrameReader, pack

__all__ = ["Lines"]

_STRANGER_LIMIT_BYTES = 4096  # the longest message that is read before the secret was shown


@dataclass
class _Caller:
    """A connection, and the rank that it turned out to be."""

    line: socket.socket
    reader: FrameReader = field(default_factory=lambda: FrameReader(_STRANGER_LIMIT_BYTES))
    rank: int | None = None


class Lines:
    """Listens on one address, and lets in whoever knows the job's secret.

    Args:
        loop: what waits for them.
        address: the address of this machine to listen on; the port is a free one.
        backlog: how many may call at once.
        secret: what a rank must show.
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
        backlog: int,
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
        server = socket.create_server((address, 0), backlog=backlog)
        self.address = f"{address}:{server.getsockname()[1]}"
        loop.watch(server, lambda: self._accept(server))

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

    def _accept(self, server: socket.socket) -> None:
        line, _ = server.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = _Caller(line)
        self._loop.watch(line, lambda: self._receive(caller))

    def _receive(self, caller: _Caller) -> None:
        try:
            data = caller.line.recv(CHUNK_BYTES)
            for kind, body in caller.reader.feed(data):
                if caller.rank is None:
                    self._admit(caller, kind, json.loads(body))
                else:
                    self._handle(caller.rank, kind, body)
        except (OSError, ValueError, KeyError, TypeError):  # gone, or not one of ours
            data = b""
        if not data:
            self._loop.unwatch(caller.line)
            caller.line.close()
            if caller.rank is not None:
                del self._lines[caller.rank]
                self._hung_up(caller.rank)

    def _admit(self, caller: _Caller, kind: Frame, hello: dict[str, Any]) -> None:
        """Let a rank in that knows the secret.

        Raises:
            ConnectionError: it does not, or it has nothing to do here.
        """
        known = kind is Frame.HELLO and hmac.compare_digest(str(hello["secret"]), self._secret)
        rank = int(hello["rank"])
        start = self._greet(rank, hello) if known and rank not in self._lines else None
        if start is None:
            raise ConnectionRefusedError
        caller.rank = rank
        caller.reader.limit_bytes = FrameReader().limit_bytes
        self._lines[rank] = caller.line
        caller.line.sendall(pack(Frame.START, start))
