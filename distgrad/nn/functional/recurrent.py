"""One step of recurrent networks, and the walk over a sequence.

Each step takes what the input contributes to the gates, which is computed for all steps at once, the state,
and the weights of the hidden state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor

__all__ = ["GATES", "STEPS", "walk"]

State = tuple[Tensor, ...]


def tanh_step(from_input: Tensor, state: State, weight: Tensor, bias: Any, projection: Any) -> State:
    """``h' = tanh(from_input + weight h + bias)``.

    Source: Elman, Cognitive Science, 1990.
    """
    return (ops.tanh(from_input + ops.linear(state[0], weight, bias)),)


def relu_step(from_input: Tensor, state: State, weight: Tensor, bias: Any, projection: Any) -> State:
    """``h' = max(0, from_input + weight h + bias)``."""
    return (ops.relu(from_input + ops.linear(state[0], weight, bias)),)


def lstm_step(from_input: Tensor, state: State, weight: Tensor, bias: Any, projection: Any) -> State:
    """Hidden state and cell of a long short-term memory.

    Source: the projection of the hidden state: Sak et al., INTERSPEECH 2014.
    """
    hidden, cell = state
    hidden, cell = ops.lstm_cell(from_input, ops.linear(hidden, weight, bias), cell)
    return hidden if projection is None else ops.linear(hidden, projection), cell


def gru_step(from_input: Tensor, state: State, weight: Tensor, bias: Any, projection: Any) -> State:
    """Hidden state of gated recurrent units."""
    return (ops.gru_cell(from_input, ops.linear(state[0], weight, bias), state[0]),)


#: The step of each kind of network, and its number of gates.
STEPS: dict[str, Callable[..., State]] = {
    "RNN_TANH": tanh_step,
    "RNN_RELU": relu_step,
    "LSTM": lstm_step,
    "GRU": gru_step,
}
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


def _walk_lstm(
    input: Tensor, state: State, weight_ih: Tensor, weight_hh: Tensor, biases: Any, backwards: bool
) -> tuple[Tensor, State]:
    """:func:`walk` as one operation, where all sequences are of one length and nothing is projected."""
    bias = None if biases[0] is None else biases[0] + biases[1]
    from_input = ops.linear(input, weight_ih, bias)
    if backwards:
        from_input = ops.flip(from_input, axis=0)
    hiddens, cells, _ = ops.lstm_steps(from_input, weight_hh, *state)
    return ops.flip(hiddens, axis=0) if backwards else hiddens, (hiddens[-1], cells[-1])


def walk(
    kind: str,
    input: Tensor,
    state: State,
    weights: tuple[Any, ...],
    exists: Any,
    backwards: bool,
) -> tuple[Tensor, State]:
    """One layer, in one direction, over a padded batch.

    Args:
        kind: a key of ``STEPS``.
        input: ``[L, N, features]``.
        state: what the first step starts from, each ``[N, ...]``.
        weights: of the input, of the hidden state, their biases (or None), and the projection (or None).
        exists: which sequences have a t-th element, bool[L, N]; None: all. Behind a sequence's end its state
            stays as it is.
        backwards: from the last element to the first.

    Returns:
        The hidden states ``[L, N, H]``, and the state after the last step.
    """
    weight_ih, weight_hh, bias_ih, bias_hh, projection = weights
    if kind == "LSTM" and exists is None and projection is None:
        return _walk_lstm(input, state, weight_ih, weight_hh, (bias_ih, bias_hh), backwards)
    step = STEPS[kind]
    from_input = ops.unstack(ops.linear(input, weight_ih, bias_ih), axis=0)
    order = range(len(from_input))
    outputs: list[Any] = [None] * len(from_input)
    for t in reversed(order) if backwards else order:
        after = step(from_input[t], state, weight_hh, bias_hh, projection)
        if exists is not None and not exists[t].all():
            goes_on = exists[t][:, None]
            after = tuple(ops.where(goes_on, new, old) for new, old in zip(after, state, strict=True))
        state = after
        outputs[t] = state[0]
    return ops.stack(outputs, axis=0), state
