"""Metrics of classifiers, from counts of samples by their class and the class that was predicted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.errors import DataError, OptionError, ShapeError
from distgrad.train.metrics.metric import Metric, classes_of, numbers_of, same_shape, within

__all__ = ["F1", "Accuracy", "ClassMetric", "ConfusionMatrix", "IoU", "Precision", "Recall"]

_AVERAGES = ("macro", "micro", "weighted", "binary", None)


def _labels(metric: str, predictions: Any, targets: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted and true classes, flat; scores ``[n, classes, ...]`` are taken at their largest."""
    target = classes_of(f"{metric}.update: targets", targets)
    what = f"{metric}.update: predictions"
    predicted = numbers_of(what, predictions)
    if predicted.ndim == target.ndim + 1:
        if predicted.shape[1] < 2:
            raise ShapeError(
                f"{what} are {list(predicted.shape)}, scores of fewer than two classes; pass the "
                "probabilities of class 1 in the targets' shape: predictions[:, 0]"
            )
        predicted = predicted.argmax(1)
    elif predicted.dtype.kind == "f" and predicted.ndim == target.ndim:
        if not ((predicted >= 0) & (predicted <= 1)).all():
            raise DataError(
                f"{what} in floating point must be probabilities of class 1, from 0 to 1; pass classes as "
                "integers, and logits through sigmoid"
            )
        predicted = predicted > 0.5
    same_shape(f"{metric}.update", predicted, target)
    return predicted.astype(np.int64).ravel(), target.ravel()


class Accuracy(Metric):
    """The share of samples whose class is among the ``top_k`` with the highest scores.

    Of equal scores the one of the lower class counts as higher.

    Args:
        top_k: from 1.
        ignore_index: targets of this class are not counted; None: all are.
    """

    def __init__(self, top_k: int = 1, ignore_index: int | None = None) -> None:
        super().__init__()
        if top_k < 1:
            raise OptionError(f"Accuracy: top_k must be 1 or more, got {top_k}")
        self.top_k, self.ignore_index = top_k, ignore_index
        self.add_sum("right")
        self.add_sum("count")

    def update(self, predictions: Any, targets: Any) -> None:
        """Take in a batch of this rank.

        Collective: no; blocks: no.

        Args:
            predictions: scores ``[n, classes, ...]``; or, with ``top_k=1``, classes ``[n, ...]``, or the
                probabilities of class 1 in floating point.
            targets: classes ``[n, ...]``.

        Raises:
            DataError: a target that is none of the classes of the scores.
        """
        if self.top_k == 1:
            predicted, target = _labels("Accuracy", predictions, targets)
            right = predicted == target
        else:
            right, target = self._among_the_highest(predictions, targets)
        counted = np.ones(target.shape, bool) if self.ignore_index is None else target != self.ignore_index
        shape = numbers_of("Accuracy.update: predictions", predictions).shape
        if len(shape) > classes_of("Accuracy.update: targets", targets).ndim:
            within("Accuracy.update: targets", target[counted], shape[1], "name others by ignore_index=")
        self.sums["right"] += (right & counted).sum()
        self.sums["count"] += counted.sum()

    def _among_the_highest(
        self, predictions: Any, targets: Any
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        target = classes_of("Accuracy.update: targets", targets)
        scores = numbers_of("Accuracy.update: predictions", predictions)
        if scores.ndim != target.ndim + 1:
            raise ShapeError(
                f"Accuracy.update: top_k={self.top_k} needs scores [n, classes, ...] for targets "
                f"{list(target.shape)}, got {list(scores.shape)}"
            )
        rows = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1])
        same_shape("Accuracy.update", rows[:, 0], target.ravel())
        highest = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, : self.top_k]
        return (highest == target.reshape(-1, 1)).any(1), target.ravel()

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> float:
        """right / counted."""
        return float(sums["right"] / sums["count"]) if sums["count"] else float("nan")


class _Counts(Metric):
    """What is counted by class: targets that are to be ignored are left out, others refused."""

    def __init__(self, num_classes: int, ignore_index: int | None) -> None:
        super().__init__()
        if num_classes < 2:
            raise OptionError(f"{type(self).__name__}: num_classes must be 2 or more, got {num_classes}")
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def update(self, predictions: Any, targets: Any) -> None:
        """Take in a batch of this rank.

        Collective: no; blocks: no.

        Args:
            predictions: scores ``[n, classes, ...]``, classes ``[n, ...]``, or the probabilities of class 1.
            targets: classes ``[n, ...]``.

        Raises:
            DataError: a class beyond ``num_classes``, or floating point that is no probability.
        """
        name = type(self).__name__
        predicted, target = _labels(name, predictions, targets)
        if self.ignore_index is not None:
            counted = target != self.ignore_index
            predicted, target = predicted[counted], target[counted]
        for what, classes in (("predictions", predicted), ("targets", target)):
            within(f"{name}.update: {what}", classes, self.num_classes, "pass num_classes=, or ignore_index=")
        self._count(predicted, target)

    @abstractmethod
    def _count(self, predicted: NDArray[np.int64], target: NDArray[np.int64]) -> None: ...


class ConfusionMatrix(_Counts):
    """How many samples of class i were predicted as class j: ``[classes, classes]``.

    Args:
        num_classes: classes are 0 to ``num_classes - 1``.
        normalize: None for counts; ``"true"``, ``"predicted"`` or ``"all"`` divides by the sums of the rows,
            of the columns, or by all.
        ignore_index: targets of this class are not counted; None: all are.
    """

    def __init__(
        self, num_classes: int = 2, *, normalize: str | None = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(num_classes, ignore_index)
        if normalize not in (None, "true", "predicted", "all"):
            raise OptionError(
                f"ConfusionMatrix: normalize must be None, 'true', 'predicted' or 'all', got {normalize!r}"
            )
        self.normalize = normalize
        self.add_sum("counts", (num_classes, num_classes))

    def _count(self, predicted: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        np.add.at(self.sums["counts"].reshape(-1), target * self.num_classes + predicted, 1.0)

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> Any:
        """The matrix: whole numbers, or shares with ``normalize``; 0 where there is nothing to divide by."""
        counts = sums["counts"]
        if self.normalize is None:
            return counts.astype(np.int64)
        axis = {"true": 1, "predicted": 0, "all": None}[self.normalize]
        return _divided(counts, counts.sum(axis, keepdims=True))


def _divided(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """x / y; 0 where y is 0."""
    return np.divide(x, y, out=np.zeros(np.broadcast_shapes(x.shape, y.shape)), where=y != 0)


class ClassMetric(_Counts):
    """A score of each class from its right, predicted and true counts, and its average.

    Args:
        num_classes: classes are 0 to ``num_classes - 1``.
        average: ``"binary"``: the score of class 1; ``"macro"``: the mean over the classes that occur;
            ``"weighted"``: the same by their samples; ``"micro"``: of all classes' counts together; None: the
            score of every class. By default ``"binary"`` for two classes, else ``"macro"``.
        ignore_index: targets of this class are not counted; None: all are.
    """

    def __init__(
        self, num_classes: int = 2, *, average: str | None = "auto", ignore_index: int | None = None
    ) -> None:
        super().__init__(num_classes, ignore_index)
        if average == "auto":
            average = "binary" if num_classes == 2 else "macro"
        if average not in _AVERAGES or (average == "binary" and num_classes > 2):
            raise OptionError(
                f"{type(self).__name__}: average must be one of {_AVERAGES}, 'binary' for two classes alone, "
                f"got {average!r} for {num_classes}"
            )
        self.average = average
        for name in ("right", "predicted", "true"):
            self.add_sum(name, (num_classes,))

    def _count(self, predicted: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        for name, found in (
            ("right", target[predicted == target]),
            ("predicted", predicted),
            ("true", target),
        ):
            self.sums[name] += np.bincount(found, minlength=self.num_classes)

    @staticmethod
    @abstractmethod
    def score(right: Any, predicted: Any, true: Any) -> Any:
        """Of a class, from how many samples were rightly predicted as it, were predicted, and are of it."""

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> Any:
        """The average; of a class that was never predicted, or never there, the score is 0."""
        right, predicted, true = sums["right"], sums["predicted"], sums["true"]
        if not true.any():
            return float("nan")
        if self.average == "micro":
            return float(self.score(*(x.sum(keepdims=True) for x in (right, predicted, true)))[0])
        scores = self.score(right, predicted, true)
        if self.average is None:
            return scores
        if self.average == "binary":
            return float(scores[1])
        weights = true if self.average == "weighted" else ((predicted > 0) | (true > 0)).astype(float)
        return float((scores * weights).sum() / weights.sum())


class Precision(ClassMetric):
    """Of what was predicted as a class, the share that is of it: right / predicted.

    Args: as for :class:`ClassMetric`.
    """

    @staticmethod
    def score(right: Any, predicted: Any, true: Any) -> Any:
        """right / predicted."""
        return _divided(right, predicted)


class Recall(ClassMetric):
    """Of what is of a class, the share that was predicted as it: right / true.

    Args: as for :class:`ClassMetric`.
    """

    @staticmethod
    def score(right: Any, predicted: Any, true: Any) -> Any:
        """right / true."""
        return _divided(right, true)


class F1(ClassMetric):
    """The harmonic mean of precision and recall: 2 right / (predicted + true).

    Args: as for :class:`ClassMetric`.
    """

    @staticmethod
    def score(right: Any, predicted: Any, true: Any) -> Any:
        """2 right / (predicted + true)."""
        return _divided(2 * right, predicted + true)


class IoU(ClassMetric):
    """Intersection over union, Jaccard's index: right / (predicted + true − right).

    Args: as for :class:`ClassMetric`.
    """

    @staticmethod
    def score(right: Any, predicted: Any, true: Any) -> Any:
        """right / (predicted + true − right)."""
        return _divided(right, predicted + true - right)
