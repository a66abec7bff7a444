"""What the architectures share: attention, feed-forward networks, and the block made of both."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DataError, ShapeError
from distgrad.hub.config import Config
from distgrad.hub.generation import LayerCache
from distgrad.hub.rotary import rotate
from distgrad.nn.module import Module
from distgrad.nn.modules.activation import GELU, ReLU, SiLU, Tanh
from distgrad.nn.modules.dropout import Dropout
from distgrad.nn.modules.embedding import Embedding
from distgrad.nn.modules.linear import Linear

__all__ = [
    "Attention",
    "Block",
    "FeedForward",
    "Pooler",
    "activation",
    "attention_mask",
    "check_positions",
    "look_up_places",
]

_ACTIVATIONS: dict[str, tuple[type[Module], tuple[str, ...]]] = {
    "gelu": (GELU, ()),
    "gelu_new": (GELU, ("tanh",)),
    "gelu_pytorch_tanh": (GELU, ("tanh",)),
    "relu": (ReLU, ()),
    "silu": (SiLU, ()),
    "swish": (SiLU, ()),
    "tanh": (Tanh, ()),
}


def activation(config: Config, name: str, default: str) -> Module:
    """The module of an activation that a config names.

    Raises:
        DataError: none of those that are known.
    """
    found = config.text(name, default)
    if found not in _ACTIVATIONS:
        raise DataError(
            f"hub.load: {config.where}: expected {name} to be one of {sorted(_ACTIVATIONS)}, got {found!r}"
        )
    kind, arguments = _ACTIVATIONS[found]
    return kind(*arguments)


def check_length(length: int, longest: int, where: str) -> None:
    """Refuse sequences that have more tokens than the model has places."""
    if length > longest:
        raise ShapeError(f"{where}: {length} tokens in a row, but the model has {longest} places; cut them")


def attention_mask(
    padding: Any, x: Tensor, causal: bool = False, window: int | None = None, past: int = 0
) -> Tensor | None:
    """Where queries may look, as :class:`Attention` takes it.

    Args:
        padding: ``[n, S]``, 0 where a place is padding; None if none is.
        x: ``[n, L, width]``, for its shape and device.
        causal: whether place i sees places 0 … i only.
        window: how many places, its own counted, a place sees back to; None means all.
        past: places before those of ``x``, which are seen too: S = past + L.

    Returns:
        Booleans ``[n, 1, 1 or L, S]``; None where ``is_causal`` says all there is to say.

    Raises:
        ShapeError: padding of another shape.
    """
    rows, length = x.shape[:2]
    total, near = past + length, None
    is_windowed = window is not None and window < total
    if causal and (padding is not None or is_windowed or (past and length > 1)):
        back = total if window is None else window
        seen = np.tri(length, total, past, dtype=bool) & ~np.tri(length, total, past - back, dtype=bool)
        near = asarray(seen, device=x.device)
    if padding is None:
        return near
    padding = asarray(padding, device=x.device)
    if tuple(padding.shape) != (rows, total):
        raise ShapeError(
            f"hub: expected an attention_mask [{rows}, {total}] for these tokens, got {list(padding.shape)}"
        )
    real = ops.reshape(ops.not_equal(padding, 0), (rows, 1, 1, total))
    return real if near is None else ops.logical_and(real, near)


def look_up_places(table: Embedding, position_ids: Any, x: Tensor, past: int, where: str) -> Tensor:
    """The rows of a table of places: those that are asked for, or one after another from ``past`` on.

    Args:
        table: of places.
        position_ids: ``[n, L]`` or ``[1, L]``; None means past, past+1, ….
        x: ``[n, L, width]``.
        past: places before those of ``x``.
        where: for messages.

    Raises:
        ShapeError: more places than the table has, or ``position_ids`` of another shape.
    """
    check_length(past + x.shape[1], table.num_embeddings, where)
    if position_ids is None:
        return table.weight[past : past + x.shape[1]]
    return table(check_positions(position_ids, x))


def check_positions(position_ids: Any, x: Tensor) -> Tensor:
    """Positions as a tensor where ``x`` lies.

    Raises:
        ShapeError: they are not ``[n, L]`` or ``[1, L]`` for ``x`` of ``[n, L, width]``.
    """
    found = asarray(position_ids, device=x.device)
    rows, length = x.shape[:2]
    if tuple(found.shape) not in ((rows, length), (1, length)):
        raise ShapeError(
            f"hub: expected position_ids [{rows}, {length}] for these tokens, got {list(found.shape)}"
        )
    return found


class Attention(Module):
    """Attention of several heads, over what is before a place or over all of a sequence.

    Args:
        width: features of a place.
        num_heads: of the queries.
        num_kv_heads: of keys and values, each shared by neighbouring queries; None means as many.
        head_width: features of a head; None means ``width / num_heads``.
        bias: whether queries, keys and values have one.
        out_bias: whether the outputs have one.
        dropout: probability that a weight is dropped in training.
        causal: whether a place sees itself and what is before it only.
        scale: what scores are multiplied by; None means 1/√head_width.

    Source: Vaswani et al., NIPS 2017; shared keys: Ainslie et al., EMNLP 2023.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        out_bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        if (head_width is None and width % num_heads) or num_heads % self.num_kv_heads:
            raise DataError(
                f"hub.load: {width} features, {num_heads} heads and {self.num_kv_heads} of keys do not divide"
            )
        self.head_width = head_width or width // num_heads
        inner, shared = num_heads * self.head_width, self.num_kv_heads * self.head_width
        self.query = Linear(width, inner, bias)
        self.key, self.value = Linear(width, shared, bias), Linear(width, shared, bias)
        self.out = Linear(inner, width, out_bias)
        self.dropout, self.causal, self.scale = dropout, causal, scale

    def forward(
        self, x: Tensor, mask: Tensor | None = None, turn: Any = None, cache: LayerCache | None = None
    ) -> Tensor:
        """``[n, L, width]``, and the same back.

        Args:
            x: the places.
            mask: of :func:`attention_mask`.
            turn: cosines and sines by which queries and keys are rotated, of :class:`Rotary`.
            cache: keys and values of the places before; those of ``x`` are added.
        """
        rows, length, _ = x.shape
        query, key, value = (
            layer(x).reshape(rows, length, -1, self.head_width).permute(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        if cache is not None:
            key, value = cache.extend(key, value)
        y = ops.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and mask is None and length == key.shape[2],
            scale=self.scale,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        return self.out(y.permute(0, 2, 1, 3).reshape(rows, length, -1))


class FeedForward(Module):
    """Two layers with an activation between them; or, gated, a third that the activated one multiplies.

    Args:
        width: features of a place.
        inner: features between the layers.
        activation: the module between them.
        bias: whether the layers have one.
        gated: ``down(activation(gate x) · up x)`` in place of ``down(activation(up x))``.

    Source: gated: Shazeer, arXiv:2002.05202, 2020.
    """

    def __init__(
        self, width: int, inner: int, activation: Module, bias: bool = True, gated: bool = False
    ) -> None:
        super().__init__()
        self.up, self.down = Linear(width, inner, bias), Linear(inner, width, bias)
        self.gate = Linear(width, inner, bias) if gated else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]``, and the same back."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(Module):
    """Attention and a feed-forward network, each added to what goes into it.

    Args:
        attention: the first.
        feed_forward: the second.
        norms: one for each.
        dropout: probability that an element of what is added is dropped in training.
        norm_first: whether norms stand before the two (GPT-2 and later) or behind the sums (BERT).
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        norms: tuple[Module, Module],
        dropout: float,
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.norm1, self.norm2 = norms
        self.dropout = Dropout(dropout)
        self.norm_first = norm_first

    def forward(
        self, x: Tensor, mask: Tensor | None = None, turn: Any = None, cache: LayerCache | None = None
    ) -> Tensor:
        """``[n, L, width]``, and the same back; the arguments are those of :class:`Attention`."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), mask, turn, cache))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, mask, turn, cache)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class Pooler(Module):
    """A whole sequence as the first place's features, through one more layer.

    Args:
        width: features of a place.
        out: of the whole.
        activation: behind the layer.
    """

    def __init__(self, width: int, out: int, activation: Module) -> None:
        super().__init__()
        self.dense, self.activation = Linear(width, out), activation

    def forward(self, hidden: Tensor) -> Tensor:
        """``[n, L, width]`` to ``[n, out]``."""
        return self.activation(self.dense(hidden[:, 0]))
