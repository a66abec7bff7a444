"""Losses a sample with a margin: between classes, between vectors, between distances.

Names and arguments are PyTorch's, without ``reduction``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import DTypeError, OptionError, OutOfBoundsError, ShapeError

_SIGNS = np.array([1.0, -1.0, 1.0])
_CLASSES = np.array([1, 0, 3])
_LABELS = np.array([[0, 2, -1, 1], [-1, 0, 0, 0], [3, 1, 2, 0]])


@composite(
    math="y = 1 - cos(x1, x2) if target = 1, max(0, cos(x1, x2) - margin) if target = -1",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4), (3, 4), _SIGNS)),
        Sample(((3, 4), (3, 4), _SIGNS), {"margin": -0.5}),
        Sample(((4,), (4,), np.array(1.0)), note="one sample"),
    ],
)
def cosine_embedding_loss(xp: Any, x1: Array, x2: Array, target: Array, /, *, margin: float = 0.0) -> Array:
    """How far vectors are from pointing the same way, or apart.

    Args:
        x1, x2: ``[N, D]`` or ``[D]``.
        target: ``[N]`` or no axes; 1 for alike, −1 for different.
        margin: the cosine that is small enough for different ones.
    """
    cosine = xp.cosine_similarity(x1, x2, axis=-1)
    return xp.where(target > 0, 1.0 - cosine, xp.relu(cosine - margin))


@composite(
    math="y = max(0, d(anchor, positive) - d(anchor, negative) + margin)",
    source="Balntas et al., BMVC 2016",
    dtypes="real floating-point",
    samples=[
        Sample(((3, 4), (3, 4), (3, 4))),
        Sample(((3, 4), (3, 4), (3, 4)), {"p": 1.0, "margin": 3.0}),
        Sample(((3, 4), (3, 4), (3, 4)), {"swap": True, "margin": 3.0}),
    ],
)
def triplet_margin_loss(
    xp: Any,
    anchor: Array,
    positive: Array,
    negative: Array,
    /,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> Array:
    """How much nearer than the negative the positive should be to the anchor.

    Args:
        anchor, positive, negative: ``[..., D]``.
        margin: how much nearer.
        p: order of the norm.
        eps: added to every difference.
        swap: take the negative's distance to the positive where that is smaller.
    """
    if margin <= 0:
        raise OptionError(f"triplet_margin_loss: margin must be above 0, got {margin}")
    near = xp.pairwise_distance(anchor, positive, p=p, eps=eps)
    far = xp.pairwise_distance(anchor, negative, p=p, eps=eps)
    if swap:
        far = xp.minimum(far, xp.pairwise_distance(positive, negative, p=p, eps=eps))
    return xp.relu(near - far + margin)


def _rows(where: str, x: Array, target: Array, expected: tuple[int, ...]) -> None:
    if len(x.shape) != 2 or tuple(target.shape) != expected:
        raise ShapeError(
            f"{where}: x is {list(x.shape)}, target {list(target.shape)}; expected [N, C], {list(expected)}"
        )
    if target.dtype.kind not in "iu":
        raise DTypeError(f"{where}: target must hold class numbers (integers), got {target.dtype}")


@composite(
    math="y[n] = Σ_{c ≠ t} weight[t] max(0, margin - x[n, t] + x[n, c])^p / C, t = target[n]",
    source="Crammer and Singer, JMLR, 2001",
    samples=[
        Sample(((3, 4), _CLASSES)),
        Sample(((3, 4), _CLASSES, (4,)), {"p": 2, "margin": 0.5}),
    ],
    rejects=[
        Reject(((3, 4), _CLASSES[:2]), ShapeError, "expected [N, C], [3]"),
        Reject(((3, 4), _SIGNS), DTypeError, "class numbers"),
        Reject(((3, 3), _CLASSES), OutOfBoundsError, "index holds 3"),
    ],
)
def multi_margin_loss(
    xp: Any, x: Array, target: Array, weight: Array | None = None, /, *, p: int = 1, margin: float = 1.0
) -> Array:
    """How far the target's score is from leading all others.

    Args:
        x: scores ``[N, C]``.
        target: class numbers ``[N]``.
        weight: of each class ``[C]``, or None.
        p: power of each lack, 1 or 2.
        margin: by how much it should lead.

    Returns:
        ``[N]``.
    """
    _rows("multi_margin_loss", x, target, x.shape[:1])
    num_classes = x.shape[1]
    column = xp.expand_dims(target, axis=1)
    lack = xp.relu(margin - xp.gather_elements(x, column, axis=1) + x)
    lack = lack if p == 1 else xp.square(lack)
    lack = xp.where(xp.one_hot(target, num_classes) == 1, 0.0, lack)
    if weight is not None:
        lack = lack * xp.expand_dims(weight[target], axis=1)
    return xp.mean(lack, axis=1)


@composite(
    math="y[n] = Σ_{t in targets, c not} max(0, 1 - x[n, t] + x[n, c]) / C",
    samples=[Sample(((3, 4), _LABELS))],
    rejects=[Reject(((3, 4), _LABELS[:2]), ShapeError, "expected [N, C], [3, 4]")],
)
def multilabel_margin_loss(xp: Any, x: Array, target: Array, /) -> Array:
    """How far the targets' scores are from leading all others by 1.

    Args:
        x: scores ``[N, C]``.
        target: class numbers ``[N, C]``; those before the first −1 of a row count.

    Returns:
        ``[N]``.
    """
    _rows("multilabel_margin_loss", x, target, tuple(x.shape))
    num_classes = x.shape[1]
    ended = xp.argcummin(xp.astype(target >= 0, np.dtype(np.int64)), axis=1)
    valid = xp.gather_elements(target, ended, axis=1) >= 0
    classes = xp.where(valid, target, 0)
    hits = xp.one_hot(classes, num_classes) * xp.expand_dims(valid, axis=-1)
    other = xp.max(hits, axis=1) == 0
    scores = xp.gather_elements(x, classes, axis=1)
    lack = xp.relu(1.0 - xp.expand_dims(scores, axis=2) + xp.expand_dims(x, axis=1))
    counted = xp.expand_dims(valid, axis=2) * xp.expand_dims(other, axis=1)
    return xp.sum(xp.mean(lack * counted, axis=2), axis=1)


@composite(
    math="y[n] = Σ_c weight[c] (log(1 + e^x[n, c]) - target[n, c] x[n, c]) / C",
    dtypes="real floating-point",
    samples=[Sample(((3, 4), (3, 4))), Sample(((3, 4), (3, 4), (4,)))],
)
def multilabel_soft_margin_loss(xp: Any, x: Array, target: Array, weight: Array | None = None, /) -> Array:
    """Mean over classes of each class's own logistic loss.

    Args:
        x: logits ``[..., C]``.
        target: in [0, 1], of that shape.
        weight: of each class ``[C]``, or None.
    """
    y = xp.binary_cross_entropy_with_logits(x, target)
    return xp.mean(y if weight is None else y * weight, axis=-1)
