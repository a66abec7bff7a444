"""Stands in for torchvision: data of random numbers, and transforms on arrays, the same for both packages."""

from torchvision import datasets, models, transforms, utils  # noqa: F401
