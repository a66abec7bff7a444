"""``torch.distributed.algorithms._checkpoint.checkpoint_wrapper``: modules whose calls are checkpointed."""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any

from distgrad.nn.module import Module
from distgrad.torch.calls import checkpoint

__all__ = ["CheckpointImpl", "CheckpointWrapper", "apply_activation_checkpointing", "checkpoint_wrapper"]


class CheckpointImpl(enum.Enum):
    """Two ways of PyTorch's; there is one here."""

    REENTRANT = enum.auto()
    NO_REENTRANT = enum.auto()


class CheckpointWrapper(Module):
    """A module that forgets what its calls saved for backward, and computes it once more there.

    It has the module's own parameters, buffers and submodules under their own names, so state dicts stay as
    they are.

    Args:
        mod: the module.
        checkpoint_impl: taken for PyTorch's sake.
        checkpoint_fn: what calls it; None for ``torch.utils.checkpoint.checkpoint``.
        **checkpoint_fn_kwargs: of that function.
    """

    training = property(
        lambda self: self._checkpoint_wrapped_module.training,
        lambda self, mode: setattr(self._checkpoint_wrapped_module, "training", mode),
    )

    def __init__(
        self,
        mod: Module,
        checkpoint_impl: CheckpointImpl = CheckpointImpl.NO_REENTRANT,
        checkpoint_fn: Callable[..., Any] | None = None,
        **checkpoint_fn_kwargs: Any,
    ) -> None:
        training = mod.training
        self.__dict__["_checkpoint_wrapped_module"] = mod
        super().__init__()
        mod.training = training
        own = ("_parameters", "_buffers", "_modules", "_non_persistent")
        self.__dict__.update({name: mod.__dict__[name] for name in own})
        self.__dict__["_checkpointed"] = partial(checkpoint_fn or checkpoint, **checkpoint_fn_kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result."""
        return self._checkpointed(self._checkpoint_wrapped_module, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_checkpoint_wrapped_module"], name)


def checkpoint_wrapper(
    module: Module,
    checkpoint_impl: CheckpointImpl = CheckpointImpl.NO_REENTRANT,
    checkpoint_fn: Callable[..., Any] | None = None,
    **checkpoint_fn_kwargs: Any,
) -> Module:
    """The module, its calls checkpointed; arguments as in :class:`CheckpointWrapper`."""
    return CheckpointWrapper(module, checkpoint_impl, checkpoint_fn, **checkpoint_fn_kwargs)


def apply_activation_checkpointing(
    model: Module,
    checkpoint_wrapper_fn: Callable[[Module], Module] = checkpoint_wrapper,
    check_fn: Callable[[Module], bool] = lambda _: True,
    auto_wrap_policy: Any = None,
) -> None:
    """Wrap submodules of a model, in place.

    Args:
        model: the model, which is not wrapped itself.
        checkpoint_wrapper_fn: wraps one.
        check_fn: says which.
        auto_wrap_policy: says which in its place, as for FSDP: a function of ``module``, ``recurse`` and
            ``nonwrapped_numel``.
    """
    for name, child in list(model.named_children()):
        apply_activation_checkpointing(child, checkpoint_wrapper_fn, check_fn, auto_wrap_policy)
        chosen = (
            check_fn(child)
            if auto_wrap_policy is None
            else auto_wrap_policy(
                module=child, recurse=False, nonwrapped_numel=sum(p.numel() for p in child.parameters())
            )
        )
        if chosen:
            setattr(model, name, checkpoint_wrapper_fn(child))
