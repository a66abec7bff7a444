"""Losses with PyTorch's order of arguments, among them ``size_average`` and ``reduce``.

The classes are those of ``dg.nn`` and the functions those of ``dg.nn.functional``, under the same names; the
tables in ``distgrad/names/losses.py`` say where the arguments stand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from distgrad.errors import OptionError
from distgrad.names.losses import LOSS_FUNCTIONS, LOSS_LAYERS
from distgrad.nn.functional import binary, classification, ranking, regression
from distgrad.nn.modules import class_loss, loss
from distgrad.tracebacks import warn_once

__all__ = [*LOSS_LAYERS, *LOSS_FUNCTIONS]  # noqa: PLE0604 (they are made below)


_FILES = (binary, classification, ranking, regression, loss, class_loss)
_FOUND = {name: each for file in _FILES for name, each in vars(file).items()}


def _reduction(size_average: Any, reduce: Any, where: str) -> str:
    """What the two of old mean; None counts as True."""
    for name, value in (("size_average", size_average), ("reduce", reduce)):
        if value not in (None, True, False):
            raise OptionError(
                f"{where}: {name} must be True or False, got {value!r}; pass reduction='none', 'mean' or "
                "'sum' by its name"
            )
    if reduce is not None and not reduce:
        found = "none"
    else:
        found = "mean" if size_average is None or size_average else "sum"
    warn_once(
        "size_average and reduce",
        f"{where}: size_average and reduce are names of old; pass reduction={found!r} instead",
    )
    return found


def _of_today(
    names: list[str], where: str, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, ...]:
    """The arguments that stay in their place; ``options`` gets the others by their names.

    Raises:
        TypeError: too many arguments, or one given twice.
    """
    if len(args) > len(names):
        raise TypeError(f"{where}: expected at most {len(names)} arguments, got {len(args)}")
    place = names.index("size_average")
    for name, value in zip(names[place:], args[place:], strict=False):
        if name in options:
            raise TypeError(f"{where}: {name} is given by its place and by its name; leave one out")
        options[name] = value
    size_average, reduce = options.pop("size_average", None), options.pop("reduce", None)
    if size_average is not None or reduce is not None:
        options["reduction"] = _reduction(size_average, reduce, where)
    return args[:place]


def layer_of(base: Any, name: str, arguments: str) -> type:
    """A subclass that takes PyTorch's arguments, in their order, under PyTorch's name."""
    names = arguments.split()

    @functools.wraps(base.__init__)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        base.__init__(self, *_of_today(names, name, args, options), **options)

    return type(name, (base,), {"__init__": __init__, "__doc__": base.__doc__, "__module__": __name__})


def _function(name: str) -> Callable[..., Any]:
    function = _FOUND[name]
    names = LOSS_FUNCTIONS[name].split()

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(*_of_today(names, name, args, options), **options)

    return call


for _name in LOSS_LAYERS:
    globals()[_name] = layer_of(_FOUND[_name], _name, LOSS_LAYERS[_name])
for _name in LOSS_FUNCTIONS:
    globals()[_name] = _function(_name)
