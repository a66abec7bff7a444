"""One step of gated recurrent networks, from what input and state contribute to the gates."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import Array, primitive
from distgrad.autograd.ops.rules import Shape
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
