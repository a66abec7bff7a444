"""Sequences of different lengths in one batch: padded, or packed without the padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.creation import full
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device
from distgrad.errors import OptionError, ShapeError

__all__ = [
    "PackedSequence",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class PackedSequence(NamedTuple):
    """Sequences, longest first, with all their first elements, then all their second ones, and so on.

    Attributes:
        data: ``[total length, ...]``.
        batch_sizes: how many sequences have a t-th element, int64[longest length].
        sorted_indices: which of the user's sequences stands at each place; None: as they were.
        unsorted_indices: the place of each of the user's sequences; None: as they were.
    """

    data: Tensor
    batch_sizes: np.ndarray
    sorted_indices: np.ndarray | None = None
    unsorted_indices: np.ndarray | None = None

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with its data as ``Tensor.to`` gives it; the numbers stay on the host."""
        return self._replace(data=self.data.to(*args, **kwargs))

    def cpu(self) -> PackedSequence:
        """The same with its data on the CPU."""
        return self.to("cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with its data on a GPU, as ``Tensor.cuda`` has it."""
        return self._replace(data=self.data.cuda(*args, **kwargs))

    def float(self) -> PackedSequence:
        """The same with its data in float32."""
        return self.to(np.float32)

    def double(self) -> PackedSequence:
        """The same with its data in float64."""
        return self.to(np.float64)

    def half(self) -> PackedSequence:
        """The same with its data in float16."""
        return self.to(np.float16)

    def pin_memory(self) -> PackedSequence:
        """The same with its data in pinned memory, as ``Tensor.pin_memory`` has it."""
        return self._replace(data=self.data.pin_memory())

    def lengths(self) -> np.ndarray:
        """The length of each sequence, longest first."""
        return (self.batch_sizes[:, None] > np.arange(self.batch_sizes[0])).sum(axis=0)

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the t-th element of sequence n lies in ``data``, int64[L, N], and whether there is one."""
        starts = np.cumsum(self.batch_sizes) - self.batch_sizes
        places = np.arange(self.batch_sizes[0])
        exists = places < self.batch_sizes[:, None]
        return np.where(exists, starts[:, None] + places, 0), exists


def _whole_numbers(lengths: Any) -> np.ndarray:
    values = np.asarray(to_device(lengths._data, CPU) if isinstance(lengths, Tensor) else lengths)
    return values.astype(np.int64).reshape(-1)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch.

    Args:
        input: ``[L, N, ...]``, or ``[N, L, ...]`` if ``batch_first``.
        lengths: of each sequence, N whole numbers from 1 to L.
        batch_first: where N stands.
        enforce_sorted: whether the sequences must come longest first; if not, they are sorted, and their
            order is remembered.

    Raises:
        ShapeError: lengths that do not fit the batch.
        OptionError: an order that is not longest first, where it must be.
    """
    sizes = _whole_numbers(lengths)
    if batch_first:
        input = ops.permute_dims(input, (1, 0, *range(2, input.ndim)))
    if sizes.shape != input.shape[1:2] or sizes.min(initial=1) < 1 or sizes.max(initial=0) > input.shape[0]:
        raise ShapeError(
            f"pack_padded_sequence: {input.shape[1]} sequences padded to {input.shape[0]} need as many "
            f"lengths from 1 to {input.shape[0]}, got {sizes.tolist()}"
        )
    order = None
    if not enforce_sorted:
        order = np.argsort(-sizes, kind="stable")
        sizes = sizes[order]
    elif np.any(np.diff(sizes) > 0):
        raise OptionError(
            f"pack_padded_sequence: lengths must fall, got {sizes.tolist()}; sort the batch or pass "
            "enforce_sorted=False"
        )
    steps, places = np.nonzero(np.arange(sizes.max(initial=0))[:, None] < sizes)
    key = tuple(
        [to_device(each, input.device) for each in (steps, places if order is None else order[places])]
    )
    data = ops.getitem(input, key)
    batch_sizes = np.bincount(steps)
    return PackedSequence(data, batch_sizes, order, None if order is None else np.argsort(order))


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Undo :func:`pack_padded_sequence`.

    Args:
        sequence: what was packed.
        batch_first: give ``[N, L, ...]`` instead of ``[L, N, ...]``.
        padding_value: what stands behind the end of a sequence.
        total_length: L; None means that of the longest sequence.

    Returns:
        The padded batch and the lengths, int64[N], in the user's order.
    """
    positions, exists = sequence.positions()
    lengths = sequence.lengths()
    if sequence.unsorted_indices is not None:
        positions, exists = positions[:, sequence.unsorted_indices], exists[:, sequence.unsorted_indices]
        lengths = lengths[sequence.unsorted_indices]
    longest = len(positions)
    total = longest if total_length is None else total_length
    if total < longest:
        raise OptionError(f"pad_packed_sequence: total_length must be at least {longest}, got {total_length}")
    more = ((0, total - longest), (0, 0))
    positions, exists = np.pad(positions, more), np.pad(exists, more)
    rows = ops.getitem(sequence.data, (to_device(positions, sequence.data.device),))
    exists = to_device(exists, sequence.data.device)
    mask = exists.reshape(*exists.shape, *(1,) * (rows.ndim - 2))
    padded = ops.where(mask, rows, padding_value)
    if batch_first:
        padded = ops.permute_dims(padded, (1, 0, *range(2, padded.ndim)))
    return padded, Tensor(lengths)


def pad_sequence(
    sequences: Sequence[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Stack sequences ``[L_n, ...]`` into ``[L, N, ...]``, filled up to the longest.

    Args:
        sequences: their axes after the first must be alike.
        batch_first: give ``[N, L, ...]``.
        padding_value: what fills up.
        padding_side: "right" fills behind a sequence, "left" before it.
    """
    if padding_side not in ("right", "left"):
        raise OptionError(f"pad_sequence: padding_side must be 'right' or 'left', got {padding_side!r}")
    longest = max(sequence.shape[0] for sequence in sequences)
    padded = []
    for sequence in sequences:
        filling = full(
            (longest - sequence.shape[0], *sequence.shape[1:]),
            padding_value,
            dtype=sequence.dtype,
            device=sequence.device,
        )
        parts = [sequence, filling] if padding_side == "right" else [filling, sequence]
        padded.append(ops.concat(parts, axis=0) if len(filling) else sequence)
    return ops.stack(padded, axis=0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """Undo :func:`pad_sequence`: the sequences without what fills them up."""
    if not batch_first:
        padded_sequences = ops.permute_dims(padded_sequences, (1, 0, *range(2, padded_sequences.ndim)))
    return [padded_sequences[n, :length] for n, length in enumerate(_whole_numbers(lengths).tolist())]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences ``[L_n, ...]``; ``enforce_sorted`` is that of :func:`pack_padded_sequence`."""
    lengths = [sequence.shape[0] for sequence in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """Undo :func:`pack_sequence`: the sequences ``[L_n, ...]``, in the order in which they were packed."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences))
