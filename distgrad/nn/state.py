"""Loading a state dict: everything is compared first, so that an error leaves the module as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.parts import Part, kept_dtype
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.meta import META, MetaArray
from distgrad.errors import StateDictError
from distgrad.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter, write

__all__ = ["EXTRA_STATE", "IncompatibleKeys", "load"]

#: The key under which a module's extra state stands in a state dict, as in PyTorch's.
EXTRA_STATE = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(strict=False)`` passed over.

    Attributes:
        missing_keys: names that the module has and the state dict lacks.
        unexpected_keys: names that the state dict has and the module lacks.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]


def load(
    module: Any, own: dict[str, Any], state_dict: Mapping[str, Any], strict: bool, assign: bool
) -> IncompatibleKeys:
    """Copy the values of a state dict into a module.

    Args:
        module: the module.
        own: its entries by dotted name.
        state_dict, strict, assign: as in ``Module.load_state_dict``, as are the result and the errors.
    """
    keys = IncompatibleKeys(
        [key for key in own if key not in state_dict], [key for key in state_dict if key not in own]
    )
    problems = [f"missing key {key}" for key in keys.missing_keys] if strict else []
    problems += [f"unexpected key {key}" for key in keys.unexpected_keys] if strict else []
    values = {key: _plain(state_dict[key]) for key in own if key in state_dict}
    for key, value in values.items():
        problems += _misfits(key, own[key], value, assign)
    if problems:
        raise StateDictError(
            f"load_state_dict: the state dict does not fit {type(module).__name__}; nothing was loaded:\n  "
            + "\n  ".join(problems)
        )
    for key, value in values.items():
        if assign and isinstance(own[key], Tensor):
            path, _, name = key.rpartition(".")
            _replace(module.get_submodule(path), name, own[key], value)
            continue
        if isinstance(own[key], UninitializedParameter | UninitializedBuffer):
            own[key].materialize(value.shape)
        if isinstance(own[key], Tensor):
            write(own[key], value, "load_state_dict")
        else:
            module.get_submodule(key.rpartition(".")[0]).set_extra_state(value)
    return keys


def _replace(module: Any, name: str, own: Tensor, value: Any) -> None:
    """Put a value in the place of a module's own parameter or buffer."""
    array = value if value.__class__ in ARRAY_MODULES else np.asarray(value)
    if isinstance(own, Parameter):
        wanted = own._requires_grad if isinstance(own, UninitializedParameter) else own.requires_grad
        module._parameters[name] = Parameter(array, wanted)
    else:
        module._buffers[name] = Tensor(array)


def _plain(value: Any) -> Any:
    return value._data if isinstance(value, Tensor) else value


def _misfits(key: str, own: Any, value: Any, assign: bool) -> list[str]:
    """Why a value cannot be copied into the module's own, in at most one sentence."""
    if not isinstance(own, Tensor):
        return []
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
