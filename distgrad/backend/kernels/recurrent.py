"""Recurrent networks: all gates of a step in one pass, and a sequence without a return to the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.backend.kernels.product import product, product_address
from distgrad.backend.kernels.support import is_plain, jit, kernel, sigmoid, tanh, writable
from distgrad.backend.memory import host_memory
from distgrad.backend.products import SMALL_PRODUCT, TERM_NS, matmul
from distgrad.backend.threads import Calls, run_parts

_FEWEST = 16  # sequences of a part
F = np.float32


@jit
def _lstm_row(gates: Any, cell: Any, hidden: Any, out: Any) -> None:
    """One sequence's step: ``gates`` holds their arguments, and then the gates themselves."""
    size = cell.size
    i, f, n, o = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    for j in range(2 * size):
        gates[j] = sigmoid(gates[j])
    for j in range(size):
        n[j] = tanh(n[j])
        o[j] = sigmoid(o[j])
    for j in range(size):
        out[j] = f[j] * cell[j] + i[j] * n[j]
    for j in range(size):
        hidden[j] = o[j] * tanh(out[j])


@jit
def _lstm_row_gradient(
    g_hidden: Any, g_cell: Any, gates: Any, before: Any, cell: Any, g_gates: Any, carry: Any
) -> None:
    """Gradients of one step's gate arguments, and of the cell before; ``carry`` is that of the cell after."""
    size = cell.size
    i, f, n, o = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    g_i, g_f = g_gates[:size], g_gates[size : 2 * size]
    g_n, g_o = g_gates[2 * size : 3 * size], g_gates[3 * size :]
    for j in range(size):
        top = tanh(cell[j])
        g_o[j] = g_hidden[j] * top * (o[j] * (F(1) - o[j]))
        carry[j] += g_cell[j] + g_hidden[j] * (o[j] * (F(1) - top * top))
    for j in range(size):
        up = carry[j]
        g_i[j] = up * n[j] * (i[j] * (F(1) - i[j]))
        g_f[j] = up * before[j] * (f[j] * (F(1) - f[j]))
        g_n[j] = up * i[j] * (F(1) - n[j] * n[j])
        carry[j] = up * f[j]


@kernel("i i i x2 x2 x2 x3 x3 x3", dtypes="f", writes="hiddens cells gates")
def _lstm_forward(
    first: int, last: int, address: int, weight: Any, hidden: Any, cell: Any, hiddens: Any, cells: Any,
    gates: Any,
) -> None:  # fmt: skip
    """The sequences from ``first`` to ``last`` of the batch."""
    size = hidden.shape[1]
    for t in range(gates.shape[0]):
        before, above = (hidden, cell) if t == 0 else (hiddens[t - 1], cells[t - 1])
        left, right = (before[first].ctypes.data, size), (weight.ctypes.data, size)
        to = (gates[t, first].ctypes.data, 4 * size)
        product(address, (False, True), last - first, 4 * size, size, F(1), left, right, F(1), to)
        for b in range(first, last):
            _lstm_row(gates[t, b], above[b], hiddens[t, b], cells[t, b])


@kernel("i i i x2 x2 x3 x3 x3 x3 x3 x2 x2", dtypes="f", writes="g_gates g_hidden carry")
def _lstm_backward(
    first: int, last: int, address: int, weight: Any, cell: Any, cells: Any, gates: Any, g_hiddens: Any,
    g_cells: Any, g_gates: Any, g_hidden: Any, carry: Any,
) -> None:  # fmt: skip
    """``g_hidden`` and ``carry`` start as zeros, and end as gradients of what the first step began with."""
    size = cell.shape[1]
    for t in range(gates.shape[0] - 1, -1, -1):
        above = cell if t == 0 else cells[t - 1]
        for b in range(first, last):
            for j in range(size):
                g_hidden[b, j] += g_hiddens[t, b, j]
            _lstm_row_gradient(
                g_hidden[b], g_cells[t, b], gates[t, b], above[b], cells[t, b], g_gates[t, b], carry[b]
            )
        left, right = (g_gates[t, first].ctypes.data, 4 * size), (weight.ctypes.data, size)
        to = (g_hidden[first].ctypes.data, size)
        product(address, (False, False), last - first, size, 4 * size, F(1), left, right, F(0), to)


def _is_sequence(from_input: Any, weight: Any, hidden: Any, cell: Any) -> bool:
    """Whether these are what :func:`lstm_steps` expects, contiguous and not empty."""
    size = weight.shape[-1]
    return (
        weight.shape == (4 * size, size)
        and from_input.ndim == 3
        and from_input.size > 0
        and from_input.shape[2] == 4 * size
        and hidden.shape == cell.shape == (from_input.shape[1], size)
        and is_plain(from_input, weight, hidden, cell)
    )


def _run(part: Callable[[int, int], Calls], gates: Any, weight: Any) -> None:
    """Parts of the batch in which BLAS adds up as in the whole: few sequences or products change that."""
    steps, batch = gates.shape[:2]
    smallest = 1 if batch * weight.size <= SMALL_PRODUCT else -(-SMALL_PRODUCT // weight.size)
    run_parts(part, batch, steps * weight.size * TERM_NS[4], max(smallest, _FEWEST))


def lstm_steps(from_input: Any, weight: Any, hidden: Any, cell: Any) -> Any:
    """Forward."""
    address = product_address(from_input.dtype)
    if not address or not _is_sequence(from_input, weight, hidden, cell):
        return None
    gates = from_input.copy()
    hiddens = host_memory.empty((len(gates), *cell.shape), gates.dtype)
    cells = host_memory.empty_like(hiddens)
    arrays = (weight, hidden, cell, hiddens, cells, gates)
    _run(lambda *part: [(_lstm_forward, *part, address, *arrays)], gates, weight)
    return hiddens, cells, gates


def lstm_steps_gradient(g: Any, weight: Any, hidden: Any, cell: Any, y: Any, into: Any) -> Any:
    """Gradients in all four inputs; that of the gates must be 0, as it nearly always is."""
    hiddens, cells, gates = y
    address = product_address(gates.dtype)
    if not address or not _is_sequence(gates, weight, hidden, cell) or g[2].any():
        return None
    up = [np.ascontiguousarray(each) for each in g[:2]]
    g_gates = host_memory.empty_like(gates)
    g_hidden, g_cell = host_memory.zeros_like(hidden), host_memory.zeros_like(cell)
    arrays = (weight, cell, cells, gates, *up, g_gates, g_hidden, g_cell)
    _run(lambda *part: [(_lstm_backward, *part, address, *arrays)], gates, weight)
    before = np.concatenate([hidden[None], hiddens[:-1]])
    rows = [x.reshape(-1, x.shape[-1]) for x in (g_gates, before)]
    g_weight = matmul(rows[0].T, rows[1], out=writable(into[1], weight.shape, gates.dtype))
    return g_gates, g_weight, g_hidden, g_cell


@kernel("x2 x2 x2 x2", dtypes="f", writes="gates hidden out")
def _lstm_rows(gates: Any, cell: Any, hidden: Any, out: Any) -> None:
    for b in range(cell.shape[0]):
        _lstm_row(gates[b], cell[b], hidden[b], out[b])


def _are_rows(count: int, from_input: Any, from_state: Any, state: Any) -> bool:
    """Whether these are one step's arguments, contiguous and not empty."""
    return (
        state.size > 0
        and from_input.shape == from_state.shape == (*state.shape[:-1], count * state.shape[-1])
        and is_plain(from_input, from_state, state)
    )


def lstm_cell(from_input: Any, from_state: Any, cell: Any) -> Any:
    """Forward."""
    if not cell.ndim or not _are_rows(4, from_input, from_state, cell):
        return None
    gates, hidden, out = from_input + from_state, host_memory.empty_like(cell), host_memory.empty_like(cell)
    size = cell.shape[-1]
    _lstm_rows(gates.reshape(-1, 4 * size), *(x.reshape(-1, size) for x in (cell, hidden, out)))
    return hidden, out


@kernel("x2 x2 x2 x2", dtypes="f", writes="out")
def _gru_rows(x: Any, h: Any, hidden: Any, out: Any) -> None:
    size = hidden.shape[1]
    for b in range(hidden.shape[0]):
        for j in range(size):
            r = sigmoid(x[b, j] + h[b, j])
            z = sigmoid(x[b, size + j] + h[b, size + j])
            n = tanh(x[b, 2 * size + j] + r * h[b, 2 * size + j])
            out[b, j] = n + z * (hidden[b, j] - n)


@kernel("x2 x2 x2 x2 x2 x2 x2", dtypes="f", writes="g_x g_h g_hidden")
def _gru_rows_gradient(g: Any, x: Any, h: Any, hidden: Any, g_x: Any, g_h: Any, g_hidden: Any) -> None:
    size = hidden.shape[1]
    for b in range(hidden.shape[0]):
        for j in range(size):
            r = sigmoid(x[b, j] + h[b, j])
            z = sigmoid(x[b, size + j] + h[b, size + j])
            below = h[b, 2 * size + j]
            n = tanh(x[b, 2 * size + j] + r * below)
            up = g[b, j]
            g_n = up * ((F(1) - z) * (F(1) - n * n))
            g_r = g_n * (below * (r * (F(1) - r)))
            g_z = up * ((hidden[b, j] - n) * (z * (F(1) - z)))
            g_x[b, j] = g_r
            g_h[b, j] = g_r
            g_x[b, size + j] = g_z
            g_h[b, size + j] = g_z
            g_x[b, 2 * size + j] = g_n
            g_h[b, 2 * size + j] = g_n * r
            g_hidden[b, j] = up * z


def gru_cell(from_input: Any, from_state: Any, hidden: Any) -> Any:
    """Forward."""
    if not hidden.ndim or not _are_rows(3, from_input, from_state, hidden):
        return None
    out, size = host_memory.empty_like(hidden), hidden.shape[-1]
    wide = [x.reshape(-1, 3 * size) for x in (from_input, from_state)]
    _gru_rows(*wide, hidden.reshape(-1, size), out.reshape(-1, size))
    return out


def gru_cell_gradient(g: Any, from_input: Any, from_state: Any, hidden: Any) -> Any:
    """Gradients in all three inputs."""
    if not _are_rows(3, from_input, from_state, hidden) or not is_plain(hidden, g):
        return None
    results = [host_memory.empty_like(x) for x in (from_input, from_state, hidden)]
    size = hidden.shape[-1]
    arrays = (g, from_input, from_state, hidden, *results)
    _gru_rows_gradient(*(x.reshape(-1, x.shape[-1] // size * size) for x in arrays))
    return tuple(results)
