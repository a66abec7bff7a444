"""Scaled dot-product attention, by a library of the GPU's where there is one."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite, primitive
from distgrad.autograd.modes import modes
from distgrad.autograd.ops.shape_rules import Shape
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.cudnn_attention import takes
from distgrad.backend.device import at_hand, plain
from distgrad.backend.rng import Generator
from distgrad.errors import OptionError, ShapeError

_MASK = np.array([[True, False, True, True, False], [False] * 5, [True] * 5])
_UNSEEN = -1e30  # a score that weighs nothing beside others, and as much as others that are alike
_BIAS = np.array([[0.5, -np.inf, 0.0, 1.0, 0.0], [-np.inf] * 5, [0.0] * 5])


@functools.lru_cache(maxsize=32)
def _causal_bias(rows: int, columns: int, dtype: np.dtype[Any]) -> np.ndarray:
    """0 where a query may look, −∞ at later keys."""
    bias = np.where(np.tri(rows, columns, dtype=bool), 0.0, -np.inf).astype(dtype)
    bias.flags.writeable = False
    return bias


def _check(query: Shape, key: Shape, value: Shape, enable_gqa: bool) -> None:
    shapes = f"query {list(query)}, key {list(key)}, value {list(value)}"
    if min(len(query), len(key), len(value)) < 2:
        raise ShapeError(f"scaled_dot_product_attention: expected [..., length, features], got {shapes}")
    if query[-1] != key[-1] or key[-2] != value[-2]:
        raise ShapeError(
            "scaled_dot_product_attention: query and key need the same features, key and value the same "
            f"length; got {shapes}"
        )
    if enable_gqa and (len(query) < 3 or query[-3] % key[-3]):
        raise ShapeError(
            f"scaled_dot_product_attention: the query's heads must be a multiple of the key's; got {shapes}"
        )


def _grouped(xp: Any, x: Array, heads: int) -> Array:
    """``[..., H, L, E]`` as ``[..., heads, H / heads, L, E]``."""
    return xp.reshape(x, (*x.shape[:-3], heads, x.shape[-3] // heads, *x.shape[-2:]))


def _grouped_mask(xp: Any, mask: Any, heads: int) -> Any:
    """A mask that broadcasts to ``[..., H, L, S]`` as one for scores ``[..., heads, H / heads, L, S]``."""
    if mask is None or len(mask.shape) < 3:
        return mask
    return xp.expand_dims(mask, axis=-3) if mask.shape[-3] == 1 else _grouped(xp, mask, heads)


def _where(xp: Any, condition: Array, x: Array, number: float) -> Array:
    """``x`` or a number, in the dtype of ``x``: with a Python number NumPy makes float64 of bfloat16."""
    y = xp.where(condition, x, number)
    return y if y.dtype == x.dtype else xp.astype(y, x.dtype)


def _masked_softmax(xp: Any, scores: Array, mask: Array) -> Array:
    """Softmax over keys; a query that may look at none has weights of 0."""
    if mask.dtype == bool:
        scores = _where(xp, mask, scores, -math.inf)
        sees = xp.any(mask, axis=-1, keepdims=True)
    else:
        scores = scores + mask
        sees = xp.any(mask != -math.inf, axis=-1, keepdims=True)
    if at_hand(sees) and bool(xp.all(sees)):
        return xp.softmax(scores, axis=-1)
    return _where(xp, sees, xp.softmax(_where(xp, sees, scores, 0.0), axis=-1), 0.0)


def _plain_scores(xp: Any, query: Array, key: Array, scale: float, is_causal: bool) -> Array:
    scores = xp.matmul(query * scale, xp.matrix_transpose(key))
    if is_causal and at_hand(scores):  # every query sees at least the first key
        scores = scores + _causal_bias(*scores.shape[-2:], scores.dtype)
    elif is_causal:
        rows, columns = (xp.arange(n) for n in scores.shape[-2:])
        scores = xp.where(columns > xp.expand_dims(rows, axis=1), -math.inf, scores)
    return scores


def _plain_weights(xp: Any, query: Array, key: Array, scale: float, is_causal: bool) -> Array:
    return xp.softmax(_plain_scores(xp, query, key, scale, is_causal), axis=-1)


def _attended(query: Shape, key: Shape, value: Shape, **attributes: Any) -> Shape:
    stack = np.broadcast_shapes(query[:-2], key[:-2], value[:-2])
    if query[-1] != key[-1] or key[-2] != value[-2]:
        raise ValueError("query and key need the same features, key and value the same length")
    return (*stack, query[-2], value[-1])


@primitive(
    math="y = softmax(query keyᵀ scale) value",
    source="Vaswani et al., NIPS 2017",
    shape=_attended,
    dtypes="real floating-point",
    samples=[
        Sample(((2, 3, 4), (2, 5, 4), (2, 5, 6)), {"scale": 0.5, "is_causal": False}),
        Sample(((2, 2, 3, 4),) * 3, {"scale": 0.5, "is_causal": True}, note="causal"),
        Sample(((3, 4), (2, 5, 4), (5, 6)), {"scale": -0.3, "is_causal": True}, note="broadcast"),
        Sample(((0, 3, 4), (0, 5, 4), (0, 5, 6)), {"scale": 0.5, "is_causal": False}, note="empty"),
    ],
    rejects=[Reject(((3, 4), (5, 3), (5, 4)), ShapeError, "attention", {"scale": 1.0, "is_causal": False})],
)
def attention(xp: Any, query: Array, key: Array, value: Array, /, *, scale: float, is_causal: bool) -> Array:
    """Attention without mask or dropout, which need not keep its weights.

    Args:
        query: ``[..., L, E]``.
        key: ``[..., S, E]``.
        value: ``[..., S, Ev]``.
        scale: what scores are multiplied by.
        is_causal: query i sees keys 0 … i only.

    Returns:
        ``[..., L, Ev]``.
    """
    return xp.matmul(_plain_weights(xp, query, key, scale, is_causal), value)


@attention.vjp("query", "key", "value")
def _(
    xp: Any, g: Array, query: Array, key: Array, value: Array, scale: float, is_causal: bool, needs: Any
) -> tuple[Array | None, ...]:
    weights = _plain_weights(xp, query, key, scale, is_causal)
    slope = xp.matmul(g, xp.matrix_transpose(value))
    slope = (slope - xp.sum(slope * weights, axis=-1, keepdims=True)) * weights * scale
    return (
        xp.matmul(slope, key) if needs[0] else None,
        xp.matmul(xp.matrix_transpose(slope), query) if needs[1] else None,
        xp.matmul(xp.matrix_transpose(weights), g) if needs[2] else None,
    )


def _sharing(query: Array, key: Array) -> int:
    """How many heads of the queries share one of the keys."""
    return query.shape[-3] // key.shape[-3] if len(query.shape) > 2 and key.shape[-3] else 1


def _spread(xp: Any, x: Array, times: int) -> Array:
    """Each head of keys or values as often as queries' heads share it."""
    if times == 1:
        return x
    several = xp.broadcast_to(xp.expand_dims(x, axis=-3), (*x.shape[:-2], times, *x.shape[-2:]))
    return xp.reshape(several, (*x.shape[:-3], x.shape[-3] * times, *x.shape[-2:]))


def _gathered(xp: Any, g: Array, times: int) -> Array:
    """The transpose of :func:`_spread`."""
    return g if times == 1 else xp.sum(_grouped(xp, g, g.shape[-3] // times), axis=-3)


def _alike(xp: Any, x: Array, like: Array) -> Array:
    return x if x.dtype == like.dtype else xp.astype(x, like.dtype)


def _weighed(
    xp: Any, query: Array, key: Array, bias: Array | None, scale: float, is_causal: bool
) -> tuple[Array, Array]:
    """Scores and weights, of keys as many as queries."""
    scores = _plain_scores(xp, query, key, scale, is_causal)
    scores = scores if bias is None else scores + bias
    return scores, _alike(xp, xp.softmax(scores, axis=-1), query)


_SCALED = {"scale": 0.5, "is_causal": False}


@primitive(
    math="y, s = (softmax(a) kept) value, log Σ exp(a), a = query keyᵀ scale + bias",
    source="Dao et al., NeurIPS 2022",
    shape=lambda query, key, value, *rest, **attributes: [(*query[:-1], value[-1]), (*query[:-1], 1)],
    dtypes="real floating-point",
    outputs=2,
    sparse=True,
    samples=[
        Sample(((2, 3, 4), (2, 5, 4), (2, 5, 6)), _SCALED),
        Sample(((2, 2, 3, 4),) * 3, {"scale": 0.5, "is_causal": True}, note="causal"),
        Sample(((1, 4, 3, 2), (1, 2, 5, 2), (1, 2, 5, 3), (4, 1, 5)), _SCALED, note="shared keys, a mask"),
        Sample(((1, 2, 3, 2),) * 3 + (None, (1, 2, 3, 3)), _SCALED, note="weights that are kept"),
        Sample(((0, 3, 4), (0, 5, 4), (0, 5, 6)), _SCALED, note="empty"),
    ],
    rejects=[Reject(((3, 4), (5, 3), (5, 4)), ShapeError, "attention_with_statistics", _SCALED)],
)
def attention_with_statistics(
    xp: Any,
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    kept: Array | None = None,
    /,
    *,
    scale: float,
    is_causal: bool,
) -> tuple[Array, Array]:
    """Attention, and the logarithm of each query's sum, from which gradients need not compute it again.

    Args:
        query: ``[..., H, L, E]``.
        key: ``[..., G, S, E]``; each of the G heads is shared by H / G neighbouring ones of the queries.
        value: ``[..., G, S, Ev]``.
        bias: added to the scores ``[..., H, L, S]``, or None.
        kept: what weights are multiplied by, ``[..., H, L, S]``; None means 1.
        scale: what products are multiplied by.
        is_causal: query i sees keys 0 … i only.

    Returns:
        The result, ``[..., H, L, Ev]``, and the logarithms, ``[..., H, L, 1]``.
    """
    times = _sharing(query, key)
    scores, weights = _weighed(xp, query, _spread(xp, key, times), bias, scale, is_causal)
    weights = weights if kept is None else weights * kept
    return xp.matmul(weights, _spread(xp, value, times)), xp.logsumexp(scores, axis=-1, keepdims=True)


@attention_with_statistics.vjp("query", "key", "value", "bias", "kept")
def _(
    xp: Any,
    g: tuple[Any, Any],
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    kept: Array | None,
    y: tuple[Array, Array],
    scale: float,
    is_causal: bool,
    needs: Any,
) -> tuple[Array | None, ...]:  # the kernel alone reads y
    times = _sharing(query, key)
    keys, values = (_spread(xp, x, times) for x in (key, value))
    _, weights = _weighed(xp, query, keys, bias, scale, is_causal)
    g_y = xp.zeros_like(y[0]) if g[0] is None else g[0]
    g_kept = xp.matmul(g_y, xp.matrix_transpose(values))
    slope = g_kept if kept is None else g_kept * kept
    slope = slope - xp.sum(slope * weights, axis=-1, keepdims=True)
    slope = (slope if g[1] is None else slope + _alike(xp, g[1], slope)) * weights
    dropped = weights if kept is None else weights * kept
    return (
        xp.matmul(slope, keys) * scale if needs[0] else None,
        _gathered(xp, xp.matmul(xp.matrix_transpose(slope), query), times) * scale if needs[1] else None,
        _gathered(xp, xp.matmul(xp.matrix_transpose(dropped), g_y), times) if needs[2] else None,
        slope if needs[3] else None,
        g_kept * weights if needs[4] else None,
    )


@composite(
    math="y = softmax(query keyᵀ scale + mask)",
    source="Vaswani et al., NIPS 2017",
    dtypes="real floating-point",
    samples=[
        Sample(((2, 3, 4), (2, 5, 4))),
        Sample(((2, 3, 4), (2, 5, 4)), {"is_causal": True, "scale": 0.3}, note="causal"),
        Sample(((2, 3, 4), (2, 5, 4)), {"attn_mask": _MASK}, note="a query that sees nothing"),
        Sample(((0, 3, 4), (0, 5, 4)), note="empty"),
    ],
    rejects=[Reject(((3, 4), (5, 3)), ShapeError, "matmul")],
)
def attention_weights(
    xp: Any,
    query: Array,
    key: Array,
    /,
    attn_mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """How much each query of an attention looks at each key; a query that may look at none at nothing.

    Args:
        query: ``[..., L, E]``.
        key: ``[..., S, E]``.
        attn_mask: broadcasts to ``[..., L, S]``; booleans, true where a query may look, or numbers that are
            added to the scores.
        is_causal: query i sees keys 0 … i only; in place of a mask.
        scale: what scores are multiplied by; None means 1/√E.

    Returns:
        ``[..., L, S]``, whose rows sum to 1, or are 0.
    """
    scale = 1.0 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    if attn_mask is None:
        return _plain_weights(xp, query, key, scale, is_causal)
    return _masked_softmax(xp, xp.matmul(query * scale, xp.matrix_transpose(key)), attn_mask)


def _added(xp: Any, mask: Array) -> tuple[Array, Array]:
    """A mask as finite numbers that are added to scores, and which queries see something."""
    if mask.dtype == bool:
        sees = xp.any(mask, axis=-1, keepdims=True)
        return xp.astype(xp.where(mask, 0.0, _UNSEEN), np.float32), sees
    sees = xp.any(mask != -math.inf, axis=-1, keepdims=True)
    return xp.maximum(xp.astype(mask, np.float32), _UNSEEN), sees


def _by_library(
    xp: Any,
    arrays: tuple[Array, Array, Array],
    mask: Any,
    dropout_p: float,
    is_causal: bool,
    scale: float,
    generator: Generator | None,
) -> Any:
    """Attention by a library of the GPU's; None where it does not take that, or there is none."""
    if at_hand(arrays[0]) or getattr(mask, "requires_grad", False):
        return None
    shape, bias = (*arrays[0].shape[:-1], arrays[1].shape[-2]), ()
    if mask is not None:
        if len(mask.shape) < 2 or np.broadcast_shapes(mask.shape, shape) != shape:
            return None
        bias = (*mask.shape[:-2], *shape[-2:])
    backward = modes.grad and any(getattr(x, "requires_grad", False) for x in arrays)
    query, key, value = map(plain, arrays)
    if not takes(query, key, value, bias, dropout_p > 0, scale, is_causal, bool(backward)):
        return None
    sees = kept = None
    if mask is not None:
        added, sees = _added(xp, mask)
        mask = xp.broadcast_to(added, bias)
    if dropout_p:
        kept = xp.dropout(xp.ones(shape, dtype=arrays[0].dtype), p=dropout_p, generator=generator)
    y = xp.attention_with_statistics(*arrays, mask, kept, scale=scale, is_causal=is_causal)[0]
    return y if sees is None else _where(xp, sees, y, 0.0)


@composite(
    math="y = softmax(query keyᵀ scale + mask) value",
    source="Vaswani et al., NIPS 2017",
    dtypes="real floating-point",
    samples=[
        Sample(((2, 3, 4), (2, 5, 4), (2, 5, 6))),
        Sample(((2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4)), {"is_causal": True}, note="causal"),
        Sample(((2, 3, 4), (2, 5, 4), (2, 5, 6)), {"attn_mask": _MASK}, note="a query that sees nothing"),
        Sample(((2, 3, 4), (2, 5, 4), (2, 5, 6), _BIAS), {"scale": 0.3}, note="an added mask", grad=False),
        Sample(((2, 3, 4), (2, 5, 4), (2, 5, 6), (3, 5)), note="a learned mask"),
        Sample(((1, 4, 3, 2), (1, 2, 5, 2), (1, 2, 5, 2)), {"enable_gqa": True}, note="shared keys"),
        Sample(
            ((2, 4, 3, 2), (2, 2, 5, 2), (2, 2, 5, 2)),
            {
                "enable_gqa": True,
                "attn_mask": np.array([[True] * 5, [False, True] * 2 + [True]])[:, None, None],
            },
            note="shared keys, a mask for each of the batch",
        ),
        Sample(((0, 3, 4), (0, 5, 4), (0, 5, 6)), note="empty"),
        Sample(((2, 3, 4), (2, 0, 4), (2, 0, 6)), note="no keys"),
        Sample(((2, 3, 0), (2, 5, 0), (2, 5, 6)), note="no features"),
    ],
    rejects=[
        Reject(((3, 4), (5, 3), (5, 4)), ShapeError, "need the same features"),
        Reject(((4,), (5, 4), (5, 4)), ShapeError, "expected [..., length, features]"),
        Reject(((3, 2, 4), (2, 2, 4), (2, 2, 4)), ShapeError, "multiple of the key's", {"enable_gqa": True}),
        Reject(((3, 4), (5, 4), (5, 4), (3, 5)), OptionError, "give either", {"is_causal": True}),
    ],
)
def scaled_dot_product_attention(
    xp: Any,
    query: Array,
    key: Array,
    value: Array,
    /,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    generator: Generator | None = None,
) -> Array:
    """Each query's mean of the values, weighted by how well the query matches their keys.

    Args:
        query: ``[..., H, L, E]``.
        key: ``[..., H, S, E]``.
        value: ``[..., H, S, Ev]``.
        attn_mask: broadcasts to ``[..., H, L, S]``; booleans, true where a query may look, or numbers that
            are added to the scores.
        dropout_p: probability that a weight is set to 0.
        is_causal: query i sees keys 0 … i only.
        scale: what scores are multiplied by; None means 1/√E.
        enable_gqa: key and value have fewer heads, each shared by as many neighbouring query heads.
        generator: of the random numbers; None means the default one.

    Returns:
        ``[..., H, L, Ev]``.
    """
    rows, columns, values = tuple(query.shape), tuple(key.shape), tuple(value.shape)
    _check(rows, columns, values, enable_gqa)
    if is_causal and attn_mask is not None:
        raise OptionError("scaled_dot_product_attention: give either attn_mask or is_causal, not both")
    shape = (*rows[:-1], values[-1])
    scale = 1.0 / math.sqrt(rows[-1] or 1) if scale is None else scale
    if enable_gqa or rows[:-2] == columns[:-2] == values[:-2]:
        arrays = query, key, value
        y = _by_library(xp, arrays, attn_mask, dropout_p, is_causal, scale, generator)
        if y is not None:
            return y
    if enable_gqa:
        heads = columns[-3]
        query, key, value = (_grouped(xp, x, heads) for x in (query, key, value))
        attn_mask = _grouped_mask(xp, attn_mask, heads)
    if attn_mask is None and not dropout_p and columns[-2]:
        y = xp.attention(query, key, value, scale=scale, is_causal=is_causal)
        return xp.reshape(y, shape) if enable_gqa else y
    weights = xp.attention_weights(query, key, attn_mask=attn_mask, is_causal=is_causal, scale=scale)
    if dropout_p:
        weights = xp.dropout(weights, p=dropout_p, generator=generator)
    y = xp.matmul(weights, value)
    return xp.reshape(y, shape) if enable_gqa else y
