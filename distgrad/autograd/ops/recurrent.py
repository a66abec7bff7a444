"""One step of gated recurrent networks, from what input and state contribute to the gates."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.linalg import sum_of_products
from distgrad.autograd.ops.shape_rules import Into, Shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError


def _check(where: str, count: int, from_input: Array, from_state: Array, state: Array, name: str) -> None:
    expected = (*state.shape[:-1], count * state.shape[-1]) if state.shape else None
    if from_input.shape != expected or from_state.shape != expected:
        raise ShapeError(
            f"{where}: {name} is {list(state.shape)}, so from_input and from_state must be [..., {count} H] "
            f"with its H; got {list(from_input.shape)} and {list(from_state.shape)}"
        )


def _parts(xp: Any, x: Array, count: int) -> tuple[Array, ...]:
    """``[..., count · H]`` as that many ``[..., H]``."""
    return xp.unstack(xp.reshape(x, (*x.shape[:-1], count, x.shape[-1] // count)), axis=-2)


def _joined(xp: Any, parts: list[Array], shape: Shape) -> Array:
    """The reverse of :func:`_parts`."""
    return xp.reshape(xp.stack(parts, axis=-2), shape)


def _samples(count: int) -> list[Sample]:
    return [
        Sample(((2, 3 * count), (2, 3 * count), (2, 3))),
        Sample(((3 * count,), (3 * count,), (3,)), note="one sequence"),
        Sample(((0, 3 * count), (0, 3 * count), (0, 3)), note="empty"),
    ]


def _lstm_gates(xp: Any, from_input: Array, from_state: Array) -> tuple[Array, ...]:
    """Input, forget, new and output gate."""
    i, f, n, o = _parts(xp, from_input + from_state, 4)
    return xp.sigmoid(i), xp.sigmoid(f), xp.tanh(n), xp.sigmoid(o)


@primitive(
    math="i, f, n, o = sigmoid, sigmoid, tanh, sigmoid of x + h; c' = f c + i n; h' = o tanh c'",
    source="Hochreiter and Schmidhuber, Neural Computation, 1997; the forget gate: Gers et al., 2000",
    shape=lambda from_input, from_state, cell: [cell, cell],
    dtypes="real floating-point",
    outputs=2,
    samples=_samples(4),
    rejects=[
        Reject(((2, 12), (2, 12), (2, 4)), ShapeError, "lstm_cell: cell is [2, 4]"),
        Reject(((2, 12), (12,), (2, 3)), ShapeError, "got [2, 12] and [12]"),
    ],
)
def lstm_cell(xp: Any, from_input: Array, from_state: Array, cell: Array, /) -> tuple[Array, Array]:
    """One step of a network with long short-term memory.

    Args:
        from_input, from_state: what each contributes to the four gates, ``[..., 4 H]``.
        cell: ``[..., H]``.

    Returns:
        The next hidden state and cell, ``[..., H]`` each.
    """
    _check("lstm_cell", 4, from_input, from_state, cell, "cell")
    i, f, n, o = _lstm_gates(xp, from_input, from_state)
    cell = f * cell + i * n
    return o * xp.tanh(cell), cell


@lstm_cell.vjp("from_input", "from_state", "cell")
def _(
    xp: Any, g: tuple[Array, Array], from_input: Array, from_state: Array, cell: Array, y: tuple[Array, Array]
) -> tuple[Array, ...]:
    g_hidden, g_cell = g
    i, f, n, o = _lstm_gates(xp, from_input, from_state)
    t = xp.tanh(y[1])
    g_cell = g_cell + g_hidden * (o * (1.0 - t * t))
    slopes = [
        g_cell * (n * (i * (1.0 - i))),
        g_cell * (cell * (f * (1.0 - f))),
        g_cell * (i * (1.0 - n * n)),
        g_hidden * (t * (o * (1.0 - o))),
    ]
    g_gates = _joined(xp, slopes, from_input.shape)
    return g_gates, g_gates, g_cell * f


@primitive(
    math="hidden_t, cell_t = lstm_cell(from_input_t, hidden_{t-1} weightᵀ, cell_{t-1}) for t = 0, 1, …",
    source="Hochreiter and Schmidhuber, Neural Computation, 1997; the forget gate: Gers et al., 2000",
    shape=lambda from_input, weight, hidden, cell: [
        (from_input[0], *cell),
        (from_input[0], *cell),
        (*from_input[:2], 4 * cell[-1]),
    ],
    dtypes="real floating-point",
    outputs=3,
    samples=[
        Sample(((4, 2, 12), (12, 3), (2, 3), (2, 3))),
        Sample(((1, 3, 4), (4, 1), (3, 1), (3, 1)), note="one step of one feature"),
        Sample(((2, 0, 12), (12, 3), (0, 3), (0, 3)), note="empty"),
    ],
    rejects=[
        Reject(((4, 2, 12), (12, 4), (2, 3), (2, 3)), ShapeError, "lstm_steps: weight is [12, 4]"),
        Reject(((2, 12), (12, 3), (2, 3), (2, 3)), ShapeError, "from_input is [2, 12]"),
    ],
)
def lstm_steps(
    xp: Any, from_input: Array, weight: Array, hidden: Array, cell: Array, /
) -> tuple[Array, Array, Array]:
    """A network with long short-term memory over a sequence of at least one step.

    Args:
        from_input: what the input contributes to the four gates, with all biases, ``[L, N, 4 H]``.
        weight: from the hidden state to the gates, ``[4 H, H]``.
        hidden, cell: what the first step starts from, ``[N, H]``.

    Returns:
        Hidden states and cells after each step, ``[L, N, H]`` each, and the gates ``[L, N, 4 H]``.
    """
    _check_steps(from_input, weight, hidden, cell)
    states, gates = [], []
    for step in xp.unstack(from_input, axis=0):
        parts = _lstm_gates(xp, step, xp.matmul(hidden, xp.matrix_transpose(weight)))
        i, f, n, o = parts
        cell = f * cell + i * n
        hidden = o * xp.tanh(cell)
        states.append((hidden, cell))
        gates.append(_joined(xp, list(parts), step.shape))
    hiddens, cells = (xp.stack(list(each), axis=0) for each in zip(*states, strict=True))
    return hiddens, cells, xp.stack(gates, axis=0)


def _check_steps(from_input: Array, weight: Array, hidden: Array, cell: Array) -> None:
    size = weight.shape[-1]
    if weight.shape != (4 * size, size):
        raise ShapeError(f"lstm_steps: weight is {list(weight.shape)}, expected [4 H, H]")
    if len(from_input.shape) != 3 or from_input.shape[0] == 0 or from_input.shape[2] != 4 * size:
        raise ShapeError(
            f"lstm_steps: from_input is {list(from_input.shape)}, expected [L, N, {4 * size}] with L > 0"
        )
    state = (from_input.shape[1], size)
    if hidden.shape != state or cell.shape != state:
        raise ShapeError(
            f"lstm_steps: hidden is {list(hidden.shape)} and cell {list(cell.shape)}, expected {list(state)}"
        )


@lstm_steps.vjp("from_input", "weight", "hidden", "cell")
def _(
    xp: Any, g: tuple[Array, ...], weight: Array, hidden: Array, cell: Array, y: tuple[Array, ...], into: Into
) -> tuple[Array, ...]:
    hiddens, cells, gates = y
    before = xp.concat([xp.expand_dims(hidden, axis=0), hiddens[:-1]], axis=0)
    above = xp.concat([xp.expand_dims(cell, axis=0), cells[:-1]], axis=0)
    i, f, n, o = _parts(xp, gates, 4)
    tops = xp.tanh(cells)
    g_i, g_f, g_n, g_o = _parts(xp, g[2], 4)
    g_hidden, g_cell = xp.zeros_like(hidden), xp.zeros_like(cell)
    steps = []
    for t in reversed(range(gates.shape[0])):
        g_hidden = g[0][t] + g_hidden
        g_cell = g[1][t] + g_cell + g_hidden * (o[t] * (1.0 - tops[t] * tops[t]))
        slopes = [
            (g_cell * n[t] + g_i[t]) * (i[t] * (1.0 - i[t])),
            (g_cell * above[t] + g_f[t]) * (f[t] * (1.0 - f[t])),
            (g_cell * i[t] + g_n[t]) * (1.0 - n[t] * n[t]),
            (g_hidden * tops[t] + g_o[t]) * (o[t] * (1.0 - o[t])),
        ]
        steps.append(_joined(xp, slopes, gates.shape[1:]))
        g_hidden, g_cell = xp.matmul(steps[-1], weight), g_cell * f[t]
    g_gates = xp.stack(steps[::-1], axis=0)
    left, right = (xp.reshape(x, (x.shape[0] * x.shape[1], x.shape[2])) for x in (g_gates, before))
    return g_gates, sum_of_products(xp, left, right, into[1]), g_hidden, g_cell


def _gru_gates(xp: Any, from_input: Array, from_state: Array) -> tuple[Array, ...]:
    """Reset, update and new gate, and what the state contributes to the last."""
    x_r, x_z, x_n = _parts(xp, from_input, 3)
    h_r, h_z, h_n = _parts(xp, from_state, 3)
    r = xp.sigmoid(x_r + h_r)
    return r, xp.sigmoid(x_z + h_z), xp.tanh(x_n + r * h_n), h_n


@primitive(
    math="r, z = sigmoid(x + h) of their parts; n = tanh(x + r h) of the third; y = (1 - z) n + z hidden",
    source="Cho et al., EMNLP 2014; the reset gate stands after the product, as in cuDNN",
    shape=lambda from_input, from_state, hidden: hidden,
    dtypes="real floating-point",
    samples=_samples(3),
    rejects=[
        Reject(((2, 9), (2, 9), (2, 4)), ShapeError, "gru_cell: hidden is [2, 4]"),
        Reject(((2, 9), (9,), (2, 3)), ShapeError, "got [2, 9] and [9]"),
    ],
)
def gru_cell(xp: Any, from_input: Array, from_state: Array, hidden: Array, /) -> Array:
    """One step of a network of gated recurrent units.

    Args:
        from_input, from_state: what each contributes to the reset, update and new gate, ``[..., 3 H]``.
        hidden: ``[..., H]``.

    Returns:
        The next hidden state, ``[..., H]``.
    """
    _check("gru_cell", 3, from_input, from_state, hidden, "hidden")
    _, z, n, _ = _gru_gates(xp, from_input, from_state)
    return n + z * (hidden - n)


@gru_cell.vjp("from_input", "from_state", "hidden")
def _(xp: Any, g: Array, from_input: Array, from_state: Array, hidden: Array) -> tuple[Array, ...]:
    r, z, n, h_n = _gru_gates(xp, from_input, from_state)
    g_n = g * ((1.0 - z) * (1.0 - n * n))
    g_r = g_n * (h_n * (r * (1.0 - r)))
    g_z = g * ((hidden - n) * (z * (1.0 - z)))
    g_input = _joined(xp, [g_r, g_z, g_n], from_input.shape)
    return g_input, _joined(xp, [g_r, g_z, g_n * r], from_input.shape), g * z
