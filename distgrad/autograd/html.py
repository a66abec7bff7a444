"""Tensors as notebooks show them: a table of two axes, with its kind below."""

from __future__ import annotations

from html import escape
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device
from distgrad.backend.meta import META

__all__ = ["tensor_html"]

_MAX_ROWS, _MAX_COLUMNS, _EDGE = 12, 12, 5  # more are left out between the first and last _EDGE


def tensor_html(x: Tensor) -> str:
    """A tensor with one or two axes as a table, any other as its ``repr``; shape, dtype and device below."""
    kind = f"{' x '.join(map(str, x.shape)) or 'one number'}, {x.dtype}, {x.device}"
    if x.requires_grad:
        kind += ", requires grad"
    if x.device == META or x.ndim not in (1, 2) or x.size == 0:
        return f"<pre>{escape(repr(x))}</pre><small>{escape(kind)}</small>"
    array = to_device(x._data, CPU)
    rows = array[None] if x.ndim == 1 else array
    lines = (
        "<tr>" + "".join(_cell(rows, i, j) for j in _shown(rows.shape[1], _MAX_COLUMNS)) + "</tr>"
        for i in _shown(rows.shape[0], _MAX_ROWS)
    )
    return f"<table>{''.join(lines)}</table><small>{escape(kind)}</small>"


def _shown(length: int, most: int) -> list[int | None]:
    """Which places of an axis are shown; None stands for those that are left out."""
    if length <= most:
        return [*range(length)]
    return [*range(_EDGE), None, *range(length - _EDGE, length)]


def _cell(rows: Any, i: int | None, j: int | None) -> str:
    if i is None or j is None:
        return "<td>…</td>"
    value = rows[i, j]
    text = f"{value:.4g}" if rows.dtype.kind in "fc" else str(value)
    return f'<td style="text-align: right">{escape(text)}</td>'
