"""What an operation gives on the device of shapes, from its record alone.

The record's shape rule says the shapes, its ``result`` the dtypes; a gradient has its input's shape and
dtype. So every operation that has a record works there, and whatever depends on elements is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.casting import result_dtype, settle
from distgrad.autograd.nodes import home
from distgrad.autograd.primitive import Primitive
from distgrad.backend.array_module import ARRAY_MODULES
from distgrad.backend.meta import LiveBytes, MetaArray
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
        with LiveBytes.uncounted():  # of what a kernel needs none
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


def gradients_by_shapes(node: Any, g: Any, edges: tuple[Any, ...], walk: Any) -> tuple[Any, ...]:
    """The gradients of a node's inputs: as the inputs are, and in whose memory the vjps leave them.

    Args:
        node: the operation's.
        g: the gradient of its output, or of its outputs.
        edges: for each input its Node or Leaf, None where no gradient is wanted.
        walk: hands out what has come to a node so far, as vjps take it that add to it.
    """
    record = node.op if isinstance(node.op, Primitive) and not node.op.variadic else None
    return tuple(
        None if edge is None else _gradient(record, place, meta, g, edge, walk)
        for place, (edge, meta) in enumerate(zip(edges, node.metas, strict=True))
    )


def _gradient(record: Primitive | None, place: int, meta: Any, g: Any, edge: Any, walk: Any) -> MetaArray:
    vjp = None if record is None else record.vjps.get(record.inputs[place])
    if record is None or vjp is None or g.__class__ is not MetaArray:
        return MetaArray(*meta)
    if "into" in vjp.names and (into := home(edge)) is not None:
        return into
    if "before" in vjp.names and vjp.inputs[0] == record.inputs[place]:
        walk.take(edge)
    if record.view:
        return MetaArray(meta[0], meta[1], g)
    if not vjp.names and g.shape == tuple(meta[0]):
        with LiveBytes.uncounted():
            same = vjp.function(ARRAY_MODULES[MetaArray], g)
        if same is g:
            return g
    return MetaArray(*meta)
