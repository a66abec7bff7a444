"""Hooks of all modules at once: on their calls, and on what is registered in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.tensor import RemovableHandle
from distgrad.nn.hooks import EVERYWHERE, Hook, Hooks

__all__ = [
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
    "registered",
]

#: Called on what is registered, by the place where it goes.
_REGISTRATION: dict[str, list[Callable[..., Any]]] = {"_parameters": [], "_buffers": [], "_modules": []}


def registered(module: Any, place: str, name: str, value: Any) -> Any:
    """What is registered in the end: ``value``, or what a hook returned in its stead."""
    for hook in tuple(_REGISTRATION[place]):
        changed = hook(module, name, value)
        value = value if changed is None else changed
    return value


def _hooks() -> Hooks:
    if not EVERYWHERE:
        EVERYWHERE.append(Hooks())
    return EVERYWHERE[0]


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, args)`` before every module's ``forward``; what it returns is the arguments."""
    return Hooks.add(_hooks().forward_pre, Hook(hook), False)


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call a hook behind every module's ``forward``; arguments as in ``Module.register_forward_hook``."""
    return Hooks.add(_hooks().forward, Hook(hook, with_kwargs, always_call), False)


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_output)`` in backward, before every module's own gradients."""
    return Hooks.add(_hooks().backward_pre, Hook(hook), False)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` in backward, for every module."""
    return Hooks.add(_hooks().backward, Hook(hook), False)


register_module_backward_hook = register_module_full_backward_hook


def _on_registration(place: str, hook: Callable[..., Any]) -> RemovableHandle:
    _REGISTRATION[place].append(hook)
    return RemovableHandle(_REGISTRATION[place], hook)


def register_module_parameter_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, parameter)`` wherever one is registered; what it returns takes its place."""
    return _on_registration("_parameters", hook)


def register_module_buffer_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, buffer)`` wherever one is registered; what it returns takes its place."""
    return _on_registration("_buffers", hook)


def register_module_module_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, name, submodule)`` wherever one is registered; what it returns takes its place."""
    return _on_registration("_modules", hook)
