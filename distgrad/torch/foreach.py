"""``torch._foreach_*``: one method over lists of tensors, as optimizers of libraries call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor

__all__: list[str] = []

_PREFIX = "_foreach_"
#: Operations whose method has another name.
_METHODS = {
    "minimum": "clamp_max",
    "minimum_": "clamp_max_",
    "maximum": "clamp_min",
    "maximum_": "clamp_min_",
}


def __getattr__(name: str) -> Any:
    method = name.removeprefix(_PREFIX)
    if not name.startswith(_PREFIX) or not hasattr(Tensor, _METHODS.get(method, method)):
        raise AttributeError(name)
    return _over_lists(_METHODS.get(method, method), method.endswith("_"))


def _over_lists(method: str, in_place: bool) -> Callable[..., Any]:
    """The method for each of the tensors; lists among the arguments have one element for each of them."""

    def call(self: Sequence[Any], *args: Any, **options: Any) -> list[Tensor] | None:
        if not isinstance(self, list | tuple):  # a number to the power of each tensor
            return [ops.pow(self, each) for each in args[0]]
        if method in ("addcmul", "addcmul_", "addcdiv", "addcdiv_") and len(args) > 2:
            args, options = args[:2], {"value": args[-1]}
        results = [
            getattr(tensor, method)(
                *[_one(each, place) for each in args],
                **{key: _one(each, place) for key, each in options.items()},
            )
            for place, tensor in enumerate(self)
        ]
        return None if in_place else results

    return call


def _one(argument: Any, place: int) -> Any:
    """The element of a list that belongs to one tensor; what is no list belongs to all."""
    return argument[place] if isinstance(argument, list | tuple) else argument
