"""Whether a script's model fits, without its memory: ``distgrad doctor --fit train.py``.

The script runs as one rank of so many, on ``"meta"``: what it builds has shapes and no elements, and data
is read. Where it first calls its model in training mode it has come far enough: the batch is known, and the
optimizer. Nothing is trained, and nothing behind that call runs.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from distgrad.autograd.modes import is_grad_enabled
from distgrad.autograd.tensor import Tensor
from distgrad.backend.meta import META
from distgrad.comm import registry
from distgrad.comm.single import SingleCommunicator
from distgrad.comm.topology import Topology, host_name
from distgrad.errors import OptionError
from distgrad.nn import module as modules
from distgrad.nn.module import Module
from distgrad.optim.optimizer import Optimizer
from distgrad.parallel.checks import STAGES
from distgrad.parallel.ddp import DistributedDataParallel
from distgrad.parallel.plan import MemoryPlan, memory_plan
from distgrad.parallel.statistics import Statistics

__all__ = ["find_plans", "present"]


#: Where scripts find ``init``.
_PARALLEL = "distgrad.parallel"
_ASKED = ("distgrad.comm", "distgrad.comm.registry", "distgrad.script")
#: What the script's DistributedDataParallel was given and a plan takes.
_PLANNED = ("shard_blocks", "bucket_cap_mb", "param_dtype", "reduce_dtype", "offload")


class _Reached(BaseException):
    """The script has called its model; no ``except Exception`` of its own shall hold this up."""


class _Rehearsal(SingleCommunicator):
    """Rank 0 of ranks of which the others are not there: what they would send is what it sends itself."""

    backend = "rehearsal"

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.size, self.topology = ranks, Topology((host_name(),) * ranks)

    def _reduce_scatter(self, x: Any, out: Any, op: str, edges: list[int]) -> None:
        out[:] = x[edges[0] : edges[1]]

    def _all_gather(self, x: Any, out: Any, edges: list[int]) -> None:
        for first, last in itertools.pairwise(edges):
            out[first:last] = np.resize(x, last - first)

    def _gather(self, x: Any, out: Any, root: int) -> None:
        if out is not None:
            out[:] = x


class _Planned(DistributedDataParallel):
    """Data parallelism that remembers what it was given, and moves nothing."""

    def __init__(self, module: Module, comm: Any = None, **options: Any) -> None:
        Module.__init__(self)
        self.module, self.options = module, options
        self.comm = comm if isinstance(comm, SingleCommunicator) else registry.get_world()

    def stats(self, reset: bool = False) -> Statistics:
        """Nothing was counted. Collective: no; blocks: no."""
        return Statistics()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Nothing is reduced. Collective: no; blocks: no."""
        yield


@contextmanager
def _rehearsed(ranks: int, found: list[Any]) -> Iterator[None]:
    """A world in which scripts build shapes, and end where they call the model; it comes to ``found``."""
    world, convert, call = _Rehearsal(ranks), modules.convert, Module.__call__

    def reach(self: Module, *args: Any, **kwargs: Any) -> Any:
        if self.training and is_grad_enabled():
            found[:] = [self, args, kwargs]
            raise _Reached
        return call(self, *args, **kwargs)

    def stay(tensors: Any, dtype: Any, device: Any) -> None:
        convert(tensors, dtype, None)

    with ExitStack() as stack:
        stack.enter_context(patch.object(registry, "_world", world))
        for place in map(importlib.import_module, _ASKED):
            stack.enter_context(patch.object(place, "init", lambda *args, **options: world))
        stack.enter_context(
            patch.object(importlib.import_module(_PARALLEL), "DistributedDataParallel", _Planned)
        )
        stack.enter_context(patch.object(modules, "convert", stay))
        stack.enter_context(patch.object(Module, "__call__", reach))
        stack.enter_context(META)
        yield


def find_plans(script: str, arguments: Sequence[str], ranks: int) -> dict[str | None, MemoryPlan]:
    """Run a script up to the first call of its model, and plan that for every stage of sharding.

    Collective: no; blocks: no.

    Args:
        script: a file.
        arguments: its own.
        ranks: how many there are to be.

    Returns:
        A plan for each value of ``shard``.

    Raises:
        OptionError: the script ended before it called a model in training mode, or without an optimizer.
    """
    found: list[Any] = []
    folder = str(Path(script).resolve().parent)  # from which scripts import their neighbours
    with (
        patch.object(sys, "argv", [script, *arguments]),
        patch.object(sys, "path", [folder, *sys.path]),
        _rehearsed(ranks, found),
        suppress(_Reached),
    ):
        runpy.run_path(script, run_name="__main__")
    if not found:
        raise OptionError(f"doctor --fit: {script} ended before it called a module in training mode")
    return _plan(script, ranks, *found)


def _plan(script: str, ranks: int, model: Module, args: Any, kwargs: Any) -> dict[str | None, MemoryPlan]:
    """What was found, planned for every stage."""
    options = model.options if isinstance(model, _Planned) else {}
    module = model.module if isinstance(model, _Planned) else model
    parameters = set(module.parameters())
    optimizer = next(
        (
            each
            for each in gc.get_objects()
            if isinstance(each, Optimizer)
            and parameters & {p for g in each.param_groups for p in g["params"]}
        ),
        None,
    )
    if optimizer is None:
        raise OptionError(
            f"doctor --fit: {script} calls its model before it makes an optimizer; make it first"
        )
    given = tuple(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor | np.ndarray))
    known = {name: options[name] for name in _PLANNED if name in options}
    plans: dict[str | None, MemoryPlan] = {}
    for shard in (None, *STAGES):
        left = {None: {"shard_blocks", "param_dtype", "offload"}, "parameters": set()}.get(
            shard, {"shard_blocks"}
        )
        here = {name: value for name, value in known.items() if name not in left}
        plans[shard] = memory_plan(module, optimizer, given, ranks=ranks, shard=shard, **here)
    return plans


def present(plans: dict[str | None, MemoryPlan], ranks: int) -> str:
    """The plans beside each other, as a table of MiB.

    Collective: no; blocks: no.
    """
    names = ("parameters", "gradients", "state", "buckets", "activations", "total")
    lines = [f"MiB on each of {ranks} ranks, by what is sharded; without the loss's own activations"]
    lines.append(" " * 12 + "".join(f"{shard!s:>14}" for shard in plans))
    for name in names:
        sizes = "".join(f"{getattr(plan, name) / 2**20:14.1f}" for plan in plans.values())
        lines.append(f"{name:12}{sizes}")
    return "\n".join(lines)
