"""MobileNet of the second version.

Source: Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: inverted residuals and linear bottlenecks",
CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.nn import init
from distgrad.nn.module import Module
from distgrad.nn.modules.activation import ReLU6
from distgrad.nn.modules.batchnorm import BatchNorm2d
from distgrad.nn.modules.containers import Sequential
from distgrad.nn.modules.conv import Conv2d
from distgrad.nn.modules.dropout import Dropout
from distgrad.nn.modules.linear import Linear
from distgrad.torch.vision.models.pretrained import with_weights

__all__ = ["InvertedResidual", "MobileNetV2", "mobilenet_v2"]

#: Of each stage: how much wider it is inside, channels, blocks, stride of the first.
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _whole(channels: float, divisor: int) -> int:
    """A multiple of the divisor, at least nine tenths of what was asked for."""
    found = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return found + divisor if found < 0.9 * channels else found


def _convolution(before: int, after: int, size: int, stride: int = 1, groups: int = 1) -> Any:
    return Sequential(
        Conv2d(before, after, size, stride, (size - 1) // 2, groups=groups, bias=False),
        BatchNorm2d(after),
        ReLU6(inplace=True),
    )


class InvertedResidual(Module):
    """More channels, a convolution of each by itself, fewer channels; the input added where sizes are equal.

    Args:
        inp, oup: channels.
        stride: of the convolution.
        expand_ratio: how many times more channels there are inside.
    """

    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        inside = round(inp * expand_ratio)
        self.stride = stride
        self.use_res_connect = stride == 1 and inp == oup
        wider = [] if expand_ratio == 1 else [_convolution(inp, inside, 1)]
        self.conv = Sequential(
            *(*wider, _convolution(inside, inside, 3, stride, groups=inside)),
            *(Conv2d(inside, oup, 1, 1, 0, bias=False), BatchNorm2d(oup)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inp, H, W]`` to ``[N, oup, H / stride, W / stride]``."""
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(Module):
    """Stages of inverted residuals over images.

    Args:
        num_classes: outputs.
        width_mult: times the channels.
        inverted_residual_setting: of each stage how much wider it is inside, channels, blocks and stride.
        round_nearest: what numbers of channels are multiples of.
        dropout: the share of elements dropped before the linear map.
    """

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0,
                 inverted_residual_setting: Sequence[Sequence[int]] | None = None, round_nearest: int = 8,
                 dropout: float = 0.2) -> None:  # fmt: skip
        super().__init__()
        channels = _whole(32 * width_mult, round_nearest)
        self.last_channel = _whole(1280 * max(1.0, width_mult), round_nearest)
        layers: list[Any] = [_convolution(3, channels, 3, stride=2)]
        for ratio, width, count, stride in inverted_residual_setting or _STAGES:
            after = _whole(width * width_mult, round_nearest)
            for place in range(count):
                layers.append(InvertedResidual(channels, after, 1 if place else stride, ratio))
                channels = after
        layers.append(_convolution(channels, self.last_channel, 1))
        self.features = Sequential(*layers)
        self.classifier = Sequential(Dropout(p=dropout), Linear(self.last_channel, num_classes))
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, Linear) and module.bias is not None:
                init.normal_(module.weight, 0, 0.01)
                init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, num_classes]``."""
        return self.classifier(ops.mean(self.features(x), axis=(2, 3)))


def mobilenet_v2(
    pretrained: bool = False, progress: bool = True, *, weights: Any = None, **options: Any
) -> MobileNetV2:
    """:class:`MobileNetV2`; weights as in ``with_weights``."""
    return with_weights(MobileNetV2(**options), "mobilenet_v2", weights, pretrained)
