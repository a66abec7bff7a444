"""Densely connected networks.

Source: Huang, Liu, van der Maaten and Weinberger, "Densely connected convolutional networks", CVPR 2017.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.nn import init
from distgrad.nn.functional.activations import relu
from distgrad.nn.functional.affine import flatten
from distgrad.nn.functional.dropouts import dropout
from distgrad.nn.module import Module
from distgrad.nn.modules.activation import ReLU
from distgrad.nn.modules.batchnorm import BatchNorm2d
from distgrad.nn.modules.containers import ModuleDict, Sequential
from distgrad.nn.modules.conv import Conv2d
from distgrad.nn.modules.linear import Linear
from distgrad.nn.modules.pooling import AvgPool2d, MaxPool2d
from distgrad.torch.vision.models.pretrained import with_weights

__all__ = ["DenseNet", "densenet121", "densenet161", "densenet169", "densenet201"]


class _Layer(Module):
    """``growth_rate`` new channels of all before."""

    def __init__(self, channels: int, growth_rate: int, bn_size: int, drop_rate: float) -> None:
        super().__init__()
        middle = bn_size * growth_rate
        self.norm1 = BatchNorm2d(channels)
        self.relu1 = ReLU(inplace=True)
        self.conv1 = Conv2d(channels, middle, kernel_size=1, stride=1, bias=False)
        self.norm2 = BatchNorm2d(middle)
        self.relu2 = ReLU(inplace=True)
        self.conv2 = Conv2d(middle, growth_rate, kernel_size=3, stride=1, padding=1, bias=False)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(x)))
        x = self.conv2(self.relu2(self.norm2(x)))
        return dropout(x, p=self.drop_rate, training=self.training) if self.drop_rate else x


class _Block(ModuleDict):
    """Layers, each of which sees the outputs of all before."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = ops.concat([x, layer(x)], axis=1)
        return x


def _transition(channels: int, fewer: int) -> Any:
    parts = {
        "norm": BatchNorm2d(channels),
        "relu": ReLU(inplace=True),
        "conv": Conv2d(channels, fewer, kernel_size=1, stride=1, bias=False),
        "pool": AvgPool2d(kernel_size=2, stride=2),
    }
    return Sequential(OrderedDict(parts))


class DenseNet(Module):
    """Four dense blocks over images.

    Args:
        growth_rate: channels that a layer adds.
        block_config: the number of layers of each block.
        num_init_features: channels of the first convolution.
        bn_size: channels between the two convolutions of a layer, in growth rates.
        drop_rate: the share of elements dropped behind a layer.
        num_classes: outputs.
        memory_efficient: taken for torchvision's sake: nothing is computed twice.
    """

    def __init__(self, growth_rate: int = 32, block_config: tuple[int, ...] = (6, 12, 24, 16),
                 num_init_features: int = 64, bn_size: int = 4, drop_rate: float = 0.0,
                 num_classes: int = 1000, memory_efficient: bool = False) -> None:  # fmt: skip
        super().__init__()
        parts: dict[str, Any] = {
            "conv0": Conv2d(3, num_init_features, kernel_size=7, stride=2, padding=3, bias=False),
            "norm0": BatchNorm2d(num_init_features),
            "relu0": ReLU(inplace=True),
            "pool0": MaxPool2d(kernel_size=3, stride=2, padding=1),
        }
        channels = num_init_features
        for number, count in enumerate(block_config, 1):
            block = _Block()
            for place in range(count):
                layer = _Layer(channels + place * growth_rate, growth_rate, bn_size, drop_rate)
                block[f"denselayer{place + 1}"] = layer
            parts[f"denseblock{number}"] = block
            channels += count * growth_rate
            if number < len(block_config):
                parts[f"transition{number}"] = _transition(channels, channels // 2)
                channels //= 2
        parts["norm5"] = BatchNorm2d(channels)
        self.features = Sequential(OrderedDict(parts))
        self.classifier = Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.kaiming_normal_(module.weight)
            elif isinstance(module, Linear) and module.bias is not None:
                init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, num_classes]``."""
        x = relu(self.features(x))
        return self.classifier(flatten(ops.mean(x, axis=(2, 3)), 1))


def _builder(name: str, growth: int, blocks: tuple[int, ...], first: int) -> Callable[..., DenseNet]:
    def build(pretrained: bool = False, progress: bool = True, *, weights: Any = None, **options: Any) -> Any:
        return with_weights(DenseNet(growth, blocks, first, **options), name, weights, pretrained)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"``DenseNet({growth}, {blocks}, {first})``; weights as in ``with_weights``."
    return build


densenet121 = _builder("densenet121", 32, (6, 12, 24, 16), 64)
densenet161 = _builder("densenet161", 48, (6, 12, 36, 24), 96)
densenet169 = _builder("densenet169", 32, (6, 12, 32, 32), 64)
densenet201 = _builder("densenet201", 32, (6, 12, 48, 32), 64)
