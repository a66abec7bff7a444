"""Changes of images: torchvision's ``transforms``."""

from distgrad.torch.vision.transforms.functional import InterpolationMode as InterpolationMode
from distgrad.torch.vision.transforms.layers import *  # noqa: F403
