"""Options of ``torch.distributed.fsdp``: strategies, policies, and how state dicts are made."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BackwardPrefetch", "CPUOffload", "CPUOffloadPolicy", "FullOptimStateDictConfig", "FullStateDictConfig",
    "LocalOptimStateDictConfig", "LocalStateDictConfig", "MixedPrecision", "MixedPrecisionPolicy",
    "OffloadPolicy", "OptimStateDictConfig", "ShardedOptimStateDictConfig", "ShardedStateDictConfig",
    "ShardingStrategy", "StateDictConfig", "StateDictSettings", "StateDictType",
]  # fmt: skip


class ShardingStrategy(enum.Enum):
    """What ranks keep parts of."""

    FULL_SHARD = enum.auto()
    SHARD_GRAD_OP = enum.auto()
    NO_SHARD = enum.auto()
    HYBRID_SHARD = enum.auto()
    _HYBRID_SHARD_ZERO2 = enum.auto()


class BackwardPrefetch(enum.Enum):
    """When the next block is gathered in backward: behind the one before it has begun, whichever is said."""

    BACKWARD_PRE = enum.auto()
    BACKWARD_POST = enum.auto()


class StateDictType(enum.Enum):
    """Kinds of state dicts; there is one, the whole one."""

    FULL_STATE_DICT = enum.auto()
    LOCAL_STATE_DICT = enum.auto()
    SHARDED_STATE_DICT = enum.auto()


@dataclass
class StateDictConfig:
    """How state dicts are made.

    Attributes:
        offload_to_cpu: taken: they are.
        rank0_only: rank 0 alone gets the entries.
    """

    offload_to_cpu: bool = False
    rank0_only: bool = False


FullStateDictConfig = LocalStateDictConfig = ShardedStateDictConfig = StateDictConfig
OptimStateDictConfig = FullOptimStateDictConfig = StateDictConfig
LocalOptimStateDictConfig = ShardedOptimStateDictConfig = StateDictConfig


@dataclass
class StateDictSettings:
    """A kind, and how the module's and the optimizer's are made."""

    state_dict_type: StateDictType
    state_dict_config: StateDictConfig
    optim_state_dict_config: StateDictConfig


@dataclass
class CPUOffload:
    """Whether parameters lie on the host; taken where they do."""

    offload_params: bool = False


@dataclass
class OffloadPolicy:
    """Nothing is kept elsewhere."""


@dataclass
class CPUOffloadPolicy(OffloadPolicy):
    """Parameters lie on the host; taken where they do."""

    pin_memory: bool = True


@dataclass
class MixedPrecision:
    """In which dtypes a whole model computes and reduces, whose parameters are kept in float32.

    Attributes:
        param_dtype: float16 or bfloat16, in which parameters are gathered, and inputs cast; None is theirs.
        reduce_dtype: of gradients on their way; None is ``param_dtype``.
        buffer_dtype: the buffers' own, in which they stay.
        keep_low_precision_grads: only False: owners' gradients are as ``reduce_dtype`` says.
        cast_forward_inputs, cast_root_forward_inputs: taken, but for False of both: the model's inputs are
            cast.
    """

    param_dtype: Any = None
    reduce_dtype: Any = None
    buffer_dtype: Any = None
    keep_low_precision_grads: bool = False
    cast_forward_inputs: bool = False
    cast_root_forward_inputs: bool = True
    _module_classes_to_ignore: Any = ()


@dataclass
class MixedPrecisionPolicy:
    """The same for ``fully_shard``.

    Attributes:
        param_dtype, reduce_dtype: as of :class:`MixedPrecision`.
        output_dtype: what the model returns is cast to it.
        cast_forward_inputs: only True.
    """

    param_dtype: Any = None
    reduce_dtype: Any = None
    output_dtype: Any = None
    cast_forward_inputs: bool = True
