"""Changes of images as objects that are called, those at random with the default generator's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.random import rand, randint, randn, randperm
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.torch.vision.transforms import functional as F

__all__ = [
    "CenterCrop", "ColorJitter", "Compose", "ConvertImageDtype", "FiveCrop", "Grayscale", "Lambda",
    "Normalize", "PILToTensor", "Pad", "RandomApply", "RandomChoice", "RandomCrop", "RandomErasing",
    "RandomGrayscale", "RandomHorizontalFlip", "RandomOrder", "RandomResizedCrop", "RandomRotation",
    "RandomVerticalFlip", "Resize", "Scale", "ToPILImage", "ToTensor",
]  # fmt: skip


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * rand(1).item()


def _pair(size: Any) -> tuple[int, int]:
    """Height and width."""
    given = (size, size) if isinstance(size, int) else tuple(size)
    if len(given) not in (1, 2):
        raise ShapeError(f"transforms: expected one or two lengths, got {list(given)}")
    return (given[0], given[-1])


class _Change:
    """A change with the arguments that it was made with."""

    def __call__(self, img: Any) -> Any:
        return self._changed(img)

    forward = __call__

    def _changed(self, img: Any) -> Any:
        return img

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({given})"


class Compose(_Change):
    """Several changes, one after another.

    Args:
        transforms: the first first.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def _changed(self, img: Any) -> Any:
        for each in self.transforms:
            img = each(img)
        return img


class ToTensor(_Change):
    """``functional.to_tensor``."""

    def _changed(self, img: Any) -> Any:
        return F.to_tensor(img)


class PILToTensor(_Change):
    """``functional.pil_to_tensor``."""

    def _changed(self, img: Any) -> Any:
        return F.pil_to_tensor(img)


class ConvertImageDtype(_Change):
    """``functional.convert_image_dtype``.

    Args:
        dtype: the new one.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)

    def _changed(self, img: Any) -> Any:
        return F.convert_image_dtype(img, self.dtype)


class ToPILImage(_Change):
    """``functional.to_pil_image``.

    Args:
        mode: the image's; None for what its channels say.
    """

    def __init__(self, mode: str | None = None) -> None:
        self.mode = mode

    def _changed(self, img: Any) -> Any:
        return F.to_pil_image(img, self.mode)


class Normalize(_Change):
    """``functional.normalize``.

    Args:
        mean, std: of each channel.
        inplace: whether the tensor itself is changed.
    """

    def __init__(self, mean: Any, std: Any, inplace: bool = False) -> None:
        self.mean, self.std, self.inplace = mean, std, inplace

    def _changed(self, img: Any) -> Any:
        return F.normalize(img, self.mean, self.std, self.inplace)


class Resize(_Change):
    """``functional.resize``.

    Args:
        size: ``(height, width)``, or the length of the shorter side.
        interpolation: how pixels are found.
        max_size: of the longer side.
        antialias: taken for torchvision's sake; always done where it can be.
    """

    def __init__(
        self,
        size: Any,
        interpolation: Any = F.InterpolationMode.BILINEAR,
        max_size: int | None = None,
        antialias: Any = True,
    ) -> None:
        self.size, self.interpolation, self.max_size = size, interpolation, max_size

    def _changed(self, img: Any) -> Any:
        return F.resize(img, self.size, self.interpolation, self.max_size)


#: The same, under its name of old.
Scale = Resize


class CenterCrop(_Change):
    """The middle of the image.

    Args:
        size: height and width, or one length for both.
    """

    def __init__(self, size: Any) -> None:
        self.size = _pair(size)

    def _changed(self, img: Any) -> Any:
        return F.center_crop(img, self.size)


class FiveCrop(CenterCrop):
    """The four corners and the middle; arguments as in :class:`CenterCrop`."""

    def _changed(self, img: Any) -> Any:
        height, width = self.size
        full_width, full_height = F.get_image_size(img)
        corners = [(y, x) for y in (0, full_height - height) for x in (0, full_width - width)]
        parts = [F.crop(img, y, x, height, width) for y, x in corners]
        return (*parts, F.center_crop(img, self.size))


class Pad(_Change):
    """``functional.pad``.

    Args:
        padding: all sides, (left and right, top and bottom), or (left, top, right, bottom).
        fill: of the margin.
        padding_mode: ``constant``, ``edge``, ``reflect`` or ``symmetric``.
    """

    def __init__(self, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> None:
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode

    def _changed(self, img: Any) -> Any:
        return F.pad(img, self.padding, self.fill, self.padding_mode)


class Grayscale(_Change):
    """``functional.rgb_to_grayscale``.

    Args:
        num_output_channels: 1 or 3.
    """

    def __init__(self, num_output_channels: int = 1) -> None:
        self.num_output_channels = num_output_channels

    def _changed(self, img: Any) -> Any:
        return F.rgb_to_grayscale(img, self.num_output_channels)


class Lambda(_Change):
    """A function.

    Args:
        lambd: of an image.
    """

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        self.lambd = lambd

    def _changed(self, img: Any) -> Any:
        return self.lambd(img)


class _Sometimes(_Change):
    """Something that is done with a probability.

    Args:
        p: the probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, img: Any) -> Any:
        return self._changed(img) if rand(1).item() < self.p else img

    forward = __call__


class RandomHorizontalFlip(_Sometimes):
    """``functional.hflip``, sometimes."""

    def _changed(self, img: Any) -> Any:
        return F.hflip(img)


class RandomVerticalFlip(_Sometimes):
    """``functional.vflip``, sometimes."""

    def _changed(self, img: Any) -> Any:
        return F.vflip(img)


class RandomGrayscale(_Sometimes):
    """Without colours, sometimes.

    Args:
        p: the probability.
    """

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def _changed(self, img: Any) -> Any:
        return F.rgb_to_grayscale(img, len(img.getbands()) if hasattr(img, "getbands") else img.shape[-3])


class RandomApply(_Sometimes):
    """Several changes, sometimes.

    Args:
        transforms: the first first.
        p: the probability.
    """

    def __init__(self, transforms: Any, p: float = 0.5) -> None:
        super().__init__(p)
        self.transforms = transforms

    def _changed(self, img: Any) -> Any:
        for each in self.transforms:
            img = each(img)
        return img


class RandomChoice(Compose):
    """One of several changes; arguments as in :class:`Compose`."""

    def _changed(self, img: Any) -> Any:
        return self.transforms[int(randint(0, len(self.transforms), (1,)))](img)


class RandomOrder(Compose):
    """Several changes in any order; arguments as in :class:`Compose`."""

    def _changed(self, img: Any) -> Any:
        for place in randperm(len(self.transforms)).tolist():
            img = self.transforms[place](img)
        return img


class RandomCrop(_Change):
    """A part of the image at random.

    Args:
        size: height and width, or one length for both.
        padding: a margin before.
        pad_if_needed: whether a smaller image gets one.
        fill, padding_mode: of the margin.
    """

    def __init__(
        self,
        size: Any,
        padding: Any = None,
        pad_if_needed: bool = False,
        fill: Any = 0,
        padding_mode: str = "constant",
    ) -> None:
        self.size, self.padding, self.pad_if_needed = _pair(size), padding, pad_if_needed
        self.fill, self.padding_mode = fill, padding_mode

    def _changed(self, img: Any) -> Any:
        if self.padding is not None:
            img = F.pad(img, self.padding, self.fill, self.padding_mode)
        height, width = self.size
        for place in (0, 1) if self.pad_if_needed else ():
            lack = self.size[1 - place] - F.get_image_size(img)[place]
            if lack > 0:
                margin = [lack, 0] if place == 0 else [0, lack]
                img = F.pad(img, margin, self.fill, self.padding_mode)
        full_width, full_height = F.get_image_size(img)
        if full_width < width or full_height < height:
            raise ShapeError(f"RandomCrop: {height} x {width} of an image {full_height} x {full_width}")
        if (full_width, full_height) == (width, height):
            return img
        top = int(randint(0, full_height - height + 1, (1,)))
        left = int(randint(0, full_width - width + 1, (1,)))
        return F.crop(img, top, left, height, width)


class RandomResizedCrop(_Change):
    """A part of the image at random, in one size.

    Args:
        size: of the result.
        scale: the part's share of the area.
        ratio: its width over its height.
        interpolation: how pixels are found.
        antialias: taken for torchvision's sake.

    Source: Szegedy et al., CVPR 2015.
    """

    def __init__(
        self,
        size: Any,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0),
        interpolation: Any = F.InterpolationMode.BILINEAR,
        antialias: Any = True,
    ) -> None:
        self.size, self.scale, self.ratio, self.interpolation = _pair(size), scale, ratio, interpolation

    def _part(self, img: Any) -> tuple[int, int, int, int]:
        full_width, full_height = F.get_image_size(img)
        logs = [math.log(each) for each in self.ratio]
        for _ in range(10):
            area = full_width * full_height * _uniform(*self.scale)
            ratio = math.exp(_uniform(*logs))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= full_width and 0 < height <= full_height:
                top = int(randint(0, full_height - height + 1, (1,)))
                return top, int(randint(0, full_width - width + 1, (1,))), height, width
        width, height = full_width, full_height
        if full_width / full_height < min(self.ratio):
            height = round(full_width / min(self.ratio))
        elif full_width / full_height > max(self.ratio):
            width = round(full_height * max(self.ratio))
        return (full_height - height) // 2, (full_width - width) // 2, height, width

    def _changed(self, img: Any) -> Any:
        return F.resized_crop(img, *self._part(img), self.size, self.interpolation)


class RandomRotation(_Change):
    """The image turned by an angle at random.

    Args:
        degrees: the most either way, or (least, most).
        interpolation, expand, center, fill: as in ``functional.rotate``.
    """

    def __init__(
        self,
        degrees: Any,
        interpolation: Any = F.InterpolationMode.NEAREST,
        expand: bool = False,
        center: Any = None,
        fill: Any = 0,
    ) -> None:
        self.degrees = (-degrees, degrees) if isinstance(degrees, int | float) else tuple(degrees)
        self.interpolation, self.expand, self.center, self.fill = interpolation, expand, center, fill

    def _changed(self, img: Any) -> Any:
        angle = _uniform(*self.degrees)
        return F.rotate(img, angle, self.interpolation, self.expand, self.center, self.fill)


class ColorJitter(_Change):
    """Brightness, contrast, saturation and hue at random, in any order.

    Args:
        brightness, contrast, saturation: how far from 1, or (least, most).
        hue: how far from 0, at most ½, or (least, most).
    """

    def __init__(self, brightness: Any = 0, contrast: Any = 0, saturation: Any = 0, hue: Any = 0) -> None:
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, value in given.items():
            middle = 0.0 if name == "hue" else 1.0
            low = -math.inf if name == "hue" else 0.0
            span = (
                (max(middle - value, low), middle + value) if isinstance(value, int | float) else tuple(value)
            )
            if span[0] > span[1]:
                raise OptionError(f"ColorJitter: {name} must be (least, most), got {value}")
            setattr(self, name, None if span == (middle, middle) else span)

    def _changed(self, img: Any) -> Any:
        for place in randperm(4).tolist():
            name = ("brightness", "contrast", "saturation", "hue")[place]
            span = getattr(self, name)
            if span is not None:
                img = getattr(F, f"adjust_{name}")(img, _uniform(*span))
        return img


class RandomErasing(_Sometimes):
    """A rectangle of a tensor erased, sometimes.

    Args:
        p: the probability.
        scale: the rectangle's share of the area.
        ratio: its height over its width.
        value: what is written: a number, one for each channel, or ``random``.
        inplace: whether the tensor itself is changed.

    Source: Zhong et al., AAAI 2020.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: Any = 0,
        inplace: bool = False,
    ) -> None:
        super().__init__(p)
        self.scale, self.ratio, self.value, self.inplace = scale, ratio, value, inplace

    def _changed(self, img: Tensor) -> Any:
        channels, full_height, full_width = img.shape[-3:]
        for _ in range(10):
            area = full_height * full_width * _uniform(*self.scale)
            ratio = math.exp(_uniform(*[math.log(each) for each in self.ratio]))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height < full_height and width < full_width:
                top = int(randint(0, full_height - height + 1, (1,)))
                left = int(randint(0, full_width - width + 1, (1,)))
                out = img if self.inplace else img.clone()
                value = self.value
                if value == "random":
                    value = randn((channels, height, width), dtype=img.dtype)
                elif not isinstance(value, int | float):
                    value = np.asarray(value, img.dtype).reshape(-1, 1, 1)
                out[..., top : top + height, left : left + width] = value
                return out
        return img
