"""Loading a state dict: everything is compared first, so that an error leaves the module as it was."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.parts import Part, kept_dtype
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.meta import META, MetaArray
from distgrad.errors import StateDictError
from distgrad.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter, write

__all__ = ["EXTRA_STATE", "IncompatibleKeys", "load", "run_pre_hooks", "take"]

#: The key under which a module's extra state stands in a state dict, as in PyTorch's.
EXTRA_STATE = "_extra_state"

_Writes = list[Callable[[], object]]


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(strict=False)`` passed over.

    Attributes:
        missing_keys: names that the module has and the state dict lacks.
        unexpected_keys: names that the state dict has and the module lacks.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not any(self):
            return "<All keys matched successfully>"
        return f"{type(self).__name__}(missing_keys={self[0]!r}, unexpected_keys={self[1]!r})"


@dataclass
class _Loading:
    """One call of ``load_state_dict``.

    Args:
        metadata: what was saved beside the entries, by the names of modules.
        assign: as in ``Module.load_state_dict``.
    """

    metadata: Mapping[str, dict[str, Any]]
    assign: bool
    keys: IncompatibleKeys = field(default_factory=lambda: IncompatibleKeys([], []))
    problems: list[str] = field(default_factory=list)
    writes: _Writes = field(default_factory=list)
    post_hooks: _Writes = field(default_factory=list)

    def visit(self, module: Any, state_dict: dict[str, Any], prefix: str) -> None:
        """Compare a module and those within; what is to be written is noted, and so are the hooks behind."""
        metadata = dict(self.metadata.get(prefix[:-1], {}))
        if self.assign:
            metadata["assign_to_params_buffers"] = True
        hook_arguments = (state_dict, prefix, metadata, True, *self.keys, self.problems)
        if module._loads_as_usual():
            run_pre_hooks(module, *hook_arguments)
            self.writes += take(module, state_dict, prefix, self.keys, self.problems, self.assign)
        else:
            module._load_from_state_dict(*hook_arguments)
        for name, part in module._parts():
            inside = prefix + name
            entries = {key: each for key, each in state_dict.items() if key.startswith(inside)}
            self.visit(part, entries, inside)
        if module._hooks is not None:
            self.post_hooks += [
                partial(_run_post_hook, each, module, self.keys) for each in module._hooks.load_post
            ]

    def check(self, module: Any, strict: bool) -> None:
        """Raise the error of what was found."""
        keys = self.keys
        found = [f"missing key {key}" for key in keys.missing_keys] if strict else []
        found += [f"unexpected key {key}" for key in keys.unexpected_keys] if strict else []
        if found or self.problems:
            raise StateDictError(
                f"load_state_dict: the state dict does not fit {type(module).__name__}; nothing was "
                "loaded:\n  " + "\n  ".join([*found, *self.problems])
            )


def load(module: Any, state_dict: Mapping[str, Any], strict: bool, assign: bool) -> IncompatibleKeys:
    """Copy the values of a state dict into a module; arguments, result and errors as its method has them."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"load_state_dict: expected a dict of tensors by name, got {type(state_dict).__name__}"
        )
    loading = _Loading(getattr(state_dict, "_metadata", None) or {}, assign)
    loading.visit(module, OrderedDict(state_dict), "")
    loading.check(module, strict and not loading.post_hooks)  # those may say that a name is no error
    for each in loading.writes:
        each()
    for each in loading.post_hooks:
        each()
    loading.check(module, strict)
    return loading.keys


def run_pre_hooks(module: Any, *arguments: Any) -> None:
    """Call a module's hooks before loading; the arguments are those of ``_load_from_state_dict``."""
    module._upgrade(*arguments[:3])
    for hook in () if module._hooks is None else tuple(module._hooks.load_pre):
        hook.function(*((module,) if hook.with_module else ()), *arguments)


def _run_post_hook(hook: Any, module: Any, keys: IncompatibleKeys) -> None:
    if hook.function(module, keys) is not None:
        raise TypeError("load_state_dict post-hook must return None; change incompatible_keys in place")


def take(
    module: Any, state_dict: Mapping[str, Any], prefix: str, keys: IncompatibleKeys, problems: list[str],
    assign: bool,
) -> _Writes:  # fmt: skip
    """Compare a module's own entries with a state dict.

    Args:
        module: the module; those within are not looked at.
        state_dict, prefix: as in ``Module._load_from_state_dict``.
        keys, problems: are added to.
        assign: as in ``Module.load_state_dict``.

    Returns:
        What is to be called to write the values.
    """
    writes: _Writes = []
    own = module._own_entries()
    for name, tensor in own.items():
        key = prefix + name
        if key not in state_dict:
            keys.missing_keys.append(key)
            continue
        given = state_dict[key]
        value = _plain(given, tensor)
        found = _misfits(key, tensor, value, assign)
        problems += found
        if not found:
            chosen = (
                partial(_replace, module, name, tensor, given) if assign else partial(_copy, tensor, value)
            )
            writes.append(chosen)
    writes += _take_extra(module, state_dict, prefix + EXTRA_STATE, keys)
    for key in state_dict:
        first, inside, _ = key[len(prefix) :].partition(".")
        if (
            key.startswith(prefix)
            and first not in (module._modules if inside else own)
            and first != EXTRA_STATE
        ):
            keys.unexpected_keys.append(key)
    return writes


def _take_extra(module: Any, state_dict: Mapping[str, Any], key: str, keys: IncompatibleKeys) -> _Writes:
    if key in state_dict and module._takes_extra_state():
        return [partial(module.set_extra_state, state_dict[key])]
    if key in state_dict:
        keys.unexpected_keys.append(key)
    elif module.get_extra_state() is not None:
        keys.missing_keys.append(key)
    return []


def _copy(own: Tensor, value: Any) -> None:
    if isinstance(own, UninitializedParameter | UninitializedBuffer):
        own.materialize(value.shape)
    write(own, value, "load_state_dict")


def _replace(module: Any, name: str, own: Tensor, given: Any) -> None:
    """Put a value in the place of a module's own parameter or buffer."""
    value = given._data if isinstance(given, Tensor) else given
    array = value if value.__class__ in ARRAY_MODULES else np.asarray(value)
    if not isinstance(own, Parameter):
        module._buffers[name] = given if isinstance(given, Tensor) else Tensor(array)
        return
    wanted = own._requires_grad if isinstance(own, UninitializedParameter) else own.requires_grad
    if isinstance(given, Parameter):
        module._parameters[name] = given.requires_grad_(wanted)
    else:
        module._parameters[name] = Parameter(array, wanted)


def _plain(given: Any, own: Tensor) -> Any:
    """The array of a value; one of one element where there are no axes, as old files have it."""
    value = given._data if isinstance(given, Tensor) else given
    lazy = isinstance(own, UninitializedParameter | UninitializedBuffer)
    is_old = (
        not lazy and own.ndim == 0 and getattr(value, "shape", None) == (1,) and not isinstance(value, Part)
    )
    return value[0] if is_old else value


def _misfits(key: str, own: Any, value: Any, assign: bool) -> list[str]:
    """Why a value cannot be copied into the module's own, in at most one sentence."""
    if isinstance(value, Part):
        dtype = kept_dtype(own)
        if own.shape != value.shape or dtype != value.data.dtype:
            return [f"{key} is {dtype}{list(own.shape)} in the module but a part of {list(value.shape)}"]
        return []
    kind: type = value.__class__
    if not issubclass(kind, np.ndarray | np.generic) and kind not in ARRAY_MODULES:
        return [f"{key} is a tensor in the module but {type(value).__name__} in the state dict"]
    if own.device == META and not assign:
        return [f"{key} lies on 'meta', which holds no elements: pass assign=True, or call to_empty() first"]
    if getattr(value, "__class__", None) is MetaArray:
        return [f"{key} has no elements in the state dict: it was saved on 'meta'"]
    lazy = isinstance(own, UninitializedParameter | UninitializedBuffer)
    if not lazy and own.shape != value.shape:
        return [f"{key} is {list(own.shape)} in the module but {list(value.shape)} in the state dict"]
    if not assign and not np.can_cast(value.dtype, own.dtype, "same_kind"):
        return [f"{key} is {own.dtype} in the module but {value.dtype} in the state dict"]
    return []
