"""What all ranks hold alike: set to one rank's, averaged, and compared.

What lies on the device whose arrays a communicator exchanges goes over it, and what lies on the host over its
``host``.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.device import CPU, Device, activated, to_device
from distgrad.comm.base import Communicator
from distgrad.errors import CommMismatchError
from distgrad.nn.module import Module
from distgrad.nn.parameter import write

__all__ = [
    "Held",
    "average",
    "broadcast",
    "checksums",
    "compare",
    "held_alike",
    "join_buffers",
    "parameter_hash",
]

_BLOCK_ELEMENTS = 1 << 22  # of a checksum's temporaries on a device


def parameter_hash(module: Module) -> str:
    """SHA-256 of a module's parameters, names and dtypes included, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)};".encode())
        digest.update(to_device(parameter._data, CPU).tobytes())
    return digest.hexdigest()


def _by_device(tensors: Sequence[Tensor]) -> dict[Device, list[Tensor]]:
    groups: dict[Device, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device, []).append(tensor)
    return groups


def broadcast(tensors: Sequence[Tensor], comm: Communicator, root: int = 0) -> None:
    """Set tensors to one rank's, by one collective a device.

    Collective: yes; blocks: yes, except on a device.
    """
    for device, group in _by_device(tensors).items():
        group.sort(key=lambda tensor: -tensor.dtype.itemsize)  # so that every one is aligned
        with activated(device) as xp:
            joined = xp.concat([_bytes(xp, tensor._data) for tensor in group])
            joined = (comm.host if device == CPU else comm).broadcast(joined, root)
            start = 0
            for tensor in group:
                part = joined[start : start + tensor.nbytes].view(tensor.dtype)
                write(tensor, part.reshape(tensor.shape), "DistributedDataParallel")
                start += tensor.nbytes


def average(tensors: Sequence[Tensor], comm: Communicator, weight: float) -> None:
    """Set floating tensors to their weighted means over the ranks, by one collective a device.

    Collective: yes; blocks: yes, except on a device.
    """
    for device, group in _by_device(tensors).items():
        with activated(device) as xp:
            joined = xp.concat([tensor._data.reshape(-1).astype(np.float64) for tensor in group])
            (comm.host if device == CPU else comm).all_reduce(joined, "mean", weight=weight)
            start = 0
            for tensor in group:
                part = joined[start : start + tensor.size]
                write(tensor, part.reshape(tensor.shape).astype(tensor.dtype), "average")
                start += tensor.size


def join_buffers(buffers: list[Tensor], comm: Communicator, weight: float | None, by_rank0: bool) -> None:
    """Bring the ranks' buffers together.

    Collective: yes; blocks: yes, except on a device.

    Args:
        buffers: the same on every rank.
        comm: the ranks.
        weight: how much this rank's count in means of those of floating dtype; None makes no means.
        by_rank0: set the others to rank 0's.
    """
    if weight is not None and buffers:
        averaged = [buffer for buffer in buffers if buffer.dtype.char in FLOATING]
        buffers = [buffer for buffer in buffers if buffer.dtype.char not in FLOATING]
        if averaged and comm.host.all_reduce(np.array([weight]))[0] > 0.0:
            average(averaged, comm, weight)
    if by_rank0:
        broadcast(buffers, comm)


def _bytes(xp: Any, array: Any) -> Any:
    return xp.ascontiguousarray(array).reshape(-1).view(np.uint8)


def checksums(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """A number a tensor, in which differing values show; a device computes its own, for which the host waits.

    Collective: no; blocks: no.
    """
    found = np.zeros(len(tensors), np.int64)
    for device, group in _by_device(tensors).items():
        places = [place for place, tensor in enumerate(tensors) if tensor.device == device]
        with activated(device) as xp:
            arrays = [xp.ascontiguousarray(tensor._data) for tensor in group]
            if device == CPU:
                found[places] = [zlib.crc32(array.reshape(-1).view(np.uint8).data) for array in arrays]
            else:
                sums = xp.stack([_checksum(xp, array) for array in arrays])
                found[places] = to_device(sums, CPU).view(np.int64)
    return found


class Held(NamedTuple):
    """What a rank holds, by numbers in which differing values show.

    Attributes:
        names: of parameters.
        sums: ``[rows, parameters]``.
        holders: ``[rows, parameters]``, equal, on all ranks, where the same is held.
    """

    names: Sequence[str]
    sums: NDArray[np.int64]
    holders: NDArray[np.int64]


def held_alike(named: Sequence[tuple[str, Tensor]]) -> Held:
    """What every rank holds all of."""
    sums = checksums([tensor for _, tensor in named])[None]
    return Held([name for name, _ in named], sums, np.zeros_like(sums))


def compare(held: Held, comm: Communicator, number: int, agreed_step: int) -> int:
    """See whether all ranks hold the same where they should.

    Collective: yes; blocks: yes, on a GPU until it is there.

    Args:
        held: what this one holds, of the same rows and names on every rank.
        comm: the ranks.
        number: any of this rank's own.
        agreed_step: at which all agreed last.

    Returns:
        The rank with the largest number.

    Raises:
        CommMismatchError: they do not, with the first parameter that differs and the ranks.
    """
    told = comm.host.all_gather(np.concatenate([held.sums.ravel(), held.holders.ravel(), [number]]))
    rows, names = held.sums.shape
    sums, holders = (part.reshape(-1, names) for part in np.split(told[:, :-1], 2, axis=1))
    alike = np.argmax(holders[None] == holders[:, None], axis=1)  # the first row that holds the same
    wrong = sums != np.take_along_axis(sums, alike, axis=0)
    differs = wrong.any(axis=0)
    if not differs.any():
        return int(np.argmax(told[:, -1]))
    first = int(np.argmax(differs))
    same = alike[:, first] == alike[np.argmax(wrong[:, first]), first]
    ranks: dict[int, list[int]] = {}
    for row in np.flatnonzero(same).tolist():
        ranks.setdefault(int(sums[row, first]), []).append(row // rows)
    raise CommMismatchError(
        f"replicas differ in {int(differs.sum())} of {names} parameters, first in "
        f"{held.names[first]}; ranks {' against '.join(map(str, ranks.values()))}; all agreed last at "
        f"step {agreed_step}. Every rank must make the same updates: look for random numbers, "
        "data or options that enter an update on one rank only"
    )


def batch_checksum(arguments: Iterable[Any]) -> int:
    """A number that tells the host's tensors that a module was given from others; 0 where it cannot be known.

    That is where any argument holds what is not looked at: a structure, another library's array, or a tensor
    on a GPU, for which the host would have to wait.

    Collective: no; blocks: no.
    """
    tensors = []
    for each in arguments:
        if isinstance(each, Tensor) and each.device == CPU:
            tensors += [each] if each.size else []
        elif not (each is None or isinstance(each, Number | str)):
            return 0
    return zlib.crc32(checksums(tensors).tobytes()) if tensors else 0


def _checksum(xp: Any, array: Any) -> Any:
    """The sum modulo 2⁶⁴ of the elements' bits, each mixed with its place."""
    bits = array.reshape(-1).view(np.dtype(f"u{min(array.itemsize, 8)}"))
    total = xp.zeros((), np.uint64)
    for start in range(0, bits.size, _BLOCK_ELEMENTS):
        block = bits[start : start + _BLOCK_ELEMENTS].astype(np.uint64)
        mixed = (block + np.uint64(1)) * (xp.arange(block.size, dtype=np.uint64) + np.uint64(start + 1))
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio, odd
        total = total + xp.sum(mixed ^ (mixed >> np.uint64(32)), dtype=np.uint64)
    return total
