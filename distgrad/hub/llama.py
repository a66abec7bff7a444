"""LLaMA, and what has its shape: Mistral, Qwen2.

Source: Touvron et al., arXiv:2302.13971, 2023; Jiang et al., arXiv:2310.06825, 2023.
"""

from __future__ import annotations

from typing import Any, ClassVar

from distgrad.autograd.tensor import Tensor
from distgrad.hub.config import Config
from distgrad.hub.generation import Cache
from distgrad.hub.keys import Key, both
from distgrad.hub.layers import Attention, Block, FeedForward, activation, attention_mask, check_positions
from distgrad.hub.model import Decoder, new_head
from distgrad.hub.rotary import Rotary
from distgrad.nn.modules.containers import ModuleList
from distgrad.nn.modules.embedding import Embedding
from distgrad.nn.modules.normalization import RMSNorm

__all__ = ["Llama", "Mistral", "Qwen2"]


class Llama(Decoder):
    """A decoder with rotary positions, root-mean-square norms and gated feed-forward networks.

    Args:
        config: of model type "llama".
        task: "features" or "causal-lm".
    """

    architectures: ClassVar[dict[str, str]] = {"features": "LlamaModel", "causal-lm": "LlamaForCausalLM"}
    prefix = "model."
    unused = r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
    keys: ClassVar[list[Key]] = [
        Key("embed_tokens.weight", ("tokens.weight",)),
        Key("layers.*.input_layernorm.weight", ("blocks.*.norm1.weight",)),
        *both("layers.*.self_attn.q_proj", "blocks.*.attention.query"),
        *both("layers.*.self_attn.k_proj", "blocks.*.attention.key"),
        *both("layers.*.self_attn.v_proj", "blocks.*.attention.value"),
        *both("layers.*.self_attn.o_proj", "blocks.*.attention.out"),
        Key("layers.*.post_attention_layernorm.weight", ("blocks.*.norm2.weight",)),
        *both("layers.*.mlp.gate_proj", "blocks.*.feed_forward.gate"),
        *both("layers.*.mlp.up_proj", "blocks.*.feed_forward.up"),
        *both("layers.*.mlp.down_proj", "blocks.*.feed_forward.down"),
        Key("norm.weight", ("norm.weight",)),
        Key("lm_head.weight", ("token_head.weight",), part="head"),
    ]

    def __init__(self, config: Config, task: str) -> None:
        super().__init__(config, task)
        width, num_tokens = config.count("hidden_size", 4096), config.count("vocab_size", 32000)
        self.tokens = Embedding(num_tokens, width, config.padding(num_tokens))
        self.blocks = ModuleList(self._block(width) for _ in range(self.num_layers()))
        self.norm = RMSNorm(width, config.number("rms_norm_eps", 1e-6))
        heads = config.count("num_attention_heads", 32)
        self._rotary = Rotary(config, config.count("head_dim", width // heads))
        own_table = task == "causal-lm" and not config.flag("tie_word_embeddings", False)
        self.token_head = new_head(config, width, num_tokens, bias=False) if own_table else None

    def num_layers(self) -> int:
        """How many blocks there are."""
        return self.config.count("num_hidden_layers", 32)

    def biases(self) -> tuple[bool, bool, bool]:
        """Whether queries, keys and values, the outputs of attention, and feed-forward layers have one."""
        attention = self.config.flag("attention_bias", False)
        return attention, attention, self.config.flag("mlp_bias", False)

    def num_kv_heads(self, heads: int) -> int:
        """Heads of keys and values, for as many of queries."""
        return self.config.count("num_key_value_heads", heads)

    def window(self) -> int | None:
        """How far back a place sees; None means to the start."""
        return None

    def _block(self, width: int) -> Block:
        config = self.config
        heads, eps = config.count("num_attention_heads", 32), config.number("rms_norm_eps", 1e-6)
        bias, out_bias, inner_bias = self.biases()
        attention = Attention(
            width,
            heads,
            num_kv_heads=self.num_kv_heads(heads),
            head_width=config.count("head_dim", width // heads),
            bias=bias,
            out_bias=out_bias,
            dropout=config.number("attention_dropout", 0.0),
            causal=True,
        )
        inner = config.count("intermediate_size", 11008)
        feed_forward = FeedForward(
            width, inner, activation(config, "hidden_act", "silu"), inner_bias, gated=True
        )
        return Block(
            attention, feed_forward, (RMSNorm(width, eps), RMSNorm(width, eps)), 0.0, norm_first=True
        )

    def encode(
        self, input_ids: Any, padding: Any = None, position_ids: Any = None, cache: Cache | None = None
    ) -> Tensor:
        """The features ``[n, L, width]`` of all places, whatever the task; arguments as of ``forward``."""
        x = self.tokens(input_ids)
        past = 0 if cache is None else cache.length
        mask = attention_mask(padding, x, causal=True, window=self.window(), past=past)
        positions = None if position_ids is None else check_positions(position_ids, x)
        turn = self._rotary.turn(x, past, positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, turn, None if cache is None else cache.layers[layer])
        return self.norm(x)


class Mistral(Llama):
    """LLaMA with shared keys, and a window of places that each place sees.

    Args:
        config: of model type "mistral".
        task: "features" or "causal-lm".
    """

    architectures: ClassVar[dict[str, str]] = {"features": "MistralModel", "causal-lm": "MistralForCausalLM"}

    def biases(self) -> tuple[bool, bool, bool]:
        """None have."""
        return False, False, False

    def num_kv_heads(self, heads: int) -> int:
        """Heads of keys and values, for as many of queries."""
        return self.config.count("num_key_value_heads", 8)

    def window(self) -> int | None:
        """How far back a place sees; None means to the start."""
        if "sliding_window" in self.config.values and self.config.values["sliding_window"] is None:
            return None
        return self.config.count("sliding_window", 4096)


class Qwen2(Llama):
    """LLaMA whose queries, keys and values have biases.

    Args:
        config: of model type "qwen2".
        task: "features" or "causal-lm".
    """

    architectures: ClassVar[dict[str, str]] = {"features": "Qwen2Model", "causal-lm": "Qwen2ForCausalLM"}

    def __init__(self, config: Config, task: str) -> None:
        config.only("use_sliding_window", False)
        super().__init__(config, task)

    def biases(self) -> tuple[bool, bool, bool]:
        """Queries, keys and values have; the others not."""
        return True, False, False

    def num_kv_heads(self, heads: int) -> int:
        """Heads of keys and values, for as many of queries."""
        return self.config.count("num_key_value_heads", 32)
