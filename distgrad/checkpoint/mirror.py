"""The state of a job in memory that outlives its ranks: on their own host, and on a neighbour.

Each rank writes its part of a checkpoint, as to a disk, into memory of its host's agent, which the launcher
has started; where there are several hosts, it sends it to a rank of the next one too, which does the same. A
host that is lost takes its agent with it, and the next attempt's ranks find its parts on the neighbour. Two
checkpoints are kept in turn, so that one is whole on all ranks whenever some of them die.

Source: Plank, Li and Puening, Diskless checkpointing, IEEE TPDS 9 (1998); Wang et al., Gemini: fast failure
recovery in distributed training with in-memory checkpoints, SOSP 2023.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgrad import env
from distgrad.checkpoint.collect import Collected
from distgrad.checkpoint.layout import Manifest, Piece
from distgrad.checkpoint.pieces import Reader, write_slices
from distgrad.checkpoint.writer import merged, part_of
from distgrad.comm.base import Communicator
from distgrad.errors import CommError
from distgrad.launch.agent import address, peer
from distgrad.tracebacks import warn_once

__all__ = ["Mirror"]

_CONNECT_S = 20.0  # an agent on another host may take as long to start as a rank
_ANSWER_S = 30.0  # for an agent to answer; less than it takes to be judged a hang
_LOOK_S = 0.05
_CHUNK_BYTES = 1 << 16
_TAG = 7_340
_RESTORED = 2  # the slot of parts that were fetched from other hosts, beside the two that are written in turn


class _Held(NamedTuple):
    """A part that an agent holds whole."""

    attempt: int
    rank: int
    slot: int
    file: int
    note: dict[str, Any]


class _Line:
    """A rank's line to the agent of its host.

    Raises:
        OSError: there is none, or it is another user's.
    """

    def __init__(self, name: str) -> None:
        deadline_s = time.monotonic() + _CONNECT_S
        while True:
            self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._line.connect(address(name))
                break
            except ConnectionRefusedError:
                self._line.close()
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(_LOOK_S)
        process, user = peer(self._line)
        if user not in (os.geteuid(), 0):
            raise PermissionError(f"the agent is of user {user}")
        self.folder = Path(f"/proc/{process}/fd")
        self._line.settimeout(_ANSWER_S)
        self.held()  # see that it answers

    def ask(self, **request: Any) -> dict[str, Any]:
        """The agent's answer.

        Raises:
            OSError: it has gone, or does not answer.
        """
        self._line.sendall(json.dumps(request).encode() + b"\n")
        said = bytearray()
        while not said.endswith(b"\n"):
            data = self._line.recv(_CHUNK_BYTES)
            if not data:
                raise ConnectionError("the launcher's agent has gone")
            said += data
        answer: dict[str, Any] = json.loads(said)
        return answer

    def held(self) -> list[_Held]:
        """What the agent holds."""
        told = self.ask(do="list")["held"]
        return [_Held(attempt, rank, slot, file, note) for (attempt, rank, slot), file, note in told]

    def close(self) -> None:
        """Hang up; the agent keeps what it holds."""
        self._line.close()


class _MemoryReader(Reader):
    """Reads parts that an agent holds, in files without a name in any folder."""

    def _header(self, name: str) -> tuple[dict[str, Any], int, int]:
        if name not in self._headers:
            path = self.folder / name
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                self._headers[name] = json.loads(file.read(length)), 8 + length, path.stat().st_size
        return self._headers[name]


class Mirror:
    """Keeps what a job's ranks have saved last in memory that outlives them.

    Args:
        comm: the ranks; None: this process alone.
    """

    def __init__(self, comm: Communicator | None) -> None:
        self._comm = comm if comm is None or comm.size > 1 else None
        self._rank, self._num_ranks = (0, 1) if comm is None else (comm.rank, comm.size)
        self._count = 0
        self._work: Any = None
        self._flag = np.zeros(1, np.int32)
        self._lost = ""  # why this host's agent keeps nothing more
        settings = env.read()
        self._attempt, self._line, why = settings.attempt, None, ""
        try:
            if settings.memory is None:
                raise OSError("no launcher has started this process with --max-restarts")
            self._line = _Line(settings.memory)
        except OSError as error:
            why = str(error)
        told = [each for each in self._everyones(why) if each]
        if told:
            warn_once("checkpoint memory", f"checkpoint: nothing is kept in memory: {told[0]}")
            self.close()
            return
        places = self._everyones(socket.gethostname() if self._comm is None else self._node())
        self._hosts = [
            [r for r, each in enumerate(places) if each == place] for place in dict.fromkeys(places)
        ]
        own = next(number for number, ranks in enumerate(self._hosts) if self._rank in ranks)
        self._is_first = self._hosts[own][0] == self._rank
        self._to, self._from = self._neighbours()

    def _node(self) -> Any:
        """What tells this host from the job's others."""
        node = env.read().node_rank
        return socket.gethostname() if node is None else node

    def _neighbours(self) -> tuple[int | None, list[int]]:
        """The rank that gets this one's part too, and those whose parts this one gets."""
        if len(self._hosts) == 1:
            return None, []
        to: dict[int, int] = {}
        for number, ranks in enumerate(self._hosts):
            following = self._hosts[(number + 1) % len(self._hosts)]
            to |= {rank: following[place % len(following)] for place, rank in enumerate(ranks)}
        return to[self._rank], [rank for rank in range(self._num_ranks) if to[rank] == self._rank]

    @property
    def works(self) -> bool:
        """Whether there is memory to keep anything in."""
        return self._line is not None

    def close(self) -> None:
        """Let go of the agent, which keeps what it holds."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _everyones(self, value: Any) -> list[Any]:
        return [value] if self._comm is None else self._comm.all_gather_object(value)

    # -- keeping

    def save(self, step: int, state: Collected) -> None:
        """Keep a rank's part, here and on the neighbour.

        Where an agent has gone, the job goes on: nothing more is kept then, which is said.

        Collective: yes; blocks: until it is copied, and sent, and until all ranks have kept the one before.
        """
        self._settle()
        line = self._line
        if line is None:
            return
        slot = self._count % 2
        text, path, size = "", line.folder, 0
        with self._noting_loss():
            text, path, size = self._keep(line, [self._attempt, self._rank, slot], step, state)
        if self._comm is not None and self._to is not None:
            _send(self._comm, self._to, text, path, size)
            for source in self._from:
                with self._noting_loss():
                    self._receive(line, source, [self._attempt, source, slot])
        self._count += 1
        self._flag[0] = self._lost != ""
        if self._comm is not None:
            self._work = self._comm.host.all_reduce(self._flag, "max", async_op=True)

    def _settle(self) -> None:
        """Wait until all ranks have kept the last one; those of attempts before are of no use then."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        if self._flag[0]:
            why = self._lost or "the agent of another rank has gone"
            warn_once("lost memory", f"checkpoint: nothing is kept in memory any more: {why}")
            self.close()
        elif self._count == 1 and self._is_first:
            with self._noting_loss():
                self._agent().ask(do="drop", before=self._attempt)

    @contextlib.contextmanager
    def _noting_loss(self) -> Iterator[None]:
        """Go on without the agent once it has gone; the other ranks learn of it with the end of the copy."""
        try:
            yield
        except OSError as error:
            self._lost = self._lost or str(error)

    def _keep(self, line: _Line, key: list[int], step: int, state: Collected) -> tuple[str, Path, int]:
        """Have the agent of this host keep a part; returns its note, where it lies, and its bytes.

        Raises:
            OSError: the agent has gone.
        """
        if self._lost:
            raise OSError(self._lost)
        file = line.ask(do="hold", key=key)["file"]
        path = line.folder / str(file)
        with open(path, "r+b") as memory:
            pieces = write_slices(memory, str(file), state.slices)
            size = memory.tell()
        note = {"step": step, "num_ranks": self._num_ranks, "size": size, **part_of(state, pieces)}
        if self._rank == 0:
            note["tree"] = state.tree
        text = json.dumps(note)
        line.ask(do="commit", key=key, note=json.loads(text))
        return text, path, size

    def _receive(self, line: _Line, source: int, key: list[int]) -> None:
        """Keep a part that another rank sends, unless that one has none.

        Raises:
            OSError: the agent has gone.
        """
        comm = self._comm
        assert comm is not None
        lengths = comm.host.recv(np.empty(2, np.int64), source, _TAG)
        if not lengths[0]:
            return
        text = comm.host.recv(np.empty(int(lengths[0]), np.uint8), source, _TAG)
        data = comm.host.recv(np.empty(int(lengths[1]), np.uint8), source, _TAG)
        if self._lost:
            return
        file = line.ask(do="hold", key=key)["file"]
        with open(line.folder / str(file), "r+b") as memory:
            memory.write(data.data)
        line.ask(do="commit", key=key, note=json.loads(text.tobytes()))

    def _agent(self) -> _Line:
        if self._line is None:
            raise CommError("checkpoint: no agent of the launcher holds this host's memory")
        return self._line

    # -- going on

    def newest(self) -> tuple[int, int, int] | None:
        """Of what is whole, the last: step, attempt and number of ranks; None if nothing is.

        Collective: yes; blocks: yes.
        """
        mine = self._agent().held() if self._is_first else []
        told = {(h.note["step"], h.attempt, h.note["num_ranks"], h.rank) for h in mine}
        everyones = set().union(*self._everyones(told))
        wholes = [
            found
            for found in {each[:3] for each in everyones}
            if all((*found, rank) in everyones for rank in range(found[2]))
        ]
        return max(wholes, default=None)

    def reader(self, found: tuple[int, int, int]) -> Reader:
        """What reads the state that :meth:`newest` has found; each host fetches the parts that it lacks.

        Collective: yes; blocks: yes.
        """
        step, attempt, num_ranks = found
        line = self._agent()
        mine = self._parts(line, step, attempt)
        holding = self._everyones(sorted(mine) if self._is_first else None)
        for part in range(num_ranks):
            source = next(rank for rank, parts in enumerate(holding) if parts is not None and part in parts)
            for dest, parts in enumerate(holding):
                if parts is None or part in parts:
                    continue
                if self._rank == source and self._comm is not None:
                    own = mine[part]
                    path = line.folder / str(own.file)
                    _send(self._comm, dest, json.dumps(own.note), path, own.note["size"])
                elif self._rank == dest:
                    self._receive(line, source, [attempt, part, _RESTORED])
        self._everyones(None)  # what is fetched is there for all ranks of a host
        held = self._parts(line, step, attempt)
        return _MemoryReader(line.folder, _manifest(found, [held[part] for part in range(num_ranks)]))

    def _parts(self, line: _Line, step: int, attempt: int) -> dict[int, _Held]:
        """The parts of one checkpoint that the agent of this host holds, by their ranks."""
        return {h.rank: h for h in line.held() if (h.note["step"], h.attempt) == (step, attempt)}


def _manifest(found: tuple[int, int, int], parts: list[_Held]) -> Manifest:
    """Of parts in one agent's files, whatever files they were written to."""
    said = []
    for held in parts:
        pieces = {
            name: [Piece(*piece)._replace(file=str(held.file)) for piece in each]
            for name, each in held.note["pieces"].items()
        }
        said.append({**held.note, "pieces": pieces})
    return merged(found[0], found[2], parts[0].note["tree"], said, {})


def _send(comm: Communicator, dest: int, text: str, path: Path, size: int) -> None:
    """Send a part to a rank of another host, or that there is none, without a note."""
    note, data = np.frombuffer(text.encode(), np.uint8), np.empty(0, np.uint8)
    if text:
        try:
            with open(path, "rb") as memory:
                data = np.frombuffer(memory.read(size), np.uint8)
        except OSError:  # the agent has gone since
            note = note[:0]
    comm.host.send(np.array([note.size, data.size], np.int64), dest, _TAG)
    if not note.size:
        return
    comm.host.send(note, dest, _TAG)
    comm.host.send(data, dest, _TAG)
