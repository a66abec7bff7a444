"""Images as tensors of uint8 ``[C, H, W]``, from files and into them: PyTorch's ``torchvision.io``."""

from __future__ import annotations

import enum
import io
from typing import Any

import numpy as np

from distgrad.autograd.creation import tensor as as_new
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.torch.vision.images import from_array, pillow

__all__ = ["ImageReadMode", "decode_image", "read_image", "write_jpeg", "write_png"]


class ImageReadMode(enum.Enum):
    """Which channels an image is read with; the file's own for ``UNCHANGED``."""

    UNCHANGED = None
    GRAY = "L"
    GRAY_ALPHA = "LA"
    RGB = "RGB"
    RGB_ALPHA = "RGBA"


def _read(file: Any, mode: Any) -> Any:
    asked = ImageReadMode[mode] if isinstance(mode, str) else mode
    image = pillow().open(file)
    pixels = np.array(image if asked.value is None else image.convert(asked.value), np.uint8)
    return as_new(np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)))


def read_image(path: Any, mode: Any = ImageReadMode.UNCHANGED) -> Any:
    """The image of a file.

    Args:
        path: of a JPEG, PNG or other file that Pillow reads.
        mode: the channels, an :class:`ImageReadMode` or its name.
    """
    with open(path, "rb") as file:
        return _read(file, mode)


def decode_image(input: Any, mode: Any = ImageReadMode.UNCHANGED) -> Any:
    """The image in a file's bytes, uint8 ``[n]``, or of a path."""
    if isinstance(input, Tensor):
        return _read(io.BytesIO(input.numpy().tobytes()), mode)
    return read_image(input, mode)


def _write(where: str, input: Tensor, filename: Any, **options: Any) -> None:
    pixels = input.detach().cpu().numpy()
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise OptionError(
            f"{where}: expected an image of uint8 [1 or 3, H, W], got {pixels.dtype} {list(pixels.shape)}"
        )
    image = from_array(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
    image.save(filename, **options)


def write_png(input: Tensor, filename: Any, compression_level: int = 6) -> None:
    """Write uint8 ``[1 or 3, H, W]`` as PNG.

    Raises:
        OptionError: it is no such image.
    """
    _write("write_png", input, filename, format="PNG", compress_level=compression_level)


def write_jpeg(input: Tensor, filename: Any, quality: int = 75) -> None:
    """Write uint8 ``[1 or 3, H, W]`` as JPEG.

    Raises:
        OptionError: it is no such image.
    """
    _write("write_jpeg", input, filename, format="JPEG", quality=quality)
