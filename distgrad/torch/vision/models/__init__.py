"""Networks for images: torchvision's ``models``, whose state dicts load.

Their weights are read from files at hand (:mod:`distgrad.torch.vision.models.pretrained`).
"""

from __future__ import annotations

from typing import Any

from distgrad.torch.vision.models.densenet import (
    DenseNet,
    densenet121,
    densenet161,
    densenet169,
    densenet201,
)
from distgrad.torch.vision.models.mobilenet import MobileNetV2, mobilenet_v2
from distgrad.torch.vision.models.plain import (
    VGG,
    AlexNet,
    SqueezeNet,
    alexnet,
    squeezenet1_0,
    squeezenet1_1,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from distgrad.torch.vision.models.pretrained import ImageNetWeights
from distgrad.torch.vision.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)

__all__ = [
    "VGG", "AlexNet", "DenseNet", "MobileNetV2", "ResNet", "SqueezeNet", "alexnet", "densenet121",
    "densenet161", "densenet169", "densenet201", "mobilenet_v2", "resnet18", "resnet34", "resnet50",
    "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "squeezenet1_0",
    "squeezenet1_1", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "wide_resnet50_2", "wide_resnet101_2",
]  # fmt: skip

_LOWER = {name.lower() for name in __all__}


def __getattr__(name: str) -> Any:
    if name.removesuffix("_Weights").lower() in _LOWER and name.endswith("_Weights"):
        return ImageNetWeights
    there = ", ".join(each for each in __all__ if each[0].islower())
    raise AttributeError(
        f"distgrad has no torchvision.models.{name}; there are {there}; write another network with torch.nn: "
        "with torchvision's names of layers its state dict loads"
    )
