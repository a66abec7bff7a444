"""Parameters, an optimizer's state and objects, the same on all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.horovod.sets import ProcessSet, global_process_set
from distgrad.horovod.verbs import issue
from distgrad.optim.optimizer import Optimizer
from distgrad.parallel.replicas import broadcast

__all__ = ["allgather_object", "broadcast_object", "broadcast_optimizer_state", "broadcast_parameters"]


def broadcast_parameters(params: Mapping[str, Any] | Iterable[tuple[str, Any]], root_rank: int) -> None:
    """Set tensors to one rank's.

    Collective: yes; blocks: yes.

    Args:
        params: ``model.state_dict()`` or ``model.named_parameters()``.
        root_rank: whose.
    """
    pairs = params.items() if isinstance(params, Mapping) else params
    tensors = [each for _, each in pairs if isinstance(each, Tensor)]
    if tensors:
        broadcast(tensors, global_process_set.comm, root_rank)


def broadcast_optimizer_state(optimizer: Optimizer, root_rank: int, model: Any = None) -> None:
    """Set an optimizer's state and options to one rank's.

    Collective: yes; blocks: yes.
    """
    comm = global_process_set.comm
    state = comm.broadcast_object(optimizer.state_dict() if comm.rank == root_rank else None, root_rank)
    if comm.rank != root_rank:
        optimizer.load_state_dict(state)


def broadcast_object(
    obj: Any, root_rank: int = 0, name: str | None = None, process_set: ProcessSet = global_process_set
) -> Any:
    """A copy of one rank's object, by pickle; on that rank the object itself.

    Collective: yes; blocks: yes.
    """
    root = root_rank if process_set.ranks is None else process_set.ranks.index(root_rank)
    found = issue("broadcast_object", (), (obj, root), process_set, lambda each: each).result()
    return obj if process_set.rank() == root else found


def allgather_object(obj: Any, name: str | None = None, process_set: ProcessSet = global_process_set) -> Any:
    """Every rank's object, by pickle.

    Collective: yes; blocks: yes.
    """
    return issue("allgather_object", (), (obj,), process_set, lambda each: each).result()
