"""What ``torch.distributed.fsdp`` asks of the engine's ``shard=``: ranks, dtypes, and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from distgrad.autograd.tensor import FLOATING, Tensor
from distgrad.backend.device import CPU
from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.parallel.checks import ShardOptions
from distgrad.parallel.ddp import DistributedDataParallel
from distgrad.torch.distributed.groups import member_of, new_subgroups
from distgrad.torch.distributed.meshes import DeviceMesh
from distgrad.tracebacks import warn_once

__all__ = ["Precision", "agreed", "check", "groups_of", "make_engine"]


class Precision(NamedTuple):
    """Dtypes of the engine's, None where they are the parameters' own, and of what the model returns."""

    param_dtype: Any = None
    reduce_dtype: Any = None
    output_dtype: Any = None

    @classmethod
    def make(cls, where: str, module: Module, policy: Any, stage: str | None) -> Precision:
        """Of PyTorch's policy.

        Raises:
            OptionError: what the engine does not do.
        """
        if policy is None:
            return cls()
        own = {each.dtype for each in module.parameters()}
        computing = policy.param_dtype if own != {policy.param_dtype} else None
        reducing = policy.reduce_dtype if computing is not None or own != {policy.reduce_dtype} else None
        refused = {
            "keep_low_precision_grads": getattr(policy, "keep_low_precision_grads", False),
            "cast_forward_inputs=False": computing is not None
            and not (policy.cast_forward_inputs or getattr(policy, "cast_root_forward_inputs", False)),
            "buffer_dtype, which is not the buffers',": _is_floating_else(
                module.buffers(), getattr(policy, "buffer_dtype", None)
            ),
        }
        for name, is_asked in refused.items():
            if is_asked:
                raise OptionError(f"{where}: {name} is not to be had in mixed precision; leave it out")
        if stage is None and (computing is not None or reducing is not None):
            raise OptionError(
                f"{where}: NO_SHARD keeps parameters in one dtype; take SHARD_GRAD_OP, or "
                "compute inside torch.autocast"
            )
        ShardOptions.make(stage, None, None, None, computing, reducing, None).check()
        return cls(computing, reducing, getattr(policy, "output_dtype", None))

    def cast(self, value: Any) -> Any:
        """What a model returns, its floating tensors in ``output_dtype``."""
        if self.output_dtype is None:
            return value
        if isinstance(value, Tensor):
            return value.to(self.output_dtype) if value.dtype.char in FLOATING else value
        if isinstance(value, dict):
            return {key: self.cast(each) for key, each in value.items()}
        return type(value)(map(self.cast, value)) if type(value) in (tuple, list) else value


def _is_floating_else(tensors: Iterable[Tensor], dtype: Any) -> bool:
    """Whether one of floating dtype is not of this one."""
    return dtype is not None and any(each.dtype.char in FLOATING and each.dtype != dtype for each in tensors)


def check(where: str, module: Module, offloaded: bool, refused: dict[str, Any]) -> None:
    """Refuse what the engine does not do.

    Raises:
        OptionError: with the option's name and the way.
    """
    device = next((parameter.device for parameter in module.parameters()), CPU)
    if offloaded and device != CPU:
        raise OptionError(f"{where}: parameters on {device} stay there; leave the offloading out")
    for name, value in refused.items():
        if value is not None:
            raise OptionError(f"{where}: {name} is not to be had; leave it out")


def groups_of(where: str, mesh: Any) -> tuple[Any, bool]:
    """The ranks that share, or a pair of groups for a mesh of two dimensions, and whether it is one.

    Raises:
        OptionError: no mesh, or one of more dimensions.
    """
    if not isinstance(mesh, DeviceMesh) or mesh.ndim > 2:
        raise OptionError(
            f"{where}: the mesh must be a DeviceMesh of one dimension, along which ranks share, or of two, "
            f"whose first is for ranks that hold the same, got {mesh!r}"
        )
    if mesh.ndim == 1:
        return mesh.get_group(0), False
    return (mesh.get_group(1), mesh.get_group(0)), True


def make_engine(
    module: Module,
    group: Any,
    stage: str | None,
    blocks: list[Module],
    hybrid: bool,
    precision: Precision,
) -> DistributedDataParallel:
    """The engine's wrapper of an outermost module. Collective: yes; blocks: yes.

    Args:
        module: the outermost one.
        group: its ranks, None for all; if ``hybrid``, the ones that share, and those that hold the same.
        stage: of the engine.
        blocks: whose parameters come and go together.
        hybrid: whether groups of ranks, those of a host if none are given, hold everything each.
        precision: of all of it.
    """
    sharing = None
    if hybrid:
        sharing, group = (new_subgroups()[0] if group is None else group[0]), None
    found = member_of(group, "FullyShardedDataParallel")
    assert found is not None
    device = next((parameter.device for parameter in module.parameters()), CPU)
    if device != CPU and stage is not None:
        warn_once(
            "fsdp", "on GPUs ranks keep parts of the optimizer's state alone; parameters stay whole on each"
        )
        stage = "optimizer"
    names = {each: name for name, each in module.named_modules()}
    return DistributedDataParallel(
        module,
        found.for_device(device),
        broadcast_buffers=False,
        check_replicas_every=0,
        weigh_by="ranks",
        shard=stage,
        shard_group=None if sharing is None else sharing.for_device(device),
        shard_blocks=[names[each] for each in blocks] if blocks and stage == "parameters" else None,
        param_dtype=precision.param_dtype,
        reduce_dtype=precision.reduce_dtype,
    )


def agreed(inner: Sequence[Precision], outermost: Precision) -> Precision:
    """That of the outermost module, which those within it have too.

    Raises:
        OptionError: one that has another.
    """
    for each in inner:
        if each[:2] not in (outermost[:2], (None, None)):
            raise OptionError(
                "FullyShardedDataParallel: a block's mixed precision is another than the outermost module's; "
                f"give all of them one, got {each} within {outermost}"
            )
    return outermost
