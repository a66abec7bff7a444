"""Stands in for torchvision: data of random numbers, and transforms on arrays, the same for both packages.

Networks are not stood in for: with distgrad they are its own, with PyTorch those of the torchvision that is
installed, or lies in a folder of ``PYTHONPATH``.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch

from torchvision import datasets, transforms, utils  # noqa: F401

__version__ = "0.20.0"
_presets = ModuleType("_presets")
for _name in ("ImageClassification", "InterpolationMode", "ObjectDetection", "OpticalFlow"):
    setattr(_presets, _name, MagicMock())  # transforms that a file of weights names
for _name in ("SemanticSegmentation", "StereoMatching", "VideoClassification"):
    setattr(_presets, _name, MagicMock())
_real = [folder for folder in sys.path if (Path(folder) / "torchvision" / "extension.py").exists()]
if "distgrad" in torch.__version__:
    sys.modules["torchvision.models"] = importlib.import_module("distgrad.torch.vision.models")
elif _real:
    __path__.append(str(Path(_real[0]) / "torchvision"))
    sys.modules["torchvision._meta_registrations"] = ModuleType("_meta_registrations")
    sys.modules["torchvision.transforms._presets"] = _presets


def __getattr__(name):
    if name == "models":
        return importlib.import_module("torchvision.models")
    raise AttributeError(name)
