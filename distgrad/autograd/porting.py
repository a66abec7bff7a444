"""What PyTorch's names for arrays are called here, so that each of them is met by an error that says so.

Arrays have the names of the array API standard, and there is no second name for anything. What trains has
PyTorch's, and needs no table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, SupportsIndex, TypeVar, cast, overload

from distgrad.autograd.showing import shape_text
from distgrad.errors import AxisError
from distgrad.names.hints import POSITIONAL, STANDARD_WORDS
from distgrad.names.lacking import lacking

__all__ = ["Elsewhere", "Shape", "Size", "explain_name", "one_shape", "wrong_arguments"]

F = TypeVar("F", bound=Callable[..., Any])

#: Raise the error for a name that tensors, or the package, lack.
explain_method = lacking("'Tensor' object")
explain_name = lacking("module 'distgrad'")


class Elsewhere:
    """Stands in a class for one of PyTorch's names, and raises the error that says what it is called here."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return explain_method(self.name)


_part = tuple.__getitem__


class Shape(tuple[int, ...]):
    """Lengths of axes: a tuple of them, and as PyTorch's ``Size`` its parts and sums are shapes too."""

    __slots__ = ()

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> int: ...

    @overload
    def __getitem__(self, key: slice, /) -> Shape: ...

    def __getitem__(self, key: Any, /) -> Any:
        part = _part(self, key)
        return part if part.__class__ is int else Shape(part)

    def __add__(self, other: Any, /) -> Shape:
        return Shape((*self, *other)) if isinstance(other, tuple) else NotImplemented

    def __repr__(self) -> str:
        return shape_text(self)

    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self)


class Size(int):
    """A number of elements that can be called as PyTorch's ``size()``."""

    shape: tuple[int, ...]

    def __call__(self, dim: int | None = None, *, axis: int | None = None) -> Any:
        """The lengths of the axes, or of one of them."""
        place = axis if dim is None else dim
        if place is None:
            return Shape(self.shape)
        try:
            return self.shape[place]
        except IndexError:
            raise AxisError(f"size: axis {place} is outside an array with {len(self.shape)} axes") from None


def wrong_arguments(
    name: str,
    attributes: Iterable[str],
    misplaced: tuple[Any, ...],
    misnamed: dict[str, Any],
    places: int = 0,
) -> TypeError:
    """The error for arguments that an operation does not take.

    Args:
        name: of the operation.
        attributes: its keywords.
        misplaced: values by position that want a keyword.
        misnamed: those by keywords that it lacks.
        places: how many of the keywords are taken by position too.
    """
    keywords = list(attributes)
    takes = f"its keywords are {', '.join(keywords)}" if keywords else "it takes no keywords"
    if misplaced and "shape" in keywords:
        return TypeError(f"{name}: expected one shape, got several numbers; write them as one tuple")
    if misplaced:
        meant = keywords[places] if len(keywords) > places else ""
        if isinstance(misplaced[0], bool) and "keepdims" in keywords[places:]:
            meant = "keepdims"
        hint = POSITIONAL.get(name) or (f"write {meant}={misplaced[0]!r}" if meant else "leave them out")
        return TypeError(f"{name}: expected options by keyword, got {misplaced}; {hint} ({takes})")
    wrong = next(iter(misnamed))
    ours = STANDARD_WORDS.get(wrong)
    ours = next((each for each in (ours, f"{ours}s", "axes") if ours and each in keywords), None)
    if ours:
        return TypeError(f"{name}: unexpected keyword {wrong!r}; the array API standard calls it {ours!r}")
    return TypeError(f"{name}: unexpected keyword {wrong!r}; {takes}")


def one_shape(function: F) -> F:
    """Say what to write where a shape is given as several arguments."""

    @functools.wraps(function)
    def call(*shape: Any, **options: Any) -> Any:
        if len(shape) > 1:
            name = function.__name__
            raise TypeError(
                f"{name}: expected one shape, got {len(shape)} arguments; write dg.{name}({shape})"
            )
        return function(*shape, **options)

    return cast("F", call)
