"""The communicator of one rank: every collective is over at once."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.device import CPU, Device, device_of
from distgrad.comm.base import Communicator
from distgrad.comm.pipeline import Family
from distgrad.comm.topology import Topology, host_name
from distgrad.errors import CommTimeoutError

__all__ = ["SingleCommunicator", "connect"]


def connect(timeout_s: float | None = None) -> SingleCommunicator:
    """The communicator of a program that was started alone.

    Collective: no; blocks: no.
    """
    return SingleCommunicator(family=Family("distgrad communication", timeout_s))


class SingleCommunicator(Communicator):
    """A group of one rank in one process; nothing to install.

    Args:
        group: its name in error reports.
        family: None starts a new one.
    """

    backend = "single"

    def __init__(self, group: str = "world", family: Family | None = None) -> None:
        super().__init__(0, 1, group, Topology((host_name(),)), family or Family("distgrad communication"))
        self._messages: dict[int, deque[NDArray[np.uint8]]] = defaultdict(deque)

    def takes(self, device: Device) -> bool:
        """All of them: nothing goes anywhere.

        Collective: no; blocks: no.
        """
        return True

    def _check_array(self, verb: str, name: str, x: Any) -> None:
        if device_of(x) == CPU:  # else it is a GPU's, and goes nowhere
            super()._check_array(verb, name, x)

    def _announce(self, mark: int) -> None:
        pass

    def _all_reduce(self, x: NDArray[Any], op: str) -> None:
        pass

    def _reduce_scatter(self, x: NDArray[Any], out: NDArray[Any], op: str, edges: list[int]) -> None:
        out[:] = x

    def _broadcast(self, x: NDArray[np.uint8], root: int) -> None:
        pass

    def _all_gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8], edges: list[int]) -> None:
        out[:] = x

    def _all_to_all(self, x: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        out[:] = x

    def _gather(self, x: NDArray[np.uint8], out: NDArray[np.uint8] | None, root: int) -> None:
        if out is not None:
            out[0] = x

    def _scatter(self, x: NDArray[np.uint8] | None, out: NDArray[np.uint8], root: int) -> None:
        if x is not None:
            out[:] = x[0]

    def _send(self, message: NDArray[np.uint8], dest: int, tag: int) -> None:
        self._messages[tag].append(message)

    def _recv(self, source: int, tag: int) -> NDArray[np.uint8]:
        if not self._messages[tag]:
            raise CommTimeoutError("would wait for a message from itself; send before recv")
        return self._messages[tag].popleft()

    def _has_message(self, source: int, tag: int) -> bool:
        return bool(self._messages.get(tag))

    def _barrier(self) -> None:
        pass

    def _split(self, color: int | None, members: list[int], group: str) -> SingleCommunicator | None:
        return None if color is None else SingleCommunicator(group, self.family)
