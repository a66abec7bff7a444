"""Array modules: the functions that formulas are written against, one module a kind of array."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "ARRAY_MODULES",
    "HOST_ARRAYS",
    "ArrayModule",
    "add_formula",
    "complete",
    "get_array_module",
    "register_array_module",
    "register_host_array",
]


class ArrayModule:
    """Array functions by name: a backend's own, and beside them the formulas of what it lacks.

    Formulas and gradients take it as ``xp``. In a gradient of a gradient its place is taken by the
    operations on tensors, which have the same names.

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
        raise AttributeError(f"array module {self.__name__!r} has no function {name!r}")

    def __repr__(self) -> str:
        return f"<array module {self.__name__}>"

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


#: Array modules by class of array; Python numbers go with whatever they meet.
ARRAY_MODULES: dict[type, ArrayModule] = {}


#: Classes of arrays in the host's memory that kernels take: NumPy's, and that of who records computations.
HOST_ARRAYS: set[Any] = {np.ndarray}


def register_host_array(array_type: type) -> None:
    """Compute on arrays of a subclass of NumPy's as on NumPy's own; results are what NumPy makes of them."""
    HOST_ARRAYS.add(array_type)
    ARRAY_MODULES[array_type] = ARRAY_MODULES[np.ndarray]


def get_array_module(array: Any) -> ArrayModule:
    """The functions for an array, and for a number NumPy's."""
    return ARRAY_MODULES.get(array.__class__) or ARRAY_MODULES[np.ndarray]


_formulas: dict[str, tuple[Callable[..., Any], bool]] = {}


def complete(module: ArrayModule) -> ArrayModule:
    """Give an array module the formulas added so far; returns it."""
    for name, (formula, replace) in _formulas.items():
        module.add_formula(name, formula, replace)
    return module


def register_array_module(module: ArrayModule) -> None:
    """Compute on arrays of its class by its functions, and by the formulas added so far and from now on."""
    complete(module)
    ARRAY_MODULES[module.array_type] = module


def add_formula(name: str, formula: Callable[..., Any], replace: bool = False) -> None:
    """Add an operation's formula to all array modules, those of later too; arguments as the method's."""
    _formulas[name] = (formula, replace)
    for module in ARRAY_MODULES.values():
        module.add_formula(name, formula, replace)
