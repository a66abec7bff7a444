"""Flat storage: parameters as slices of one array, their gradients as slices of its twin.

A bucket, an optimizer's update, a norm or an all-reduce is then one call on one array, and nothing is packed
or unpacked. ``param.data`` and ``param.grad`` are views of the slices. What lies side by side is a run.

Where several ranks hold a buffer each may own a part of it, which it alone updates: :class:`Shares` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.masters import Masters
from distgrad.autograd.parts import Part
from distgrad.autograd.storages import keep_apart
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import Device, activated, device_of, find_backend
from distgrad.errors import DeviceError, DTypeError

__all__ = [
    "FlatBuffer",
    "Run",
    "Shares",
    "flatten",
    "gradient_arrays",
    "gradient_pieces",
    "gradient_runs",
    "join_runs",
]

_ALIGNMENT_BYTES = 64  # a cache line, and the widest vector register

Allocate = Callable[[int], Any]


class Shares(Protocol):
    """Who owns which elements of a flat buffer that several ranks hold alike.

    Only the owner's gradients are the mean over the ranks, and only the owner keeps an optimizer's state.

    Attributes:
        rank: which of those that own parts this one is.
        is_replica: whether a rank with a lower number, of another group, owns what this one does.
        owned: this rank's ranges of the buffer, ascending.
        releases: whether the memory of gradients that others own is given back.
        masters: what is updated in the place of this rank's ranges, in a dtype of more digits; or None.
        is_filled: whether every rank began with rank 0's elements.
    """

    rank: int
    is_replica: bool
    owned: Sequence[slice]
    releases: bool
    masters: Masters | None

    @property
    def is_filled(self) -> bool:
        """See above."""

    @property
    def parts(self) -> Sequence[range]:
        """The numbers of the parameters that travel together."""

    def edges(self, start: int) -> list[int]:
        """Where each rank's part of the range that begins at ``start`` does, and the range's end."""

    def counts(self, start: int, stop: int) -> list[int]:
        """How many of the elements ``start … stop - 1`` each rank owns; those of a parameter lie in order."""

    def all_gather(self, own: Any, counts: Sequence[int], root: int | None = None) -> Any:
        """Every rank's elements behind one another, on all ranks, or on one: else None. Collective: yes."""

    def exchange(self, numbers: NDArray[Any]) -> list[NDArray[Any]]:
        """Every rank's numbers, as many as each has. Collective: yes."""

    def reduce_scatter(self, start: int, op: str = ..., weight: float = ...) -> Any:
        """Begin to reduce the gradients of the range from ``start`` over all ranks into the owners' parts."""

    def settle(self, parameters: Iterable[Tensor] = ()) -> None:
        """Wait until what was handed out is in; masters of these follow what was written into them."""

    def hand_out(self, parameters: Iterable[Tensor]) -> None:
        """Give every rank the owned elements of parameters that were updated. Collective: yes."""

    def gather_gradients(self) -> None:
        """Let all ranks have the whole mean of the gradients. Collective: yes."""

    def keep_whole(self, parameters: Iterable[Tensor]) -> None:
        """From now on one rank owns all of each of these. Collective: yes."""

    def release_gradients(self, start: int) -> None:
        """Give back the memory of the gradients in the range from ``start`` that other ranks own."""

    def gather_times(self, start: int) -> dict[str, float]:
        """Seconds of gathers of the range from ``start`` since this was last asked, and of waits for them."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Memory for an optimizer's state."""

    def overwrite(self, parameter: Tensor, values: Any) -> None:
        """Set a parameter, as every rank does: values for all of it, or the part that this rank holds."""

    def part(self, parameter: Tensor) -> Part | None:
        """What this rank holds of a parameter, where it is not all of it at all times."""

    def detached(self, parameter: Tensor, root: int | None = None) -> Tensor | None:
        """A parameter as a state dict has it, on all ranks, or on one, and None elsewhere."""


class FlatBuffer:
    """Parameters of one dtype and device, moved into one array in the order given.

    Args:
        parameters: leaf tensors of one floating dtype on one device; their elements move, their values stay.
        spare: elements behind each parameter that are nobody's (a bucket's weights); zeros between uses.
        allocate: returns ``num_bytes`` zeros as a uint8 array on that device, as a communicator's
            ``allocate`` does; None takes them from the device's memory.
        device: where they are to lie that have no elements yet, which are zeros then; None: where they do.
        dtype: what they become; None: what they are.
        moves: False leaves it to the caller to set their elements, which are zeros at first.

    Attributes:
        data: ``[size]``, the parameters' elements, each parameter at a multiple of 64 bytes, zeros between.
        grad: ``[size]``, the gradients' elements in the same places.
        slices: for each parameter its place in both.
        shares: which ranks own what; None where this one owns all.
    """

    shares: Shares | None = None

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        spare: int = 0,
        allocate: Allocate | None = None,
        device: Device | None = None,
        dtype: np.dtype[Any] | None = None,
        moves: bool = True,
    ) -> None:
        self.parameters = list(parameters)
        dtypes = {parameter.dtype for parameter in self.parameters}
        if len(dtypes) != 1:
            raise DTypeError(f"FlatBuffer: expected parameters of one dtype, got {sorted(map(str, dtypes))}")
        devices = {parameter.device for parameter in self.parameters} if device is None else {device}
        if len(devices) != 1:
            raise DeviceError(
                f"FlatBuffer: expected parameters on one device, got {sorted(map(str, devices))}; move the "
                "module with .to"
            )
        self.dtype, self.device = dtype or dtypes.pop(), devices.pop()
        self.spare = spare
        self.slices: list[slice] = []
        size = 0
        for parameter in self.parameters:
            self.slices.append(slice(size, size + parameter.size))
            size = self.next_place(size + parameter.size)
        self.size = size
        self.data = self._array(size, allocate)
        self.grad = self._array(size, allocate)
        for parameter, where in zip(self.parameters, self.slices, strict=True):
            self._move(parameter, where, moves)

    def next_place(self, stop: int) -> int:
        """Where the parameter starts that follows one which ends at ``stop``."""
        step = max(1, _ALIGNMENT_BYTES // self.dtype.itemsize)
        return -(-(stop + self.spare) // step) * step

    @property
    def update_device(self) -> Device:
        """Where an optimizer updates the elements, and keeps its state."""
        masters = None if self.shares is None else self.shares.masters
        return self.device if masters is None else masters.device

    @property
    def num_owned(self) -> int:
        """How many elements this rank owns."""
        return self.size if self.shares is None else sum(own.stop - own.start for own in self.shares.owned)

    def owned(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """This rank's pieces of the elements ``start … stop - 1``.

        Returns:
            For each piece where it starts and stops, and where it starts among all elements that are owned.
        """
        place = 0
        for own in (slice(0, self.size),) if self.shares is None else self.shares.owned:
            first, last = max(start, own.start), min(stop, own.stop)
            if first < last:
                yield first, last, place + first - own.start
            place += own.stop - own.start

    def updated(self, where: slice, inside: slice) -> tuple[Any, Any]:
        """Elements that this rank owns and their gradients, as an optimizer updates them.

        Args:
            where: in ``data`` and ``grad``.
            inside: the same among all elements that are owned.
        """
        masters = None if self.shares is None else self.shares.masters
        return (self.data[where], self.grad[where]) if masters is None else masters.updated(where, inside)

    def updated_between(self, start: int, stop: int) -> tuple[Any, Any]:
        """The same for the elements ``start … stop - 1``, of which this rank owns all."""
        _, _, place = next(self.owned(start, stop), (0, 0, 0))  # there is nothing of an empty one
        return self.updated(slice(start, stop), slice(place, place + stop - start))

    def owned_gradients(self, start: int, stop: int) -> Iterator[Any]:
        """This rank's gradients of the elements ``start … stop - 1``; rounded ones follow what they round."""
        masters = None if self.shares is None else self.shares.masters
        for first, last, place in self.owned(start, stop):
            if masters is not None and masters.grad is not None:
                yield masters.grad[place : place + last - first]
            yield self.grad[first:last]

    def _array(self, size: int, allocate: Allocate | None) -> Any:
        num_bytes = size * self.dtype.itemsize
        if allocate is None:
            memory = find_backend(self.device.kind).allocate(num_bytes, self.device.index)
            with activated(self.device):
                memory[...] = 0
        else:
            memory = allocate(num_bytes)
        if device_of(memory) != self.device:
            raise DeviceError(
                f"FlatBuffer: the parameters lie on {self.device}, but the communicator's memory on "
                f"{device_of(memory)}; use the 'nccl' backend for GPUs"
            )
        keep_apart(memory)
        return memory[:num_bytes].view(self.dtype)

    def _move(self, parameter: Tensor, where: slice, moves: bool) -> None:
        leaf = parameter.leaf_state()
        home = self.data[where].reshape(parameter.shape)
        if moves and parameter.device == self.device:
            with activated(self.device):
                home[...] = parameter._data
        parameter._data = home
        gradient = leaf.grad
        leaf.flat = (self, where.start, where.stop)
        leaf.buffer = self.grad[where].reshape(parameter.shape)
        if gradient is not None:
            same = gradient.dtype == self.dtype
            parameter.grad = gradient if same else Tensor(gradient._data.astype(self.dtype))


class Run(NamedTuple):
    """A stretch of a flat buffer: parameters that lie side by side.

    Attributes:
        buffer: the flat buffer.
        start: where in ``buffer.data`` and ``buffer.grad`` it starts.
        stop: one past its end.
        key: what its parameters have in common.
    """

    buffer: FlatBuffer
    start: int
    stop: int
    key: Any = None

    def owned(self) -> Iterator[Run]:
        """The stretches of it that this rank owns."""
        for start, stop, _ in self.buffer.owned(self.start, self.stop):
            yield self._replace(start=start, stop=stop)

    def blocks(self, length: int) -> Iterator[slice]:
        """Its pieces between multiples of ``length`` of the buffer, wherever the run itself starts."""
        start = self.start
        while start < self.stop:
            stop = min((start // length + 1) * length, self.stop)
            yield slice(start, stop)
            start = stop


def join_runs(pieces: Iterable[Run]) -> list[Run]:
    """Pieces in the order of their places; neighbours of equal key, with only zeros between, are one."""
    runs: list[Run] = []
    for piece in sorted(pieces, key=lambda piece: (id(piece.buffer), piece.start)):
        last = runs[-1] if runs else None
        if (
            last is not None
            and last.buffer is piece.buffer
            and last.key == piece.key
            and piece.start <= piece.buffer.next_place(last.stop)
        ):
            runs[-1] = last._replace(stop=piece.stop)
        else:
            runs.append(piece)
    return runs


def gradient_runs(parameters: Iterable[Tensor], where: str | None = None) -> tuple[list[Run], list[Any]]:
    """Where the parameters' gradients lie, each element once, and zeros between neighbours.

    Args:
        parameters: those without a gradient are passed over.
        where: who is about to change the gradients in place, for messages about it; None changes nothing.

    Returns:
        Runs of flat buffers, and the arrays of gradients that lie elsewhere.
    """
    pieces: list[Run] = []
    loose: list[Any] = []
    for parameter in dict.fromkeys(parameters):
        if parameter.grad is None:
            continue
        leaf = parameter.leaf_state()
        is_flat = parameter.grad._data is leaf.buffer
        shares = leaf.flat[0].shares if is_flat else None
        if shares is not None and shares.masters is not None:
            shares.masters.take_writes([parameter])
        if where is not None:
            parameter.grad.changed(where)
            if shares is not None and shares.masters is not None:
                shares.masters.note(parameter)
        if is_flat:
            pieces.append(Run(*leaf.flat))
        else:
            loose.append(parameter.grad._data)
    return join_runs(pieces), loose


def gradient_arrays(parameters: Iterable[Tensor], where: str | None = None) -> list[Any]:
    """The arrays of :func:`gradient_runs`, as far as this rank owns them."""
    runs, loose = gradient_runs(parameters, where)
    return loose + [array for run in runs for array in run.buffer.owned_gradients(run.start, run.stop)]


def gradient_pieces(parameters: Iterable[Tensor]) -> tuple[list[Any], list[Any], Shares | None]:
    """The parameters' gradients, one array each, in their order.

    Returns:
        Those that this rank owns all of, and what it owns of others, flat and maybe empty, with the shares of
        the first of these.
    """
    whole: list[Any] = []
    pieces: list[Any] = []
    shares: Shares | None = None
    for parameter in dict.fromkeys(parameters):
        leaf = parameter.leaf_state()
        if parameter.grad is None:
            continue
        if leaf.flat is None or leaf.flat[0].shares is None or parameter.grad._data is not leaf.buffer:
            whole.append(parameter.grad._data)
            continue
        buffer, start, stop = leaf.flat
        shares = shares or buffer.shares
        first, last, place = next(buffer.owned(start, stop), (start, start, 0))
        masters = buffer.shares.masters
        if masters is None:
            pieces.append(buffer.grad[first:last])
            continue
        masters.take_writes([parameter])
        pieces.append(masters.mean(slice(first, last), slice(place, place + last - first)))
    return whole, pieces, shares


def flatten(parameters: Sequence[Tensor], *, allocate: Allocate | None = None) -> list[FlatBuffer]:
    """Move parameters that lie in no flat buffer yet into one a dtype and device, last parameter first.

    Gradients become ready from the last parameter to the first, so that order fills a buffer from its start.

    Returns:
        The buffers that hold ``parameters``, old and new, in the order of their first parameter.
    """
    loose: dict[Any, dict[int, Tensor]] = {}
    for parameter in reversed(parameters):
        if parameter.leaf_state().flat is None:
            loose.setdefault((parameter.dtype, parameter.device), {})[id(parameter)] = parameter
    for group in loose.values():
        FlatBuffer(group.values(), allocate=allocate)
    buffers = [parameter.leaf_state().flat[0] for parameter in reversed(parameters)]
    return list(dict.fromkeys(buffers))
