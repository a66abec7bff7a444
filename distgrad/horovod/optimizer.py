"""An optimizer whose gradients are reduced over the ranks while backward goes on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from distgrad.autograd.graph import Leaf
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.horovod.compression import Compression, Compressor
from distgrad.horovod.sets import ProcessSet, global_process_set
from distgrad.horovod.verbs import Adasum, Average, Sum, go_along, tell
from distgrad.optim.optimizer import Optimizer
from distgrad.parallel.adasum import adasum
from distgrad.parallel.batchnorm import SyncBatchNorm
from distgrad.parallel.buckets import Hook, store, suitable_cap
from distgrad.parallel.reducer import Reducer

__all__ = ["DistributedOptimizer", "SyncBatchNorm", "rejoin"]

_STEP = "DistributedOptimizer.step"
_optimizers: list[Any] = []  # in the order of their making, the same on every rank


class _Reducer(Reducer):
    """The engine's, which tells ranks that have joined of each pass that is reduced.

    Attributes:
        number_here: of the optimizer, in the order of their making.
        reduced: whether there was such a pass since the last step.
    """

    number_here = -1
    reduced = False
    everyone = True
    passes_here = 0
    every = 1

    def tell(self) -> None:
        """Tell of the coming reduction."""
        if self.everyone:
            number = self.number_here
            self.comm.submit(lambda: tell((_STEP, (), (number,))), "horovod").wait()
        self.reduced = True

    def backward_started(self, leaves: set[Leaf], order: Any) -> None:
        """Reduce only each so many passes."""
        self.passes_here += 1
        self.enabled = self.passes_here % self.every == 0
        if self.enabled:
            self.tell()
        super().backward_started(leaves, order)

    def catch_up(self) -> None:
        """Reduce what was gathered, if no pass has done it."""
        if not self.reduced:
            self.passes_here, self.enabled = 0, True
            self.tell()
            self.reduce(1.0)
        self.reduced = False


go_along(_STEP, lambda options: _optimizers[options[0]]._reducer.reduce(1.0))


class _Distributed(Optimizer):
    """What an optimizer's class gets in addition."""

    _reducer: _Reducer | None
    _skips = _synchronized = False

    @property
    def _parameter_names(self) -> dict[Tensor, str]:
        """What each parameter that wants a gradient is called in reports."""
        return {parameter: name for name, parameter in self._plan[0]}  # type: ignore[attr-defined]

    def synchronize(self) -> None:
        """See that the gradients are reduced; for programs that change them before the step.

        Collective: yes; blocks: yes.
        """
        if self._reducer is not None:
            self._reducer.catch_up()
            self._synchronized = True

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """Inside it ``step`` takes the gradients as they are."""
        self._skips = True
        try:
            yield
        finally:
            self._skips = False

    def set_backward_passes_per_step(self, passes: int) -> None:
        """Reduce each so many backward passes, which add up."""
        if self._reducer is not None:
            self._reducer.every, self._reducer.passes_here = passes, 0

    def step(self, closure: Any = None) -> Any:
        """Update the parameters by the reduced gradients.

        Collective: yes; blocks: yes.
        """
        loss = None if closure is None else closure()
        if not self._skips:
            if self._synchronized:
                warnings.warn(
                    "optimizer.step() called without optimizer.skip_synchronize() context after "
                    "optimizer.synchronize(): the gradients are reduced once more",
                    stacklevel=2,
                )
            self.synchronize()
        self._synchronized = False
        found = super().step()
        return found if closure is None else loss


def DistributedOptimizer(
    optimizer: Optimizer,
    named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    compression: type[Compressor] = Compression.none,
    backward_passes_per_step: int = 1,
    op: Any = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    sparse_as_dense: bool = False,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Have an optimizer's gradients reduced over the ranks, behind backward; the same optimizer.

    Every rank counts once. On ranks outside of ``process_set`` nothing is reduced.

    Collective: yes, and each step; blocks: yes.

    Args:
        optimizer: whose parameters are trained.
        named_parameters: their names, for error reports; None numbers them.
        compression: what is sent in the gradients' place.
        backward_passes_per_step: backward passes that add up before they are reduced.
        op: ``Average``, ``Sum`` or ``Adasum``.
        gradient_predivide_factor: with ``Average`` alone; taken, and not needed: 16-bit gradients are
            summed in float32, so that no order of dividing and adding loses more.
        num_groups: at most so many buckets, of about equal size; 0 takes what suits.
        groups: a number, as ``num_groups``, or lists of parameters, of which the number counts.
        sparse_as_dense: taken: all gradients are dense.
        process_set: the ranks.

    Raises:
        ValueError: names that do not fit the optimizer's parameters.
        OptionError: another ``op``, or options that do not go together.
    """
    _check(op, gradient_predivide_factor, num_groups, compression, backward_passes_per_step)
    named = _named(optimizer, named_parameters)
    kind = type(optimizer)
    optimizer.__class__ = type(kind.__name__, (_Distributed, kind), {"__module__": kind.__module__})
    optimizer._reducer = None  # type: ignore[attr-defined]
    count = num_groups or (groups if isinstance(groups, int) else len(groups or ()))
    hook = adasum if op == Adasum else compression.hook
    plan = named, hook, count, process_set, backward_passes_per_step, op
    optimizer._plan = plan  # type: ignore[attr-defined]
    if process_set.included():
        optimizer._reducer = _make(len(_optimizers), *plan)  # type: ignore[attr-defined]
    _optimizers.append(optimizer)  # on all ranks, so that its number is the same
    return optimizer


def rejoin() -> None:
    """Have the optimizers of all ranks reduce over a world that was set up anew.

    Collective: yes; blocks: yes.
    """
    for number, each in enumerate(_optimizers):
        if each._plan[3] is global_process_set:
            each._reducer.detach()
            each._reducer = _make(number, *each._plan)


def _check(op: Any, factor: float, num_groups: int, compression: type[Compressor], passes: int) -> None:
    if op not in (Average, Sum, Adasum):
        raise OptionError(f"DistributedOptimizer: op must be Average, Sum or Adasum, got {op!r}")
    if factor != 1.0 and op != Average:
        raise OptionError("DistributedOptimizer: gradient_predivide_factor goes with op=Average alone")
    if op == Adasum and compression.hook is not None:
        raise OptionError("DistributedOptimizer: op=Adasum goes without compression")
    if num_groups < 0 or passes < 1:
        raise OptionError(
            f"DistributedOptimizer: num_groups must be from 0 and backward_passes_per_step from 1, got "
            f"{num_groups} and {passes}"
        )


def _named(optimizer: Optimizer, given: Iterable[tuple[str, Tensor]] | None) -> list[tuple[str, Tensor]]:
    """The parameters that want gradients, by name, in the order in which these become ready."""
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {}
    if given is not None:
        pairs = list(given)
        names = {id(parameter): name for name, parameter in pairs}
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("DistributedOptimizer: a name stands twice in named_parameters")
        unnamed = sum(id(parameter) not in names for parameter in every)
        if unnamed:
            raise ValueError(
                f"named_parameters was specified, but {unnamed} parameters were not named; pass "
                "model.named_parameters()"
            )
    numbered = [(names.get(id(each), f"parameter {i}"), each) for i, each in enumerate(every)]
    return [(name, each) for name, each in reversed(numbered) if each.requires_grad]


def _make(
    number: int, named: list[tuple[str, Tensor]], hook: Hook | None, count: int, process_set: ProcessSet,
    passes: int, op: Any,
) -> _Reducer:  # fmt: skip
    comm = process_set.comm
    if named and not comm.takes(named[0][1].device):
        comm = comm.host
    num_bytes = sum(each.nbytes for _, each in named)
    cap_bytes = suitable_cap(num_bytes) if count == 0 else max(1.0, num_bytes / count)
    storage = store([each for _, each in named], comm, hook)
    reducer = _Reducer(named, storage, comm, cap_bytes, hook, by_rank=True)
    reducer.everyone = process_set is global_process_set
    reducer.number_here, reducer.every = number, passes
    reducer.factor = float(comm.size) if op == Sum else 1.0
    return reducer
