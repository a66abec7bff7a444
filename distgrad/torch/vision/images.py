"""Images of Pillow, and the errors where it is not installed."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from distgrad.errors import MissingDependencyError

__all__ = ["from_array", "is_image", "open_image", "pillow"]


def pillow(part: str = "Image") -> Any:
    """A module of Pillow.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(f"PIL.{part}")
    except ImportError as error:
        raise MissingDependencyError(
            "torchvision's images are Pillow's, which is not installed; pip install 'distgrad[vision]'"
        ) from error


def from_array(pixels: np.ndarray, mode: str | None = None) -> Any:
    """The image of uint8 ``[H, W]`` or ``[H, W, C]``."""
    image = pillow().fromarray(pixels)
    return image if mode in (None, image.mode) else image.convert(mode)


def is_image(value: Any) -> bool:
    """Whether a value is one of Pillow's images."""
    return hasattr(value, "getbands") and hasattr(value, "convert")


def open_image(path: Any) -> Any:
    """The RGB image of a file."""
    with open(path, "rb") as file:
        return pillow().open(file).convert("RGB")
