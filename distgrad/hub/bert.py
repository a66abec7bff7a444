"""BERT, and what has its shape: MiniLM, sentence encoders.

Source: Devlin et al., NAACL 2019; Wang et al., NeurIPS 2020.
"""

from __future__ import annotations

from typing import Any, ClassVar

from distgrad.autograd.creation import zeros
from distgrad.autograd.tensor import Tensor
from distgrad.hub.config import Config
from distgrad.hub.keys import Key, both
from distgrad.hub.layers import (
    Attention,
    Block,
    FeedForward,
    Pooler,
    activation,
    attention_mask,
    look_up_places,
)
from distgrad.hub.model import PretrainedModel, new_head
from distgrad.nn.functional.affine import linear
from distgrad.nn.module import Module
from distgrad.nn.modules.activation import Tanh
from distgrad.nn.modules.containers import ModuleList
from distgrad.nn.modules.dropout import Dropout
from distgrad.nn.modules.embedding import Embedding
from distgrad.nn.modules.linear import Linear
from distgrad.nn.modules.normalization import LayerNorm
from distgrad.nn.parameter import Parameter

__all__ = ["Bert"]


class _TokenHead(Module):
    """Logits over the vocabulary, by the table that tokens are looked up in."""

    def __init__(self, config: Config, width: int, num_tokens: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.activation = activation(config, "hidden_act", "gelu")
        self.norm = LayerNorm(width, config.number("layer_norm_eps", 1e-12))
        self.bias = Parameter(zeros(num_tokens))

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """``[n, L, width]`` to ``[n, L, num_tokens]``."""
        return linear(self.norm(self.activation(self.dense(hidden))), table, self.bias)


class Bert(PretrainedModel):
    """An encoder of texts that looks both ways.

    Args:
        config: of model type "bert".
        task: "features", "masked-lm" or "classification".
    """

    architectures: ClassVar[dict[str, str]] = {
        "features": "BertModel",
        "masked-lm": "BertForMaskedLM",
        "classification": "BertForSequenceClassification",
    }
    prefix = "bert."
    unused = r"embeddings\.position_ids|cls\.seq_relationship\..*|cls\.predictions\.decoder\..*"
    keys: ClassVar[list[Key]] = [
        Key("embeddings.word_embeddings.weight", ("tokens.weight",)),
        Key("embeddings.position_embeddings.weight", ("places.weight",)),
        Key("embeddings.token_type_embeddings.weight", ("kinds.weight",)),
        *both("embeddings.LayerNorm", "norm"),
        *both("encoder.layer.*.attention.self.query", "blocks.*.attention.query"),
        *both("encoder.layer.*.attention.self.key", "blocks.*.attention.key"),
        *both("encoder.layer.*.attention.self.value", "blocks.*.attention.value"),
        *both("encoder.layer.*.attention.output.dense", "blocks.*.attention.out"),
        *both("encoder.layer.*.attention.output.LayerNorm", "blocks.*.norm1"),
        *both("encoder.layer.*.intermediate.dense", "blocks.*.feed_forward.up"),
        *both("encoder.layer.*.output.dense", "blocks.*.feed_forward.down"),
        *both("encoder.layer.*.output.LayerNorm", "blocks.*.norm2"),
        *both("pooler.dense", "pooler.dense", part="pooler"),
        *both("cls.predictions.transform.dense", "token_head.dense", part="head"),
        *both("cls.predictions.transform.LayerNorm", "token_head.norm", part="head"),
        Key("cls.predictions.bias", ("token_head.bias",), part="head"),
        *both("classifier", "classifier", part="head"),
    ]

    def __init__(self, config: Config, task: str) -> None:
        super().__init__(config, task)
        config.only("position_embedding_type", "absolute")
        width, num_tokens = config.count("hidden_size", 768), config.count("vocab_size", 30522)
        eps, dropout = config.number("layer_norm_eps", 1e-12), config.number("hidden_dropout_prob", 0.1)
        self.tokens = Embedding(num_tokens, width, config.padding(num_tokens, 0))
        self.places = Embedding(config.count("max_position_embeddings", 512), width)
        self.kinds = Embedding(config.count("type_vocab_size", 2), width)
        self.norm, self.dropout = LayerNorm(width, eps), Dropout(dropout)
        self.blocks = ModuleList(self._block(config, width, eps, dropout) for _ in range(self.num_layers()))
        self.pooler = Pooler(width, width, Tanh()) if task != "masked-lm" else None
        self.token_head = _TokenHead(config, width, num_tokens) if task == "masked-lm" else None
        self.classifier = new_head(config, width, config.num_labels()) if task == "classification" else None
        self.head_dropout = Dropout(config.number("classifier_dropout", dropout))

    @staticmethod
    def _block(config: Config, width: int, eps: float, dropout: float) -> Block:
        heads = config.count("num_attention_heads", 12)
        inner = config.count("intermediate_size", 3072)
        return Block(
            Attention(width, heads, dropout=config.number("attention_probs_dropout_prob", 0.1)),
            FeedForward(width, inner, activation(config, "hidden_act", "gelu")),
            (LayerNorm(width, eps), LayerNorm(width, eps)),
            dropout,
            norm_first=False,
        )

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
    ) -> Tensor:
        """Texts as numbers of tokens to what the task asks for.

        Args:
            input_ids: ``[n, L]``.
            attention_mask: ``[n, L]``, 0 where a place is padding; None if none is.
            token_type_ids: ``[n, L]``, which of two texts a token belongs to; None means the first.
            position_ids: ``[n, L]``, the place of each token; None means 0, 1, … in each row.

        Returns:
            "features": ``[n, L, width]``; "masked-lm": logits ``[n, L, vocab_size]``; "classification":
            logits ``[n, num_labels]``.
        """
        hidden = self.encode(input_ids, attention_mask, token_type_ids, position_ids)
        if self.token_head is not None:
            return self.token_head(hidden, self.tokens.weight)
        if self.classifier is not None:
            return self.classifier(self.head_dropout(self.pool(hidden)))
        return hidden

    def encode(
        self, input_ids: Any, padding: Any = None, token_type_ids: Any = None, position_ids: Any = None
    ) -> Tensor:
        """The features ``[n, L, width]`` of all places, whatever the task; arguments as of ``forward``."""
        x = self.tokens(input_ids)
        x = x + look_up_places(self.places, position_ids, x, 0, "Bert")
        x = x + (self.kinds.weight[0] if token_type_ids is None else self.kinds(token_type_ids))
        x = self.dropout(self.norm(x))
        mask = attention_mask(padding, x)
        for block in self.blocks:
            x = block(x, mask)
        return x

    def pool(self, hidden: Tensor) -> Tensor:
        """The whole text ``[n, width]`` from features ``[n, L, width]``, by the pooler if there is one."""
        return hidden[:, 0] if self.pooler is None else self.pooler(hidden)
