"""Master weights: what an optimizer updates where a module computes with fewer digits.

Source: Micikevicius et al., "Mixed precision training", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import Device, activated, device_of, follow, to_device

__all__ = ["Masters"]


class Masters:
    """Copies of the elements of a flat buffer that this rank owns, in a dtype of more digits.

    The buffer holds them rounded. Who writes into a parameter or a gradient means these too: what differs
    from the rounded copy is taken over before it is used.

    Args:
        buffer: the flat buffer, which knows already what this rank owns of it.
        dtype: of the copies.
        zeros: gives memory of a shape and dtype.
        gradients: keep the gradients' mean in that dtype too; else it is as the buffer has it.

    Attributes:
        data: ``[num_owned]``, the owned elements.
        grad: ``[num_owned]``, the mean of their gradients, or None; where the buffer lies.
        device: where the elements are updated.
    """

    def __init__(
        self,
        buffer: Any,
        dtype: np.dtype[Any],
        zeros: Callable[[tuple[int, ...], np.dtype[Any]], Any],
        gradients: bool,
    ) -> None:
        self._buffer = buffer
        self.dtype = dtype
        self.data = zeros((buffer.num_owned,), dtype)
        self.device: Device = device_of(self.data)
        self.grad = self._zeros(zeros) if gradients else None
        self._seen: dict[Any, int] = {}  # versions of parameters
        self._seen_gradients: dict[Any, tuple[list[Any], int]] = {}

    def _zeros(self, zeros: Callable[[tuple[int, ...], np.dtype[Any]], Any]) -> Any:
        shape = (self._buffer.num_owned,)
        if self.device == self._buffer.device:
            return zeros(shape, self.dtype)
        with activated(self._buffer.device) as xp:
            return xp.zeros(shape, dtype=self.dtype)

    def mean(self, where: slice, inside: slice) -> Any:
        """The mean of the gradients of owned elements with all its digits, where the buffer lies.

        Args:
            where: in the buffer.
            inside: the same among all elements that are owned.
        """
        return self._buffer.grad[where] if self.grad is None else self.grad[inside]

    def updated(self, where: slice, inside: slice) -> tuple[Any, Any]:
        """Elements and gradients as an optimizer updates them; arguments as for :meth:`mean`."""
        return self.data[inside], self.mean(where, inside)

    def bring(self, parameters: Iterable[Any]) -> None:
        """Have the gradients of these where the elements are updated. Collective: no; blocks: there."""

    def owned(self, start: int, stop: int) -> tuple[slice, slice]:
        """Where what this rank owns of the buffer's elements ``start … stop - 1`` lies there, and here."""
        first, last, place = next(self._buffer.owned(start, stop), (start, start, 0))
        return slice(first, last), slice(place, place + last - first)

    def _of(self, parameter: Any) -> tuple[slice, slice]:
        return self.owned(*parameter.leaf_state().flat[1:])

    def take_writes(self, parameters: Iterable[Any]) -> None:
        """Take over what was written into parameters and gradients since they were noted.

        Collective: no; blocks: no.
        """
        for parameter in parameters:
            where, inside = self._of(parameter)
            version = parameter._num_changes()
            if self._seen.get(parameter) != version:
                _take(self.data[inside], self._buffer.data[where])
                self._seen[parameter] = version
            gradient = parameter.grad
            if self.grad is None or gradient is None:
                continue
            leaf = parameter.leaf_state()
            if gradient._data is not leaf.buffer:
                leaf.buffer[...] = gradient._data
            cell, version = self._seen_gradients.get(parameter, (None, 0))
            if cell is not gradient._version or gradient._num_changes() != version:
                _take(self.grad[inside], self._buffer.grad[where])
                self.note(parameter)

    def forget_gradients(self, parameters: Iterable[Any]) -> None:
        """Let the gradients of these be 0."""
        if self.grad is not None:
            for parameter in parameters:
                self.grad[self._of(parameter)[1]] = 0

    def note(self, parameter: Any) -> None:
        """A parameter's gradient is what :attr:`grad` has, rounded."""
        gradient = parameter.grad
        self._seen_gradients[parameter] = (gradient._version, gradient._num_changes())

    def publish(self, parameters: Iterable[Any]) -> None:
        """Let the buffer have the owned elements of these parameters, rounded."""
        follow(self._buffer.data)
        for parameter in parameters:
            where, inside = self._of(parameter)
            self._buffer.data[where] = self.data[inside]
            self._seen[parameter] = parameter._num_changes()


def _take(wide: Any, narrow: Any) -> None:
    """Set numbers to others where these are not what they round to."""
    follow(narrow)
    narrow = to_device(narrow, device_of(wide))
    differs = wide.astype(narrow.dtype) != narrow
    wide[...] = get_array_module(wide).where(differs, narrow.astype(wide.dtype), wide)
