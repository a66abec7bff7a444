"""``multi_head_attention_forward``: attention of several heads over weights that are given."""

from __future__ import annotations

from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import ShapeError
from distgrad.nn.module import Module
from distgrad.nn.modules.attention import MultiheadAttention

__all__ = ["multi_head_attention_forward"]


class _Given(MultiheadAttention):
    """The module with weights that are handed to it, and keys or values that are projected already."""

    def __init__(self, static: tuple[Tensor | None, Tensor | None], **values: Any) -> None:
        Module.__init__(self)
        self.static = static
        for name, value in values.items():
            setattr(self, name, value)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        found = super()._projected(query, key, value)
        for place, given in enumerate(self.static, 1):
            if given is not None:  # [N · heads, S, head_dim]
                heads = ops.reshape(given, (-1, self.num_heads, *given.shape[1:]))
                found[place] = ops.reshape(
                    ops.permute_dims(heads, (0, 2, 1, 3)), (len(heads), given.shape[1], self.embed_dim)
                )
        return found


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of several heads, as ``nn.MultiheadAttention`` computes it, over weights that are given.

    Args:
        query, key, value: ``[L, N, features]`` or ``[L, features]``.
        embed_dim_to_check: the query's features.
        num_heads, in_proj_weight, in_proj_bias, bias_k, bias_v, add_zero_attn: the module's.
        dropout_p: its ``dropout``.
        out_proj_weight, out_proj_bias: of its ``out_proj``.
        training: whether weights are dropped.
        key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal: of its ``forward``.
        use_separate_proj_weight: take the three that follow in the place of ``in_proj_weight``.
        q_proj_weight, k_proj_weight, v_proj_weight: the module's.
        static_k, static_v: keys and values ``[N · heads, S, head_dim]`` in the place of the projected ones.

    Raises:
        ShapeError: sizes that do not fit each other.
    """
    size = query.shape[-1]
    if size != embed_dim_to_check or size % num_heads:
        raise ShapeError(
            f"multi_head_attention_forward: the query has {size} features, expected {embed_dim_to_check}, "
            f"which {num_heads} heads divide"
        )
    separate = use_separate_proj_weight
    attend = _Given(
        (static_k, static_v),
        embed_dim=size, num_heads=num_heads, head_dim=size // num_heads, dropout=dropout_p,
        add_zero_attn=add_zero_attn, kdim=key.shape[-1], vdim=value.shape[-1], batch_first=False,
        in_proj_weight=None if separate else in_proj_weight, in_proj_bias=in_proj_bias,
        q_proj_weight=q_proj_weight, k_proj_weight=k_proj_weight, v_proj_weight=v_proj_weight,
        bias_k=bias_k, bias_v=bias_v,
        out_proj=lambda x: ops.linear(x, out_proj_weight, out_proj_bias),
    )  # fmt: skip
    attend.training = training
    return attend(
        query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
    )
