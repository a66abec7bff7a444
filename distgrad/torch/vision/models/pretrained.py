"""Weights of torchvision's networks, from files at hand."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from distgrad.errors import DataError, OptionError
from distgrad.nn.module import Module
from distgrad.torch.files import load
from distgrad.torch.weights import get_dir

__all__ = ["ImageNetWeights", "with_weights"]


class ImageNetWeights(Enum):
    """Names of weights: ``ResNet18_Weights.DEFAULT``, and so on for every network."""

    DEFAULT = "DEFAULT"
    IMAGENET1K_V1 = "IMAGENET1K_V1"
    IMAGENET1K_V2 = "IMAGENET1K_V2"


def with_weights(network: Module, name: str, weights: Any, pretrained: bool) -> Any:
    """The network, with the weights of its file if they are asked for.

    Args:
        network: freshly made.
        name: its builder's, with which the file's name begins: ``resnet18-f37072fd.pth``.
        weights: None or False for none; one of :class:`ImageNetWeights` or its name.
        pretrained: what they were called of old.

    Raises:
        OptionError: weights of another name.
        DataError: no such file, or several.
    """
    if not weights and not pretrained:
        return network
    asked = weights.value if isinstance(weights, ImageNetWeights) else weights
    if asked is not True and asked not in (None, *(each.value for each in ImageNetWeights)):
        raise OptionError(f"{name}: weights must be None, 'DEFAULT' or 'IMAGENET1K_V1', got {weights!r}")
    folder = Path(get_dir()) / "checkpoints"
    files = sorted(folder.glob(f"{name}-*.pth"))
    if len(files) != 1:
        found = f"{len(files)} files {name}-*.pth" if files else f"no file {name}-*.pth"
        raise DataError(
            f"{name}: {found} in {folder}; nothing is downloaded: put torchvision's file there, one of them, "
            "or pass weights=None and call load_state_dict(torch.load(file))"
        )
    network.load_state_dict(load(files[0], map_location="cpu"))
    return network
