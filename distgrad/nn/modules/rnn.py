"""Recurrent networks: layers over whole sequences, and the cells of one step."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import numpy as np

from distgrad.autograd.creation import zeros
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import to_device
from distgrad.errors import OptionError, ShapeError
from distgrad.nn import init
from distgrad.nn.functional.recurrent import GATES, STEPS, walk
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.nn.utils.rnn import PackedSequence

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]


def _reset(module: Module, hidden_size: int) -> None:
    bound = 1.0 / math.sqrt(hidden_size) if hidden_size else 0.0
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)


def _rnn_mode(nonlinearity: str, where: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise OptionError(f"{where}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return f"RNN_{nonlinearity.upper()}"


class _Recurrent(Module):
    """Layers of a recurrent network, each over the whole sequence.

    Args:
        mode: the kind of network, a key of ``STEPS``.
        input_size: features of the input.
        hidden_size: features of the hidden state.
        num_layers: layers, each with the hidden states of the one before as its input.
        bias: whether biases are added.
        batch_first: sequences are ``[N, L, features]`` instead of ``[L, N, features]``.
        dropout: probability that an element between layers is dropped, in training mode.
        bidirectional: walk backwards too, and join both directions' states.
        proj_size: features of the hidden state after a projection (LSTM only); 0: none.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
    """

    num_states: ClassVar[int] = 1

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        if hidden_size < 1 or num_layers < 1 or not 0 <= proj_size < hidden_size:
            raise OptionError(
                f"{where}: expected hidden_size and num_layers of at least 1 and proj_size below "
                f"hidden_size, got {hidden_size}, {num_layers} and {proj_size}"
            )
        if not 0.0 <= dropout <= 1.0:
            raise OptionError(f"{where}: dropout must be a probability from 0 to 1, got {dropout}")
        if dropout and num_layers == 1:
            warnings.warn(
                f"{where}: dropout={dropout} acts between layers, and there is only one", stacklevel=3
            )
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                self._make_layer(layer, suffix, device, dtype)
        self.reset_parameters()

    @property
    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def _suffixes(self, layer: int) -> list[str]:
        """What the names of a layer's parameters end with, one a direction."""
        return [f"_l{layer}", f"_l{layer}_reverse"][: 2 if self.bidirectional else 1]

    def _make_layer(self, layer: int, suffix: str, device: Any, dtype: Any) -> None:
        rows = GATES[self.mode] * self.hidden_size
        columns = self._output_size * (2 if self.bidirectional else 1) if layer else self.input_size
        shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, self._output_size)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}  # type: ignore[dict-item]
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        for name, shape in shapes.items():
            self.register_parameter(name + suffix, Parameter(zeros(shape, dtype=dtype, device=device)))

    def reset_parameters(self) -> None:
        """Draw new initial values: uniform on ±1/√hidden_size."""
        _reset(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Nothing, for PyTorch's sake: weights need not lie side by side."""

    def _weights(self, suffix: str) -> tuple[Any, ...]:
        own = self._parameters
        names = [name + suffix for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")]
        return tuple(own[name] if name in own else getattr(self, name, None) for name in names)  # computed

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Walk over sequences.

        Args:
            input: ``[L, N, input_size]``, ``[N, L, input_size]`` if ``batch_first``, ``[L, input_size]``, or
                a PackedSequence.
            hx: the initial hidden state ``[layers · directions, N, H]``, for an LSTM a pair of hidden and
                cell states; None means zeros.

        Returns:
            The last layer's hidden states, in the input's form, with ``directions · H`` features; and the
            final state, in the form of ``hx``.
        """
        if isinstance(input, PackedSequence):
            positions, exists = input.positions()
            places = to_device(np.flatnonzero(exists), input.data.device)
            positions, exists = (to_device(each, input.data.device) for each in (positions, exists))
            padded = ops.embedding(positions, input.data)
            hx = self._reordered(hx, input.sorted_indices)
            y, state = self._run(padded, self._initial(padded, hx, 3), exists)
            rows = ops.reshape(y, (exists.size, y.shape[-1]))
            packed = input._replace(data=ops.embedding(places, rows))
            return packed, self._reordered(self._public(state), input.unsorted_indices)
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: expected {self.input_size} features in a sequence or a batch of "
                f"them, got {list(input.shape)}"
            )
        turned = self.batch_first and input.ndim == 3
        x = ops.permute_dims(input, (1, 0, 2)) if turned else input
        x = ops.expand_dims(input, axis=1) if input.ndim == 2 else x
        y, state = self._run(x, self._initial(x, hx, input.ndim), None)
        if input.ndim == 2:
            return ops.squeeze(y, 1), self._public([ops.squeeze(each, 1) for each in state])
        return ops.permute_dims(y, (1, 0, 2)) if turned else y, self._public(state)

    def _public(self, state: list[Tensor]) -> Any:
        """The state as users see it: one tensor, or the LSTM's two."""
        return state[0] if self.num_states == 1 else tuple(state)

    @staticmethod
    def _reordered(hx: Any, order: Any) -> Any:
        """The state with its sequences in another order."""
        if order is None or hx is None:
            return hx
        if isinstance(hx, tuple | list):
            return tuple(each[:, to_device(order, each.device)] for each in hx)
        return hx[:, to_device(order, hx.device)]

    def _initial(self, x: Tensor, hx: Any, ndim: int) -> list[Any]:
        """The initial states, each ``[layers · directions, N, features]``."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        sizes = [self._output_size, self.hidden_size][: self.num_states]
        shapes = [(count, x.shape[1], size) for size in sizes]
        if hx is None:
            return [zeros(shape, dtype=x.dtype, device=x.device) for shape in shapes]
        states = list(hx) if self.num_states == 2 else [hx]
        if ndim == 2:
            states = [ops.expand_dims(each, axis=1) for each in states]
        if [each.shape for each in states] != shapes:
            raise ShapeError(
                f"{type(self).__name__}: hx is {[list(each.shape) for each in states]}, "
                f"expected {[list(shape) for shape in shapes]}"
            )
        return states

    def _run(self, x: Tensor, initial: list[Any], exists: Any) -> tuple[Tensor, list[Tensor]]:
        """All layers over a padded batch ``[L, N, features]``."""
        finals: list[Any] = []
        place = 0
        for layer in range(self.num_layers):
            directions = []
            for backwards, suffix in enumerate(self._suffixes(layer)):
                start = tuple(each[place] for each in initial)
                y, state = walk(self.mode, x, start, self._weights(suffix), exists, bool(backwards))
                directions.append(y)
                finals.append(state)
                place += 1
            x = ops.concat(directions, axis=-1) if len(directions) > 1 else directions[0]
            if self.dropout and self.training and layer < self.num_layers - 1:
                x = ops.dropout(x, self.dropout)
        return x, [ops.stack(parts, axis=0) for parts in zip(*finals, strict=True)]

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        text = f"{self.input_size}, {self.hidden_size}"
        settings = {
            "proj_size": (self.proj_size, 0),
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0),
            "bidirectional": (self.bidirectional, False),
        }
        return text + "".join(
            f", {name}={value}" for name, (value, usual) in settings.items() if value != usual
        )


class RNN(_Recurrent):
    """``h' = tanh(W x + b + V h + c)``.

    Args:
        input_size, hidden_size: features of input and hidden state.
        num_layers: layers, each with the hidden states of the one before as its input.
        nonlinearity: "tanh" or "relu".
        bias: whether biases are added.
        batch_first: sequences are ``[N, L, features]`` instead of ``[L, N, features]``.
        dropout: probability that an element between layers is dropped, in training mode.
        bidirectional: walk backwards too, and join both directions' states.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        mode = _rnn_mode(nonlinearity, "RNN")
        super().__init__(
            mode,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )
        self.nonlinearity = nonlinearity


class GRU(_Recurrent):
    """Gated recurrent unit; the arguments are those of :class:`RNN`, less the nonlinearity."""

    _kernels = ("gru_cell", "gru_cell/from_input")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )


class LSTM(_Recurrent):
    """Long short-term memory; the state is a pair of hidden and cell state.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in :class:`RNN`.
        proj_size: features of the hidden state after a projection; 0: none.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
    """

    _kernels = ("lstm_steps", "lstm_steps/from_input")

    num_states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )


class _Cell(Module):
    """One step of a recurrent network of the kind ``mode``, a key of ``STEPS``."""

    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, bias: bool, device: Any, dtype: Any
    ) -> None:
        super().__init__()
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = GATES[mode] * hidden_size
        self.weight_ih = Parameter(zeros((rows, input_size), dtype=dtype, device=device))
        self.weight_hh = Parameter(zeros((rows, hidden_size), dtype=dtype, device=device))
        self.bias_ih = Parameter(zeros(rows, dtype=dtype, device=device)) if bias else None
        self.bias_hh = Parameter(zeros(rows, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values: uniform on ±1/√hidden_size."""
        _reset(self, self.hidden_size)

    def _step(self, input: Tensor, state: tuple[Any, ...] | None, num_states: int) -> tuple[Tensor, ...]:
        """The next state; the batch's axis may be missing."""
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: expected [N, {self.input_size}] or [{self.input_size}], "
                f"got {list(input.shape)}"
            )
        shape = (*input.shape[:-1], self.hidden_size)
        if state is None:
            state = (zeros(shape, dtype=input.dtype, device=input.device),) * num_states
        if any(each.shape != shape for each in state):
            raise ShapeError(
                f"{type(self).__name__}: the state is {[list(each.shape) for each in state]}, "
                f"expected {list(shape)}"
            )
        if input.ndim == 1:
            state = tuple(ops.expand_dims(each, axis=0) for each in state)
            input = ops.expand_dims(input, axis=0)
        from_input = ops.linear(input, self.weight_ih, self.bias_ih)
        after = STEPS[self.mode](from_input, state, self.weight_hh, self.bias_hh, None)
        return after if len(shape) == 2 else tuple(ops.squeeze(each, 0) for each in after)

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else f", bias={self.bias}")


class RNNCell(_Cell):
    """One step of :class:`RNN`.

    Args:
        input_size, hidden_size: features of input and hidden state.
        bias: whether biases are added.
        nonlinearity: "tanh" or "relu".
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(_rnn_mode(nonlinearity, "RNNCell"), input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Any = None) -> Tensor:
        """``[N, input_size]`` and ``[N, hidden_size]`` (None: zeros) to the next ``[N, hidden_size]``."""
        return self._step(input, None if hx is None else (hx,), 1)[0]

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        usual = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + usual


class GRUCell(_Cell):
    """One step of :class:`GRU`; the arguments are those of :class:`RNNCell`, less the nonlinearity."""

    _kernels = ("gru_cell", "gru_cell/from_input")

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__("GRU", input_size, hidden_size, bias, device, dtype)

    def forward(self, input: Tensor, hx: Any = None) -> Tensor:
        """``[N, input_size]`` and ``[N, hidden_size]`` (None: zeros) to the next ``[N, hidden_size]``."""
        return self._step(input, None if hx is None else (hx,), 1)[0]


class LSTMCell(_Cell):
    """One step of :class:`LSTM`; the arguments are those of :class:`RNNCell`, less the nonlinearity."""

    _kernels = ("lstm_cell", "lstm_cell/from_input")

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__("LSTM", input_size, hidden_size, bias, device, dtype)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, ...]:
        """``[N, input_size]`` and two states ``[N, hidden_size]`` (None: zeros) to the next two states."""
        return self._step(input, None if hx is None else tuple(hx), 2)
