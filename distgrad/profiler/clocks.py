"""Clocks of several hosts: how far one is from another, and how fast that changes.

A host clock is ``time.perf_counter``; processes of one host share it. Across hosts, ranks ask rank 0 for its
time now and then, by datagrams. An answer ``s`` to a question asked at ``t0`` and answered at ``t1`` says
that the offset of rank 0's clock lies between ``s - t1`` and ``s - t0``, however slow the network was; the
offset is taken as a line through all these intervals, as far from their ends as can be.

Source: Cristian, Distributed Computing 3 (1989), bounds from a question and its answer; Zhang, Liu and Xia,
INFOCOM 2002, a line between the bounds. The widest margin is found by a search over the slope.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ADDRESS_FILE", "Ping", "Relation", "TimeServer", "ask", "find_server", "identity", "relate"]

#: One question: when it was asked and answered here, and what the other clock said in between; seconds.
Ping = tuple[float, float, float]

ADDRESS_FILE = "clock.json"  # in the spool folder: where rank 0 answers, and to whom
_QUESTION = struct.Struct("!16sI")
_ANSWER = struct.Struct("!Id")
_MAX_SLOPE = 1e-3  # twenty times what a bad crystal does
_SIOCGIFADDR = 0x8915
_NUM_SLOPES = 33


def identity() -> str:
    """What processes have in common that read the same clock."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # containers of one machine have one
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/time"))
    return " ".join(parts)


def _addresses() -> list[str]:
    """This host's addresses of version 4, its loopback last."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                request = struct.pack("256s", name[:15].encode())
                found.append(socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24]))
    return sorted(found, key=lambda address: address.startswith("127."))


class TimeServer:
    """Tells whoever can read the spool folder what this process's clock says.

    An answer is shorter than its question, and a question without the folder's token gets none.

    Args:
        folder: where the address is left for the others.
    """

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", 0))
        self._token = secrets.token_bytes(16)
        told = {
            "clock": identity(),
            "addresses": _addresses(),
            "port": self._socket.getsockname()[1],
            "token": self._token.hex(),
        }
        part = folder / f"{ADDRESS_FILE}.part"
        try:
            part.touch(mode=0o600)
            part.write_text(json.dumps(told))
            part.replace(folder / ADDRESS_FILE)
        except OSError:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._serve, name="distgrad clock", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(64)
            now_s = time.perf_counter()
            if len(question) != _QUESTION.size:
                continue
            token, number = _QUESTION.unpack(question)
            if token != self._token:
                continue
            if number == 0:  # nobody asks so: it is the end
                return
            with contextlib.suppress(OSError):
                self._socket.sendto(_ANSWER.pack(number, now_s), asker)

    def close(self) -> None:
        """Answer nobody any more."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(_QUESTION.pack(self._token, 0), ("127.0.0.1", self._socket.getsockname()[1]))
        self._thread.join()
        self._socket.close()


@dataclass(frozen=True)
class _Server:
    """Where a clock answers: addresses to try, and the token."""

    clock: str
    addresses: tuple[tuple[str, int], ...]
    token: bytes


def find_server(folder: Path) -> _Server | None:
    """Where rank 0 answers; None if it has not come yet."""
    try:
        told = json.loads((folder / ADDRESS_FILE).read_text())
        addresses = tuple((address, told["port"]) for address in told["addresses"])
        return _Server(told["clock"], addresses, bytes.fromhex(told["token"]))
    except (OSError, ValueError, KeyError):
        return None


def ask(server: _Server, count: int, patience_s: float = 0.05) -> list[Ping]:
    """Ask for the time ``count`` times; returns what was answered in time."""
    pings = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.settimeout(patience_s)
        for number in range(1, count + 1):
            question = _QUESTION.pack(server.token, number)
            asked_s = time.perf_counter()
            for address in server.addresses:
                with contextlib.suppress(OSError):  # no way there
                    line.sendto(question, address)
            try:
                answer = line.recv(64)
                while len(answer) != _ANSWER.size or _ANSWER.unpack(answer)[0] != number:  # a late one
                    answer = line.recv(64)
            except OSError:
                continue
            pings.append((asked_s, time.perf_counter(), _ANSWER.unpack(answer)[1]))
    return pings


@dataclass(frozen=True)
class Relation:
    """How to read a clock in terms of another: ``other = here + offset_s + drift · (here - origin_s)``.

    Attributes:
        offset_s: what the other clock is ahead at ``origin_s``.
        drift: seconds that it gains a second.
        origin_s: where the offset holds.
        error_s: how far off this can be at most, within the time of the questions.
    """

    offset_s: float = 0.0
    drift: float = 0.0
    origin_s: float = 0.0
    error_s: float = 0.0

    def __call__(self, here_s: float) -> float:
        """A time of this clock in the other's seconds."""
        return here_s + self.offset_s + self.drift * (here_s - self.origin_s)


def relate(pings: Sequence[Ping]) -> Relation:
    """The line through the bounds of the offset that leaves them the widest margin.

    Raises:
        ValueError: no pings, or bounds that no line with a drift below 1000 ppm satisfies.
    """
    if not pings:
        raise ValueError("clocks: no question was answered, so nothing is known of the offset")
    origin_s = (pings[0][0] + pings[-1][1]) / 2
    # The bounds hold at the moment of the answer, which lies between: that costs no more than the drift.
    bounds = [((t0 + t1) / 2 - origin_s, s - t1, s - t0) for t0, t1, s in pings]

    def limits(slope: float) -> tuple[float, float]:
        return max(low - slope * t for t, low, _ in bounds), min(high - slope * t for t, _, high in bounds)

    def margin(slope: float) -> float:
        low, high = limits(slope)
        return (high - low) / 2

    best = _peak(margin, -_MAX_SLOPE, _MAX_SLOPE)
    if margin(best) < 0.0:
        raise ValueError("clocks: the answers contradict each other; a clock was set meanwhile")
    if bounds[-1][0] - bounds[0][0] < 0.5:  # too short for a drift to show, or to matter
        best = 0.0 if margin(0.0) > 0.0 else best
    low, high = limits(best)
    line = Relation((low + high) / 2, best, origin_s)
    return Relation(line.offset_s, best, origin_s, _error(line, limits, margin, bounds))


def _peak(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a concave function is largest."""
    for _ in range(60):
        third = (high - low) / 3
        if function(low + third) < function(high - third):
            low += third
        else:
            high -= third
    return (low + high) / 2


def _error(
    line: Relation,
    limits: Callable[[float], tuple[float, float]],
    margin: Callable[[float], float],
    bounds: Sequence[tuple[float, float, float]],
) -> float:
    """How far any line that the bounds allow is from this one, at the first and the last question."""
    ends = []
    for far in (-_MAX_SLOPE, _MAX_SLOPE):  # the steepest lines that are allowed
        near = line.drift
        for _ in range(50):
            middle = (near + far) / 2
            near, far = (middle, far) if margin(middle) >= 0.0 else (near, middle)
        ends.append(near)
    error_s = 0.0
    for place in range(_NUM_SLOPES):
        slope = ends[0] + (ends[1] - ends[0]) * place / (_NUM_SLOPES - 1)
        for t in (bounds[0][0], bounds[-1][0]):
            ours = line.offset_s + line.drift * t
            error_s = max(error_s, *(abs(each + slope * t - ours) for each in limits(slope)))
    return error_s
