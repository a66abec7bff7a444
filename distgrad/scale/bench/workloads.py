"""Batches, sizes and matrix products of the step benchmark's workloads."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Product:
    """One matrix product of the forward pass: ``count`` times ``[m, k] [k, n]``.

    Args:
        share: part of the product that is needed (half of a causal one).
        input_gradient: whether backward needs the gradient of the left side.
    """

    m: int
    n: int
    k: int
    count: int = 1
    share: float = 1.0
    input_gradient: bool = True


@dataclass(frozen=True)
class Workload:
    """A model and its batch.

    Args:
        inputs: (kind, shape) of the batch: "normal" numbers, or whole numbers below ``kind``.
        classes: of the targets.
        rows: number of targets.
        products: the forward pass's matrix products.
        sizes: of the model.
        dtype: of parameters and inputs.
        time_first: whether samples lie along the second axis of the inputs.
    """

    inputs: tuple[str | int, tuple[int, ...]]
    classes: int
    rows: int
    products: tuple[Product, ...]
    sizes: tuple[int, ...] = ()
    dtype: str = "float32"
    time_first: bool = False

    def batch(self, part: int = 0, parts: int = 1, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, the same in every process: one of several equal parts, or all of them.

        Args:
            part, parts: which of how many.
            number: of the batch; others are of other numbers.
        """
        rng = np.random.default_rng(number)
        kind, shape = self.inputs
        if isinstance(kind, str):
            x = rng.standard_normal(shape).astype(self.dtype)
        else:
            x = rng.integers(0, kind, shape)
        y = rng.integers(0, self.classes, self.rows)
        axis, length = (1, shape[1]) if self.time_first else (0, shape[0])
        first, stop = (length * edge // parts for edge in (part, part + 1))
        per_sample = self.rows // length
        return x.take(range(first, stop), axis), y[first * per_sample : stop * per_sample]


def _dense(batch: int, *widths: int) -> tuple[Product, ...]:
    return tuple(
        Product(batch, n, k, input_gradient=i > 0) for i, (k, n) in enumerate(itertools.pairwise(widths))
    )


def _transformer(classes: int, length: int, layers: int, heads: int, width: int, batch: int) -> Workload:
    rows = batch * length
    block = [Product(rows, n * width, k * width) for n, k in ((3, 1), (1, 1), (4, 1), (1, 4))]
    scores = Product(length, length, width // heads, batch * heads, share=0.5)
    values = Product(length, width // heads, length, batch * heads, share=0.5)
    products = (*(block + [scores, values]) * layers, Product(rows, classes, width))
    return Workload(
        (classes, (batch, length)), classes, rows, products, (classes, length, layers, heads, width)
    )


def _resnet20(batch: int) -> Workload:
    def conv(n: int, k: int, side: int) -> Product:
        return Product(n, side * side, k, batch)

    products = [Product(16, 32 * 32, 27, batch, input_gradient=False)]
    for width, side, before in ((16, 32, 16), (32, 16, 16), (64, 8, 32)):
        products += [conv(width, before * 9, side)] + [conv(width, width * 9, side)] * 5
        if before != width:
            products.append(conv(width, before, side))
    return Workload(("normal", (batch, 3, 32, 32)), 10, batch, (*products, Product(batch, 10, 64)))


WORKLOADS = {
    "tiny": Workload(("normal", (16, 16)), 2, 16, _dense(16, 16, 16, 16, 2), (16, 16, 16, 2)),
    "mlp": Workload(("normal", (256, 784)), 10, 256, _dense(256, 784, 1024, 1024, 10), (784, 1024, 1024, 10)),
    "cnn": Workload(
        ("normal", (64, 1, 28, 28)),
        10,
        64,
        (
            Product(32, 26 * 26, 9, 64, input_gradient=False),
            Product(64, 24 * 24, 288, 64),
            Product(64, 128, 9216),
            Product(64, 10, 128),
        ),
    ),
    "gpt": _transformer(65, 64, 4, 4, 128, 12),
    "gptm": _transformer(65, 256, 6, 6, 384, 8),
    "resnet20": _resnet20(32),
    "lstm": Workload(
        ("normal", (32, 32, 64)),
        10,
        32,
        (
            Product(32 * 32, 512, 64, input_gradient=False),
            *(Product(32, 512, 128),) * 32,
            Product(32, 10, 128),
        ),
        (64, 128),
        time_first=True,
    ),
    "embedding": Workload((50000, (128, 32)), 10, 128, _dense(128, 128, 128, 10), (50000, 128)),
    "layernorm": Workload(("normal", (1024, 512)), 10, 1024, (Product(1024, 10, 512),), (512, 12)),
    "softmax": Workload(("normal", (256, 2048)), 10, 256, (Product(256, 10, 2048),), (2048, 12)),
    "batch1": Workload(("normal", (1, 784)), 10, 1, _dense(1, 784, 1024, 1024, 10), (784, 1024, 1024, 10)),
    "float64": Workload(
        ("normal", (256, 784)), 10, 256, _dense(256, 784, 512, 512, 10), (784, 512, 512, 10), "float64"
    ),
}
