"""Serves the start of ranks on several hosts: they come to a port, where their MPI library finds them.

A process of its own, which the first rank starts with the socket that listens: MPI's start waits in C for
what this one answers. Every rank comes with two lines. Over the one its MPI library speaks the first version
of MPICH's process management interface (PMI), a text protocol of puts, gets and barriers; the other one stays
open for as long as the rank lives, and over it the others hear of a rank that has ended without a word. It
needs the standard library alone, and ends with the last rank.

Source: Balaji et al., EuroMPI 2010 (PMI).
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time
from typing import Any

__all__ = ["HELLO_BYTES", "Server", "main"]

HELLO_BYTES = 4096  # the most that a rank may say of itself
_ANSWER_S = 10.0  # that one who has come may take to say who it is
_USES = ("pmi", "life")
_ALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}  # seconds, seconds, times


class Server:
    """The meeting of so many ranks at a listening socket, and their library's questions after it.

    Args:
        door: listens.
        size: number of ranks.
        timeout_s: how long to wait for them.
    """

    def __init__(self, door: socket.socket, size: int, timeout_s: float) -> None:
        self.door, self.size = door, size
        self._deadline_s = time.monotonic() + timeout_s
        self._lines: dict[tuple[int, str], socket.socket] = {}
        self._hosts: dict[int, str] = {}
        self._values: dict[str, str] = {}
        self._waiting: list[socket.socket] = []
        self._finished: set[int] = set()
        self._heard: dict[socket.socket, bytes] = {}

    def run(self) -> None:
        """Let the ranks meet, and serve them until the last has ended."""
        with contextlib.ExitStack() as lines:
            lines.callback(self._close)
            with self.door:
                error = self._gather()
            if error is not None:
                return self._tell_all({"error": error})
            several = len(set(self._hosts.values())) > 1
            self._tell_all({"way": "mpi" if several else "host"})
            return self._serve() if several else None

    def _close(self) -> None:
        for line in self._lines.values():
            line.close()

    def _gather(self) -> str | None:
        """Wait for all ranks; what is wrong with them, None if nothing is."""
        while len(self._lines) < len(_USES) * self.size:
            self.door.settimeout(max(1e-3, self._deadline_s - time.monotonic()))
            try:
                guest, _ = self.door.accept()
            except TimeoutError:
                missing = [str(rank) for rank in range(self.size) if rank not in self._hosts]
                return f"of {self.size} ranks these did not come in time: {', '.join(missing)}"
            error = self._let_in(guest)
            if error is not None:
                return error
        return None

    def _let_in(self, guest: socket.socket) -> str | None:
        """Note who has come; what is wrong with a rank, None if nothing is, or it is none."""
        guest.settimeout(_ANSWER_S)
        try:
            hello = json.loads(_line_of(guest))
            rank, size, use, host = (hello[name] for name in ("rank", "size", "use", "host"))
        except (OSError, ValueError, KeyError, TypeError):  # a stranger, or one that has ended
            guest.close()
            return None
        if size != self.size or (rank, use) in self._lines or not 0 <= rank < size or use not in _USES:
            guest.close()
            return (
                f"rank {rank} of {size} came to a world of {self.size}, in which "
                f"{sorted(self._hosts)} had come; give every process its own rank and the same size"
            )
        guest.settimeout(None)
        guest.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _ALIVE.items():
            guest.setsockopt(socket.IPPROTO_TCP, option, value)
        self._lines[rank, use] = guest
        self._hosts[rank] = host
        return None

    def _tell_all(self, what: dict[str, Any], but: int | None = None) -> None:
        for (rank, use), line in self._lines.items():
            if use == "life" and rank != but:
                _tell(line, what)

    def _serve(self) -> None:
        """Answer the libraries, and tell the others of a rank that has ended."""
        with selectors.DefaultSelector() as selector:
            for place, line in self._lines.items():
                selector.register(line, selectors.EVENT_READ, place)
            while selector.get_map():
                for key, _ in selector.select():
                    rank, use = key.data
                    line = self._lines[rank, use]
                    try:
                        data = line.recv(1 << 16)
                    except OSError:
                        data = b""
                    if not data:
                        selector.unregister(line)
                        if use == "life" and rank not in self._finished:
                            return self._tell_all({"error": f"rank {rank} has ended"}, but=rank)
                    elif use == "pmi" and not self._hear(rank, line, data):
                        return self._tell_all({"error": f"rank {rank} has ended the job"}, but=rank)
        return None

    def _hear(self, rank: int, line: socket.socket, data: bytes) -> bool:
        """Answer the whole requests in what has come so far; False where one of them ends the job."""
        *requests, rest = (self._heard.pop(line, b"") + data).split(b"\n")
        self._heard[line] = rest
        for request in requests:
            words = _words(request.decode(errors="replace"))
            if words.get("cmd") == "abort":
                return False
            if words.get("cmd") == "finalize":
                self._finished.add(rank)
            if words.get("cmd") == "barrier_in":
                self._waiting.append(line)
                if len(self._waiting) == self.size:
                    for each in self._waiting:
                        _say(each, "cmd=barrier_out rc=0")
                    self._waiting.clear()
            else:
                _say(line, self._answer(words))
        return True

    def _answer(self, words: dict[str, str]) -> str:
        """What the protocol answers to one request."""
        command = words.get("cmd")
        if command == "put":
            self._values[words["key"]] = words["value"]
            return "cmd=put_result rc=0 msg=success"
        if command == "get":
            value = self._values.get(words["key"])
            if value is None:
                return "cmd=get_result rc=-1 msg=key_not_found value=unknown"
            return f"cmd=get_result rc=0 msg=success value={value}"
        fixed = {
            "init": "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0",
            "get_maxes": "cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024",
            "get_appnum": "cmd=appnum rc=0 appnum=0",
            "get_my_kvsname": "cmd=my_kvsname rc=0 kvsname=distgrad",
            "get_universe_size": f"cmd=universe_size rc=0 size={self.size}",
            "finalize": "cmd=finalize_ack rc=0",
        }
        return fixed.get(command or "", f"cmd={command} rc=-1 msg=unknown_request")


def _words(request: str) -> dict[str, str]:
    """The names and values of a request; a value that is put may hold blanks."""
    head, mark, value = request.partition(" value=")
    words = dict(part.split("=", 1) for part in head.split() if "=" in part)
    return {**words, "value": value} if mark else words


def _line_of(guest: socket.socket) -> bytes:
    """One line, byte by byte: what comes behind it is the library's."""
    found = bytearray()
    while not found.endswith(b"\n") and len(found) < HELLO_BYTES:
        part = guest.recv(1)
        if not part:
            raise ConnectionError("the other end is gone")
        found += part
    return bytes(found)


def _say(line: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):
        line.sendall(text.encode() + b"\n")


def _tell(line: socket.socket, what: dict[str, Any]) -> None:
    _say(line, json.dumps(what))


def main(arguments: list[str]) -> None:
    """Serve at the socket of that number."""
    number, size, timeout_s = arguments
    Server(socket.socket(fileno=int(number)), int(size), float(timeout_s)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
