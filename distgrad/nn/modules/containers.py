"""Modules that hold others: sequences, lists and dicts of modules and of parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Self

from distgrad.autograd.tensor import Tensor
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.nn.text import bracketed, indented

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


def _position(index: Any, length: int, where: str) -> int:
    """A list index, counted from the end if negative, as a place from 0."""
    place = operator.index(index)
    if not -length <= place < length:
        raise IndexError(f"{where}: index {place} is outside a list of {length}")
    return place % length


class _Numbered(Module):
    """Modules under the names "0", "1" and so on."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._modules.values()))  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        modules = list(self)
        if isinstance(index, slice):
            return type(self)._of(modules[index])
        return modules[_position(index, len(modules), type(self).__name__)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.register_module(list(self._modules)[_position(index, len(self), type(self).__name__)], module)

    def __delitem__(self, index: int | slice) -> None:
        modules = list(self)
        del modules[index]
        self._renew(modules)

    @classmethod
    def _of(cls, modules: list[Module]) -> Any:
        out = cls.__new__(cls)
        Module.__init__(out)
        out._renew(modules)
        return out

    def _renew(self, modules: Iterable[Module]) -> None:
        """Hold these modules, numbered anew."""
        modules = list(modules)
        self._modules.clear()
        for place, module in enumerate(modules):
            self.register_module(str(place), module)

    def append(self, module: Module) -> Self:
        """Add a module at the end; returns the container."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add several at the end; returns the container."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before the one at ``index``; returns the container."""
        modules = list(self)
        modules.insert(index, module)
        self._renew(modules)
        return self

    def pop(self, key: int = -1) -> Module:
        """Take the module at a place out and return it."""
        module = self[key]
        del self[key]
        return module


class Sequential(_Numbered):
    """Modules called one after another, each with what the one before returned.

    Args:
        *args: the modules, or one dict of them by name.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.register_module(name, module)
        else:
            self._renew(args)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)
        numbered = names == [str(place) for place in range(len(names))]
        for name in names[index] if isinstance(index, slice) else [names[index]]:
            del self._modules[name]
        if numbered:
            self._renew(self)

    def forward(self, input: Any) -> Tensor:  # what most give; a type checker knows no better
        """The last module's result."""
        for module in self._modules.values():
            input = module(input)  # type: ignore[misc]
        return input


class ModuleList(_Numbered):
    """A list of modules that a module can see.

    Args:
        modules: what it holds; None means nothing yet.
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self._renew(modules or ())

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        lines = []
        for text, group in groupby(enumerate(map(repr, self)), key=lambda pair: pair[1]):
            places = [place for place, _ in group]
            shown = indented(text)
            if len(places) > 1:
                lines.append(f"({places[0]}-{places[-1]}): {len(places)} x {shown}")
            else:
                lines.append(f"({places[0]}): {shown}")
        return bracketed(self._get_name(), self.extra_repr(), lines)


class ModuleDict(Module):
    """Modules by name that a module can see.

    Args:
        modules: a dict, or (name, module) pairs; None means nothing yet.
    """

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.register_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> Iterable[Any]:
        """The modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, module) pairs."""
        return self._modules.items()

    def update(self, modules: Any) -> None:
        """Add those of a dict or of (name, module) pairs."""
        for name, module in modules.items() if hasattr(modules, "items") else modules:
            self.register_module(name, module)

    def pop(self, key: str) -> Any:
        """Take a module out and return it."""
        return self._modules.pop(key)

    def clear(self) -> None:
        """Take all out."""
        self._modules.clear()


def _as_parameter(value: Any) -> Any:
    """Tensors become parameters; other values stay as they are, kept but not trained."""
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{type(value).__name__} containing: [{value.dtype} of size {list(value.shape)}]"
    return f"Object of type: {type(value).__name__}"


class ParameterList(Module):
    """A list of parameters that a module can see; tensors put in become parameters.

    Args:
        values: what it holds; None means nothing yet.
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        self.extend(values or ())

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(self._size))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ParameterList(list(self)[index])
        return getattr(self, str(_position(index, self._size, "ParameterList")))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, str(_position(index, self._size, "ParameterList")), _as_parameter(value))

    def append(self, value: Any) -> ParameterList:
        """Add one at the end; returns the list."""
        self._size += 1
        self[-1] = value
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Add several at the end; returns the list."""
        for value in list(values):
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Any]) -> ParameterList:
        return self.extend(values)

    def __repr__(self) -> str:
        lines = [f"({place}): {_described(value)}" for place, value in enumerate(self)]
        return bracketed("ParameterList", "", lines)


class ParameterDict(Module):
    """Parameters by name that a module can see; tensors put in become parameters.

    Args:
        parameters: a dict, or (name, value) pairs; None means nothing yet.
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        self.update(parameters or {})

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, _as_parameter(value))
        self._keys[key] = None

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._keys.keys()

    def values(self) -> Iterable[Any]:
        """The parameters."""
        return [self[key] for key in self._keys]

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, parameter) pairs."""
        return [(key, self[key]) for key in self._keys]

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter of a name, or ``default``."""
        return self[key] if key in self._keys else default

    def update(self, parameters: Any) -> None:
        """Add those of a dict or of (name, value) pairs."""
        for key, value in parameters.items() if hasattr(parameters, "items") else parameters:
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The parameter of a name, which is ``default`` from now on if there was none."""
        if key not in self._keys:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Take a parameter out and return it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Take the last (name, parameter) out and return it."""
        if not self._keys:
            raise KeyError("ParameterDict: popitem of an empty dict")
        key = next(reversed(self._keys))
        return key, self.pop(key)

    def copy(self) -> ParameterDict:
        """Another dict of the same parameters."""
        return ParameterDict(self)

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """Another dict that holds ``default`` under each of the names."""
        return ParameterDict(dict.fromkeys(keys, default))

    def clear(self) -> None:
        """Take all out."""
        for key in list(self._keys):
            del self[key]

    def __repr__(self) -> str:
        lines = [f"({key}): {_described(value)}" for key, value in self.items()]
        return bracketed("ParameterDict", "", lines)
