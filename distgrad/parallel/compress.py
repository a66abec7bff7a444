"""Compressors: hooks that send less than a bucket's gradients.

Each is a function of a bucket that submits its arithmetic and its collectives as one piece of work to the
communication thread, behind the backward pass. Those that leave something out remember it and add it to the
next step's gradients (error feedback), so that in the long run nothing is lost. What they remember is each
rank's own: it is part of the module's ``state_dict`` on every rank, to be saved on every rank; where one
rank's is loaded on all, they start from that.

Source: Seide et al., Interspeech 2014 (error feedback).
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.parts import are_local
from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import Device, device_of, plain, to_device
from distgrad.comm.base import Communicator
from distgrad.comm.work import Work
from distgrad.parallel.buckets import Bucket, time_all_reduce

__all__ = ["Payoff", "PowerSGD", "TopK", "bf16", "fp16"]

Array = NDArray[Any]
_JUDGED_STEPS = 10


def fp16(bucket: Bucket) -> Work:
    """Send gradients as float16: half of float32's bytes, 11 bits of precision, infinity beyond 65504.

    Gradients are rounded twice: on their way to the rank that sums them in float32, and on the way back.

    Collective: yes; blocks: no.
    """
    return bucket.comm.submit(lambda: _reduce_rounded(bucket, _to_half, _from_half), "fp16")


def bf16(bucket: Bucket) -> Work:
    """Send gradients as bfloat16: half of float32's bytes and all of its range, 8 bits of precision.

    Collective: yes; blocks: no.
    """
    return bucket.comm.submit(lambda: _reduce_rounded(bucket, _to_brain, _from_brain), "bf16")


def _to_half(x: Array) -> Array:
    with np.errstate(over="ignore"):  # an infinity tells the user, as it does without compression
        return x.astype(np.float16).view(np.uint16)


def _from_half(bits: Array) -> Array:
    return bits.view(np.float16).astype(np.float32)


def _to_brain(x: Array) -> Array:
    bits = x.astype(np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16  # to the nearest, ties to the even one
    not_a_number = (bits & 0x7FFFFFFF) > 0x7F800000
    return get_array_module(x).where(not_a_number, np.uint32(0x7FC0), rounded).astype(np.uint16)


def _from_brain(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _reduce_rounded(
    bucket: Bucket, encode: Callable[[Array], Array], decode: Callable[[Array], Array]
) -> None:
    """Sum 16-bit numbers in float32, a part of the bucket on each rank."""
    comm, gradients = bucket.comm, bucket.gradients
    if bucket.total == 0.0:
        return
    unit = 2.0 ** math.ceil(math.log2(bucket.total))  # no sum is above the mean, and none rounded
    gradients *= gradients.dtype.type(1.0 / unit)
    length = -(-gradients.size // comm.size)
    rows = get_array_module(gradients).zeros((comm.size, length), np.uint16)
    rows.reshape(-1)[: gradients.size] = encode(gradients)
    rows = comm.all_to_all(rows)
    total = decode(rows[0])
    for row in rows[1:]:
        total += decode(row)
    gradients[...] = decode(comm.all_gather(encode(total)).reshape(-1)[: gradients.size])
    gradients *= gradients.dtype.type(unit)


class _Feedback:
    """What is left out of one step and added to the next, by parameter, as a part of this rank's mean."""

    def __init__(self) -> None:
        self.errors: dict[str, Array] = {}

    def state_dict(self) -> dict[str, Array]:
        """This rank's own state, by name."""
        return {f"error.{name}": _kept(error) for name, error in self.errors.items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.errors = _under("error.", state)

    def _compensate(self, bucket: Bucket, place: int) -> Array:
        """One parameter's gradients in the bucket, with what the last step left out."""
        gradients = bucket.gradients[bucket.slices[place]]
        name = bucket.names[place]
        if name in self.errors:
            error = self.errors[name] = to_device(self.errors[name], bucket.flat.device)  # once loaded
            gradients += error * gradients.dtype.type(bucket.total)
        return gradients

    def _remember(self, bucket: Bucket, place: int, left_out: Array) -> None:
        self.errors[bucket.names[place]] = left_out / left_out.dtype.type(bucket.total)


def _kept(array: Array) -> Array:
    """What a state dict has of an array."""
    return array if are_local() else array.copy()


def _under(prefix: str, state: Mapping[str, Array]) -> dict[str, Array]:
    return {
        key.removeprefix(prefix): plain(value).copy()
        for key, value in state.items()
        if key.startswith(prefix)
    }


class PowerSGD(_Feedback):
    """Send a matrix ``M``, ``[n, m]``, as ``P Qᵀ`` of a low rank, found by one step of subspace iteration.

    ``P = orthogonal(Σ M_r Q)``, ``Q = Σ M_rᵀ P``, both summed over the ranks ``r``; ``(n + m) rank`` numbers
    instead of ``n m``. Parameters are matrices by their first axis against all others; those that would not
    shrink at least twofold are sent as they are.

    Args:
        rank: columns of P and Q.
        seed: of the first Q.

    Source: Vogels et al., NeurIPS 2019.
    """

    def __init__(self, rank: int = 1, seed: int = 0) -> None:
        if rank < 1:
            raise ValueError(f"PowerSGD: rank must be 1 or more, got {rank}")
        super().__init__()
        self.rank = rank
        self.seed = seed
        self._factors: dict[str, Array] = {}  # the Q of the last step

    def __repr__(self) -> str:
        return f"PowerSGD(rank={self.rank})"

    def __call__(self, bucket: Bucket) -> Work:
        """Sum a bucket's gradients.

        Collective: yes; blocks: no.
        """
        return bucket.comm.submit(lambda: self._reduce(bucket), repr(self))

    def state_dict(self) -> dict[str, Array]:
        """This rank's own state, by name."""
        factors = {f"factor.{name}": _kept(factor) for name, factor in self._factors.items()}
        return {**super().state_dict(), **factors}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take back what :meth:`state_dict` gave."""
        super().load_state_dict(state)
        self._factors = _under("factor.", state)

    def _shrinks(self, shape: tuple[int, ...]) -> bool:
        n, m = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (0, 0)
        return 2 * (n + m) * self.rank <= n * m and n * m > 0

    def _factor(self, name: str, matrix: Array) -> Array:
        factor = self._factors.get(name)
        if factor is None:
            rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])  # the same on every rank
            factor = rng.standard_normal((matrix.shape[1], self.rank))
        return to_device(factor.astype(matrix.dtype, copy=False), device_of(matrix))

    def _reduce(self, bucket: Bucket) -> None:
        if bucket.total == 0.0:
            return
        matrices, small = {}, []
        for place, parameter in enumerate(bucket.parameters):
            if not bucket.used[place]:
                continue
            if self._shrinks(parameter.shape):
                matrix = self._compensate(bucket, place).reshape(parameter.shape[0], -1)
                matrices[place] = matrix.astype(np.result_type(matrix.dtype, np.float32))
            else:
                small.append(bucket.gradients[bucket.slices[place]])
        names = {place: bucket.names[place] for place in matrices}
        left = {place: matrix @ self._factor(names[place], matrix) for place, matrix in matrices.items()}
        _sum_together(bucket, [*small, *left.values()])
        for place, matrix in matrices.items():
            left[place] = _orthogonal(left[place])
            self._factors[names[place]] = matrix.T @ left[place]
            self._remember(bucket, place, (matrix - left[place] @ self._factors[names[place]].T).reshape(-1))
        _sum_together(bucket, [self._factors[name] for name in names.values()])
        for place, name in names.items():
            product = left[place] @ self._factors[name].T
            bucket.gradients[bucket.slices[place]] = product.reshape(-1)


def _orthogonal(columns: Array) -> Array:
    """Columns of length 1 at right angles that span the same, ``[n, k]``, by Gram-Schmidt.

    On a GPU that is a few small kernels, where a QR decomposition would be many.
    """
    xp, (n, k) = get_array_module(columns), columns.shape
    columns = columns.copy()
    for i in [*range(k), *range(k)]:  # twice, as rounding leaves them askew where they are nearly alike
        column, rest = columns[:, i], columns[:, i + 1 :]
        length = xp.sqrt(xp.sum(column * column))
        any_other = xp.arange(n) == i  # so that a gradient of 0 does not stop at 0 for good
        column[...] = xp.where(length > 0.0, column / xp.where(length > 0.0, length, 1.0), any_other)
        if i + 1 < k:
            rest -= column[:, None] * (column @ rest)
    return columns


def _sum_together(bucket: Bucket, arrays: list[Array]) -> None:
    """Sum arrays over the ranks, in place, by one collective."""
    if arrays:
        joined = get_array_module(arrays[0]).concat([array.reshape(-1) for array in arrays])
        bucket.comm.all_reduce(joined)
        start = 0
        for array in arrays:
            array[...] = joined[start : start + array.size].reshape(array.shape)
            start += array.size


class TopK(_Feedback):
    """Send a bucket's largest elements alone, with their places.

    Args:
        ratio: the share of a bucket's elements that each rank sends, above 0 up to 1; at least one is sent.

    Source: Lin et al., "Deep gradient compression", ICLR 2018 (without momentum correction).
    """

    def __init__(self, ratio: float = 0.01) -> None:
        if not 0.0 < ratio <= 1.0:
            raise ValueError(f"TopK: ratio must be above 0 and at most 1, got {ratio}")
        super().__init__()
        self.ratio = ratio

    def __repr__(self) -> str:
        return f"TopK(ratio={self.ratio})"

    def __call__(self, bucket: Bucket) -> Work:
        """Sum a bucket's gradients.

        Collective: yes; blocks: no.
        """
        return bucket.comm.submit(lambda: self._reduce(bucket), repr(self))

    def _reduce(self, bucket: Bucket) -> None:
        places = [place for place, used in enumerate(bucket.used) if used]
        slices = [bucket.slices[place] for place in places]
        size = sum(where.stop - where.start for where in slices)
        if bucket.total == 0.0 or size == 0:
            return
        xp = get_array_module(bucket.gradients)
        own = xp.concat([self._compensate(bucket, place) for place in places])
        count = max(1, round(self.ratio * size))
        chosen = xp.sort(xp.argpartition(xp.abs(own), size - count)[size - count :]).astype(np.int32)
        first, length = (-(-num_bytes // 8) * 8 for num_bytes in (chosen.nbytes, count * own.itemsize))
        message = xp.zeros(first + length, np.uint8)  # two parts, aligned as a GPU needs them
        message[: chosen.nbytes] = chosen.view(np.uint8)
        values = slice(first, first + count * own.itemsize)
        message[values] = own[chosen].view(np.uint8)
        own[chosen] = 0
        total = xp.zeros_like(own)
        for row in bucket.comm.all_gather(message):
            total[row[: chosen.nbytes].view(np.int32)] += row[values].view(own.dtype)
        start = 0
        for place, where in zip(places, slices, strict=True):
            part = slice(start, start + where.stop - where.start)
            self._remember(bucket, place, own[part])
            bucket.gradients[where] = total[part]
            start = part.stop


class Payoff:
    """Warns, once, if a compressor takes longer than sending the gradients as they are.

    Args:
        hook: the compressor.
        num_bytes: of all gradients.
        plain_s: seconds that they take without it.
    """

    def __init__(self, hook: Any, num_bytes: int, plain_s: float) -> None:
        self._hook = hook
        self._num_bytes = num_bytes
        self._plain_s = plain_s
        self._compressed_s: list[float] = []

    @staticmethod
    def watch(hook: Any, comm: Communicator, buckets: Sequence[Bucket], device: Device) -> Payoff | None:
        """On rank 0, what sees whether a compressor pays.

        Collective: yes; blocks: yes.
        """
        if comm.size == 1 or not Payoff.concerns(hook):
            return None
        num_bytes = sum(bucket.gradients.nbytes for bucket in buckets)
        plain_s = time_all_reduce(comm, num_bytes, device)
        return Payoff(hook, num_bytes, plain_s) if comm.rank == 0 else None

    @staticmethod
    def concerns(hook: Any) -> bool:
        """Whether a hook is a compressor."""
        return hook in (fp16, bf16) or isinstance(hook, _Feedback)

    def judge(self, step_s: float) -> None:
        """Take in the communication time of a step; the shortest of the first ten counts.

        Collective: no; blocks: no.
        """
        self._compressed_s.append(step_s)
        best_s = min(self._compressed_s)
        if len(self._compressed_s) == _JUDGED_STEPS and best_s > self._plain_s:
            name = getattr(self._hook, "__name__", repr(self._hook))
            warnings.warn(
                f"{name} does not pay here: it takes {1e3 * best_s:.3g} ms a step, and without it the "
                f"{self._num_bytes / 1e6:.3g} MB of gradients would take {1e3 * self._plain_s:.3g} ms "
                f"({8e-9 * self._num_bytes / self._plain_s:.3g} Gbit/s); leave hook out",
                stacklevel=2,
            )
