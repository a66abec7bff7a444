"""Boxes ``[N, 4]`` of left, top, right and bottom."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError

__all__ = ["batched_nms", "box_area", "box_convert", "box_iou", "clip_boxes_to_image", "nms"]


def _check(boxes: Tensor, where: str) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError(f"{where}: boxes must be [N, 4], got {list(boxes.shape)}")


def box_area(boxes: Tensor) -> Tensor:
    """Areas ``[N]`` of boxes ``[N, 4]``.

    Raises:
        ShapeError: another shape.
    """
    _check(boxes, "box_area")
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """What pairs of boxes share of their union, ``[N, M]``, of boxes ``[N, 4]`` and ``[M, 4]``.

    Raises:
        ShapeError: another shape.
    """
    areas, others = box_area(boxes1), box_area(boxes2)
    low = ops.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    high = ops.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    sides = (high - low).clip(0, None)
    shared = sides[:, :, 0] * sides[:, :, 1]
    return shared / (areas[:, None] + others[None, :] - shared)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The places of boxes that share little with a box of a higher score that is kept, best first.

    Args:
        boxes: ``[N, 4]``.
        scores: ``[N]``.
        iou_threshold: what two kept boxes may share of their union at most.

    Raises:
        ShapeError: boxes or scores of another shape.
    """
    if scores.shape != boxes.shape[:1]:
        raise ShapeError(f"nms: scores must be [{boxes.shape[0]}], got {list(scores.shape)}")
    shared = box_iou(boxes.detach(), boxes.detach()).numpy()
    kept: list[int] = []
    for place in np.argsort(-scores.detach().numpy(), kind="stable"):
        if not (shared[place, kept] > iou_threshold).any():
            kept.append(int(place))
    return asarray(np.array(kept, np.int64), device=boxes.device)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """As :func:`nms`, between boxes of one class alone; ``idxs``, ``[N]``, are the classes."""
    if not boxes.shape[0]:
        return nms(boxes, scores, iou_threshold)
    apart = idxs.astype(boxes.dtype) * (boxes.detach().max() + 1)  # classes share nothing
    return nms(boxes + apart[:, None], scores, iou_threshold)


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes ``[..., 4]`` within an image of ``size``, its height and width."""
    height, width = size
    x, y = boxes[..., 0::2].clip(0, width), boxes[..., 1::2].clip(0, height)
    return ops.stack([x, y], axis=-1).reshape(boxes.shape)


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Boxes in another form.

    Args:
        boxes: ``[..., 4]``.
        in_fmt, out_fmt: "xyxy" for corners, "xywh" for a corner and the size, "cxcywh" for the middle and
            the size.

    Raises:
        OptionError: another form.
    """
    forms = ("xyxy", "xywh", "cxcywh")
    if in_fmt not in forms or out_fmt not in forms:
        raise OptionError(f"box_convert: forms are {', '.join(forms)}, got {in_fmt!r} and {out_fmt!r}")
    first, second = boxes[..., :2], boxes[..., 2:]
    low: Any = first - second / 2 if in_fmt == "cxcywh" else first
    size: Any = second - first if in_fmt == "xyxy" else second
    found = {"xyxy": (low, low + size), "xywh": (low, size), "cxcywh": (low + size / 2, size)}[out_fmt]
    return boxes if in_fmt == out_fmt else ops.concat(list(found), axis=-1)
