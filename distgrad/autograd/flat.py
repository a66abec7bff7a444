"""Flat storage: parameters as slices of one array, their gradients as slices of its twin.

A bucket, an optimizer's update, a norm or an all-reduce is then one call on one array, and nothing is packed
or unpacked. ``param.data`` and ``param.grad`` are views of the slices. What lies side by side is a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import activated, device_of, find_backend
from distgrad.errors import DeviceError, DTypeError

__all__ = ["FlatBuffer", "Run", "flatten", "gradient_arrays", "gradient_runs", "join_runs"]

_ALIGNMENT_BYTES = 64  # a cache line, and the widest vector register

Allocate = Callable[[int], Any]


class FlatBuffer:
    """Parameters of one dtype and device, moved into one array in the order given.

    Args:
        parameters: leaf tensors of one floating dtype on one device; their elements move, their values stay.
        spare: elements behind each parameter that are nobody's (a bucket's weights); zeros between uses.
        allocate: returns ``num_bytes`` bytes as a uint8 array on that device, as a communicator's
            ``allocate`` does; None takes them from the device's memory.

    Attributes:
        data: ``[size]``, the parameters' elements, each parameter at a multiple of 64 bytes, zeros between.
        grad: ``[size]``, the gradients' elements in the same places.
        slices: for each parameter its place in both.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, spare: int = 0, allocate: Allocate | None = None
    ) -> None:
        self.parameters = list(parameters)
        dtypes = {parameter.dtype for parameter in self.parameters}
        if len(dtypes) != 1:
            raise DTypeError(f"FlatBuffer: expected parameters of one dtype, got {sorted(map(str, dtypes))}")
        devices = {parameter.device for parameter in self.parameters}
        if len(devices) != 1:
            raise DeviceError(
                f"FlatBuffer: expected parameters on one device, got {sorted(map(str, devices))}; move the "
                "module with .to"
            )
        self.dtype, self.device = dtypes.pop(), devices.pop()
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
            self._move(parameter, where)

    def next_place(self, stop: int) -> int:
        """Where the parameter starts that follows one which ends at ``stop``."""
        step = max(1, _ALIGNMENT_BYTES // self.dtype.itemsize)
        return -(-(stop + self.spare) // step) * step

    def _array(self, size: int, allocate: Allocate | None) -> Any:
        num_bytes = size * self.dtype.itemsize
        if allocate is None:
            memory = find_backend(self.device.kind).allocate(num_bytes, self.device.index)
        else:
            memory = allocate(num_bytes)
        if device_of(memory) != self.device:
            raise DeviceError(
                f"FlatBuffer: the parameters lie on {self.device}, but the communicator's memory on "
                f"{device_of(memory)}; use the 'nccl' backend for GPUs"
            )
        array = memory[:num_bytes].view(self.dtype)
        with activated(self.device):
            array[...] = 0
        return array

    def _move(self, parameter: Tensor, where: slice) -> None:
        leaf = parameter.leaf_state()
        home = self.data[where].reshape(parameter.shape)
        with activated(self.device):
            home[...] = parameter._data
        parameter._data = home
        gradient = leaf.grad
        leaf.flat = (self, where.start, where.stop)
        leaf.buffer = self.grad[where].reshape(parameter.shape)
        if gradient is not None:
            parameter.grad = gradient


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
        if where is not None:
            parameter.grad.changed(where)
        leaf = parameter.leaf_state()
        if parameter.grad._data is leaf.buffer:
            pieces.append(Run(*leaf.flat))
        else:
            loose.append(parameter.grad._data)
    return join_runs(pieces), loose


def gradient_arrays(parameters: Iterable[Tensor], where: str | None = None) -> list[Any]:
    """The arrays of :func:`gradient_runs`."""
    runs, loose = gradient_runs(parameters, where)
    return loose + [run.buffer.grad[run.start : run.stop] for run in runs]


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
