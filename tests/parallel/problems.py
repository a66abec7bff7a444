"""Small training problems whose samples are told apart, for tests of several ranks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.autograd.dispatch import operations
from distgrad.comm.base import Communicator
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.optim.adam import AdamW
from distgrad.parallel.ddp import DistributedDataParallel

FEATURES = 6
CLASSES = 4


class Network(Module):
    """Two hidden layers in float64, from fixed numbers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        widths = [FEATURES, 16, 12, CLASSES]
        self.depth = len(widths) - 1
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"weight{i}", Parameter(rng.standard_normal((after, before)) * 0.5))
            setattr(self, f"bias{i}", Parameter(rng.standard_normal(after) * 0.1))

    def forward(self, x: Any) -> Any:
        for i in range(self.depth):
            x = operations.linear(x, getattr(self, f"weight{i}"), getattr(self, f"bias{i}"))
            if i + 1 < self.depth:
                x = x.tanh()
        return x


def batches(num_steps: int, size: int, seed: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random samples, ``size`` a step."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((size, FEATURES)), rng.integers(0, CLASSES, size)) for _ in range(num_steps)]


def mean_loss(module: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """Mean cross entropy."""
    return operations.softmax_cross_entropy(module(dg.Tensor(x)), target=y).mean()


def parameters_of(module: Any) -> np.ndarray:
    """All parameters, as one array."""
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


def train(
    steps: list[tuple[np.ndarray, np.ndarray]], comm: Communicator | None = None, **options: Any
) -> Any:
    """Train by AdamW; with a communicator, each rank takes its one of nearly equal parts of each batch."""
    module = Network()
    model: Any = module
    if comm is not None:
        model = DistributedDataParallel(module, comm, **options)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for x, y in steps:
        if comm is not None:
            x = np.array_split(x, comm.size)[comm.rank]
            y = np.array_split(y, comm.size)[comm.rank]
        optimizer.zero_grad()
        mean_loss(model, x, y).backward()
        optimizer.step()
    return model
