"""Random numbers from a counter: Philox, keyed by seed and stream.

A generator's state is (seed, stream, counter), so that the same numbers come out on every rank, host and
device, and a state can be saved and restored. Numbers on a GPU are drawn there: words and uniform numbers are
the host's to the bit, normal ones up to the rounding of its logarithms and cosines.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox 4x64, 10 rounds).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.backend.device import CPU, Device, activated, device_of, to_device
from distgrad.backend.kernels.table import accelerated
from distgrad.backend.meta import META
from distgrad.backend.recording import as_one_call, effect
from distgrad.errors import OptionError

__all__ = ["Generator", "default_generator", "manual_seed"]

_WORDS_PER_BLOCK = 4
_MASK = (1 << 64) - 1
_HALF_STEPS = {"float16": 2048, "bfloat16": 256}  # as many as the type tells apart just below 1


class Generator:
    """A stream of random numbers.

    Args:
        seed: which numbers; any whole number.
        stream: which of the seed's independent streams (a rank, a shard, a worker).

    Attributes:
        num_seedings: how often it was started anew.
    """

    num_seedings = 0

    def __init__(self, seed: int = 0, stream: int = 0) -> None:
        self.manual_seed(seed, stream)

    @classmethod
    def at(cls, state: tuple[int, int, int]) -> Generator:
        """A generator that draws from a seed, stream and block on."""
        generator = cls(*state[:2])
        generator._block = state[2]
        return generator

    @effect
    def manual_seed(self, seed: int, stream: int = 0) -> Generator:
        """Start anew from ``seed``; returns the generator."""
        self.seed = int(seed)
        self.stream = int(stream)
        self._block = 0
        self.num_seedings += 1
        return self

    @effect
    def get_state(self) -> dict[str, int]:
        """What :meth:`set_state` takes to go on from here."""
        return {"seed": self.seed, "stream": self.stream, "block": self._block}

    @effect
    def set_state(self, state: dict[str, int]) -> None:
        """Go on from a state that :meth:`get_state` returned.

        Raises:
            KeyError: another kind of state.
            TypeError: one that is not of whole numbers.
            ValueError: a block below 0.
        """
        seed, stream, block = (operator.index(state[name]) for name in ("seed", "stream", "block"))
        if block < 0:
            raise ValueError(f"Generator.set_state: expected a block of 0 or more, got {block}")
        self.seed, self.stream, self._block = seed, stream, block

    @effect
    def reserve(self, count: int, times: int = 1) -> tuple[int, int, int]:
        """Pass over ``count`` words, for somebody who draws them by the seed, stream and block returned.

        Args:
            count: of words that are drawn at once.
            times: how often they are.
        """
        block = self._block
        self._block += times * -(-count // _WORDS_PER_BLOCK)
        return self.seed, self.stream, block

    def reserve_uniform(self, count: int, dtype: Any = np.float32) -> tuple[int, int, int]:
        """As :meth:`reserve`, for ``count`` numbers of :meth:`uniform`."""
        return self.reserve(count if np.dtype(dtype) == np.float64 else -(-count // 2))

    def bits(self, count: int, device: Device = CPU) -> Any:
        """``count`` random words, uint64[count]; the counter moves on by whole blocks of four."""
        if device != CPU:
            return _drawn(_bits, device, (count,), np.uint64, self.reserve(count))
        return _words(self.reserve(count), count)

    def uniform(self, shape: tuple[int, ...], dtype: Any = np.float32, device: Device = CPU) -> Any:
        """Numbers uniform on [0, 1), of a floating ``dtype``."""
        count = math.prod(shape)
        if device != CPU:
            return _drawn(_uniform, device, shape, dtype, self.reserve_uniform(count, dtype))
        if np.dtype(dtype) == np.float64:
            return ((self.bits(count) >> np.uint64(11)) * 2.0**-53).reshape(shape)
        halves = self.bits(-(-count // 2)).view(np.uint32)[:count]
        values = (halves >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
        steps = _HALF_STEPS.get(np.dtype(dtype).name)
        if steps is not None:  # 24 random bits would round up to 1
            values = np.floor(values * np.float32(steps)) * np.float32(1 / steps)
        return values.reshape(shape).astype(dtype, copy=False)

    def normal(self, shape: tuple[int, ...], dtype: Any = np.float32, device: Device = CPU) -> Any:
        """Numbers of the standard normal distribution.

        Source: Box and Muller, Annals of Mathematical Statistics, 1958.
        """
        count = math.prod(shape)
        wide = np.float64 if np.dtype(dtype) == np.float64 else np.float32
        pairs = -(-count // 2)
        if device != CPU:
            return _drawn(_normal, device, shape, dtype, self.reserve_uniform(2 * pairs, wide))
        draws = self.uniform((2, pairs), wide)
        radius = np.sqrt(-2.0 * np.log1p(-draws[0]))
        angle = (2.0 * math.pi) * draws[1]
        values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
        return values.reshape(shape).astype(dtype, copy=False)

    def integers(
        self, low: int, high: int, shape: tuple[int, ...], dtype: Any = np.int64, device: Device = CPU
    ) -> Any:
        """Whole numbers uniform on [low, high).

        Raises:
            OptionError: an empty interval.
        """
        if high <= low:
            raise OptionError(f"randint: expected low < high, got low={low}, high={high}")
        words = self.bits(math.prod(shape), device)
        span = high - low
        with activated(device):
            values = words if span >= 1 << 64 else words % np.uint64(span)
            return (values.astype(np.int64) + low).reshape(shape).astype(dtype, copy=False)

    def permutation(self, count: int) -> np.ndarray:
        """The numbers 0 … count−1 in random order, int64[count]."""
        if count < 0:
            raise OptionError(f"randperm: expected a count of 0 or more, got {count}")
        return np.argsort(self.bits(count), kind="stable")

    def host(self) -> np.random.Generator:
        """A generator of NumPy's, keyed by the next words, for distributions that it draws on the host."""
        return np.random.Generator(np.random.Philox(key=self.bits(2)))


@as_one_call()
def _words(state: tuple[int, int, int], count: int) -> np.ndarray:
    """``count`` words from a seed, stream and block on."""
    seed, stream, block = state
    key = np.array([seed & _MASK, stream & _MASK], dtype=np.uint64)
    counter = np.array([block & _MASK, block >> 64, 0, 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def _drawn(draw: Callable[..., Any], device: Device, shape: tuple[int, ...], dtype: Any, state: Any) -> Any:
    with activated(device) as xp:
        out = xp.empty(shape, dtype)
        return out if device == META else draw(xp, out, state)


# Where a device has no generator of its own, the host draws the numbers and sends them.


def _sent_bits(xp: Any, out: Any, state: tuple[int, int, int]) -> Any:
    return to_device(Generator.at(state).bits(out.size), device_of(out))


def _sent_uniform(xp: Any, out: Any, state: tuple[int, int, int]) -> Any:
    return to_device(Generator.at(state).uniform(out.shape, out.dtype), device_of(out))


def _sent_normal(xp: Any, out: Any, state: tuple[int, int, int]) -> Any:
    return to_device(Generator.at(state).normal(out.shape, out.dtype), device_of(out))


_bits = accelerated("random_bits", _sent_bits)
_uniform = accelerated("random_uniform", _sent_uniform)
_normal = accelerated("random_normal", _sent_normal)

default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seed the default generator, which random functions use when they are given none."""
    return default_generator.manual_seed(seed)
