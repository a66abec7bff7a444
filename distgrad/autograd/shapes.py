"""What an operation gives on the device of shapes, from its record alone.

The record's shape rule says the shapes, its ``result`` the dtypes; a gradient has its input's shape and
dtype. So every operation that has a record works there, and whatever depends on elements is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.casting import result_dtype, settle
from distgrad.autograd.primitive import Primitive
from distgrad.backend.meta import MetaArray
from distgrad.errors import DeviceError, DTypeError

__all__ = ["by_shapes", "gradients_by_shapes", "heard_by", "run_by_shapes"]

#: Who is told of each operation that runs on shapes: its record, its arguments, and what it gives.
heard_by: list[Callable[[Primitive, tuple[Any, ...], Any], None]] = []


def run_by_shapes(record: Primitive, xp: Any, /, *args: Any, **attributes: Any) -> Any:
    """What a program's call of an operation gives, whoever listens being told."""
    _refuse_by_formula(record, xp, *args, **attributes)
    y = by_shapes(record, *args, **attributes)
    for hear in heard_by:
        hear(record, args, y)
    return y


def _refuse_by_formula(record: Primitive, xp: Any, /, *args: Any, **attributes: Any) -> None:
    """Let a formula refuse what it refuses by its inputs' shapes and dtypes.

    It runs as far as it can on arrays without elements: to the end, or to the first look at one, or at a
    function that is NumPy's alone.
    """
    try:
        record.formula(xp, *args, **attributes)
    except (AttributeError, TypeError, DeviceError) as error:
        if isinstance(error, DTypeError):
            raise


def by_shapes(record: Primitive, /, *args: Any, **attributes: Any) -> Any:
    """What an operation's formula would return, as arrays without elements.

    Args:
        record: the operation.
        *args: the inputs, and the attributes that are given by position.
        **attributes: the others.

    Raises:
        DeviceError: an operation whose result's shape depends on elements.
    """
    if record.shape is None:
        raise _by_elements(record)
    if record.variadic:
        inputs = args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args
    else:
        inputs = args[: len(record.inputs)]
        names = [name for name in record.signature.parameters if name != "xp"]
        attributes.update(zip(names[len(inputs) :], args[len(inputs) :], strict=False))
    out = attributes.pop("out", None)
    shapes = [None if x is None else tuple(getattr(x, "shape", ())) for x in inputs]
    found = record.shape(*shapes, **attributes)
    if any(n == -1 for n in found):
        raise _by_elements(record)
    dtypes = _dtypes(record, inputs, attributes)
    base = inputs[0] if record.view else None
    if record.outputs == 1:
        y = MetaArray(found, dtypes, base)
        return y if out is None else out
    every = dtypes if isinstance(dtypes, tuple) else (dtypes,) * len(found)
    return tuple(MetaArray(shape, dtype, base) for shape, dtype in zip(found, every, strict=True))


def _by_elements(record: Primitive) -> DeviceError:
    return DeviceError(
        f"{record.name}: the result's shape depends on the elements, and tensors on 'meta' have none; "
        "compute it on a real device"
    )


def _dtypes(record: Primitive, inputs: Any, attributes: dict[str, Any]) -> Any:
    """The dtype of the result, or one for each of several."""
    if attributes.get("dtype") is not None:
        return np.dtype(attributes["dtype"])
    given = [getattr(x, "dtype", x) for x in inputs if x is not None]
    if callable(record.result):
        return record.result(*given, **attributes)
    if record.result != "promote":
        return np.dtype(record.result)
    return settle(MetaArray((), result_dtype(*given)), inputs).dtype


def gradients_by_shapes(node: Any, edges: tuple[Any, ...]) -> tuple[MetaArray | None, ...]:
    """The gradients of a node's inputs: as the inputs are."""
    return tuple(
        None if edge is None else MetaArray(*meta) for edge, meta in zip(edges, node.metas, strict=True)
    )
