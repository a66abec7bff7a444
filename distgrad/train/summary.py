"""A model's modules at a glance: shapes, parameters, FLOPs and memory, without computing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.autograd.creation import empty
from distgrad.autograd.flops import Counter, counting
from distgrad.autograd.modes import no_grad
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError
from distgrad.nn.module import Module
from distgrad.nn.utils.stateless import functional_call

__all__ = ["ModuleLine", "Summary", "summary"]


@dataclass
class ModuleLine:
    """One module of a :class:`Summary`.

    Attributes:
        name: as ``named_modules`` has it.
        kind: its class.
        depth: how deep it lies.
        shape: of what it returned last; None for none, or for what is no tensor.
        parameters: how many numbers its parameters hold, with those of its parts.
        flops: of its products, forward, with those of its parts; all calls together.
        calls: how often it was called.
    """

    name: str
    kind: str
    depth: int
    shape: tuple[int, ...] | None
    parameters: int
    flops: int
    calls: int


@dataclass
class Summary:
    """What :func:`summary` finds; prints as a table.

    Attributes:
        lines: one a module, the model itself first.
        parameters: how many numbers the parameters hold, each counted once.
        trainable: of them, those that want a gradient.
        parameter_bytes: of parameters and buffers.
        activation_bytes: of what the modules without parts return, about what backward keeps.
        flops: of the products of one forward pass; a step of training takes about three times as many.
    """

    lines: list[ModuleLine]
    parameters: int
    trainable: int
    parameter_bytes: int
    activation_bytes: int
    flops: int

    def __str__(self) -> str:
        head = ("module", "output", "parameters", "MFLOPs")
        rows = [
            (
                "  " * line.depth
                + (line.name.rpartition(".")[2] or line.kind)
                + (f" ({line.kind})" if line.name else ""),
                "-" if line.shape is None else str(list(line.shape)),
                f"{line.parameters:,}",
                f"{line.flops / 1e6:,.2f}",
            )
            for line in self.lines
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        table = [
            "  ".join(cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(
                zip(row, widths, strict=True)
            ))
            for row in (head, *rows)
        ]  # fmt: skip
        return "\n".join(
            [
                *table,
                (
                    f"parameters: {self.parameters:,}, of which {self.trainable:,} are trained, "
                    f"{self.parameter_bytes / 2**20:,.2f} MiB with buffers"
                ),
                f"activations: {self.activation_bytes / 2**20:,.2f} MiB; forward: {self.flops:,} FLOPs",
            ]
        )

    __repr__ = __str__


def summary(model: Module, *inputs: Any, dtype: Any = np.float32) -> Summary:
    """A model's modules with the shapes that they return, their parameters, FLOPs and memory.

    The model runs once on the device of shapes, ``"meta"``: nothing is computed, and nothing changes.

    ::

        print(dg.train.summary(model, (64, 1, 28, 28)))

    Collective: no; blocks: no.

    Args:
        model: any module.
        *inputs: what it is called with: tensors, of which only shape and dtype count, shapes (tuples of
            lengths), or other values, which are passed on.
        dtype: of inputs that are given as shapes.

    Raises:
        DTypeError: the model is none.
        DeviceError: what the model does depends on elements; see ``dg.device("meta")``.
    """
    if not isinstance(model, Module):
        raise DTypeError(f"summary: expected a Module, got {type(model).__name__}; wrap a function in one")
    arguments = tuple(_on_meta(each, dtype) for each in inputs)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    watches: dict[Module, _Watch] = {}
    with ExitStack() as stack, counting() as counter, no_grad():
        for name, module in model.named_modules():
            size = sum(parameter.numel() for parameter in module.parameters())
            depth = name.count(".") + 1 if name else 0
            line = ModuleLine(name, type(module).__name__, depth, None, size, 0, 0)
            watches[module] = watch = _Watch(line, counter)
            stack.callback(module.register_forward_pre_hook(watch.begin).remove)
            stack.callback(module.register_forward_hook(watch.end).remove)
        functional_call(model, {name: _on_meta(each, dtype) for name, each in held.items()}, arguments)
        flops = counter.flops
    leaves = [watch for module, watch in watches.items() if not any(True for _ in module.children())]
    parameters = list(model.parameters())
    return Summary(
        [watch.line for watch in watches.values()],
        sum(each.numel() for each in parameters),
        sum(each.numel() for each in parameters if each.requires_grad),
        sum(each.numel() * each.dtype.itemsize for each in held.values()),
        sum(watch.bytes for watch in leaves),
        flops,
    )


class _Watch:
    """The hooks of one module."""

    def __init__(self, line: ModuleLine, counter: Counter) -> None:
        self.line, self.counter, self.bytes = line, counter, 0
        self.before: list[int] = []

    def begin(self, module: Module, args: Any) -> None:
        """Before its call."""
        self.before.append(self.counter.flops)

    def end(self, module: Module, args: Any, output: Any) -> None:
        """After it."""
        line = self.line
        line.flops += self.counter.flops - self.before.pop()
        line.calls += 1
        first = output
        while isinstance(first, Sequence) and not isinstance(first, Tensor) and first:
            first = first[0]
        line.shape = None
        if isinstance(first, Tensor):
            line.shape = tuple(first.shape)
            self.bytes += first.numel() * first.dtype.itemsize


def _on_meta(value: Any, dtype: Any) -> Any:
    """A tensor of the same shape without elements; a tuple of lengths is a shape."""
    if isinstance(value, Tensor):
        return empty(tuple(value.shape), dtype=value.dtype, device="meta")
    if isinstance(value, np.ndarray):
        return empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, tuple) and value and all(isinstance(n, int | np.integer) for n in value):
        return empty(tuple(map(int, value)), dtype=dtype, device="meta")
    if isinstance(value, Mapping):
        return {key: _on_meta(each, dtype) for key, each in value.items()}
    return [_on_meta(each, dtype) for each in value] if isinstance(value, list) else value
