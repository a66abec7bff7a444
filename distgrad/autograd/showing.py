"""The text of a tensor: NumPy's, with every digit, or PyTorch's, with four, where its names are used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.casting import DEFAULTS, WEAK
from distgrad.backend.device import CPU, to_device
from distgrad.backend.meta import META

__all__ = ["OPTIONS", "shape_text", "tensor_text"]

#: What ``torch.set_printoptions`` sets.
OPTIONS: dict[str, Any] = {
    "precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80, "sci_mode": None,
}  # fmt: skip

_NODES = {
    "add": "Add", "concat": "Cat", "divide": "Div", "linear": "Addmm", "matmul": "Mm", "multiply": "Mul",
    "negative": "Neg", "permute_dims": "Permute", "power": "Pow", "reshape": "View", "subtract": "Sub",
}  # fmt: skip


def tensor_text(tensor: Any) -> str:
    """``tensor(…)``, with what is not as usual: size, dtype, device, and whether there is a gradient."""
    return _pytorchs(tensor) if WEAK else _numpys(tensor)


def shape_text(shape: tuple[int, ...]) -> str:
    """``(2, 3)``, or ``torch.Size([2, 3])``."""
    return f"torch.Size({list(shape)})" if WEAK else tuple.__repr__(shape)


def _numpys(tensor: Any) -> str:
    if tensor.device == META:
        text = "..."
    else:
        text = np.array2string(to_device(tensor._data, CPU), separator=", ", prefix="tensor(")
    if tensor.device == META or (tensor.size == 0 and tensor.ndim > 1):
        text += f", size={tensor.shape}"
    if tensor.dtype not in (np.float32, np.int64, np.bool_, np.complex64):
        text += f", dtype={tensor.dtype}"
    if tensor.device != CPU:
        text += f", device={str(tensor.device)!r}"
    if tensor.grad_fn is not None:
        text += f", grad_fn=<{tensor.grad_fn.op.name}>"
    elif tensor.requires_grad:
        text += ", requires_grad=True"
    return f"tensor({text})"


# -- PyTorch's


def _pytorchs(tensor: Any) -> str:
    prefix = "tensor("
    if tensor.device == META:
        text = "..."
    elif not tensor.size:
        text = "[]"
    else:
        text = _elements(np.asarray(to_device(tensor._data, CPU)), len(prefix))
    text = prefix + text
    length = len(text) - text.rfind("\n") + 1
    for each in _remarks(tensor):
        if length + len(each) + 2 > OPTIONS["linewidth"]:
            text += f",\n{' ' * len(prefix)}{each}"
            length = len(prefix) + len(each)
        else:
            text += f", {each}"
            length += len(each) + 2
    return text + ")"


def _remarks(tensor: Any) -> list[str]:
    found = [] if tensor.device == CPU else [f"device={str(tensor.device)!r}"]
    if tensor.device == META or (tensor.size == 0 and tensor.ndim != 1):
        found.append(f"size={tuple(tensor.shape)}")
    usual = [DEFAULTS[float]] if tensor.size == 0 else [*DEFAULTS.values(), np.int64, np.bool_]
    if tensor.dtype not in usual:
        found.append(f"dtype=torch.{tensor.dtype.name}")
    if tensor.grad_fn is not None:
        name = tensor.grad_fn.op.name
        name = _NODES.get(name) or "".join(each.capitalize() for each in name.split("_"))
        found.append(f"grad_fn=<{name}Backward0>")
    elif tensor.requires_grad:
        found.append("requires_grad=True")
    return found


def _elements(x: np.ndarray, indent: int) -> str:
    is_long = x.size > OPTIONS["threshold"]
    shown = _edges(x) if is_long else x
    if x.dtype.kind != "c":
        write, width = _writer(shown)
        return _nested(x, indent, is_long, write, width)
    (real, real_width), (imaginary, width) = _writer(shown.real), _writer(shown.imag)

    def write_both(value: complex) -> str:
        turned = f"{imaginary(value.imag)}j".lstrip()
        return real(value.real) + (turned if turned[0] in "+-" else f"+{turned}")

    return _nested(x, indent, is_long, write_both, real_width + width + 1)


def _edges(x: np.ndarray) -> np.ndarray:
    """The elements that are shown of a long array."""
    count = OPTIONS["edgeitems"]
    for axis, length in enumerate(x.shape):
        if length > 2 * count:
            x = np.take(x, [*range(count), *range(length - count, length)], axis=axis)
    return x


def _nested(x: np.ndarray, indent: int, is_long: bool, write: Callable[[Any], str], width: int) -> str:
    if not x.ndim:
        return write(x.item())
    count = OPTIONS["edgeitems"]
    is_cut = is_long and len(x) > 2 * count
    rows = [x[:count], x[-count:]] if is_cut else [x]
    if x.ndim == 1:
        first, *rest = [[write(each) for each in row.tolist()] for row in rows]
        parts = [*first, " ...", *rest[0]] if rest else first
        a_line = max(1, (OPTIONS["linewidth"] - indent) // (width + 2))
        lines = [", ".join(parts[start : start + a_line]) for start in range(0, len(parts), a_line)]
        return "[" + f",\n{' ' * (indent + 1)}".join(lines) + "]"
    first, *rest = [[_nested(each, indent + 1, is_long, write, width) for each in row] for row in rows]
    parts = [*first, "...", *rest[0]] if rest else first
    return "[" + ("," + "\n" * (x.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _writer(x: np.ndarray) -> tuple[Callable[[Any], str], int]:
    """What writes each of some numbers, and how wide they become."""
    if x.dtype.kind in "biu":
        width = max((len(str(each)) for each in x.reshape(-1).tolist()), default=1)
        return (lambda value: str(value).rjust(width)), width
    numbers = x.reshape(-1).astype(np.float64)
    numbers = numbers[np.isfinite(numbers) & (numbers != 0)]
    is_whole = bool(np.all(numbers == np.ceil(numbers)))
    write = _form(numbers, is_whole)
    width = max((len(write(each)) for each in numbers.tolist()), default=1)
    return (lambda value: write(value).rjust(width)), width


def _form(numbers: np.ndarray, is_whole: bool) -> Callable[[float], str]:
    precision, is_scientific = OPTIONS["precision"], OPTIONS["sci_mode"]
    if is_scientific is None and numbers.size:
        least, most = float(np.abs(numbers).min()), float(np.abs(numbers).max())
        is_scientific = most / least > 1000 or most > 1e8 or (not is_whole and least < 1e-4)
    if is_scientific:
        return lambda value: f"{value:.{precision}e}"
    if is_whole:
        return lambda value: f"{value:.0f}" + ("." if math.isfinite(value) else "")
    return lambda value: f"{value:.{precision}f}"
