"""Among which ranks a module is trained."""

from __future__ import annotations

from typing import Any

from distgrad.backend.device import CPU
from distgrad.comm.base import Communicator
from distgrad.comm.registry import init, is_initialized, is_mpi
from distgrad.errors import OptionError
from distgrad.names.hints import ARGUMENTS
from distgrad.nn.module import Module
from distgrad.parallel.gathering import home_of

__all__ = ["find_ranks", "refuse_copy"]


def find_ranks(module: Module, comm: Any) -> Communicator:
    """The ranks of a communicator of mpi4py, or all; their arrays are exchanged where the module lies."""
    device = next(map(home_of, module.parameters()), CPU)
    if comm is None:
        return init() if device == CPU or is_initialized() else init(device=device)
    if not is_mpi(comm):
        raise TypeError(
            "DistributedDataParallel: comm must be a Communicator, one of mpi4py, or None, got "
            f"{type(comm).__name__}; {ARGUMENTS['DistributedDataParallel']['device_ids']}"
        )
    return init(comm=comm) if device == CPU else init("nccl", comm=comm, device=device)


def refuse_copy(model: Any, memo: Any) -> Any:
    """In the place of ``__deepcopy__``: a copy would train by itself, or meet the ranks unasked."""
    raise OptionError(
        f"{type(model).__name__}: it cannot be copied, as it belongs to its ranks; copy the module inside, "
        "copy.deepcopy(ddp.module), and wrap the copy on all ranks if it is to be trained"
    )
