"""Recurrent networks: all gates of a step in one launch, with the step's product if that is small."""

from __future__ import annotations

from typing import Any

from distgrad.backend.cublas import matmul
from distgrad.backend.kernels.cuda.launch import (
    THREADS,
    arithmetic,
    empty,
    launch,
    over_elements,
    prepare,
    writable,
)

_TILE = 16  # as recurrent.cu has it
_MOST_TILES = 1 << 16  # of a grid's second axis
_SMALL_PRODUCT = 1 << 25  # multiplications; by reckoning, a GPU has not been asked


def _run(name: str, state: Any, *arguments: Any) -> None:
    over_elements("recurrent", name, state.size, state.dtype.char, state.shape[-1], *arguments)


def _product_run(name: str, state: Any, *arguments: Any) -> None:
    rows, size = state.shape
    grid = (-(-rows // _TILE), -(-size // _TILE))
    launch("recurrent", name, state.dtype.char, grid, THREADS, (rows, size, *arguments))


def _is_small(state: Any) -> bool:
    """Whether a step's product is worth no launch of its own."""
    rows, size = state.shape
    return 4 * rows * size * size <= _SMALL_PRODUCT and -(-size // _TILE) <= _MOST_TILES


def _sequence(from_input: Any, weight: Any, hidden: Any, cell: Any, *more: Any) -> Any:
    """The arrays prepared, if they are what :func:`lstm_steps` expects and not empty."""
    size = weight.shape[-1] if weight.ndim else 0
    if weight.shape != (4 * size, size) or from_input.ndim != 3 or from_input.size == 0:
        return None
    if from_input.shape[2] != 4 * size or not hidden.shape == cell.shape == (from_input.shape[1], size):
        return None
    return prepare(from_input, weight, hidden, cell, *more)


def lstm_steps(from_input: Any, weight: Any, hidden: Any, cell: Any) -> Any:
    """Forward."""
    taken = _sequence(from_input, weight, hidden, cell)
    if taken is None:
        return None
    from_input, weight, hidden, cell = taken
    gates = empty(from_input, from_input.shape)
    hiddens, cells = (empty(cell, (len(gates), *cell.shape)) for _ in range(2))
    is_small = _is_small(cell)
    for t in range(len(gates)):
        results = cell, hiddens[t], cells[t], gates[t]
        if is_small:
            _product_run("lstm_product_step", cell, from_input[t], weight, hidden, *results)
        else:
            _run("lstm_step", cell, from_input[t], matmul(hidden, weight.T), *results)
        hidden, cell = hiddens[t], cells[t]
    return hiddens, cells, gates


def lstm_steps_gradient(g: Any, weight: Any, hidden: Any, cell: Any, y: Any, into: Any) -> Any:
    """Gradients in all four inputs."""
    hiddens, cells, gates = y
    taken = _sequence(gates, weight, hidden, cell, hiddens, cells, *g)
    if taken is None:
        return None
    gates, weight, hidden, cell, hiddens, cells, g_hiddens, g_cells, g_gates = taken
    out, carry, later = empty(gates, gates.shape), empty(cell, cell.shape, arithmetic(cell.dtype.char)), None
    is_small = _is_small(cell)
    for t in reversed(range(len(gates))):
        rest = (g_cells[t], g_gates[t], gates[t], cells[t - 1] if t else cell, cells[t], out[t], carry)
        if is_small:
            after = out[t + 1] if t + 1 < len(out) else None
            _product_run("lstm_product_step_gradient", cell, g_hiddens[t], after, weight, *rest)
        else:
            _run("lstm_step_gradient", cell, g_hiddens[t], later, *rest)
        if not (is_small and t):
            later = matmul(out[t], weight)
    g_weight = writable(into[1], gates, weight.shape)  # each step's gates by the state before it
    matmul(out[0].T, hidden, g_weight)
    if len(out) > 1:
        rows = [x.reshape(-1, x.shape[-1]) for x in (out[1:], hiddens[:-1])]
        matmul(rows[0].T, rows[1], g_weight, add=True)
    return out, g_weight, later, carry.astype(cell.dtype, copy=False)


def _rows(count: int, from_input: Any, from_state: Any, state: Any, *more: Any) -> Any:
    """The arrays prepared, if they are one step's arguments and not empty; ``more`` are like the state."""
    wide = (*state.shape[:-1], count * state.shape[-1]) if state.ndim else None
    if state.size == 0 or not from_input.shape == from_state.shape == wide:
        return None
    if any(x.shape != state.shape for x in more):
        return None
    return prepare(from_input, from_state, state, *more)


def lstm_cell(from_input: Any, from_state: Any, cell: Any) -> Any:
    """Forward."""
    taken = _rows(4, from_input, from_state, cell)
    if taken is None:
        return None
    hidden, out = (empty(cell, cell.shape) for _ in range(2))
    _run("lstm_step", out, *taken, hidden, out, None)
    return hidden, out


def lstm_cell_gradient(g: Any, from_input: Any, from_state: Any, cell: Any, y: Any) -> Any:
    """Gradients in all three inputs; the gates are computed again."""
    taken = _rows(4, from_input, from_state, cell, y[1], *g)
    if taken is None:
        return None
    from_input, from_state, cell, after, g_hidden, g_cell = taken
    gates, out = (empty(from_input, from_input.shape) for _ in range(2))
    hidden, again = (empty(cell, cell.shape) for _ in range(2))
    carry = empty(cell, cell.shape, arithmetic(cell.dtype.char))
    _run("lstm_step", cell, from_input, from_state, cell, hidden, again, gates)
    _run("lstm_step_gradient", cell, g_hidden, None, g_cell, None, gates, cell, after, out, carry)
    return out, out, carry.astype(cell.dtype, copy=False)


def gru_cell(from_input: Any, from_state: Any, hidden: Any) -> Any:
    """Forward."""
    taken = _rows(3, from_input, from_state, hidden)
    if taken is None:
        return None
    out = empty(hidden, hidden.shape)
    _run("gru_step", out, *taken, out)
    return out


def gru_cell_gradient(g: Any, from_input: Any, from_state: Any, hidden: Any) -> Any:
    """Gradients in all three inputs."""
    taken = _rows(3, from_input, from_state, hidden, g)
    if taken is None:
        return None
    from_input, from_state, hidden, g = taken
    results = tuple(empty(x, x.shape) for x in (from_input, from_state, hidden))
    _run("gru_step_gradient", hidden, g, from_input, from_state, hidden, *results)
    return results
