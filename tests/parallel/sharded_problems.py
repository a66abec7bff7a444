"""Training with and without shards, from the same numbers: what both must agree on."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from parallel.problems import parameters_of

import distgrad as dg
from distgrad.comm.base import Communicator
from distgrad.nn import Module, Parameter, functional
from distgrad.optim import LBFGS, Muon
from distgrad.parallel import DistributedDataParallel

WIDTHS = (12, 160, 110, 5)  # of which one matrix is cut inside
SMALL_MB = 0.02

#: Options that set every branch of a rule in motion.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "ASGD": {"lr": 1e-2, "t0": 3},
    "Adadelta": {"lr": 0.5},
    "Adafactor": {"lr": 1e-2, "weight_decay": 0.01},
    "Adagrad": {"lr": 1e-2, "initial_accumulator_value": 0.1},
    "Adam": {"lr": 1e-2, "amsgrad": True},
    "AdamW": {"lr": 1e-2},
    "Adamax": {"lr": 1e-2},
    "LAMB": {"lr": 1e-2},
    "LARS": {"lr": 1.0, "weight_decay": 0.01},
    "LBFGS": {"lr": 0.1, "max_iter": 2},
    "Lion": {"lr": 1e-3},
    "Muon": {"lr": 1e-2},
    "NAdam": {"lr": 1e-2},
    "RAdam": {"lr": 1e-2},
    "RMSprop": {"lr": 1e-3, "momentum": 0.9, "centered": True},
    "Rprop": {"lr": 1e-3},
    "SGD": {"lr": 1e-2, "momentum": 0.9, "nesterov": True},
}


class Net(Module):
    """Three layers; with ``biases=False`` matrices alone, as Muon wants them."""

    def __init__(self, dtype: Any = np.float64, biases: bool = True) -> None:
        super().__init__()
        rng = np.random.default_rng(3)
        for i, (before, after) in enumerate(itertools.pairwise(WIDTHS)):
            weight = rng.standard_normal((after, before)) / np.sqrt(before)
            setattr(self, f"weight{i}", Parameter(weight.astype(dtype)))
            if biases:
                setattr(self, f"bias{i}", Parameter((rng.standard_normal(after) * 0.1).astype(dtype)))

    def forward(self, x: Any) -> Any:
        for i in range(len(WIDTHS) - 1):
            x = functional.linear(x, getattr(self, f"weight{i}"), getattr(self, f"bias{i}", None))
            x = x.tanh() if i < len(WIDTHS) - 2 else x
        return x


def samples(step: int, rank: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """A rank's own samples of a step; their number differs, and now and then there is none."""
    rng = np.random.default_rng([7, step, rank])
    count = (3 + rank + step) % 6
    return rng.standard_normal((count, WIDTHS[0])).astype(dtype), rng.integers(0, WIDTHS[-1], count)


def mean_loss(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
    return functional.cross_entropy(model(dg.Tensor(x)), y) if len(y) else model(dg.Tensor(x)).sum()


def make(comm: Communicator, name: str, dtype: Any = np.float64, **options: Any) -> tuple[Any, Any]:
    """A model and its optimizer."""
    kind = getattr(dg.optim, name)
    model = DistributedDataParallel(
        Net(dtype, biases=kind is not Muon), comm, bucket_cap_mb=SMALL_MB, **options
    )
    return model, kind(model.named_parameters(), **OPTIMIZERS[name])


def steps(
    model: Any, optimizer: Any, count: int, *, first: int = 0, clip: float | None = None, passes: int = 1
) -> list[float]:
    """Train; the losses, or with ``clip`` the gradients' norms."""
    found = []
    dtype = next(model.parameters()).dtype
    for step in range(first, first + count):

        def closure(step: int = step) -> Any:
            optimizer.zero_grad()
            with model.no_sync():
                for extra in range(1, passes):
                    mean_loss(model, *samples(100 * extra + step, model.comm.rank, dtype)).backward()
            loss = mean_loss(model, *samples(step, model.comm.rank, dtype))
            loss.backward()
            return loss

        if isinstance(optimizer, LBFGS):
            optimizer.step(lambda: closure() * 0.0 + 1.0)  # a rank's loss is its own: each must go alike
            continue
        loss = closure()
        found.append(float(loss if clip is None else model.clip_grad_norm_(clip)))
        optimizer.step()
    return found


def parameters(model: Any) -> np.ndarray:
    return parameters_of(model)
