"""Changes of one image, Pillow's or a tensor ``[..., C, H, W]``: torchvision's ``transforms.functional``."""

from __future__ import annotations

import enum
import math
from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray, tensor
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError, ShapeError
from distgrad.torch.vision.images import from_array, is_image, pillow

__all__ = [
    "InterpolationMode", "adjust_brightness", "adjust_contrast", "adjust_hue", "adjust_saturation",
    "center_crop", "convert_image_dtype", "crop", "get_image_size", "hflip", "normalize", "pad",
    "pil_to_tensor", "resize", "resized_crop", "rgb_to_grayscale", "rotate", "to_grayscale", "to_pil_image",
    "to_tensor", "vflip",
]  # fmt: skip


class InterpolationMode(enum.Enum):
    """How pixels between pixels are found."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


_NUMBERS = {
    "nearest": 0,
    "nearest-exact": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}


def _pillow_s(mode: Any) -> int:
    return mode if isinstance(mode, int) else _NUMBERS[mode.value]


def get_image_size(img: Any) -> list[int]:
    """``[width, height]``."""
    return list(img.size) if is_image(img) else [img.shape[-1], img.shape[-2]]


def _by_pillow(img: Any, change: Any) -> Any:
    """A change of Pillow's images, also of a tensor: channel by channel, floating numbers as they are."""
    if is_image(img):
        return change(img)
    rows = img.numpy().reshape(-1, *img.shape[-2:])
    kept = rows if rows.dtype == np.uint8 else rows.astype(np.float32)
    done = np.stack([np.asarray(change(from_array(np.ascontiguousarray(each)))) for each in kept])
    return asarray(done.reshape(*img.shape[:-2], *done.shape[-2:]).astype(rows.dtype))


def to_tensor(pic: Any) -> Tensor:
    """An image, or uint8 ``[H, W, C]``, as float32 ``[C, H, W]`` in [0, 1].

    Raises:
        TypeError: something else.
    """
    if not is_image(pic) and not isinstance(pic, np.ndarray):
        raise TypeError(f"to_tensor: expected an image or an array, got {type(pic).__name__}")
    pixels = pil_to_tensor(pic).numpy() if is_image(pic) else pic
    if not is_image(pic):
        pixels = np.moveaxis(pixels[..., None] if pixels.ndim == 2 else pixels, -1, 0)
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint8:
        return asarray(pixels.astype(np.float32) / np.float32(255))
    return asarray(pixels)


def pil_to_tensor(pic: Any) -> Tensor:
    """An image as a tensor ``[C, H, W]`` of its own numbers."""
    pixels = np.array(pic)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return asarray(np.ascontiguousarray(np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), -1, 0)))


def to_pil_image(pic: Any, mode: str | None = None) -> Any:
    """The image of a tensor ``[C, H, W]``, floating in [0, 1] or uint8, or of an array ``[H, W, C]``.

    Raises:
        ShapeError: neither.
    """
    if not 2 <= pic.ndim <= 3:
        raise ShapeError(f"to_pil_image: expected two or three axes, got {list(pic.shape)}")
    if isinstance(pic, Tensor):
        pixels = pic.detach().numpy()
        if pixels.dtype.kind == "f" and mode != "F":
            pixels = (pixels * 255).astype(np.int64).astype(np.uint8)
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    else:
        pixels = pic
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    return from_array(np.ascontiguousarray(pixels), mode)


def normalize(tensor: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    """(x - mean) / std, of each channel.

    Raises:
        DTypeError: a tensor that is not floating.
        ValueError: a standard deviation of 0.
    """
    if tensor.dtype.kind != "f":
        raise DTypeError(f"normalize: expected a floating tensor, got {tensor.dtype}; use ToTensor before")
    shift, scale = (np.asarray(_plain(each), tensor.dtype).reshape(-1, 1, 1) for each in (mean, std))
    if (scale == 0).any():
        raise ValueError("normalize: std must not be 0")
    out = (tensor - asarray(shift)) / asarray(scale)
    return tensor.copy_(out) if inplace else out


def _plain(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _new_size(img: Any, size: Any, max_size: int | None) -> tuple[int, int]:
    """Height and width after a resize; one number is the shorter side's length."""
    if not isinstance(size, int) and len(size) == 2:
        return int(size[0]), int(size[1])
    short = int(size if isinstance(size, int) else size[0])
    width, height = get_image_size(img)
    low, high = min(width, height), max(width, height)
    long = int(short * high / low)
    if max_size is not None and long > max_size:
        short, long = int(max_size * short / long), max_size
    return (long, short) if width <= height else (short, long)


def resize(
    img: Any,
    size: Any,
    interpolation: Any = InterpolationMode.BILINEAR,
    max_size: int | None = None,
    antialias: Any = True,
) -> Any:
    """The image in another size: ``(height, width)``, or the length of the shorter side."""
    height, width = _new_size(img, size, max_size)
    if get_image_size(img) == [width, height]:
        return img
    return _by_pillow(img, lambda each: each.resize((width, height), _pillow_s(interpolation)))


def _padding(padding: Any) -> tuple[int, int, int, int]:
    """Left, top, right, bottom."""
    given = (padding,) if isinstance(padding, int) else tuple(padding)
    if len(given) not in (1, 2, 4):
        raise ShapeError(f"pad: expected 1, 2 or 4 numbers, got {len(given)}")
    return given * (4 // len(given))


def pad(img: Any, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> Any:
    """The image with a margin: all sides, (left and right, top and bottom), or (left, top, right, bottom)."""
    left, top, right, bottom = _padding(padding)
    if is_image(img) and padding_mode == "constant":
        return pillow("ImageOps").expand(img, border=(left, top, right, bottom), fill=fill)
    modes = {"constant": "constant", "edge": "edge", "reflect": "reflect", "symmetric": "symmetric"}
    pixels = np.array(img) if is_image(img) else img.numpy()
    margin = [(0, 0)] * pixels.ndim
    first = 0 if is_image(img) else pixels.ndim - 2
    margin[first], margin[first + 1] = (top, bottom), (left, right)
    options = {"constant_values": fill} if padding_mode == "constant" else {}
    done = np.pad(pixels, margin, modes[padding_mode], **options)  # type: ignore[call-overload]
    return from_array(done) if is_image(img) else asarray(done)


def crop(img: Any, top: int, left: int, height: int, width: int) -> Any:
    """A part of the image; what lies outside is 0."""
    if is_image(img):
        return img.crop((left, top, left + width, top + height))
    full_width, full_height = get_image_size(img)
    margin = (
        max(-left, 0),
        max(-top, 0),
        max(left + width - full_width, 0),
        max(top + height - full_height, 0),
    )
    if any(margin):
        img, top, left = pad(img, margin), max(top, 0), max(left, 0)
    return img[..., top : top + height, left : left + width]


def center_crop(img: Any, output_size: Any) -> Any:
    """The middle of the image, with a margin of 0 where it is smaller."""
    height, width = (
        (output_size, output_size)
        if isinstance(output_size, int)
        else tuple(output_size) * (1 if len(output_size) == 2 else 2)
    )
    full_width, full_height = get_image_size(img)
    if width > full_width or height > full_height:
        margin = [max(0, (width - full_width) // 2), max(0, (height - full_height) // 2)]
        margin += [max(0, (width - full_width + 1) // 2), max(0, (height - full_height + 1) // 2)]
        img = pad(img, margin)
        full_width, full_height = get_image_size(img)
    top, left = (
        round((full - wanted) / 2.0) for full, wanted in ((full_height, height), (full_width, width))
    )
    return crop(img, top, left, height, width)


def resized_crop(
    img: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: Any,
    interpolation: Any = InterpolationMode.BILINEAR,
    antialias: Any = True,
) -> Any:
    """A part of the image in another size."""
    return resize(crop(img, top, left, height, width), size, interpolation)


def hflip(img: Any) -> Any:
    """Left and right exchanged."""
    return img.transpose(0) if is_image(img) else ops.flip(img, axis=-1)


def vflip(img: Any) -> Any:
    """Top and bottom exchanged."""
    return img.transpose(1) if is_image(img) else ops.flip(img, axis=-2)


def rotate(
    img: Any,
    angle: float,
    interpolation: Any = InterpolationMode.NEAREST,
    expand: bool = False,
    center: Any = None,
    fill: Any = None,
) -> Any:
    """The image turned against the clock, ``angle`` in degrees."""
    given = fill[0] if isinstance(fill, list | tuple) and len(fill) == 1 else fill
    return _by_pillow(
        img,
        lambda each: each.rotate(
            angle,
            _pillow_s(interpolation),
            expand,
            None if center is None else tuple(center),
            fillcolor=given or 0,
        ),
    )


def to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """The image without colours."""
    gray = img.convert("L")
    return gray if num_output_channels == 1 else from_array(np.stack([np.array(gray)] * 3, axis=-1))


def rgb_to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """0.2989 red + 0.587 green + 0.114 blue, cut to whole numbers where the image's are; one channel stays.

    Raises:
        ShapeError: a tensor of other than one or three channels.
    """
    if is_image(img):
        return to_grayscale(img, num_output_channels)
    gray = img
    if _channels("rgb_to_grayscale", img) == 3:
        x = ops.astype(img, _computed_in(img))
        weights = tensor([0.2989, 0.587, 0.114], dtype=x.dtype, device=img.device)
        gray = ops.sum(x * ops.reshape(weights, (3, 1, 1)), axis=-3, keepdims=True)
        gray = ops.astype(gray, img.dtype)
    return gray if num_output_channels == 1 else ops.concat([gray] * 3, axis=-3)


def _channels(where: str, img: Tensor) -> int:
    if img.ndim < 3 or img.shape[-3] not in (1, 3):
        raise ShapeError(f"{where}: expected [..., 1 or 3, H, W], got {list(img.shape)}")
    return int(img.shape[-3])


def _computed_in(img: Tensor) -> Any:
    return img.dtype if img.dtype.kind == "f" else np.dtype(np.float32)


def _largest(dtype: Any) -> int:
    """What a pixel of full brightness is."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1


def convert_image_dtype(image: Tensor, dtype: Any = np.float32) -> Tensor:
    """Another dtype, with pixels of full brightness kept so: 1 of floating numbers, the largest whole number.

    Args:
        image: ``[..., H, W]``.
        dtype: of the result; whole numbers of fewer bits lose their last ones.

    Raises:
        DTypeError: whole numbers that the floating ones do not tell apart.
    """
    dtype = np.dtype(dtype)
    if image.dtype == dtype or image.dtype.kind == dtype.kind == "f":
        return image.to(dtype)
    if dtype.kind == "f":
        return image.to(dtype) / _largest(image.dtype)
    if image.dtype.kind == "f":
        if dtype.itemsize >= max(4, image.dtype.itemsize):
            raise DTypeError(
                f"convert_image_dtype: expected an integer dtype of fewer bits than {image.dtype}, "
                f"got {dtype}; convert to int16 or uint8"
            )
        wide = image.to(np.float32) if image.dtype.itemsize < 4 else image
        return (wide * (_largest(dtype) + 1.0 - 1e-3)).to(dtype)
    given, wanted = _largest(image.dtype) + 1, _largest(dtype) + 1
    if given > wanted:
        return ops.floor_divide(image, given // wanted).to(dtype)
    return image.to(dtype) * (wanted // given)


def _enhanced(img: Any, kind: str, factor: float, other: Any) -> Any:
    """Between another image, which is made of this one, and this one, as Pillow does."""
    if is_image(img):
        return getattr(pillow("ImageEnhance"), kind)(img).enhance(factor)
    x, far = (ops.astype(each, _computed_in(img)) for each in (img, other(img)))
    return ops.astype((factor * x + (1.0 - factor) * far).clamp(0, float(_largest(img.dtype))), img.dtype)


def adjust_brightness(img: Any, brightness_factor: float) -> Any:
    """0 for black, 1 for the image itself."""
    return _enhanced(img, "Brightness", brightness_factor, ops.zeros_like)


def _mean_gray(img: Tensor) -> Any:
    """The mean brightness of each image."""
    gray = rgb_to_grayscale(img)
    return ops.mean(ops.astype(gray, _computed_in(img)), axis=(-3, -2, -1), keepdims=True)


def adjust_contrast(img: Any, contrast_factor: float) -> Any:
    """0 for a gray image, 1 for the image itself."""
    return _enhanced(img, "Contrast", contrast_factor, _mean_gray)


def adjust_saturation(img: Any, saturation_factor: float) -> Any:
    """0 for no colours, 1 for the image itself."""
    return _enhanced(img, "Color", saturation_factor, rgb_to_grayscale)


def adjust_hue(img: Any, hue_factor: float) -> Any:
    """The colours turned, by at most half a turn either way.

    Raises:
        ValueError: more than that.
    """
    if not -0.5 <= hue_factor <= 0.5:
        raise ValueError(f"adjust_hue: expected a factor in [-0.5, 0.5], got {hue_factor}")
    if not is_image(img):
        back = to_tensor if img.dtype.kind == "f" else pil_to_tensor
        return back(adjust_hue(to_pil_image(img), hue_factor))
    if img.mode in ("L", "1", "I", "F"):
        return img
    hue, saturation, value = img.convert("HSV").split()
    turned = (np.array(hue).astype(np.int64) + math.floor(hue_factor * 255)) % 256
    bands = (from_array(turned.astype(np.uint8)), saturation, value)
    return pillow().merge("HSV", bands).convert(img.mode)
