"""Tensors of a module that are computed from others: ``weight`` as a function of what is trained.

A module with such a tensor gets the class that :func:`_parametrized_class` makes from its own: one with a
property of that name, which computes the tensor from the originals in ``module.parametrizations``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from distgrad.autograd.modes import no_grad
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError, OptionError, ShapeError
from distgrad.nn.module import Module
from distgrad.nn.modules.containers import ModuleDict, ModuleList
from distgrad.nn.parameter import Parameter, write

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "transfer_parametrizations_and_params",
    "type_before_parametrizations",
]

#: What was computed since :func:`cached` was entered, by the list that computed it; None outside of it.
_cache: ContextVar[dict[ParametrizationList, Tensor] | None] = ContextVar("_cache", default=None)


@contextmanager
def cached() -> Iterator[None]:
    """Compute every parametrized tensor at most once inside; in nested ones the outermost decides."""
    if _cache.get() is not None:
        yield
        return
    token = _cache.set({})
    try:
        yield
    finally:
        _cache.reset(token)


class ParametrizationList(ModuleList):
    """The functions that make one tensor of a module, each a module, and what they make it from.

    Args:
        modules: the functions, first to last; those with ``right_inverse(value)`` turn values back.
        original: the tensor that stood in the module.
        unsafe: do not check that dtype and shape stay.

    Attributes:
        original: what is trained; ``original0``, ``original1``, … where the first function takes several.
        unsafe: as given.
    """

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        self.train(all(module.training for module in modules))
        with no_grad():
            values = self._inverted(original)
        if isinstance(values, Tensor):
            self._names = ["original"]
            self._keep("original", _with_elements(original, values))
        else:
            self._names = [f"original{i}" for i in range(len(values))]
            for name, value in zip(self._names, values, strict=True):
                trained = isinstance(original, Parameter)
                self._keep(name, Parameter(value.clone(), original.requires_grad) if trained else value)
        if not unsafe:
            with no_grad():
                _check_alike(self(), original, "the parametrization of it")

    def _keep(self, name: str, tensor: Tensor) -> None:
        if isinstance(tensor, Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)

    def originals(self) -> list[Tensor]:
        """The tensors that the first function takes."""
        return [getattr(self, name) for name in self._names]

    def forward(self) -> Tensor:
        """The tensor as the functions make it."""
        first, *rest = self
        value = first(*self.originals())
        for module in rest:
            value = module(value)
        return value

    def value(self) -> Tensor:
        """As :meth:`forward`, or what was computed before inside :func:`cached`."""
        cache = _cache.get()
        if cache is None:
            return self()
        if self not in cache:
            cache[self] = self()
        return cache[self]

    def _inverted(self, value: Any) -> Any:
        """What the functions make a value from, as far as they say."""
        for module in reversed(list(self)):
            if hasattr(module, "right_inverse"):
                value = module.right_inverse(value)
        if not isinstance(value, Tensor) and not (
            isinstance(value, Sequence) and all(isinstance(each, Tensor) for each in value)
        ):
            raise DTypeError(
                f"parametrization: right_inverse must return a Tensor or several, got {type(value).__name__}"
            )
        return value

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals so that the functions make ``value``.

        Raises:
            OptionError: a function without ``right_inverse``.
            ShapeError: other originals than there are.
        """
        missing = [type(module).__name__ for module in self if not hasattr(module, "right_inverse")]
        if missing:
            raise OptionError(f"parametrization: {missing[0]} has no right_inverse, so no value can be set")
        with no_grad():
            values = self._inverted(value)
        values = [values] if isinstance(values, Tensor) else list(values)
        if [each.shape for each in values] != [each.shape for each in self.originals()]:
            raise ShapeError(
                f"parametrization: right_inverse gave {[list(each.shape) for each in values]}, expected "
                f"{[list(each.shape) for each in self.originals()]}"
            )
        for original, each in zip(self.originals(), values, strict=True):
            write(original, each._data, "right_inverse")
        cache = _cache.get()
        if cache is not None:
            cache.pop(self, None)


def _with_elements(original: Tensor, values: Tensor) -> Tensor:
    """The original tensor itself where the values fit into it (an optimizer may hold it), else a new one."""
    if values.shape == original.shape and values.dtype == original.dtype:
        if values is not original:
            write(original, values._data, "parametrization")
        return original
    return Parameter(values.clone(), original.requires_grad) if isinstance(original, Parameter) else values


def _check_alike(value: Any, original: Tensor, what: str) -> None:
    if not isinstance(value, Tensor):
        raise DTypeError(
            f"register_parametrization: {what} must be a Tensor, got {type(value).__name__}; "
            "pass unsafe=True if that is meant"
        )
    if value.shape != original.shape or value.dtype != original.dtype:
        raise ShapeError(
            f"register_parametrization: the tensor is {original.dtype}{list(original.shape)} but {what} "
            f"{value.dtype}{list(value.shape)}; pass unsafe=True if that is meant"
        )


@functools.cache
def _parametrized_class(base: Any, names: tuple[str, ...]) -> type[Module]:
    """A subclass of ``base`` with a property for each name."""
    body: dict[str, Any] = {name: _property(name) for name in names}
    body |= {"__module__": base.__module__, "__reduce_ex__": _reduce, "_unparametrized": base}
    return type(f"Parametrized{base.__name__}", (base,), body)


def _property(name: str) -> property:
    def get(self: Module) -> Tensor:
        value: Tensor = self.parametrizations[name].value()
        return value

    def set(self: Module, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, set, doc=f"``{name}``, computed by ``parametrizations.{name}``.")


def _reduce(self: Module, protocol: Any) -> tuple[Any, ...]:
    """How copies and pickles are made: by the class that the module had, and the names."""
    names = tuple(self.parametrizations.keys())
    return _restored, (type(self)._unparametrized, names), self.__dict__  # type: ignore[attr-defined]


def _restored(base: Any, names: tuple[str, ...]) -> Module:
    made = _parametrized_class(base, names)
    return made.__new__(made)


def _set_names(module: Module, names: Sequence[str]) -> None:
    """Give a module the class with properties of these names."""
    base: Any = getattr(type(module), "_unparametrized", type(module))
    module.__class__ = _parametrized_class(base, tuple(names)) if names else base


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a tensor of the module, or any for None, is computed by a parametrization."""
    lists = module._modules.get("parametrizations")
    if not isinstance(lists, ModuleDict):
        return False
    return len(lists) > 0 if tensor_name is None else tensor_name in lists


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Let a parameter or buffer be computed: ``module.weight`` becomes ``parametrization(original)``.

    Args:
        module: whose tensor it is.
        tensor_name: the attribute. Where it is parametrized already, the new function comes after the others.
        parametrization: takes the original, or the several that its ``right_inverse(tensor)`` gives;
            assigning to the attribute calls ``right_inverse`` too.
        unsafe: do not check that dtype and shape stay.

    Returns:
        The module, whose state dict holds ``parametrizations.weight.original`` in place of ``weight``.

    Raises:
        OptionError: a name that is no tensor of the module.
        ShapeError, DTypeError: a result that does not fit in the tensor's place, unless ``unsafe``.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        own = module.parametrizations[tensor_name]
        if not unsafe:
            with no_grad():
                before = own()
                _check_alike(parametrization(before), before, "the parametrization of it")
        own.append(parametrization)
        own.unsafe = own.unsafe or unsafe
        return module
    kind = next((each for each in (module._parameters, module._buffers) if tensor_name in each), {})
    original = kind.get(tensor_name)
    if original is None:
        raise OptionError(
            f"register_parametrization: {type(module).__name__} has no parameter or buffer {tensor_name!r}"
        )
    made = ParametrizationList([parametrization], original, unsafe)
    del kind[tensor_name]
    if not is_parametrized(module):
        module.register_module("parametrizations", ModuleDict())
    module.parametrizations[tensor_name] = made
    _set_names(module, list(module.parametrizations))
    return module


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make a computed tensor a plain one again.

    Args:
        module: whose tensor it is.
        tensor_name: the attribute.
        leave_parametrized: keep the computed value; False brings the original back.

    Returns:
        The module.

    Raises:
        OptionError: a tensor that is not parametrized, or has no single original to bring back.
    """
    if not is_parametrized(module, tensor_name):
        raise OptionError(
            f"remove_parametrizations: {tensor_name!r} of {type(module).__name__} is not parametrized"
        )
    own = module.parametrizations[tensor_name]
    originals = own.originals()
    if len(originals) > 1 and not leave_parametrized:
        raise OptionError(
            f"remove_parametrizations: {tensor_name!r} was made from {len(originals)} tensors, none of which "
            "can take its place; pass leave_parametrized=True"
        )
    kept = originals[0]
    if leave_parametrized:
        with no_grad():
            kept = _with_elements(kept, own())
    del module.parametrizations[tensor_name]
    _set_names(module, list(module.parametrizations))
    if not module.parametrizations:
        del module.parametrizations
    if isinstance(kept, Parameter):
        module.register_parameter(tensor_name, kept)
    else:
        module.register_buffer(tensor_name, kept)
    return module


def type_before_parametrizations(module: Module) -> type[Module]:
    """The class that a module had before any of its tensors was computed."""
    return getattr(type(module), "_unparametrized", type(module))


def transfer_parametrizations_and_params(
    from_module: Module, to_module: Module, tensor_name: str | None = None
) -> Module:
    """Give a module the parametrizations of another, and their originals.

    Args:
        from_module: has them.
        to_module: gets them too; the functions are the same objects.
        tensor_name: the tensor they make; None for all.

    Returns:
        ``to_module``.
    """
    if not is_parametrized(from_module):
        return to_module
    for name in [tensor_name] if tensor_name is not None else list(from_module.parametrizations):
        theirs = from_module.parametrizations[name]
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(theirs().detach()))
        for each in theirs:
            register_parametrization(to_module, name, each, unsafe=theirs.unsafe)
        for original in theirs._names:
            setattr(to_module.parametrizations[name], original, getattr(theirs, original))
    return to_module
