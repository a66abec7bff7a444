"""Networks of layers one behind the other: AlexNet, VGG, SqueezeNet.

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014; Simonyan and
Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015; Iandola et al.,
"SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn import init
from distgrad.nn.functional.affine import flatten
from distgrad.nn.module import Module
from distgrad.nn.modules.activation import ReLU
from distgrad.nn.modules.batchnorm import BatchNorm2d
from distgrad.nn.modules.containers import Sequential
from distgrad.nn.modules.conv import Conv2d
from distgrad.nn.modules.dropout import Dropout
from distgrad.nn.modules.linear import Linear
from distgrad.nn.modules.pooling import AdaptiveAvgPool2d, MaxPool2d
from distgrad.torch.vision.models.pretrained import with_weights

__all__ = [
    "VGG", "AlexNet", "Fire", "SqueezeNet", "alexnet", "make_layers", "squeezenet1_0", "squeezenet1_1",
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
]  # fmt: skip


def _relu() -> Any:
    return ReLU(inplace=True)


class AlexNet(Module):
    """Five convolutions and three linear maps.

    Args:
        num_classes: outputs.
        dropout: the share of elements dropped before the first two linear maps.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = Sequential(
            *(Conv2d(3, 64, 11, stride=4, padding=2), _relu(), MaxPool2d(3, 2)),
            *(Conv2d(64, 192, 5, padding=2), _relu(), MaxPool2d(3, 2)),
            *(Conv2d(192, 384, 3, padding=1), _relu()),
            *(Conv2d(384, 256, 3, padding=1), _relu()),
            *(Conv2d(256, 256, 3, padding=1), _relu(), MaxPool2d(3, 2)),
        )
        self.avgpool = AdaptiveAvgPool2d((6, 6))
        self.classifier = Sequential(
            *(Dropout(p=dropout), Linear(256 * 6 * 6, 4096), _relu()),
            *(Dropout(p=dropout), Linear(4096, 4096), _relu()),
            Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, num_classes]``."""
        return self.classifier(flatten(self.avgpool(self.features(x)), 1))


class VGG(Module):
    """Convolutions of 3 × 3 and three linear maps.

    Args:
        features: the convolutions, of 512 channels at the end (:func:`make_layers`).
        num_classes: outputs.
        init_weights: whether weights are drawn anew.
        dropout: the share of elements dropped behind the first two linear maps.
    """

    def __init__(
        self, features: Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = AdaptiveAvgPool2d((7, 7))
        self.classifier = Sequential(
            *(Linear(512 * 7 * 7, 4096), ReLU(True), Dropout(p=dropout)),
            *(Linear(4096, 4096), ReLU(True), Dropout(p=dropout)),
            Linear(4096, num_classes),
        )
        for module in self.modules() if init_weights else ():
            if isinstance(module, Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    init.zeros_(module.bias)
            elif isinstance(module, Linear) and module.bias is not None:
                init.normal_(module.weight, 0, 0.01)
                init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, num_classes]``."""
        return self.classifier(flatten(self.avgpool(self.features(x)), 1))


def make_layers(cfg: Sequence[Any], batch_norm: bool = False) -> Sequential:
    """The convolutions of a VGG.

    Args:
        cfg: numbers of channels, and "M" for max pooling.
        batch_norm: whether convolutions are followed by batch normalization.
    """
    layers: list[Any] = []
    channels = 3
    for each in cfg:
        if each == "M":
            layers.append(MaxPool2d(kernel_size=2, stride=2))
            continue
        layers.append(Conv2d(channels, each, kernel_size=3, padding=1))
        layers += [BatchNorm2d(each), _relu()] if batch_norm else [_relu()]
        channels = each
    return Sequential(*layers)


def _vgg(name: str, counts: tuple[int, ...], batch_norm: bool) -> Callable[..., VGG]:
    cfg = [
        entry
        for width, count in zip((64, 128, 256, 512, 512), counts, strict=True)
        for entry in (*[width] * count, "M")
    ]

    def build(pretrained: bool = False, progress: bool = True, *, weights: Any = None, **options: Any) -> Any:
        return with_weights(VGG(make_layers(cfg, batch_norm), **options), name, weights, pretrained)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"``VGG`` of {sum(counts)} convolutions; weights as in ``with_weights``."
    return build


class Fire(Module):
    """Few channels by 1 × 1, then many by 1 × 1 and 3 × 3 side by side.

    Args:
        inplanes, squeeze_planes, expand1x1_planes, expand3x3_planes: channels.
    """

    def __init__(
        self, inplanes: int, squeeze_planes: int, expand1x1_planes: int, expand3x3_planes: int
    ) -> None:
        super().__init__()
        self.squeeze = Conv2d(inplanes, squeeze_planes, kernel_size=1)
        self.squeeze_activation = _relu()
        self.expand1x1 = Conv2d(squeeze_planes, expand1x1_planes, kernel_size=1)
        self.expand1x1_activation = _relu()
        self.expand3x3 = Conv2d(squeeze_planes, expand3x3_planes, kernel_size=3, padding=1)
        self.expand3x3_activation = _relu()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inplanes, H, W]`` to ``[N, expand1x1_planes + expand3x3_planes, H, W]``."""
        x = self.squeeze_activation(self.squeeze(x))
        sides = [
            self.expand1x1_activation(self.expand1x1(x)),
            self.expand3x3_activation(self.expand3x3(x)),
        ]
        return ops.concat(sides, axis=1)


class SqueezeNet(Module):
    """Fire modules between poolings.

    Args:
        version: "1_0" or "1_1".
        num_classes: outputs.
        dropout: the share of elements dropped before the last convolution.

    Raises:
        OptionError: another version.
    """

    def __init__(self, version: str = "1_0", num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        if version not in ("1_0", "1_1"):
            raise OptionError(f"SqueezeNet: version must be '1_0' or '1_1', got {version!r}")
        old = version == "1_0"
        first, size, pooled = (96, 7, (3, 7)) if old else (64, 3, (2, 4))
        fires = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
        layers: list[Any] = [Conv2d(3, first, size, stride=2), _relu(), _pooling()]
        channels = first
        for place, (squeezed, each) in enumerate(fires):
            if place and place in pooled:
                layers.append(_pooling())
            layers.append(Fire(channels, squeezed, each, each))
            channels = 2 * each
        self.features = Sequential(*layers)
        last = Conv2d(512, num_classes, kernel_size=1)
        self.classifier = Sequential(
            Dropout(p=dropout), last, _relu(), AdaptiveAvgPool2d((1, 1))
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, Conv2d) and module.bias is not None:
                if module is last:
                    init.normal_(module.weight, mean=0.0, std=0.01)
                else:
                    init.kaiming_uniform_(module.weight)
                init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, num_classes]``."""
        return flatten(self.classifier(self.features(x)), 1)


def _pooling() -> Any:
    return MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def alexnet(
    pretrained: bool = False, progress: bool = True, *, weights: Any = None, **options: Any
) -> AlexNet:
    """:class:`AlexNet`; weights as in ``with_weights``."""
    return with_weights(AlexNet(**options), "alexnet", weights, pretrained)


def squeezenet1_0(
    pretrained: bool = False, progress: bool = True, *, weights: Any = None, **options: Any
) -> SqueezeNet:
    """:class:`SqueezeNet` 1.0; weights as in ``with_weights``."""
    return with_weights(SqueezeNet("1_0", **options), "squeezenet1_0", weights, pretrained)


def squeezenet1_1(
    pretrained: bool = False, progress: bool = True, *, weights: Any = None, **options: Any
) -> SqueezeNet:
    """:class:`SqueezeNet` 1.1; weights as in ``with_weights``."""
    return with_weights(SqueezeNet("1_1", **options), "squeezenet1_1", weights, pretrained)


vgg11, vgg11_bn = (_vgg(name, (1, 1, 2, 2, 2), "_" in name) for name in ("vgg11", "vgg11_bn"))
vgg13, vgg13_bn = (_vgg(name, (2, 2, 2, 2, 2), "_" in name) for name in ("vgg13", "vgg13_bn"))
vgg16, vgg16_bn = (_vgg(name, (2, 2, 3, 3, 3), "_" in name) for name in ("vgg16", "vgg16_bn"))
vgg19, vgg19_bn = (_vgg(name, (2, 2, 4, 4, 4), "_" in name) for name in ("vgg19", "vgg19_bn"))
