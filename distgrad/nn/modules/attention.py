"""Attention of several heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.creation import full, zeros
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.backend.device import to_device
from distgrad.errors import ShapeError
from distgrad.nn import init
from distgrad.nn.module import Module
from distgrad.nn.modules.linear import Linear
from distgrad.nn.parameter import Parameter

__all__ = ["MultiheadAttention"]


class _Mask:
    """What queries may not look at, from several masks: booleans that hide, numbers that are added.

    Args:
        num_keys: keys that the masks are about.
        num_free: keys behind them that every query may look at.
    """

    def __init__(self, num_keys: int, num_free: int) -> None:
        self.num_keys = num_keys
        self.num_free = num_free
        self.hidden: Any = None
        self.added: Any = None

    def include(self, mask: Tensor) -> None:
        """Take a mask into account; booleans are true where a query may not look."""
        if mask.shape[-1] != self.num_keys:
            raise ShapeError(f"MultiheadAttention: a mask is {list(mask.shape)} for {self.num_keys} keys")
        if self.num_free:
            free = zeros((*mask.shape[:-1], self.num_free), dtype=mask.dtype, device=mask.device)
            mask = ops.concat([mask, free], axis=-1)
        if mask.dtype == np.bool_:
            self.hidden = mask._data if self.hidden is None else self.hidden | mask._data
        else:
            self.added = mask if self.added is None else self.added + mask

    def result(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """One mask for attention: true where a query may look, or numbers to add; None: all may."""
        if self.hidden is None:
            return self.added
        if self.added is None:
            return get_array_module(self.hidden).broadcast_to(~self.hidden, shape)
        return ops.where(self.hidden, full((), -np.inf, dtype=dtype, device=self.added.device), self.added)


class _Output(Linear):
    """The last product of attention, whose bias begins at 0."""

    def reset_parameters(self) -> None:
        """Draw the weights anew, in the order of every linear module."""
        super().reset_parameters()
        if self.bias is not None:
            init.zeros_(self.bias)


class MultiheadAttention(Module):
    """Attention in several projections ("heads") of the same vectors, joined by another one.

    Args:
        embed_dim: features of query and output.
        num_heads: heads, each of ``embed_dim / num_heads`` features.
        dropout: probability that an attention weight is dropped, in training mode.
        bias: whether the projections have biases.
        add_bias_kv: whether a learned key and value join the others.
        add_zero_attn: whether a key and value of zeros join them.
        kdim, vdim: features of key and value; None means ``embed_dim``.
        batch_first: sequences are ``[N, L, features]`` instead of ``[L, N, features]``.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.

    Source: Vaswani et al., NIPS 2017.
    """

    _kernels = ("attention", "attention/query")

    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ShapeError(
                f"MultiheadAttention: embed_dim={embed_dim} must divide into num_heads={num_heads} parts"
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.add_zero_attn = add_zero_attn
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first = batch_first

        def parameter(*shape: int) -> Parameter:
            return Parameter(zeros(shape, dtype=dtype, device=device))

        alike = self.kdim == embed_dim and self.vdim == embed_dim
        self.q_proj_weight = None if alike else parameter(embed_dim, embed_dim)
        self.k_proj_weight = None if alike else parameter(embed_dim, self.kdim)
        self.v_proj_weight = None if alike else parameter(embed_dim, self.vdim)
        self.in_proj_weight = parameter(3 * embed_dim, embed_dim) if alike else None
        self.in_proj_bias = parameter(3 * embed_dim) if bias else None
        self.bias_k = parameter(1, 1, embed_dim) if add_bias_kv else None
        self.bias_v = parameter(1, 1, embed_dim) if add_bias_kv else None
        self.out_proj = _Output(embed_dim, embed_dim, bias, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; biases become 0."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Query, key and value ``[N, length, embed_dim]``."""
        size = self.embed_dim
        if self.in_proj_weight is None:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        elif query is key and key is value:  # one product for all three
            joint = ops.linear(query, self.in_proj_weight, self.in_proj_bias)
            return [joint[..., i * size : (i + 1) * size] for i in range(3)]
        else:
            weights = [self.in_proj_weight[i * size : (i + 1) * size] for i in range(3)]  # type: ignore[misc]
        bias = self.in_proj_bias
        biases = [None if bias is None else bias[i * size : (i + 1) * size] for i in range(3)]
        return [ops.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _with_extra_keys(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Keys and values with the learned one and the zeros; and how many were added."""
        batch, size = k.shape[0], self.embed_dim
        keys, values = [k], [v]
        if self.bias_k is not None:
            keys.append(ops.broadcast_to(self.bias_k, (batch, 1, size)))
            values.append(ops.broadcast_to(self.bias_v, (batch, 1, size)))
        if self.add_zero_attn:
            keys.append(zeros((batch, 1, size), dtype=k.dtype, device=k.device))
            values.append(zeros((batch, 1, size), dtype=k.dtype, device=k.device))
        if len(keys) == 1:
            return k, v, 0
        return ops.concat(keys, axis=1), ops.concat(values, axis=1), len(keys) - 1

    def _heads(self, x: Tensor) -> Tensor:
        """``[N, length, embed_dim]`` as ``[N, heads, length, head_dim]``."""
        x = ops.reshape(x, (*x.shape[:2], self.num_heads, self.head_dim))
        return ops.permute_dims(x, (0, 2, 1, 3))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: ``[L, N, embed_dim]``, ``[N, L, embed_dim]`` if ``batch_first``, or ``[L, embed_dim]``.
            key, value: the same with S in the place of L, and ``kdim`` and ``vdim``.
            key_padding_mask: ``[N, S]``: true where there is no key, or numbers added to the scores.
            need_weights: return the attention weights too.
            attn_mask: ``[L, S]`` or ``[N · heads, L, S]``: true where a query may not look, or numbers
                added to the scores.
            average_attn_weights: return the heads' mean weights rather than each head's.
            is_causal: without ``attn_mask``, query i may look at keys 0 … i only; with it, it says that the
                mask is of that kind.

        Returns:
            The output, of the query's shape; and the weights ``[N, L, S]``, ``[N, heads, L, S]`` or None.
        """
        one = query.ndim == 2
        batches = {id(x): self._as_batch(x, one) for x in (query, key, value)}
        q, k, v = batches[id(query)], batches[id(key)], batches[id(value)]
        features = [self.embed_dim, self.kdim, self.vdim]
        if any(x.ndim != 3 for x in (q, k, v)) or [x.shape[-1] for x in (q, k, v)] != features:
            raise ShapeError(
                f"MultiheadAttention: expected sequences or batches with {features} features, got query "
                f"{list(query.shape)}, key {list(key.shape)} and value {list(value.shape)}"
            )
        if attn_mask is None and is_causal:
            later = np.triu(np.ones((q.shape[1], k.shape[1]), dtype=bool), 1)
            attn_mask = Tensor(to_device(later, q.device))
        y, weights = self._attend(q, k, v, key_padding_mask, attn_mask, need_weights)
        if weights is not None and average_attn_weights:
            weights = ops.mean(weights, axis=1)
        if one:
            return ops.squeeze(y, 0), None if weights is None else ops.squeeze(weights, 0)
        return y if self.batch_first else ops.permute_dims(y, (1, 0, 2)), weights

    def _as_batch(self, x: Tensor, one: bool) -> Tensor:
        """Any of the forms that inputs come in as ``[N, length, features]``."""
        if one:
            return ops.expand_dims(x, axis=0)
        return x if self.batch_first or x.ndim != 3 else ops.permute_dims(x, (1, 0, 2))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Any, attn_mask: Any, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The output ``[N, L, embed_dim]`` and, if needed, each head's weights."""
        q, k, v = self._projected(query, key, value)
        k, v, count = self._with_extra_keys(k, v)
        mask = self._mask(
            (q.shape[0], self.num_heads, q.shape[1], k.shape[1]), padding, attn_mask, count, q.dtype
        )
        q, k, v = self._heads(q), self._heads(k), self._heads(v)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = ops.attention_weights(q, k, attn_mask=mask)
            if dropout:
                weights = ops.dropout(weights, dropout)
            y = ops.matmul(weights, v)
        else:
            y = ops.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        joined = ops.reshape(ops.permute_dims(y, (0, 2, 1, 3)), query.shape)
        return self.out_proj(joined), weights

    def _mask(self, shape: tuple[int, ...], padding: Any, attn_mask: Any, count: int, dtype: Any) -> Any:
        """One mask for the scores ``[N, heads, L, S]``; every query may look at the last ``count`` keys."""
        mask = _Mask(shape[-1] - count, count)
        if padding is not None:
            mask.include(ops.reshape(padding, (-1, 1, 1, padding.shape[-1])))
        if attn_mask is not None:
            per_head = (shape[0], self.num_heads, *attn_mask.shape[1:])
            mask.include(ops.reshape(attn_mask, per_head if attn_mask.ndim == 3 else attn_mask.shape))
        return mask.result(shape, dtype)
