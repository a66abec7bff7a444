"""Master weights on the host of parameters on a device, whose memory then holds no state of an optimizer.

Gradients go to the host, updated elements come back. What the device has of both is what is read, clipped and
written; the host follows it when it is about to update.

Source: Ren et al., "ZeRO-Offload: democratizing billion-scale model training", USENIX ATC 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from distgrad.autograd.masters import Masters
from distgrad.backend.device import CPU, follow, to_device
from distgrad.backend.streams import Event

__all__ = ["HostMasters"]


class HostMasters(Masters):
    """Copies of a device's owned elements, and of the mean of their gradients, in memory of the host.

    Args:
        buffer, dtype, zeros, gradients: as for :class:`~distgrad.autograd.masters.Masters`; ``zeros`` gives
            memory of the host.
    """

    def __init__(
        self,
        buffer: Any,
        dtype: np.dtype[Any],
        zeros: Callable[[tuple[int, ...], np.dtype[Any]], Any],
        gradients: bool,
    ) -> None:
        super().__init__(buffer, dtype, zeros, gradients)
        self._gradients = np.zeros(buffer.num_owned, dtype if gradients else buffer.dtype)
        self._sent: dict[int, tuple[slice, np.ndarray, Event]] = {}  # by where they start
        self._scales: dict[int, float] = {}  # of these
        self._brought: dict[Any, tuple[list[Any], int]] = {}  # versions of gradients

    def updated(self, where: slice, inside: slice) -> tuple[Any, Any]:
        """Elements and gradients as an optimizer updates them, on the host."""
        return self.data[inside], self._gradients[inside]

    def send(self, start: int, stop: int) -> None:
        """Let owned gradients of the buffer's elements ``start … stop - 1`` set out, on the current stream.

        Collective: no; blocks: no.
        """
        where, inside = self.owned(start, stop)
        if where.start < where.stop:
            array = to_device(self.mean(where, inside), CPU, non_blocking=True)
            event = Event(device=self._buffer.device)
            event.record()
            self._sent[start] = inside, array, event

    def sent(self, start: int, parameters: Iterable[Any] | None, scale: float) -> None:
        """What set out from ``start`` is, times ``scale``, these parameters' mean; of None it is no more."""
        if parameters is None or start not in self._sent:
            self._sent.pop(start, None)
            return
        self._scales[start] = scale
        for parameter in parameters:
            if parameter.grad is not None:
                self._brought[parameter] = parameter.grad._version, parameter.grad._num_changes()

    def bring(self, parameters: Iterable[Any]) -> None:
        """Have the gradients of these on the host. Collective: no; blocks: until they are there."""
        for start, (inside, array, event) in self._sent.items():
            event.synchronize()
            np.multiply(array, array.dtype.type(self._scales.pop(start, 1.0)), out=self._gradients[inside])
        self._sent.clear()
        stale = []
        for parameter in parameters:
            gradient, leaf = parameter.grad, parameter.leaf_state()
            if gradient is None:
                continue
            cell, version = self._brought.get(parameter, (None, 0))
            if cell is not gradient._version or gradient._num_changes() != version:
                if gradient._data is not leaf.buffer:
                    leaf.buffer[...] = gradient._data
                stale.append(self._of(parameter))
                self._brought[parameter] = gradient._version, gradient._num_changes()
        follow(self._buffer.grad)
        joined = self._joined(stale)
        coming = [to_device(self.mean(*place), CPU, non_blocking=True) for place in joined]
        if coming:
            event = Event(device=self._buffer.device)
            event.record()
            event.synchronize()
        for (_, inside), array in zip(joined, coming, strict=True):
            self._gradients[inside] = array

    def publish(self, parameters: Iterable[Any]) -> None:
        """Let the device have the owned elements of these parameters, rounded. The host waits for nothing."""
        parameters = list(parameters)
        data = self._buffer.data
        follow(data)
        for where, inside in self._joined(map(self._of, parameters)):
            data[where] = to_device(self.data[inside].astype(data.dtype, copy=False), self._buffer.device)
        self._seen |= {parameter: parameter._num_changes() for parameter in parameters}

    def _joined(self, places: Iterable[tuple[slice, slice]]) -> list[tuple[slice, slice]]:
        """Places in the buffer, and here, without empty ones; neighbours with only zeros between are one."""
        found: list[tuple[slice, slice]] = []
        for where, inside in sorted(places, key=lambda place: place[0].start):
            if where.start == where.stop:
                continue
            if found:
                last, before = found[-1]
                is_near = where.start <= self._buffer.next_place(last.stop)
                if is_near and where.start - inside.start == last.start - before.start:
                    found[-1] = slice(last.start, where.stop), slice(before.start, inside.stop)
                    continue
            found.append((where, inside))
        return found
