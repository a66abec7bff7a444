"""Ranks of several hosts that no launcher of ours has started: they come to a port of the first rank's host.

There they learn whether they share a host after all; if not, they start MPI, whose library finds its ranks
through the port (:mod:`distgrad.comm.pmi`). Whoever reaches the port can come, so it belongs into a network
that one trusts, as PyTorch's does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from distgrad.comm import pmi
from distgrad.comm.base import Communicator
from distgrad.comm.topology import host_name
from distgrad.errors import CommError, CommTimeoutError

__all__ = ["meet"]

_RETRY_S = 0.02
_GRACE_S = 5.0  # that the server may need to tell of those who did not come
_PLACE = ("PMI_FD", "PMI_RANK", "PMI_SIZE")
_servers: list[subprocess.Popen[bytes]] = []  # they end with the job
_joined: tuple[int, int] | None = None  # rank and size of the MPI library, which starts once a process


def meet(host: str, port: int, rank: int, size: int, timeout_s: float) -> Communicator | None:
    """The communicator of ranks that come to a port, over MPI; None where they share a host after all.

    From here on this rank ends when another one ends without having left.

    Collective: yes; blocks: yes.

    Args:
        host: name or address of rank 0's host.
        port: at which rank 0 listens until all have come.
        rank: this process, from 0; every one has another.
        size: number of ranks.
        timeout_s: how long to wait for the others, and the deadline of collectives.

    Raises:
        CommError: ranks that do not fit together, or rank 0 cannot listen there.
        CommTimeoutError: some did not come.
        MissingDependencyError: there is no MPI.
    """
    if not 0 <= rank < size:
        raise CommError(f"comm.init: rank must be from 0 and below size, got rank {rank} of {size}")
    deadline_s = time.monotonic() + timeout_s
    with contextlib.ExitStack() as lines:
        if rank == 0:
            server = _start_server(host, port, size, timeout_s)
            lines.callback(server.wait)
        life, line = (
            lines.enter_context(_come(host, port, rank, size, use, deadline_s)) for use in ("life", "pmi")
        )
        answer = _answer(life, host, port, deadline_s + _GRACE_S)
        if "error" in answer:
            kind = CommTimeoutError if "in time" in answer["error"] else CommError
            raise kind(f"comm.init: at {host}:{port}: {answer['error']}")
        if answer["way"] == "host":
            return None
        lines.pop_all()
        if rank == 0:
            _servers.append(server)
    return _start_mpi(life, line, rank, size, timeout_s)


def _start_server(host: str, port: int, size: int, timeout_s: float) -> subprocess.Popen[bytes]:
    """Listen, and let a process of its own serve."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        if str(address).startswith("127.") and not host.startswith("127."):
            address = ""  # a host's own name is often one of the loop's addresses, where no other host comes
        family = socket.AF_INET6 if ":" in str(address) else socket.AF_INET
        door = socket.create_server((str(address), port), family=family, backlog=2 * size)
    except OSError as error:
        raise CommError(
            f"comm.init: rank 0 cannot listen at {host}:{port} ({error}), which is not this machine or in "
            "use; give rank 0's host as MASTER_ADDR and a free MASTER_PORT, or use distgrad run --hosts"
        ) from error
    with door:
        return subprocess.Popen(
            [sys.executable, "-S", "-E", pmi.__file__, str(door.fileno()), str(size), str(timeout_s)],
            pass_fds=[door.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def _come(host: str, port: int, rank: int, size: int, use: str, deadline_s: float) -> socket.socket:
    """Go to the first rank's host, where nobody may listen yet."""
    while True:
        try:
            line = socket.create_connection((host, port), timeout=max(1e-3, deadline_s - time.monotonic()))
            hello = {"rank": rank, "size": size, "use": use, "host": host_name()}
            line.sendall(json.dumps(hello).encode() + b"\n")
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise CommTimeoutError(
                    f"comm.init: nobody listens at {host}:{port} ({error}); look whether rank 0 was started "
                    "there"
                ) from error
            time.sleep(_RETRY_S)
        else:
            return line


def _answer(line: socket.socket, host: str, port: int, deadline_s: float) -> dict[str, Any]:
    line.settimeout(max(1e-3, deadline_s - time.monotonic()))
    try:
        found: dict[str, Any] = json.loads(line.makefile("rb", buffering=0).readline(pmi.HELLO_BYTES))
    except (OSError, ValueError) as error:
        raise CommError(
            f"comm.init: what listens at {host}:{port} is no meeting of ranks, or rank 0 has ended "
            f"({error}); look at what rank 0 says"
        ) from error
    return found


def _start_mpi(
    life: socket.socket, line: socket.socket, rank: int, size: int, timeout_s: float
) -> Communicator:
    """Let the MPI library find its ranks over one line, and end when the other one says so."""
    global _joined
    if _joined is None:
        line.settimeout(None)
        os.environ.update(zip(_PLACE, map(str, (line.detach(), rank, size)), strict=True))
        mpi = importlib.import_module("distgrad.comm.mpi")
        for name in _PLACE:  # else what this rank starts would take itself for a rank
            del os.environ[name]
        _joined = rank, size
        threading.Thread(target=_listen, args=(life,), name="distgrad-life", daemon=True).start()
    else:
        line.sendall(b"cmd=finalize\n")
        line.close()
        life.close()
        mpi = importlib.import_module("distgrad.comm.mpi")
    world: Communicator = mpi.connect(timeout_s)
    if (world.rank, world.size) != (rank, size):
        raise CommError(
            f"comm.init: rank {rank} of {size} is rank {world.rank} of {world.size} to MPI: between hosts an "
            "MPI library of MPICH's kind is needed, and ranks keep their places; start with mpirun instead"
        )
    return world


def _listen(life: socket.socket) -> None:
    """End the process when another rank has ended without having left."""
    life.settimeout(None)
    try:
        said = json.loads(life.makefile("rb", buffering=0).readline(pmi.HELLO_BYTES))
    except (OSError, ValueError):  # all have left
        return
    print(f"distgrad: {said['error']}, so the whole job ends", file=sys.stderr, flush=True)
    os._exit(1)
