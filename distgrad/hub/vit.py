"""The vision transformer.

Source: Dosovitskiy et al., ICLR 2021.
"""

from __future__ import annotations

from typing import Any, ClassVar

from distgrad.autograd.creation import asarray, zeros
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DataError, ShapeError
from distgrad.hub.config import Config
from distgrad.hub.keys import Key, both
from distgrad.hub.layers import Attention, Block, FeedForward, Pooler, activation
from distgrad.hub.model import PretrainedModel, new_head
from distgrad.nn.modules.containers import ModuleList
from distgrad.nn.modules.conv import Conv2d
from distgrad.nn.modules.dropout import Dropout
from distgrad.nn.modules.normalization import LayerNorm
from distgrad.nn.parameter import Parameter

__all__ = ["ViT"]


def _pair(config: Config, name: str, default: int) -> tuple[int, int]:
    """A height and a width, given as one number or two."""
    value = config.values.get(name, default)
    pair = (value, value) if type(value) is int else value
    if (
        not isinstance(pair, (list, tuple))
        or len(pair) != 2
        or any(type(n) is not int or n < 1 for n in pair)
    ):
        raise DataError(f"hub.load: {config.where}: expected {name} to be one or two counts, got {value!r}")
    return pair[0], pair[1]


class ViT(PretrainedModel):
    """An encoder of pictures, cut into patches.

    Args:
        config: of model type "vit".
        task: "features" or "classification".
    """

    architectures: ClassVar[dict[str, str]] = {
        "features": "ViTModel",
        "classification": "ViTForImageClassification",
    }
    prefix = "vit."
    unused = r"embeddings\.mask_token"
    keys: ClassVar[list[Key]] = [
        Key("embeddings.cls_token", ("first",)),
        Key("embeddings.position_embeddings", ("places",)),
        *both("embeddings.patch_embeddings.projection", "patches"),
        *both("encoder.layer.*.attention.attention.query", "blocks.*.attention.query"),
        *both("encoder.layer.*.attention.attention.key", "blocks.*.attention.key"),
        *both("encoder.layer.*.attention.attention.value", "blocks.*.attention.value"),
        *both("encoder.layer.*.attention.output.dense", "blocks.*.attention.out"),
        *both("encoder.layer.*.layernorm_before", "blocks.*.norm1"),
        *both("encoder.layer.*.layernorm_after", "blocks.*.norm2"),
        *both("encoder.layer.*.intermediate.dense", "blocks.*.feed_forward.up"),
        *both("encoder.layer.*.output.dense", "blocks.*.feed_forward.down"),
        *both("layernorm", "norm"),
        *both("pooler.dense", "pooler.dense", part="pooler"),
        *both("classifier", "classifier", part="head"),
    ]

    def __init__(self, config: Config, task: str) -> None:
        super().__init__(config, task)
        width, eps = config.count("hidden_size", 768), config.number("layer_norm_eps", 1e-12)
        size, patch = _pair(config, "image_size", 224), _pair(config, "patch_size", 16)
        self.image_shape = (config.count("num_channels", 3), *size)
        num_patches = (size[0] // patch[0]) * (size[1] // patch[1])
        dropout = config.number("hidden_dropout_prob", 0.0)
        self.patches = Conv2d(self.image_shape[0], width, kernel_size=patch, stride=patch)
        self.first = Parameter(zeros((1, 1, width)))
        self.places = Parameter(zeros((1, num_patches + 1, width)))
        self.dropout = Dropout(dropout)
        self.blocks = ModuleList(self._block(config, width, eps, dropout) for _ in range(self.num_layers()))
        self.norm = LayerNorm(width, eps)
        self.pooler = self._pooler(config, width) if task == "features" else None
        self.classifier = new_head(config, width, config.num_labels()) if task == "classification" else None

    @staticmethod
    def _block(config: Config, width: int, eps: float, dropout: float) -> Block:
        attention = Attention(
            width,
            config.count("num_attention_heads", 12),
            bias=config.flag("qkv_bias", True),
            dropout=config.number("attention_probs_dropout_prob", 0.0),
        )
        inner = config.count("intermediate_size", 3072)
        feed_forward = FeedForward(width, inner, activation(config, "hidden_act", "gelu"))
        return Block(
            attention, feed_forward, (LayerNorm(width, eps), LayerNorm(width, eps)), dropout, norm_first=True
        )

    @staticmethod
    def _pooler(config: Config, width: int) -> Pooler:
        return Pooler(
            width, config.count("pooler_output_size", width), activation(config, "pooler_act", "tanh")
        )

    def forward(self, pixel_values: Any) -> Tensor:
        """Pictures to what the task asks for.

        Args:
            pixel_values: ``[n, channels, height, width]``, normalised as in training.

        Returns:
            "features": ``[n, 1 + patches, width]``; "classification": logits ``[n, num_labels]``.
        """
        hidden = self.encode(pixel_values)
        return hidden if self.classifier is None else self.classifier(hidden[:, 0])

    def encode(self, pixel_values: Any) -> Tensor:
        """The features ``[n, 1 + patches, width]``, whatever the task; the argument is that of ``forward``.

        Raises:
            ShapeError: pictures of another size than the model was trained on.
        """
        pictures = asarray(pixel_values)
        if tuple(pictures.shape[1:]) != self.image_shape:
            raise ShapeError(
                f"ViT: expected pictures [n, {', '.join(map(str, self.image_shape))}], "
                f"got {list(pictures.shape)}; resize them"
            )
        patches = self.patches(pictures)
        rows, width = patches.shape[:2]
        x = patches.reshape(rows, width, -1).permute(0, 2, 1)
        x = ops.concat([ops.broadcast_to(self.first, (rows, 1, width)), x], axis=1)
        x = self.dropout(x + self.places)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def pool(self, hidden: Tensor) -> Tensor:
        """The whole picture from its features ``[n, 1 + patches, width]``, by the pooler if there is one."""
        return hidden[:, 0] if self.pooler is None else self.pooler(hidden)
