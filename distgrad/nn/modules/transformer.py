"""The transformer: encoder and decoder layers, stacks of them, and both together.

Source: Vaswani et al., NIPS 2017; norms before the sublayers (``norm_first``): Xiong et al., ICML 2020.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import resolve, to_device
from distgrad.errors import OptionError, ShapeError
from distgrad.nn import init
from distgrad.nn.functional.activations import gelu, relu
from distgrad.nn.module import Module
from distgrad.nn.modules.attention import MultiheadAttention
from distgrad.nn.modules.containers import ModuleList
from distgrad.nn.modules.dropout import Dropout
from distgrad.nn.modules.linear import Linear
from distgrad.nn.modules.normalization import LayerNorm

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Activation = str | Callable[[Tensor], Tensor]


def _activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    known: dict[str, Callable[..., Tensor]] = {"relu": relu, "gelu": gelu}
    if not isinstance(activation, str):
        return activation
    if activation not in known:
        raise OptionError(f"transformer: activation must be 'relu', 'gelu' or a function, got {activation!r}")
    return known[activation]


class _Layer(Module):
    """What encoder and decoder layers share: self-attention and two linear maps.

    Args:
        num_norms: norms, and dropouts before them.
        others: the arguments of :class:`TransformerEncoderLayer`.
    """

    activation: Any

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **place)
        self._make_more_attention(d_model, nhead, dropout, bias, batch_first, place)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **place)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **place)
        self.norm_first = norm_first
        for i in range(1, self._num_sublayers() + 1):
            self.register_module(f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **place))
        for i in range(1, self._num_sublayers() + 1):
            self.register_module(f"dropout{i}", Dropout(dropout))
        self.activation = _activation(activation)

    def _num_sublayers(self) -> int:
        return 2

    def _make_more_attention(
        self, d_model: int, nhead: int, dropout: float, bias: bool, batch_first: bool, place: dict[str, Any]
    ) -> None:
        """Attention beside self-attention, where there is any."""

    def _around(self, x: Tensor, i: int, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """A sublayer with its norm, dropout and the connection past it."""
        norm, dropout = getattr(self, f"norm{i}"), getattr(self, f"dropout{i}")
        if self.norm_first:
            return x + dropout(sublayer(norm(x)))
        return norm(x + dropout(sublayer(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then two linear maps, each with a norm and a connection past it.

    Args:
        d_model: features.
        nhead: heads of attention.
        dim_feedforward: features between the linear maps.
        dropout: probability that an element is dropped, in training mode.
        activation: between the linear maps: "relu", "gelu", or a function.
        layer_norm_eps: added to the norms' variances.
        batch_first: sequences are ``[N, L, d_model]`` instead of ``[L, N, d_model]``.
        norm_first: norms before the sublayers instead of after.
        bias: whether linear maps and norms have biases.
        device: where the parameters lie.
        dtype: of the parameters; None means float32.
    """

    def forward(
        self, src: Tensor, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Tensor:
        """One layer.

        Args:
            src: the sequences.
            src_mask: the ``attn_mask`` of :class:`MultiheadAttention`.
            src_key_padding_mask: its ``key_padding_mask``.
            is_causal: as there.
        """

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0]

        return self._around(self._around(src, 1, attend), 2, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, then two linear maps.

    Args:
        d_model, nhead, dim_feedforward, dropout, activation: as in :class:`TransformerEncoderLayer`.
        layer_norm_eps, batch_first, norm_first, bias, device, dtype: as there.
    """

    def _num_sublayers(self) -> int:
        return 3

    def _make_more_attention(
        self, d_model: int, nhead: int, dropout: float, bias: bool, batch_first: bool, place: dict[str, Any]
    ) -> None:
        """Attention to the encoder's output."""
        self.multihead_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, **place
        )

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """One layer.

        Args:
            tgt: the sequences.
            memory: the encoder's output.
            tgt_mask, memory_mask: ``attn_mask`` of the two attentions.
            tgt_key_padding_mask, memory_key_padding_mask: their ``key_padding_mask``.
            tgt_is_causal, memory_is_causal: their ``is_causal``.
        """

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)[0]

        def look_at_memory(x: Tensor) -> Tensor:
            return self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, False, memory_mask, is_causal=memory_is_causal
            )[0]

        x = self._around(tgt, 1, attend)
        x = self._around(x, 2, look_at_memory)
        return self._around(x, 3, self._feed_forward)


class TransformerEncoder(Module):
    """A stack of encoder layers.

    Args:
        encoder_layer: what is copied.
        num_layers: how often.
        norm: a module that the last layer's output goes through, or None.
        enable_nested_tensor, mask_check: kept for PyTorch's signature. They choose between ways to compute
            the same, of which there is one here.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self, src: Tensor, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Tensor:
        """All layers; the arguments are those of a layer."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """A stack of decoder layers.

    Args:
        decoder_layer: what is copied.
        num_layers: how often.
        norm: a module that the last layer's output goes through, or None.
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """All layers; the arguments are those of a layer."""
        for layer in self.layers:
            tgt = layer(
                tgt,
                memory,
                tgt_mask,
                memory_mask,
                tgt_key_padding_mask,
                memory_key_padding_mask,
                tgt_is_causal,
                memory_is_causal,
            )
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """Encoder and decoder.

    Args:
        d_model: features.
        nhead: heads of attention.
        num_encoder_layers, num_decoder_layers: layers of each stack.
        dim_feedforward, dropout, activation: as in :class:`TransformerEncoderLayer`.
        custom_encoder, custom_decoder: modules in the place of the stacks.
        layer_norm_eps, batch_first, norm_first, bias, device, dtype: as in the layer.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = relu,
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        settings: dict[str, Any] = {
            "dim_feedforward": dim_feedforward,
            "dropout": dropout,
            "activation": activation,
            "layer_norm_eps": layer_norm_eps,
            "batch_first": batch_first,
            "norm_first": norm_first,
            "bias": bias,
            **place,
        }

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, **place)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(d_model, nhead, **settings), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(d_model, nhead, **settings), num_decoder_layers, norm()
        )
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The decoder's output for ``tgt``, from the encoder's for ``src``; masks as in the layers."""
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ShapeError(
                f"Transformer: expected {self.d_model} features, got src {list(src.shape)} and tgt "
                f"{list(tgt.shape)}"
            )
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask,
            memory_mask,
            tgt_key_padding_mask,
            memory_key_padding_mask,
            tgt_is_causal,
            memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """``[sz, sz]``: 0 where a query may look, −∞ at later keys."""
        values = np.triu(np.full((sz, sz), -np.inf, dtype=dtype or np.float32), 1)
        return Tensor(to_device(values, resolve(device)))
