"""Metrics of how well scores rank samples; they need every sample's score, so ranks exchange them all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.errors import DataError, ShapeError
from distgrad.train.metrics.metric import Metric, classes_of, numbers_of, same_shape, within

__all__ = ["AUROC", "AveragePrecision", "RankingMetric"]


class RankingMetric(Metric):
    """What AUROC and average precision share: the scores and classes of all samples.

    With scores ``[n]`` there are two classes, and the score is that of class 1. With ``[n, classes]`` every
    class is held against all others, and the mean over the classes is taken (macro average, one versus rest).
    """

    def __init__(self) -> None:
        super().__init__()
        self.add_rows("scores")
        self.add_rows("targets")

    def update(self, scores: Any, targets: Any) -> None:
        """Take in a batch of this rank.

        Collective: no; blocks: no.

        Args:
            scores: ``[n]`` or ``[n, classes]``; higher means that the class is likelier.
            targets: classes ``[n]``.

        Raises:
            DataError: a score that is NaN, or a target beyond the classes.
        """
        name = type(self).__name__
        score = np.array(numbers_of(f"{name}.update: scores", scores), np.float64)
        target = classes_of(f"{name}.update: targets", targets)
        kinds = self.rows["scores"][0].shape[1:] if self.rows["scores"] else score.shape[1:]
        if score.ndim not in (1, 2) or score.shape[1:] != kinds or score.shape[1:] in ((0,), (1,)):
            raise ShapeError(
                f"{name}.update: scores must be [n], those of class 1, or [n, classes] of two or more, in "
                f"all batches alike, got {list(score.shape)}"
            )
        same_shape(f"{name}.update", score[:, 0] if score.ndim == 2 else score, target)
        if np.isnan(score).any():
            raise DataError(f"{name}.update: scores hold NaN, which has no rank")
        within(
            f"{name}.update: targets", target, score.shape[1] if score.ndim == 2 else 2,
            "leave other samples out, or pass scores [n, classes]",
        )  # fmt: skip
        self.rows["scores"].append(score)
        self.rows["targets"].append(target)

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> float:
        """The area, or its mean over the classes; NaN if a class has no sample, or all."""
        if not any(map(len, rows["targets"])):
            return float("nan")
        if len({each.shape[1:] for each in rows["scores"]}) > 1:
            raise ShapeError(f"{type(self).__name__}.compute: the ranks' scores are of different classes")
        scores, targets = np.concatenate(rows["scores"]), np.concatenate(rows["targets"])
        if scores.ndim == 1:
            return self.area(scores, targets == 1)
        return float(np.mean([self.area(scores[:, k], targets == k) for k in range(scores.shape[1])]))

    @staticmethod
    @abstractmethod
    def area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
        """Of the samples' scores, and whether they are of the class."""


def _counts_by_score(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """How many samples, and positive ones, have each score or a higher one; the highest score first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return last + 1, np.cumsum(positive[order], dtype=np.int64)[last]


class AUROC(RankingMetric):
    """The area under the receiver operating characteristic.

    It is the chance that a sample of the class has a higher score than one of another, ties counting half.

    Source: Hanley and McNeil, Radiology 143, 1982.
    """

    @staticmethod
    def area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
        """By the trapezoidal rule, as every tie is one step of the curve."""
        samples, right = _counts_by_score(scores, positive)
        wrong = samples - right
        if right[-1] == 0 or wrong[-1] == 0:
            return float("nan")
        steps, heights = np.diff(wrong, prepend=0), right - np.diff(right, prepend=0) / 2
        return float((steps * heights).sum() / (float(right[-1]) * float(wrong[-1])))


class AveragePrecision(RankingMetric):
    """The mean of the precision over the recall: Σ (Rₙ − Rₙ₋₁) Pₙ over the scores, the highest first.

    Without interpolation, as ``sklearn.metrics.average_precision_score`` has it.
    """

    @staticmethod
    def area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
        """Over distinct scores."""
        samples, right = _counts_by_score(scores, positive)
        if right[-1] == 0:
            return float("nan")
        return float((np.diff(right, prepend=0) * (right / samples)).sum() / right[-1])
