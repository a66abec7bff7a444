"""Residual networks.

Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016; Xie et al.,
"Aggregated residual transformations for deep neural networks", CVPR 2017 (ResNeXt); Zagoruyko and Komodakis,
"Wide residual networks", BMVC 2016. The stride of a bottleneck is that of its second convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn import init
from distgrad.nn.functional.affine import flatten
from distgrad.nn.module import Module
from distgrad.nn.modules.activation import ReLU
from distgrad.nn.modules.batchnorm import BatchNorm2d
from distgrad.nn.modules.containers import Sequential
from distgrad.nn.modules.conv import Conv2d
from distgrad.nn.modules.linear import Linear
from distgrad.nn.modules.pooling import AdaptiveAvgPool2d, MaxPool2d
from distgrad.torch.vision.models.pretrained import with_weights

__all__ = [
    "BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
]  # fmt: skip


def conv3x3(in_planes: int, out_planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> Any:
    """A convolution of 3 × 3 without bias that keeps the size, apart from its stride."""
    return Conv2d(
        in_planes, out_planes, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
    )


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> Any:
    """A convolution of 1 × 1 without bias."""
    return Conv2d(in_planes, out_planes, 1, stride, bias=False)


class BasicBlock(Module):
    """Two convolutions of 3 × 3, and the input added.

    Args:
        inplanes: channels of the input.
        planes: channels of the output.
        stride: of the first convolution.
        downsample: what the input goes through; None for nothing.
        groups, base_width, dilation: 1, 64 and 1.
        norm_layer: makes a normalization of a number of channels; None for batch normalization.

    Raises:
        OptionError: other groups, widths or dilations.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: Any = None, groups: int = 1,
                 base_width: int = 64, dilation: int = 1, norm_layer: Any = None) -> None:  # fmt: skip
        super().__init__()
        if (groups, base_width, dilation) != (1, 64, 1):
            raise OptionError("BasicBlock: groups, base_width and dilation must be 1, 64 and 1")
        norm = norm_layer or BatchNorm2d
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm(planes)
        self.relu = ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inplanes, H, W]`` to ``[N, planes, H / stride, W / stride]``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(Module):
    """Convolutions of 1 × 1, 3 × 3 and 1 × 1, and the input added; arguments as in :class:`BasicBlock`."""

    expansion: ClassVar[int] = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: Any = None, groups: int = 1,
                 base_width: int = 64, dilation: int = 1, norm_layer: Any = None) -> None:  # fmt: skip
        super().__init__()
        norm = norm_layer or BatchNorm2d
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm(planes * self.expansion)
        self.relu = ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inplanes, H, W]`` to ``[N, 4 planes, H / stride, W / stride]``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(Module):
    """Four stages of blocks over images.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        layers: the number of blocks of each stage.
        num_classes: outputs.
        zero_init_residual: whether blocks begin as the identity.
        groups, width_per_group: of the 3 × 3 convolutions of bottlenecks.
        replace_stride_with_dilation: of the last three stages, whether they keep the size instead.
        norm_layer: makes a normalization of a number of channels.
    """

    def __init__(self, block: Any, layers: Sequence[int], num_classes: int = 1000,
                 zero_init_residual: bool = False, groups: int = 1, width_per_group: int = 64,
                 replace_stride_with_dilation: Sequence[bool] | None = None, norm_layer: Any = None,
                 ) -> None:  # fmt: skip
        super().__init__()
        self._norm_layer = norm_layer or BatchNorm2d
        self.inplanes, self.dilation = 64, 1
        self.groups, self.base_width = groups, width_per_group
        kept = tuple(replace_stride_with_dilation or (False, False, False))
        if len(kept) != 3:
            raise OptionError(f"ResNet: replace_stride_with_dilation must have 3 entries, got {len(kept)}")
        self.conv1 = Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = self._norm_layer(64)
        self.relu = ReLU(inplace=True)
        self.maxpool = MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, 64, layers[0])
        self.layer2 = self._make_layer(block, 128, layers[1], stride=2, dilate=kept[0])
        self.layer3 = self._make_layer(block, 256, layers[2], stride=2, dilate=kept[1])
        self.layer4 = self._make_layer(block, 512, layers[3], stride=2, dilate=kept[2])
        self.avgpool = AdaptiveAvgPool2d((1, 1))
        self.fc = Linear(512 * block.expansion, num_classes)
        self._initialize(zero_init_residual)

    def _initialize(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules() if zero_init_residual else ():
            if isinstance(module, BasicBlock | Bottleneck):
                last: Any = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                init.zeros_(last.weight)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> Any:
        before, downsample = self.dilation, None
        if dilate:
            self.dilation, stride = self.dilation * stride, 1
        if stride != 1 or self.inplanes != planes * block.expansion:
            downsample = Sequential(
                conv1x1(self.inplanes, planes * block.expansion, stride),
                self._norm_layer(planes * block.expansion),
            )
        given = (self.groups, self.base_width)
        stage = [block(self.inplanes, planes, stride, downsample, *given, before, self._norm_layer)]
        self.inplanes = planes * block.expansion
        stage += [
            block(self.inplanes, planes, 1, None, *given, self.dilation, self._norm_layer)
            for _ in range(1, blocks)
        ]
        return Sequential(*stage)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(flatten(self.avgpool(x), 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, num_classes]``."""
        return self._forward_impl(x)


def _builder(name: str, block: Any, layers: tuple[int, ...], **fixed: Any) -> Callable[..., ResNet]:
    def build(pretrained: bool = False, progress: bool = True, *, weights: Any = None, **options: Any) -> Any:
        return with_weights(ResNet(block, layers, **{**fixed, **options}), name, weights, pretrained)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"``ResNet({block.__name__}, {list(layers)})``; weights as in ``with_weights``."
    return build


resnet18 = _builder("resnet18", BasicBlock, (2, 2, 2, 2))
resnet34 = _builder("resnet34", BasicBlock, (3, 4, 6, 3))
resnet50 = _builder("resnet50", Bottleneck, (3, 4, 6, 3))
resnet101 = _builder("resnet101", Bottleneck, (3, 4, 23, 3))
resnet152 = _builder("resnet152", Bottleneck, (3, 8, 36, 3))
resnext50_32x4d = _builder("resnext50_32x4d", Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4)
resnext101_32x8d = _builder("resnext101_32x8d", Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8)
resnext101_64x4d = _builder("resnext101_64x4d", Bottleneck, (3, 4, 23, 3), groups=64, width_per_group=4)
wide_resnet50_2 = _builder("wide_resnet50_2", Bottleneck, (3, 4, 6, 3), width_per_group=128)
wide_resnet101_2 = _builder("wide_resnet101_2", Bottleneck, (3, 4, 23, 3), width_per_group=128)
