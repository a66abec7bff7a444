"""Functions that users hang on an optimizer: around its steps, and around its state dict."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distgrad.autograd.tensor import RemovableHandle

__all__ = [
    "Hooked",
    "Hooks",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
    "with_load_hooks",
    "with_state_hooks",
    "with_step_hooks",
]

_Hook = Callable[..., Any]


@dataclass
class Hooks:
    """The hooks of one optimizer, each kind in the order in which they are called."""

    step_pre: list[_Hook] = field(default_factory=list)
    step_post: list[_Hook] = field(default_factory=list)
    state_pre: list[_Hook] = field(default_factory=list)
    state_post: list[_Hook] = field(default_factory=list)
    load_pre: list[_Hook] = field(default_factory=list)
    load_post: list[_Hook] = field(default_factory=list)
    running: set[str] = field(default_factory=set)  # methods that run within their hooks


#: The hooks on the steps of all optimizers, which are called before an optimizer's own.
_EVERYWHERE = Hooks()


def _add(hooks: list[_Hook], hook: _Hook, prepend: bool = False) -> RemovableHandle:
    hooks.insert(0 if prepend else len(hooks), hook)
    return RemovableHandle(hooks, hook)


class Hooked:
    """What has hooks: the part of an optimizer that registers them."""

    _hooks: Hooks

    def register_step_pre_hook(self, hook: _Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step; it returns None or ``(args, kwargs)``.

        ``args`` begins with the optimizer, as in the call of the method.
        """
        return _add(self._hooks.step_pre, hook)

    def register_step_post_hook(self, hook: _Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` behind each step."""
        return _add(self._hooks.step_post, hook)

    def register_state_dict_pre_hook(self, hook: _Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer)`` before a state dict is made; ``prepend`` puts it before the others."""
        return _add(self._hooks.state_pre, hook, prepend)

    def register_state_dict_post_hook(self, hook: _Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` behind that; what it returns, unless None, is given."""
        return _add(self._hooks.state_post, hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: _Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before loading; what it returns, unless None, is loaded."""
        return _add(self._hooks.load_pre, hook, prepend)

    def register_load_state_dict_post_hook(self, hook: _Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer)`` once a state dict is loaded; ``prepend`` puts it before the others."""
        return _add(self._hooks.load_post, hook, prepend)


def register_optimizer_step_pre_hook(hook: _Hook) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` before each step of every optimizer."""
    return _add(_EVERYWHERE.step_pre, hook)


def register_optimizer_step_post_hook(hook: _Hook) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` behind each step of every optimizer."""
    return _add(_EVERYWHERE.step_post, hook)


def _once(method: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method by ``around``, except inside of itself: subclasses call the one of their base."""

    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        hooks: Hooks | None = vars(self).get("_hooks")  # None of what stands around another optimizer
        if hooks is None or name in hooks.running:
            return method(self, *args, **kwargs)
        hooks.running.add(name)
        try:
            return around(method, self, hooks, args, kwargs)
        finally:
            hooks.running.discard(name)

    return call


def with_step_hooks(method: Callable[..., Any]) -> Callable[..., Any]:
    """A ``step`` with the hooks around it."""
    return _once(method, _step)


def with_state_hooks(method: Callable[..., Any]) -> Callable[..., Any]:
    """A ``state_dict`` with the hooks around it."""
    return _once(method, _state_dict)


def with_load_hooks(method: Callable[..., Any]) -> Callable[..., Any]:
    """A ``load_state_dict`` with the hooks around it."""
    return _once(method, _load)


def _step(method: Any, optimizer: Any, hooks: Hooks, args: Any, kwargs: Any) -> Any:
    args = (optimizer, *args)
    for hook in (*_EVERYWHERE.step_pre, *hooks.step_pre):
        changed = hook(optimizer, args, kwargs)
        if changed is None:
            continue
        if not (isinstance(changed, tuple) and len(changed) == 2):
            raise TypeError(
                f"step pre-hook of {type(optimizer).__name__}: expected None or (args, kwargs), got "
                f"{changed!r}"
            )
        args, kwargs = changed
    out = method(*args, **kwargs)
    for hook in (*hooks.step_post, *_EVERYWHERE.step_post):
        hook(optimizer, args, kwargs)
    return out


def _state_dict(method: Any, optimizer: Any, hooks: Hooks, args: Any, kwargs: Any) -> Any:
    for hook in tuple(hooks.state_pre):
        hook(optimizer)
    out = method(optimizer, *args, **kwargs)
    for hook in tuple(hooks.state_post):
        changed = hook(optimizer, out)
        out = out if changed is None else changed
    return out


def _load(method: Any, optimizer: Any, hooks: Hooks, args: Any, kwargs: Any) -> Any:
    state_dict, *rest = args or (kwargs.pop("state_dict"),)
    for hook in tuple(hooks.load_pre):
        changed = hook(optimizer, dict(state_dict))
        state_dict = state_dict if changed is None else changed
    out = method(optimizer, state_dict, *rest, **kwargs)
    for hook in tuple(hooks.load_post):
        hook(optimizer)
    return out
