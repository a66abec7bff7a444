"""One whole training step of a workload in distgrad, PyTorch and JAX; each imports its library itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models import build
from workloads import WORKLOADS

__all__ = ["STEPS"]

LEARNING_RATE = 1e-3

Step = Callable[[], Any]


def unwrapped(model: Any) -> Any:
    """The model as it is."""
    return model


def distgrad_step(name: str, threads: int, wrap: Callable[[Any], Any] = unwrapped) -> Step:
    """With distgrad's public API; ``wrap`` makes the model data parallel."""
    import distgrad as dg
    from distgrad import nn, optim
    from distgrad.nn import functional as F

    dg.set_num_threads(threads)
    dg.manual_seed(0)
    work = WORKLOADS[name]
    model = build(nn, F, dg.scaled_dot_product_attention, name, work.sizes)
    if work.dtype == "float64":
        model.double()
    model = wrap(model)
    optimizer = optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    x, y = (dg.asarray(array) for array in work.batch())

    def step() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def torch_step(
    name: str, threads: int, compiled: bool = False, wrap: Callable[[Any], Any] = unwrapped
) -> Step:
    """With PyTorch, eager or compiled; ``wrap`` makes the model data parallel."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    work = WORKLOADS[name]
    model = build(nn, F, F.scaled_dot_product_attention, name, work.sizes)
    if work.dtype == "float64":
        model.double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    x, y = (torch.from_numpy(array) for array in work.batch())
    forward = torch.compile(model) if compiled else wrap(model)

    def step() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def compiled_torch_step(name: str, threads: int) -> Step:
    """With PyTorch's compiler."""
    return torch_step(name, threads, compiled=True)


def jax_step(name: str, threads: int) -> Step:
    """With JAX, jit and optax; threads are set by the environment that ``step.py`` starts it with."""
    from jax_models import jitted_step

    return jitted_step(name, WORKLOADS[name])


#: By the name in the tables; the first word is the library that must be installed.
STEPS: dict[str, Callable[[str, int], Step]] = {
    "distgrad": distgrad_step,
    "torch eager": torch_step,
    "torch compile": compiled_torch_step,
    "jax": jax_step,
}
