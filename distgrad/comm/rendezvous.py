"""Ranks of one host that no launcher of ours has started: they agree on a secret at a name that all know.

The first rank listens at an abstract Unix socket whose name comes from the user and the place of meeting; the
kernel tells each side whose process the other one is, and only the same user's are let in. What the first
rank hands out is random, so that whoever knows the place but is not let in can foresee nothing. Nobody
listens any more once all have come.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import struct
import time

from distgrad.comm.calls import name_ranks
from distgrad.comm.shm import SharedMemoryCommunicator, join
from distgrad.errors import CommError, CommTimeoutError
from distgrad.launch.hosts import is_local

__all__ = ["is_reached", "local_place", "meet"]

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1", "")
_HELLO = struct.Struct("=qq")  # rank and size
_SECRET_BYTES = 16
_RETRY_S = 5e-3
_PEER = struct.Struct("=3i")  # process, user and group, as the kernel tells them
_ANSWER_S = 10.0  # that one who has come may take to say who it is


def local_place(address: str) -> str:
    """The place of meeting that an address stands for: ``host:port``, or the path of a file.

    Raises:
        CommError: neither, or the host is another machine.
    """
    if "/" in address:
        return f"file {os.path.realpath(address)}"
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CommError(
            "comm.init: address must be host:port, with a port from 1 to 65535, or the path of a file, got "
            f"{address!r}; give all ranks the same one"
        )
    if is_reached(address) and not is_local(host, must_resolve=False):
        raise CommError(
            f"comm.init: the ranks are to meet at {address}, which is not this machine, but LOCAL_WORLD_SIZE "
            "says that all of them are here; give this machine's address, or 127.0.0.1"
        )
    return f"port {port}"


def is_reached(address: str) -> bool:
    """Whether ranks of other hosts may come to that address: it is no file, and not this host's alone."""
    return "/" not in address and address.rpartition(":")[0] not in _LOOPBACK


def meet(place: str, rank: int, size: int, timeout_s: float) -> SharedMemoryCommunicator:
    """The communicator of the ranks that come to ``place``, processes of one user on this host.

    Collective: yes; blocks: yes.

    Args:
        place: any text that all of them have in common, and no other job.
        rank: this process, from 0; every one has another.
        size: number of ranks.
        timeout_s: how long to wait for the others, and the deadline of collectives.

    Raises:
        CommError: ranks that do not fit together, or another job's that meet there.
        CommTimeoutError: some did not come.
    """
    if not 0 <= rank < size:
        raise CommError(f"comm.init: rank must be from 0 and below size, got rank {rank} of {size}")
    name = hashlib.sha256(f"{os.getuid()} {place}".encode()).hexdigest()
    address = f"\0distgrad-meeting-{name}"
    deadline_s = time.monotonic() + timeout_s
    if size == 1:
        secret = secrets.token_bytes(_SECRET_BYTES)
    elif rank == 0:
        secret = _receive_all(address, place, size, deadline_s)
    else:
        secret = _come(address, place, rank, size, deadline_s)
    return join(secret.hex(), rank, size, timeout_s)


def _receive_all(address: str, place: str, size: int, deadline_s: float) -> bytes:
    """Wait for all others, and give them a secret."""
    secret = secrets.token_bytes(_SECRET_BYTES)
    come: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        try:
            door.bind(address)
        except OSError as error:
            raise CommError(
                f"comm.init: another job's ranks meet at {place} already; give this one another MASTER_PORT "
                "or file"
            ) from error
        door.listen(size)
        try:
            while len(come) < size - 1:
                door.settimeout(max(0.0, deadline_s - time.monotonic()) or 1e-3)
                try:
                    guest, _ = door.accept()
                except TimeoutError:
                    missing = [rank for rank in range(1, size) if rank not in come]
                    raise _late(missing, place) from None
                _let_in(guest, come, size)
            for rank, guest in come.items():
                try:
                    guest.sendall(secret)
                except OSError as error:
                    raise CommError(
                        f"comm.init: rank {rank} of {size} came to {place} and has ended since; look at what "
                        "it says"
                    ) from error
        finally:
            for guest in come.values():
                guest.close()
    return secret


def _let_in(guest: socket.socket, come: dict[int, socket.socket], size: int) -> None:
    if not _is_ours(guest):
        guest.close()
        return
    guest.settimeout(_ANSWER_S)
    try:
        rank, theirs = _HELLO.unpack(guest.recv(_HELLO.size, socket.MSG_WAITALL))
    except (OSError, struct.error):  # it has ended
        guest.close()
        return
    if theirs != size or rank in come or not 0 < rank < size:
        guest.close()
        raise CommError(
            f"comm.init: rank {rank} of {theirs} came to a world of {size}, in which "
            f"{name_ranks([0, *sorted(come)])} had come; give every process its own rank and the same size"
        )
    come[rank] = guest


def _come(address: str, place: str, rank: int, size: int, deadline_s: float) -> bytes:
    """Go to the first rank, which may not have come yet, and wait for the secret."""
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            try:
                line.connect(address)
            except (ConnectionRefusedError, BlockingIOError):
                if time.monotonic() > deadline_s:
                    raise _late([0], place) from None
                time.sleep(_RETRY_S)
                continue
            if not _is_ours(line):
                raise CommError(f"comm.init: another user's process waits at {place}; take another one")
            line.settimeout(max(0.0, deadline_s - time.monotonic()) or 1e-3)
            try:
                line.sendall(_HELLO.pack(rank, size))
                secret = line.recv(_SECRET_BYTES, socket.MSG_WAITALL)
            except TimeoutError:
                raise _late([0], place) from None
            except OSError:
                secret = b""
            if len(secret) < _SECRET_BYTES:
                raise CommError(
                    f"comm.init: rank 0 has turned rank {rank} of {size} away at {place}, or has ended; "
                    "look at what it says"
                )
            return secret


def _is_ours(line: socket.socket) -> bool:
    """Whether the process at the other end is the same user's."""
    peer = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(peer)[1]) == os.getuid()


def _late(missing: list[int], place: str) -> CommTimeoutError:
    return CommTimeoutError(
        f"comm.init: {name_ranks(missing)} did not come to {place} in time; look for a process that was not "
        "started, has ended, or meets elsewhere"
    )
