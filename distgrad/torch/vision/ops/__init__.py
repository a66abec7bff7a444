"""Operations on boxes and layers of image networks: torchvision's ``ops``."""

from distgrad.torch.vision.ops.boxes import (
    batched_nms,
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    nms,
)
from distgrad.torch.vision.ops.focal_loss import sigmoid_focal_loss
from distgrad.torch.vision.ops.misc import Conv2dNormActivation, FrozenBatchNorm2d, SqueezeExcitation
from distgrad.torch.vision.ops.stochastic_depth import StochasticDepth, stochastic_depth

__all__ = [
    "Conv2dNormActivation", "FrozenBatchNorm2d", "SqueezeExcitation", "StochasticDepth", "batched_nms",
    "box_area", "box_convert", "box_iou", "clip_boxes_to_image", "nms", "sigmoid_focal_loss",
    "stochastic_depth",
]  # fmt: skip
