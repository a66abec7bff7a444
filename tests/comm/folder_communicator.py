"""A communicator whose ranks exchange files in a folder: what CONTRIBUTING.md says it takes to add one."""

import itertools
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from distgrad import env
from distgrad.comm.base import Communicator
from distgrad.comm.calls import DisagreementError
from distgrad.comm.pipeline import Family
from distgrad.comm.reduction import UFUNCS
from distgrad.comm.topology import Topology, host_name
from distgrad.errors import CommTimeoutError

__all__ = ["FolderCommunicator", "connect"]

_LOOK_S = 1e-3


def connect(timeout_s: float | None = None) -> "FolderCommunicator":
    """The communicator of the ranks that ``RANK`` and ``WORLD_SIZE`` tell of, in ``MEETING_FOLDER``."""
    settings = env.read()
    family = Family("folder", timeout_s)
    ranks = range(settings.world_size)
    topology = Topology((host_name(),) * settings.world_size)
    return FolderCommunicator(
        Path(os.environ["MEETING_FOLDER"]), ranks, settings.rank, "world", topology, family
    )


class FolderCommunicator(Communicator):
    """Every meeting is a file a rank; a message is a file as well."""

    backend = "folder"

    def __init__(self, folder, ranks, own, group, topology, family):
        super().__init__(list(ranks).index(own), len(ranks), group, topology, family)
        self._folder = folder
        self._ranks = list(ranks)
        self._mark = 0
        self._num_meetings = 0
        self._num_messages = defaultdict(int)
        folder.mkdir(exist_ok=True)

    def _write(self, name, data):
        (self._folder / f"{name}.part").write_bytes(data)
        (self._folder / f"{name}.part").rename(self._folder / name)

    def _read(self, name):
        deadline_s = time.monotonic() + self.family.timeout_s
        while not (self._folder / name).exists():
            if time.monotonic() > deadline_s:
                raise CommTimeoutError(f"waited {self.family.timeout_s:g} s for the file {name}")
            time.sleep(_LOOK_S)
        return (self._folder / name).read_bytes()

    def _exchange(self, x):
        """Every rank's bytes."""
        number = self._num_meetings
        self._num_meetings += 1
        self._write(f"{number} {self.rank}", np.int64(self._mark).tobytes() + x.tobytes())
        found = [self._read(f"{number} {rank}") for rank in range(self.size)]
        if len({data[:8] for data in found}) > 1:
            raise DisagreementError
        return [np.frombuffer(bytearray(data[8:]), x.dtype) for data in found]

    def _announce(self, mark):
        self._mark = mark

    def _all_reduce(self, x, op):
        parts = self._exchange(x)
        wide = np.float32 if x.dtype.name in ("float16", "bfloat16") else x.dtype
        total = parts[0].astype(wide)
        for part in parts[1:]:
            with np.errstate(all="ignore"):
                total = UFUNCS[op](total, part.astype(wide))
        x[:] = total.astype(x.dtype)

    def _reduce_scatter(self, x, out, op, edges):
        whole = x.copy()
        self._all_reduce(whole, op)
        out[:] = whole[edges[self.rank] : edges[self.rank + 1]]

    def _broadcast(self, x, root):
        x[:] = self._exchange(x)[root]

    def _all_gather(self, x, out, edges):
        for (start, stop), part in zip(itertools.pairwise(edges), self._exchange(x), strict=True):
            out[start:stop] = part

    def _all_to_all(self, x, out):
        for row, part in zip(out, self._exchange(x), strict=True):
            row[:] = part.reshape(x.shape)[self.rank]

    def _gather(self, x, out, root):
        parts = self._exchange(x)
        if out is not None:
            out[:] = parts

    def _scatter(self, x, out, root):
        parts = self._exchange(np.empty(0, np.uint8) if x is None else x)
        out[:] = parts[root].reshape(self.size, -1)[self.rank]

    def _send(self, message, dest, tag):
        key = f"from {self.rank} to {dest} tag {tag}"
        self._write(f"{key} number {self._num_messages[key]}", message.tobytes())
        self._num_messages[key] += 1

    def _recv(self, source, tag):
        key = f"from {source} to {self.rank} tag {tag}"
        data = self._read(f"{key} number {self._num_messages[key, 'in']}")
        self._num_messages[key, "in"] += 1
        return np.frombuffer(bytearray(data), np.uint8)

    def _has_message(self, source, tag):
        key = f"from {source} to {self.rank} tag {tag}"
        return (self._folder / f"{key} number {self._num_messages[key, 'in']}").exists()

    def _barrier(self):
        self._exchange(np.empty(0, np.uint8))

    def _split(self, color, members, group):
        if color is None:
            return None
        name = f"group {self._num_meetings} {color}"
        topology = self.topology.select(members)
        return FolderCommunicator(self._folder / name, members, self.rank, group, topology, self.family)
