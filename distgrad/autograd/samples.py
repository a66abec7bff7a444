"""The records' samples and rejections as inputs that a primitive can be called with.

Tests, the reference and benchmarks take their inputs from here, so that all see the same numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import operations
from distgrad.autograd.later import read_all
from distgrad.autograd.primitive import DTYPE_CHARS, REGISTRY, Primitive, Reject, Sample
from distgrad.autograd.tensor import Tensor

read_all()

__all__ = ["Case", "is_floating", "reject_cases", "sample_cases"]


@dataclass(frozen=True, eq=False)
class Case:
    """One sample or rejection of one primitive, ready to be called.

    The random numbers depend on the primitive's name and on ``index`` alone.

    Args:
        record: the primitive.
        example: its sample or rejection.
        index: place in ``record.samples`` or ``record.rejects``.
    """

    record: Primitive
    example: Sample | Reject
    index: int

    def __str__(self) -> str:
        note = self.example.note if isinstance(self.example, Sample) else ""
        return f"{self.record.name}-{note.replace(' ', '_') or self.index}"

    def arguments(self, dtype: Any = np.float64) -> list[Any]:
        """The arguments as the public function takes them, floating arrays of a sample in ``dtype``."""
        rng = np.random.default_rng([zlib.crc32(self.record.name.encode()), self.index])
        return [self._fill(arg, rng, np.dtype(dtype)) for arg in self.example.args]

    def inputs(self, dtype: Any = np.float64) -> list[Any]:
        """The arguments with the lists among them spread out; :meth:`call` takes them."""
        return list(_leaves(self.arguments(dtype)))

    def tensors(self, dtype: Any = np.float64) -> list[Any]:
        """The inputs, each real floating array as a tensor that requires a gradient."""
        return [Tensor(x, requires_grad=True) if is_floating(x) else x for x in self.inputs(dtype)]

    def call(self, *inputs: Any) -> Any:
        """The public function on ``inputs``, with the example's attributes.

        Floating arrays among the attributes are brought to the dtype of the first floating input.
        """
        rest = iter(inputs)
        arguments = [_filled(arg, rest) for arg in self.example.args]
        floating = [x.dtype for x in inputs if isinstance(x, np.ndarray | Tensor) and x.dtype.kind == "f"]
        attributes = {
            name: value.astype(floating[0]) if floating and is_floating(value) else value
            for name, value in self.example.attributes.items()
        }
        return operations.__dict__[self.record.name](*arguments, **attributes)

    def _fill(self, arg: Any, rng: np.random.Generator, dtype: np.dtype[Any]) -> Any:
        if isinstance(arg, list):
            return [self._fill(each, rng, dtype) for each in arg]
        if isinstance(arg, tuple):
            return self._random(arg, rng, dtype)
        if isinstance(self.example, Reject) or not is_floating(arg):  # a dtype may be what is rejected
            return arg
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite
            return arg.astype(dtype)

    def _random(self, shape: tuple[int, ...], rng: np.random.Generator, dtype: np.dtype[Any]) -> np.ndarray:
        """Numbers of a kind that the primitive takes, floating if it does."""
        own = self.example.domain if isinstance(self.example, Sample) else None
        domain = own or self.record.domain
        chars = DTYPE_CHARS[self.record.dtypes]
        if chars == "?":
            return rng.random(shape) < 0.5
        if "d" not in chars and "D" not in chars:
            low, high = domain or (-5, 6)
            return rng.integers(int(low), int(high), shape)
        x = np.asarray(rng.standard_normal(shape) if domain is None else rng.uniform(*domain, shape))
        return x.astype(dtype) if "d" in chars else x + 1j * np.asarray(rng.standard_normal(shape))


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, list):
        for each in x:
            yield from _leaves(each)
    else:
        yield x


def _filled(arg: Any, rest: Iterator[Any]) -> Any:
    return [_filled(each, rest) for each in arg] if isinstance(arg, list) else next(rest)


def is_floating(x: Any) -> bool:
    """Whether ``x`` is an array of real floating numbers: one that a gradient can be asked for."""
    return isinstance(x, np.ndarray) and x.dtype.char in DTYPE_CHARS["real floating-point"]


def sample_cases(records: Iterable[Primitive] | None = None) -> Iterator[Case]:
    """Every sample of ``records``; None means of all primitives."""
    for record in REGISTRY.values() if records is None else records:
        for index, sample in enumerate(record.samples):
            yield Case(record, sample, index)


def reject_cases(records: Iterable[Primitive] | None = None) -> Iterator[Case]:
    """Every rejection of ``records``; None means of all primitives."""
    for record in REGISTRY.values() if records is None else records:
        for index, reject in enumerate(record.rejects):
            yield Case(record, reject, index)
