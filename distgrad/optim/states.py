"""An optimizer's state: arrays that lie as its parameters do, for the elements that this rank owns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from distgrad.autograd.flat import FlatBuffer
from distgrad.autograd.parts import Part, are_local
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.device import activated, follow, to_device

__all__ = ["States", "own_whole", "piece_key", "shape_key", "state_dtype"]

Home = tuple[FlatBuffer, int, int]


def piece_key(name: str) -> str:
    """Under which a part of a state stands in a state dict: beside it, where it starts, as ``name.start``."""
    return f"{name}.start"


def shape_key(name: str) -> str:
    """Under which the shape of the whole stands beside a part of a state, as ``name.shape``."""
    return f"{name}.shape"


def own_whole(parameters: Iterable[Tensor], elementwise: bool) -> None:
    """Where ranks own parts, let one of them have each of these, unless the rule treats elements alike.

    Collective: yes, then; blocks: yes.
    """
    parts: dict[Any, list[Tensor]] = {}
    for parameter in () if elementwise else parameters:
        shares = parameter.leaf_state().flat[0].shares
        if shares is not None:
            parts.setdefault(shares, []).append(parameter)
    for shares, group in parts.items():
        shares.keep_whole(group)


def state_dtype(dtype: np.dtype) -> np.dtype:
    """Of a parameter's state: a running mean of 16 bits would stand still, as its steps are below a unit."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


class States:
    """The arrays that a rule keeps.

    A rule that treats elements alike keeps twins of the flat buffers, of the owned elements alone; another
    keeps arrays of any shape for every parameter that this rank owns, which it owns whole.

    Args:
        shapes: names and shapes of a parameter's state.
        elementwise: whether the rule treats elements alike.
        steps: how often each parameter was updated, the same on every rank; the optimizer counts.
    """

    def __init__(
        self,
        shapes: Callable[[Tensor], dict[str, tuple[int, ...]]],
        elementwise: bool,
        steps: dict[Tensor, int],
    ) -> None:
        self._shapes = shapes
        self._elementwise = elementwise
        self._steps = steps
        self._twins: dict[FlatBuffer, dict[str, Any]] = {}
        self._whole: dict[Tensor, dict[str, Any]] = {}
        self._homes: dict[Tensor, Home] = {}

    def arrays(self) -> list[Any]:
        """All of them."""
        kept = [*self._twins.values(), *self._whole.values()]
        return [array for arrays in kept for array in arrays.values()]

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Keep state of these too; they lie in flat buffers."""
        self._homes |= {parameter: parameter.leaf_state().flat for parameter in parameters}

    def twin(self, buffer: FlatBuffer, name: str) -> Any:
        """The state of a buffer's owned elements, ``[num_owned]``; zeros where there is none yet."""
        arrays = self._twins.setdefault(buffer, {})
        if name not in arrays:
            arrays[name] = self._zeros(buffer, (buffer.num_owned,))
        return arrays[name]

    @staticmethod
    def _zeros(buffer: FlatBuffer, shape: tuple[int, ...]) -> Any:
        dtype = state_dtype(buffer.dtype)
        if buffer.shares is not None:
            return buffer.shares.zeros(shape, dtype)
        with activated(buffer.device) as xp:
            return xp.zeros(shape, dtype=dtype)

    def home(self, parameter: Tensor) -> Home:
        """Where a parameter lies; its state follows it when it was moved to another buffer.

        Collective: yes, where several ranks own it.
        """
        home: Home = parameter.leaf_state().flat
        old = self._homes[parameter]
        if home is not old:
            names = self._shapes(parameter) if self._steps[parameter] else ()
            values = {name: self._read(parameter, name) for name in names}
            self._whole.pop(parameter, None)
            self._homes[parameter] = home
            for name, array in values.items():
                self._write(parameter, name, array)
            if all(other[0] is not old[0] for other in self._homes.values()):
                self._twins.pop(old[0], None)
        return home

    @staticmethod
    def _is_owned(home: Home) -> bool:
        """Whether this rank updates any of a parameter's elements."""
        buffer, start, stop = home
        return buffer.shares is None or any(True for _ in buffer.owned(start, stop))

    def of(self, parameter: Tensor) -> dict[str, Any] | None:
        """The state that this rank has of a parameter: in its shape if it owns all of it, else a piece.

        None if it owns nothing of it.
        """
        buffer, start, stop = home = self.home(parameter)
        if not self._is_owned(home):
            return None
        shapes = self._shapes(parameter)
        if not self._elementwise:
            arrays = self._whole.setdefault(parameter, {})
            for name, shape in shapes.items():
                if name not in arrays:
                    arrays[name] = self._zeros(buffer, shape)
            return arrays
        pieces = {name: self._piece(home, name) for name in shapes}
        whole = stop - start
        return {
            name: piece.reshape(shapes[name]) if piece.size == whole else piece
            for name, piece in pieces.items()
        }

    def _piece(self, home: Home, name: str) -> Any:
        """The owned elements' state, flat; a parameter's lie in one piece."""
        buffer, start, stop = home
        array = self.twin(buffer, name)
        if buffer.shares is None:
            return array[start:stop]
        for first, last, place in buffer.owned(start, stop):
            return array[place : place + last - first]
        return array[:0]

    def _own(self, parameter: Tensor, name: str) -> Any:
        """What this rank has of a state, flat."""
        if self._elementwise:
            return self._piece(self._homes[parameter], name)
        array = self._whole.get(parameter, {}).get(name)
        if array is None:
            home = self._homes[parameter]
            shape = self._shapes(parameter)[name] if self._is_owned(home) else (0,)
            return self._zeros(home[0], (math.prod(shape),))
        return array.reshape(-1)

    def _read(self, parameter: Tensor, name: str, root: int | None = None) -> Any:
        """All of a state in its shape, a copy. Collective: yes, where several ranks own it."""
        buffer, start, stop = self._homes[parameter]
        own, shape = self._own(parameter, name), self._shapes(parameter)[name]
        follow(own)
        if buffer.shares is None:
            return own.copy().reshape(shape)
        counts = buffer.shares.counts(start, stop)
        if not self._elementwise:
            counts = [math.prod(shape) if count else 0 for count in counts]
        whole = buffer.shares.all_gather(own, counts, root)
        return None if whole is None else whole.reshape(shape)

    def collect(self, parameter: Tensor, root: int | None = None) -> dict[str, Any]:
        """All of a parameter's state, copied; nothing on other ranks than the root, where one is given.

        Inside ``local_views`` what this rank has of it, where it lies.

        Collective: yes, where several ranks own it, and wholes are asked for.
        """
        if are_local():
            return self._local(parameter)
        self.home(parameter)
        found = {name: self._read(parameter, name, root) for name in self._shapes(parameter)}
        return {name: array for name, array in found.items() if array is not None}

    def _local(self, parameter: Tensor) -> dict[str, Any]:
        """What this rank has of a parameter's state, where it lies."""
        buffer, _, _ = self.home(parameter)
        found: dict[str, Any] = {}
        for name, shape in self._shapes(parameter).items():
            own = self._own(parameter, name)
            follow(own)
            found[name] = (
                own.reshape(shape)
                if buffer.shares is None
                else Part(shape, self._first(parameter), own, buffer.shares.is_replica)
            )
        return found

    def _first(self, parameter: Tensor) -> int:
        """The first element of what this rank has of a parameter's state."""
        buffer, start, stop = self._homes[parameter]
        return (
            next((first - start for first, _, _ in buffer.owned(start, stop)), 0) if self._elementwise else 0
        )

    def part(self, parameter: Tensor, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Which elements of a state of this shape the rank is to have: the first, and one past the last.

        None where it has all of every state.
        """
        buffer, start, stop = home = self.home(parameter)
        if buffer.shares is None:
            return None
        first = self._first(parameter)
        if not self._elementwise:
            return 0, math.prod(shape) if self._is_owned(home) else 0
        return first, first + sum(last - begin for begin, last, _ in buffer.owned(start, stop))

    @property
    def is_sharded(self) -> bool:
        """Whether ranks own parts of it."""
        return any(self.home(parameter)[0].shares is not None for parameter in self._homes)

    def pieces(self, parameter: Tensor) -> dict[str, Any]:
        """What this rank owns of a parameter's state: flat copies, their starts, the wholes' shapes."""
        self.home(parameter)
        found: dict[str, Any] = {}
        for name, shape in self._shapes(parameter).items():
            found[name] = self._own(parameter, name).copy()
            found[shape_key(name)] = shape
            found[piece_key(name)] = self._first(parameter)
        return found

    def write(self, parameter: Tensor, name: str, value: Any) -> None:
        """Take this rank's part of a whole state: a tensor or an array on any device; or the part itself."""
        begin = value.start if isinstance(value, Part) else 0
        array = value._data if isinstance(value, Tensor) else value
        if isinstance(value, Part):
            array = value.data
        if array.__class__ not in ARRAY_MODULES:
            array = np.asarray(array)
        home = self.home(parameter)
        self._write(parameter, name, to_device(array, home[0].update_device), begin)

    def _write(self, parameter: Tensor, name: str, values: Any, begin: int = 0) -> None:
        arrays = self.of(parameter)
        if arrays is None:
            return
        buffer, start, stop = self._homes[parameter]
        target = arrays[name]
        follow(target)
        values = values.astype(target.dtype, copy=False).reshape(-1)
        if self._elementwise:
            first, last, _ = next(buffer.owned(start, stop), (start, start, 0))
            own = slice(first - start - begin, last - start - begin)
            values = values[own] if buffer.shares is not None else values
        target[...] = values.reshape(target.shape)

    def forget(self, parameter: Tensor) -> None:
        """Let a parameter's state be what it was before its first step."""
        self._whole.pop(parameter, None)
        home = self.home(parameter)
        for name in self._twins.get(home[0], {}):
            piece = self._piece(home, name)
            follow(piece)
            piece[...] = 0
