"""Memory of a host that outlives its ranks: a process that holds what they mirror, until the job ends.

The launcher runs this file on each host of a job that may be started anew: ``python agent.py NAME``. It holds
memory files without a name in any folder, which go with it, whatever ends it; and it ends when the launcher
does, or says nothing for a while, since the network has gone. Ranks of the same user ask it over a socket
NAME for such a file, which they open as ``/proc/PID/fd/NUMBER``, and tell it what they have written there.

A request is a line of JSON, and so is the answer::

    {"do": "hold", "key": [attempt, rank, slot]}    {"file": number}, which holds nothing whole
    {"do": "commit", "key": [...], "note": {...}}   {}: the file is whole, and this is what it holds
    {"do": "list"}                                  {"held": [[key, number, note], ...]} of whole ones
    {"do": "drop", "before": attempt}               {}: files of earlier attempts are let go

Nothing but the standard library is imported: this may run where the package cannot be found.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

__all__ = ["BEAT_S", "PATIENCE_S", "address", "peer"]

BEAT_S = 5.0  # how often the launcher says that it is there
PATIENCE_S = 120.0
_CHUNK_BYTES = 1 << 16
_LONGEST_BYTES = 1 << 28  # of a request
_SEND_TIMEOUT_S = 10.0
_CREDENTIALS = struct.Struct("3i")


def address(name: str) -> str:
    """Of the socket: in no folder, so that it goes with the process."""
    return f"\0distgrad-memory-{name}"


def peer(line: socket.socket) -> tuple[int, int]:
    """The process at the other end, and its user."""
    process, user, _ = _CREDENTIALS.unpack(
        line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return process, user


class _Agent:
    """What is held, and who asks for it."""

    def __init__(self, name: str) -> None:
        self.files: dict[tuple[int, ...], int] = {}
        self.notes: dict[tuple[int, ...], Any] = {}
        self.lines: dict[int, tuple[socket.socket, bytearray]] = {}
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(address(name))
        self.server.listen(128)

    def serve(self) -> None:
        """Answer until the launcher has gone."""
        poll = select.poll()
        for source in (0, self.server.fileno()):
            poll.register(source, select.POLLIN)
        heard_s = time.monotonic()
        while time.monotonic() - heard_s < PATIENCE_S:
            for source, _ in poll.poll(1000 * BEAT_S):
                if source == 0:
                    if not os.read(0, _CHUNK_BYTES):
                        return
                    heard_s = time.monotonic()
                elif source == self.server.fileno():
                    line, _ = self.server.accept()
                    if peer(line)[1] not in (os.geteuid(), 0):
                        line.close()
                        continue
                    line.settimeout(_SEND_TIMEOUT_S)
                    self.lines[line.fileno()] = line, bytearray()
                    poll.register(line, select.POLLIN)
                elif not self._hear(*self.lines[source]):
                    poll.unregister(source)
                    self.lines.pop(source)[0].close()

    def _hear(self, line: socket.socket, pending: bytearray) -> bool:
        """Answer what has come; False if the other end has gone, or makes no sense."""
        try:
            data = line.recv(_CHUNK_BYTES)
            pending += data
            while b"\n" in pending:
                request, _, rest = bytes(pending).partition(b"\n")
                pending[:] = rest
                line.sendall(json.dumps(self._answer(json.loads(request))).encode() + b"\n")
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return bool(data) and len(pending) < _LONGEST_BYTES

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        what = request["do"]
        if what == "list":
            return {"held": [[key, self.files[key], note] for key, note in self.notes.items()]}
        if what == "drop":
            for key in [key for key in self.files if key[0] < request["before"]]:
                self.notes.pop(key, None)
                os.close(self.files.pop(key))
            return {}
        key = tuple(request["key"])
        if what == "commit":
            self.notes[key] = request["note"]
            return {}
        self.notes.pop(key, None)
        if key not in self.files:
            self.files[key] = os.memfd_create("distgrad-mirror")
        return {"file": self.files[key]}


if __name__ == "__main__":
    _Agent(sys.argv[1]).serve()
