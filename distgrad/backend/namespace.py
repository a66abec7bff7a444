"""Namespaces: the array functions that formulas are written against, one namespace a kind of array."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["NAMESPACES", "Namespace", "add_formula", "complete", "namespace_of", "register_namespace"]


class Namespace:
    """Array functions by name: a backend's own, and beside them the formulas of what it lacks.

    Formulas and gradients take it as ``xp``. In a gradient of a gradient its place is taken by the Tensor
    namespace, which has the same names.

    Args:
        name: the backend's name.
        array_type: the class of its arrays.
        functions: by name.
        fallback: gives functions that ``functions`` lacks, by name, or raises AttributeError.
    """

    def __init__(
        self,
        name: str,
        array_type: type,
        functions: dict[str, Any],
        fallback: Callable[[str], Any] | None = None,
    ) -> None:
        self.__dict__.update(functions)
        self.__name__ = name
        self.array_type = array_type
        self._fallback = fallback

    def __getattr__(self, name: str) -> Any:
        fallback = self.__dict__.get("_fallback")
        if fallback is not None and not name.startswith("_"):
            try:
                value = fallback(name)
            except AttributeError:
                pass
            else:
                self.__dict__[name] = value
                return value
        raise AttributeError(f"namespace {self.__name__!r} has no function {name!r}")

    def __repr__(self) -> str:
        return f"<namespace {self.__name__}>"

    def add_formula(self, name: str, formula: Callable[..., Any], replace: bool = False) -> None:
        """Make an operation's formula callable as ``xp.name(...)``.

        Args:
            name: the operation.
            formula: ``formula(xp, *inputs, **attributes)``.
            replace: whether it takes the place of the backend's own function of that name.
        """
        if replace or not self._has(name):
            self.__dict__[name] = functools.partial(formula, self)

    def _has(self, name: str) -> bool:
        try:
            getattr(self, name)
        except AttributeError:
            return False
        return True


#: Namespaces by class of array; Python numbers go with whatever they meet.
NAMESPACES: dict[type, Namespace] = {}


def namespace_of(array: Any) -> Namespace:
    """The functions for an array, and for a number NumPy's."""
    return NAMESPACES.get(array.__class__) or NAMESPACES[np.ndarray]


_formulas: dict[str, tuple[Callable[..., Any], bool]] = {}


def complete(namespace: Namespace) -> Namespace:
    """Give a namespace the formulas added so far; returns it."""
    for name, (formula, replace) in _formulas.items():
        namespace.add_formula(name, formula, replace)
    return namespace


def register_namespace(namespace: Namespace) -> None:
    """Compute on arrays of its class by its functions, and by the formulas added so far and from now on."""
    complete(namespace)
    NAMESPACES[namespace.array_type] = namespace


def add_formula(name: str, formula: Callable[..., Any], replace: bool = False) -> None:
    """Add an operation's formula to all namespaces, those of later too; arguments as the method's."""
    _formulas[name] = (formula, replace)
    for namespace in NAMESPACES.values():
        namespace.add_formula(name, formula, replace)
