"""Transforms of arrays ``[H, W]`` or ``[H, W, C]``."""

import sys

import numpy as np
import torch

transforms = sys.modules[__name__]  # a file of its own there


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, x):
        for each in self.transforms:
            x = each(x)
        return x


class ToTensor:
    def __call__(self, x):
        x = np.asarray(x)
        x = x[:, :, None] if x.ndim == 2 else x
        return torch.from_numpy(
            np.ascontiguousarray(x.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
        )


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))

    def __call__(self, x):
        return (x - self.mean) / self.std


class Resize:
    def __init__(self, size, interpolation=None, **options):
        self.size = (size, size) if isinstance(size, int) else size

    def __call__(self, x):
        x = np.asarray(x)
        rows = np.arange(self.size[0]) * x.shape[0] // self.size[0]
        columns = np.arange(self.size[1]) * x.shape[1] // self.size[1]
        return x[rows][:, columns]


class CenterCrop(Resize):
    """Nearly."""


class _Same:
    def __init__(self, *args, **options):
        pass

    def __call__(self, x):
        return x


class RandomCrop(Resize):
    def __init__(self, size, padding=None):
        super().__init__(size)


class Pad(_Same):
    """Nothing."""


class RandomHorizontalFlip(_Same):
    """Nothing."""


class RandomResizedCrop(Resize):
    """Nearly."""


class RandomRotation(_Same):
    """Nothing."""


class ColorJitter(_Same):
    """Nothing."""


class RandomGrayscale(_Same):
    """Nothing."""


class RandomApply(_Same):
    """Nothing."""


class RandomVerticalFlip(_Same):
    """Nothing."""


class ToPILImage:
    def __call__(self, x):
        return x if isinstance(x, np.ndarray) else (x * 255).byte().permute(1, 2, 0).numpy()


Scale = Resize


class Lambda(_Same):
    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)
