"""What is sent in the place of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.parallel.buckets import Hook
from distgrad.parallel.compress import bf16, fp16

__all__ = ["Compression", "Compressor"]


class Compressor:
    """Tensors as they are.

    Attributes:
        hook: the same for the buckets of an optimizer; None: as they are.
    """

    hook: Hook | None = None
    dtype: Any = None

    @classmethod
    def compress(cls, tensor: Tensor) -> tuple[Tensor, Any]:
        """What is sent, and what :meth:`decompress` needs to know."""
        if cls.dtype is None or tensor.dtype.char not in FLOATING:
            return tensor, None
        return tensor.astype(cls.dtype), tensor.dtype

    @classmethod
    def decompress(cls, tensor: Tensor, ctx: Any) -> Tensor:
        """What was received, as what was given."""
        return tensor if ctx is None else tensor.astype(ctx)


class _Half(Compressor):
    """As float16."""

    hook = staticmethod(fp16)
    dtype = np.dtype(np.float16)


class _Brain(Compressor):
    """The buckets of an optimizer as bfloat16, single tensors as they are."""

    hook = staticmethod(bf16)


class Compression:
    """The kinds there are."""

    none = Compressor
    fp16 = _Half
    bf16 = _Brain
