"""``torch.distributed.fsdp``: ``FullyShardedDataParallel`` and ``fully_shard`` over the engine's ``shard=``.

Modules are noted when they are wrapped; the outermost one becomes the engine's at its first use, with those
inside it as its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distgrad.errors import OptionError
from distgrad.nn.module import Module
from distgrad.parallel.ddp import DistributedDataParallel
from distgrad.parallel.gathering import collect
from distgrad.torch.distributed.sharding_engine import Precision, agreed, check, groups_of, make_engine
from distgrad.torch.distributed.sharding_options import (
    BackwardPrefetch,
    CPUOffload,
    CPUOffloadPolicy,
    FullOptimStateDictConfig,
    FullStateDictConfig,
    LocalOptimStateDictConfig,
    LocalStateDictConfig,
    MixedPrecision,
    MixedPrecisionPolicy,
    OffloadPolicy,
    OptimStateDictConfig,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
    ShardingStrategy,
    StateDictConfig,
    StateDictSettings,
    StateDictType,
)
from distgrad.torch.distributed.wrapping import chosen_by

__all__ = [
    "BackwardPrefetch", "CPUOffload", "CPUOffloadPolicy", "FSDPModule", "FullOptimStateDictConfig",
    "FullStateDictConfig", "FullyShardedDataParallel", "LocalOptimStateDictConfig", "LocalStateDictConfig",
    "MixedPrecision", "MixedPrecisionPolicy", "OffloadPolicy", "OptimStateDictConfig",
    "ShardedOptimStateDictConfig", "ShardedStateDictConfig", "ShardingStrategy", "StateDictConfig",
    "StateDictSettings", "StateDictType", "fully_shard", "register_fsdp_forward_method",
]  # fmt: skip


#: PyTorch's words for the engine's.
_STAGES = {
    ShardingStrategy.FULL_SHARD: "parameters",
    ShardingStrategy.SHARD_GRAD_OP: "gradients",
    ShardingStrategy.NO_SHARD: None,
    ShardingStrategy.HYBRID_SHARD: "parameters",
    ShardingStrategy._HYBRID_SHARD_ZERO2: "gradients",
}
_HYBRID = (ShardingStrategy.HYBRID_SHARD, ShardingStrategy._HYBRID_SHARD_ZERO2)


def _is_pair(groups: Any) -> bool:
    return isinstance(groups, tuple) and len(groups) == 2


class FullyShardedDataParallel(Module):
    """Wraps a module of which each rank keeps a part: the engine's ``shard=``.

    Every rank counts once in the mean of the gradients, as under PyTorch's ``DistributedDataParallel``. The
    outermost of such modules begins at its first forward pass, and takes rank 0's parameters and buffers
    then; those within it are blocks, whose parameters come and go together. Parameters keep their names and
    shapes, and state dicts are whole.

    Collective: yes, forward and backward passes and state dicts; blocks: yes.

    Args:
        module: the same on every rank.
        process_group: the ranks; None takes all. With HYBRID_SHARD a pair of groups: the ranks that share
            with this one, and those that hold the same as this one; None takes the ranks of a host.
        sharding_strategy: FULL_SHARD (also None), SHARD_GRAD_OP, NO_SHARD, or HYBRID_SHARD, where each of
            several groups of ranks holds everything.
        cpu_offload: taken for modules on the host.
        auto_wrap_policy: says which modules within are blocks; see ``torch.distributed.fsdp.wrap``.
        backward_prefetch, sync_module_states, forward_prefetch, limit_all_gathers, use_orig_params: taken:
            blocks are gathered ahead, modules take rank 0's state, and parameters stay what they are.
        mixed_precision: ``param_dtype`` and ``reduce_dtype`` of a model of float32, the same for all of it;
            see :class:`MixedPrecision`.
        device_mesh: in the place of ``process_group``: one dimension of ranks that share, or with
            HYBRID_SHARD two, the first of ranks that hold the same.
        ignored_modules, param_init_fn, ignored_states: only None.
        device_id: the rank's device, to which the module is moved; None leaves it where it is.

    Raises:
        OptionError: what the engine does not do, with its name.
    """

    def __init__(
        self,
        module: Module,
        process_group: Any = None,
        sharding_strategy: ShardingStrategy | None = None,
        cpu_offload: Any = None,
        auto_wrap_policy: Any = None,
        backward_prefetch: Any = None,
        mixed_precision: MixedPrecision | None = None,
        ignored_modules: Any = None,
        param_init_fn: Any = None,
        device_id: Any = None,
        sync_module_states: bool = False,
        forward_prefetch: bool = False,
        limit_all_gathers: bool = True,
        use_orig_params: bool = False,
        ignored_states: Any = None,
        device_mesh: Any = None,
    ) -> None:
        super().__init__()
        strategy = sharding_strategy or ShardingStrategy.FULL_SHARD
        if strategy not in _STAGES:
            raise OptionError(
                f"FullyShardedDataParallel: sharding_strategy must be one of "
                f"{', '.join(each.name for each in _STAGES)}, got {strategy}"
            )
        if device_mesh is not None:
            process_group, hybrid = groups_of("FullyShardedDataParallel", device_mesh)
            if hybrid != (strategy in _HYBRID):
                raise OptionError(
                    "FullyShardedDataParallel: a device_mesh of two dimensions goes with HYBRID_SHARD, "
                    f"one of one with the others, got {device_mesh!r} with {strategy.name}"
                )
        if strategy in _HYBRID and not (process_group is None or _is_pair(process_group)):
            raise OptionError(
                "FullyShardedDataParallel: with HYBRID_SHARD process_group must be a pair of groups, those "
                f"that share and those that hold the same, or None for a host's ranks, got {process_group!r}"
            )
        others = {"ignored_modules": ignored_modules, "param_init_fn": param_init_fn,
                  "ignored_states": ignored_states}  # fmt: skip
        offloaded = bool(getattr(cpu_offload, "offload_params", cpu_offload))
        check("FullyShardedDataParallel", module, offloaded, others)
        precision = Precision.make("FullyShardedDataParallel", module, mixed_precision, _STAGES[strategy])
        self._fsdp_wrapped_module = module if device_id is None else module.to(device_id)
        self.sharding_strategy, self.process_group = strategy, process_group
        self.__dict__["_blocks"] = [] if auto_wrap_policy is None else chosen_by(auto_wrap_policy, module)
        self.__dict__["_engine"] = None
        self.__dict__["_precision"] = precision
        self._is_inner = False
        self._kind = StateDictSettings(StateDictType.FULL_STATE_DICT, StateDictConfig(), StateDictConfig())

    @property
    def module(self) -> Module:
        """The wrapped module."""
        return self._fsdp_wrapped_module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "_fsdp_wrapped_module":
                raise
            return getattr(self._fsdp_wrapped_module, name)

    def __getitem__(self, key: Any) -> Any:
        """A member of the wrapped module, where that is a list of modules."""
        return self._fsdp_wrapped_module[key]  # type: ignore[index]

    def _start(self) -> DistributedDataParallel:
        """The engine of this module, which is an outermost one. Collective: at first; blocks: then."""
        if self._engine is None:
            inner = [each for each in self.fsdp_modules(self) if each is not self]
            blocks = [
                *self._blocks,
                *(each.module for each in inner),
                *(b for each in inner for b in each._blocks),
            ]
            for each in inner:
                each._is_inner = True
            strategy = self.sharding_strategy
            self.__dict__["_engine"] = make_engine(
                self.module, self.process_group, _STAGES[strategy], list(dict.fromkeys(blocks)),
                strategy in _HYBRID, agreed([each._precision for each in inner], self._precision),
            )  # fmt: skip
        found: DistributedDataParallel = self._engine
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module on this rank's batch."""
        if self._is_inner:
            return self.module(*args, **kwargs)
        return self._start()(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        """As every module's; the engine hears of it too."""
        if self._engine is not None:
            self._engine.training = mode
        return super().train(mode)

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield "", self.module  # whose names are the state dict's

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing of its own."""

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Nothing of its own."""

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The wrapped module's, whole; on rank 0 alone where ``state_dict_type`` says so.

        Collective: with FULL_SHARD; blocks: then.
        """
        if self._kind.state_dict_config.rank0_only and not self._is_inner:
            engine = self._start()
            entries = super().state_dict(prefix=prefix, keep_vars=True).items()
            return collect(entries, engine.comm.rank == 0, {} if destination is None else destination)
        return super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Any:
        """The wrapped module's, under its names."""
        for name, each in super().named_parameters(prefix, recurse, remove_duplicate):
            yield name.replace("_fsdp_wrapped_module.", ""), each

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Any:
        """Scale the gradients of all ranks so that their norm is at most ``max_norm``; the norm before.

        Collective: yes; blocks: yes.
        """
        return self._start().clip_grad_norm_(max_norm, norm_type)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Inside it gradients add up, and are not reduced."""
        with self._start().no_sync():
            yield

    @staticmethod
    def fsdp_modules(module: Module, root_only: bool = False) -> list[Any]:
        """Such modules in ``module``, itself among them."""
        found = [each for each in module.modules() if isinstance(each, FullyShardedDataParallel)]
        return [each for each in found if not each._is_inner] if root_only else found

    @staticmethod
    @contextmanager
    def summon_full_params(module: Module, recurse: bool = True, writeback: bool = True,
                           rank0_only: bool = False, offload_to_cpu: bool = False,
                           with_grads: bool = False) -> Iterator[None]:  # fmt: skip
        """Parameters can be read and written anywhere: each is gathered when it is touched, on all ranks."""
        yield

    @staticmethod
    def set_state_dict_type(module: Module, state_dict_type: StateDictType, state_dict_config: Any = None,
                            optim_state_dict_config: Any = None) -> StateDictSettings:  # fmt: skip
        """How state dicts of the modules in ``module`` are made from here on; what held before."""
        if state_dict_type is not StateDictType.FULL_STATE_DICT:
            raise OptionError(
                f"set_state_dict_type: {state_dict_type.name} is not to be had; take FULL_STATE_DICT, or "
                "optimizer.state_dict(sharded=True) for a rank's own pieces"
            )
        settings = StateDictSettings(state_dict_type, state_dict_config or StateDictConfig(),
                                     optim_state_dict_config or StateDictConfig())  # fmt: skip
        before = settings
        for each in FullyShardedDataParallel.fsdp_modules(module):
            before, each._kind = each._kind, settings
        return before

    @staticmethod
    def get_state_dict_type(module: Module) -> StateDictSettings:
        """What holds for ``module``."""
        settings: StateDictSettings = FullyShardedDataParallel.fsdp_modules(module)[0]._kind
        return settings

    @staticmethod
    @contextmanager
    def state_dict_type(module: Module, state_dict_type: StateDictType, state_dict_config: Any = None,
                        optim_state_dict_config: Any = None) -> Iterator[None]:  # fmt: skip
        """Inside it state dicts are made so."""
        before = FullyShardedDataParallel.set_state_dict_type(
            module, state_dict_type, state_dict_config, optim_state_dict_config
        )
        try:
            yield
        finally:
            for each in FullyShardedDataParallel.fsdp_modules(module):
                each._kind = before

    @staticmethod
    def optim_state_dict(model: Module, optim: Any, optim_state_dict: Any = None, group: Any = None) -> Any:
        """The optimizer's state, whole, by numbers; on rank 0 alone where ``state_dict_type`` says so.

        Collective: yes; blocks: yes.
        """
        found = FullyShardedDataParallel.fsdp_modules(model)
        rank0_only = bool(found) and found[0]._kind.optim_state_dict_config.rank0_only
        return optim.state_dict(rank0_only=rank0_only) if optim_state_dict is None else optim_state_dict

    full_optim_state_dict = optim_state_dict

    @staticmethod
    def optim_state_dict_to_load(
        model: Module, optim: Any, optim_state_dict: Any, *args: Any, **options: Any
    ) -> Any:
        """The state as the optimizer loads it: itself."""
        return optim_state_dict


class FSDPModule:
    """What :func:`fully_shard` adds to a module's class."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; the outermost one through the engine."""
        sharded: _Sharded = self.__dict__["_sharded"]
        run = super().__call__  # type: ignore[misc]
        if sharded.is_inner or sharded.running:
            return run(*args, **kwargs)
        engine = sharded.start(self)  # type: ignore[arg-type]
        engine.training = self.training  # type: ignore[attr-defined]
        sharded.running = True
        try:
            return sharded.precision.cast(engine(*args, **kwargs))
        finally:
            sharded.running = False

    def set_requires_gradient_sync(self, requires_gradient_sync: bool, *, recurse: bool = True) -> None:
        """Whether backward passes reduce gradients, or add them up."""
        self.__dict__["_sharded"].start(self).reducer.enabled = requires_gradient_sync

    set_is_last_backward = set_requires_gradient_sync

    def unshard(self, async_op: bool = False) -> Any:
        """Nothing: a block is gathered when it computes, or is touched."""

    reshard = unshard

    def set_modules_to_forward_prefetch(self, modules: Any) -> None:
        """Nothing: the next block is gathered while one computes."""

    set_modules_to_backward_prefetch = set_modules_to_forward_prefetch


class _Sharded:
    """Where a module of :func:`fully_shard` stands.

    Attributes:
        is_inner: it is a block of another one.
        running: the engine is calling it.
    """

    def __init__(self, stage: str | None, group: Any, hybrid: bool, precision: Precision) -> None:
        self.stage, self.group, self.hybrid, self.precision = stage, group, hybrid, precision
        self.is_inner = self.running = False
        self._engine: DistributedDataParallel | None = None

    def start(self, module: Module) -> DistributedDataParallel:
        """The engine, made at first. Collective: then; blocks: then."""
        if self._engine is None:
            inner = [each for each in module.modules() if isinstance(each, FSDPModule) and each is not module]
            for each in inner:
                each.__dict__["_sharded"].is_inner = True
            found: list[Any] = inner
            precision = agreed([each.__dict__["_sharded"].precision for each in inner], self.precision)
            self._engine = make_engine(module, self.group, self.stage, found, self.hybrid, precision)
        return self._engine


def fully_shard(
    module: Any,
    *,
    mesh: Any = None,
    reshard_after_forward: bool | int | None = None,
    shard_placement_fn: Any = None,
    mp_policy: MixedPrecisionPolicy | None = None,
    offload_policy: OffloadPolicy | None = None,
    ignored_params: Any = None,
) -> Any:
    """Let each rank keep a part of a module, in place; see :class:`FullyShardedDataParallel`.

    Collective: no; the first forward pass of the outermost module; blocks: no.

    Args:
        module: or a list of them, each a block of what is around it.
        mesh: a :class:`DeviceMesh` of one dimension, along which ranks share, or of two, whose first is for
            ranks that hold the same; the outermost module's counts. None is all ranks.
        shard_placement_fn, ignored_params: only None.
        reshard_after_forward: False keeps parameters whole between forward and backward: of the outermost
            module, ranks then keep parts of gradients and state.
        mp_policy: dtypes of a model of float32, the same for all of it; see :class:`MixedPrecisionPolicy`.
        offload_policy: taken for modules on the host.

    Returns:
        What was given; its class is a subclass of its own and of :class:`FSDPModule`.
    """
    stage = "gradients" if reshard_after_forward is False else "parameters"
    group, hybrid = (None, False) if mesh is None else groups_of("fully_shard", mesh)
    for each in module if isinstance(module, list | tuple) else [module]:
        others = {"shard_placement_fn": shard_placement_fn, "ignored_params": ignored_params}
        check("fully_shard", each, isinstance(offload_policy, CPUOffloadPolicy), others)
        precision = Precision.make("fully_shard", each, mp_policy, stage)
        kind = type(each)
        each.__class__ = type(f"FSDP{kind.__name__}", (FSDPModule, kind), {"__doc__": kind.__doc__})
        each.__dict__["_sharded"] = _Sharded(stage, group, hybrid, precision)
    return module


def register_fsdp_forward_method(module: Module, method_name: str) -> None:
    """Nothing: a parameter is gathered wherever it is touched."""
