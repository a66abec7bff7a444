"""distgrad and PyTorch under one name for each thing that the check of a GPU measures."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from distgrad.scale.bench import peers

Array = Any
#: dtype and what :meth:`Contender.set_precision` is told; by the name in the tables.
PRECISIONS = {
    "float32": ("float32", "highest"),
    "TF32": ("float32", "high"),
    "float16": ("float16", "highest"),
    "bfloat16": ("bfloat16", "highest"),
}


class Contender:
    """A library on one device.

    Args:
        library: ``distgrad`` or ``torch``; their functions have the same names.
        device: ``cuda``, or ``cpu`` to try the measurement itself.

    Attributes:
        functional: ``nn.functional``.
        attend: scaled dot product attention.
    """

    def __init__(self, library: str, device: str) -> None:
        self.name, self.device = library, device
        self.is_ours = library == "distgrad"
        self.module = importlib.import_module(library)
        self.functional = importlib.import_module(f"{library}.nn.functional")
        self.attend = (self.module if self.is_ours else self.functional).scaled_dot_product_attention
        self.set_precision("highest")

    def step(self, workload: str) -> Callable[[], Any]:
        """A training step of a workload, over when it is queued."""
        make = peers.distgrad_step if self.is_ours else peers.torch_step
        return make(workload, 1, self.device, wait=False)

    def random(self, *shape: int, dtype: str = "float32", gradient: bool = False) -> Array:
        """Normal numbers: products of zeros or ones run faster than those of data."""
        with self.no_grad():
            x = self.module.randn(*shape, device=self.device).to(getattr(self.module, dtype))
        return x.requires_grad_() if gradient else x

    def whole(self, values: np.ndarray) -> Array:
        """An array of whole numbers on the device."""
        return self.module.asarray(values, device=self.device)

    def no_grad(self) -> AbstractContextManager[Any]:
        """Without a graph."""
        return self.module.no_grad()

    def set_precision(self, precision: str) -> None:
        """How float32 products are computed, convolutions too, which PyTorch alone would do in TF32."""
        self.module.set_float32_matmul_precision(precision)
        if not self.is_ours:
            self.module.backends.cudnn.allow_tf32 = precision != "highest"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            self.module.cuda.synchronize()

    def start_peak(self) -> None:
        """Count the most memory from now on."""
        if self.device == "cuda":
            self.module.cuda.reset_peak_memory_stats()

    def peak_mib(self) -> float | None:
        """The most memory that arrays held; None on a CPU."""
        return self.module.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else None

    def free_bytes(self) -> int:
        """Of the device."""
        return self.module.cuda.mem_get_info()[0] if self.device == "cuda" else 1 << 30
