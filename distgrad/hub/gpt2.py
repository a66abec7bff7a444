"""GPT-2.

Source: Radford et al., OpenAI, 2019.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from distgrad.autograd.tensor import Tensor
from distgrad.hub.config import Config
from distgrad.hub.generation import Cache
from distgrad.hub.keys import Key, both
from distgrad.hub.layers import Attention, Block, FeedForward, activation, attention_mask, look_up_places
from distgrad.hub.model import Decoder, new_head
from distgrad.nn.modules.containers import ModuleList
from distgrad.nn.modules.dropout import Dropout
from distgrad.nn.modules.embedding import Embedding
from distgrad.nn.modules.normalization import LayerNorm

__all__ = ["GPT2"]


class GPT2(Decoder):
    """A decoder of texts, each place of which sees what is before it.

    Args:
        config: of model type "gpt2".
        task: "features" or "causal-lm".
    """

    architectures: ClassVar[dict[str, str]] = {"features": "GPT2Model", "causal-lm": "GPT2LMHeadModel"}
    prefix = "transformer."
    unused = r"h\.\d+\.attn\.(bias|masked_bias)"
    keys: ClassVar[list[Key]] = [
        Key("wte.weight", ("tokens.weight",)),
        Key("wpe.weight", ("places.weight",)),
        *both("h.*.ln_1", "blocks.*.norm1"),
        *both(
            "h.*.attn.c_attn",
            *(f"blocks.*.attention.{name}" for name in ("query", "key", "value")),
            transposed=True,
        ),
        *both("h.*.attn.c_proj", "blocks.*.attention.out", transposed=True),
        *both("h.*.ln_2", "blocks.*.norm2"),
        *both("h.*.mlp.c_fc", "blocks.*.feed_forward.up", transposed=True),
        *both("h.*.mlp.c_proj", "blocks.*.feed_forward.down", transposed=True),
        *both("ln_f", "norm"),
        Key("lm_head.weight", ("token_head.weight",), part="head"),
    ]

    def __init__(self, config: Config, task: str) -> None:
        super().__init__(config, task)
        width, num_tokens = config.count("n_embd", 768), config.count("vocab_size", 50257)
        eps = config.number("layer_norm_epsilon", 1e-5)
        self.tokens = Embedding(num_tokens, width)
        self.places = Embedding(config.count("n_positions", 1024), width)
        self.dropout = Dropout(config.number("embd_pdrop", 0.1))
        self.blocks = ModuleList(self._block(config, width, eps, layer) for layer in range(self.num_layers()))
        self.norm = LayerNorm(width, eps)
        own_table = task == "causal-lm" and not config.flag("tie_word_embeddings", True)
        self.token_head = new_head(config, width, num_tokens, bias=False) if own_table else None

    def num_layers(self) -> int:
        """How many blocks there are."""
        return self.config.count("n_layer", 12)

    def longest(self) -> int:
        """How many places there are."""
        return self.places.num_embeddings

    @staticmethod
    def _block(config: Config, width: int, eps: float, layer: int) -> Block:
        heads = config.count("n_head", 12)
        scale = 1 / math.sqrt(width / heads) if config.flag("scale_attn_weights", True) else 1.0
        if config.flag("scale_attn_by_inverse_layer_idx", False):
            scale /= layer + 1
        attention = Attention(
            width, heads, dropout=config.number("attn_pdrop", 0.1), causal=True, scale=scale
        )
        inner = config.count("n_inner", 4 * width)
        feed_forward = FeedForward(width, inner, activation(config, "activation_function", "gelu_new"))
        norms = LayerNorm(width, eps), LayerNorm(width, eps)
        return Block(attention, feed_forward, norms, config.number("resid_pdrop", 0.1), norm_first=True)

    def encode(
        self, input_ids: Any, padding: Any = None, position_ids: Any = None, cache: Cache | None = None
    ) -> Tensor:
        """The features ``[n, L, width]`` of all places, whatever the task; arguments as of ``forward``."""
        x = self.tokens(input_ids)
        past = 0 if cache is None else cache.length
        x = self.dropout(x + look_up_places(self.places, position_ids, x, past, "GPT2"))
        mask = attention_mask(padding, x, causal=True, past=past)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, cache=None if cache is None else cache.layers[layer])
        return self.norm(x)
