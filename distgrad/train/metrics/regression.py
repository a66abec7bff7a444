"""Means, and metrics of predicted numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.errors import OptionError, ShapeError
from distgrad.train.metrics.metric import Metric, numbers_of, same_shape

__all__ = ["Mean", "MeanAbsoluteError", "MeanSquaredError", "R2Score"]


class Mean(Metric):
    """The mean of numbers, as of a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total")
        self.add_sum("weight")

    def update(self, values: Any, weight: Any = 1.0) -> None:
        """Take in numbers of this rank.

        Collective: no; blocks: no.

        Args:
            values: of any shape.
            weight: how much each counts: one number, or one for each of them, as a mask: what counts 0 may be
                NaN. A batch's mean loss counts ``weight=len(batch)``.
        """
        numbers = numbers_of("Mean.update: values", values).astype(np.float64)
        weights = numbers_of("Mean.update: weight", weight).astype(np.float64)
        if weights.ndim and weights.shape != numbers.shape:
            raise ShapeError(
                f"Mean.update: weight must be one number or {list(numbers.shape)}, got {list(weights.shape)}"
            )
        self.sums["total"] += (np.where(weights == 0, 0, numbers) * weights).sum()
        self.sums["weight"] += np.broadcast_to(weights, numbers.shape).sum()

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> float:
        """Σ weight · value / Σ weight."""
        return float(sums["total"] / sums["weight"]) if sums["weight"] else float("nan")


class _Error(Metric):
    """A mean over the differences between predictions and targets, all elements alike."""

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total")
        self.add_sum("count")

    def update(self, predictions: Any, targets: Any) -> None:
        """Take in a batch of this rank.

        Collective: no; blocks: no.

        Args:
            predictions: of any shape.
            targets: of the same.
        """
        name = type(self).__name__
        predicted = numbers_of(f"{name}.update: predictions", predictions).astype(np.float64)
        target = numbers_of(f"{name}.update: targets", targets).astype(np.float64)
        same_shape(f"{name}.update", predicted, target)
        self.sums["total"] += self._total(predicted - target)
        self.sums["count"] += target.size

    def _total(self, difference: NDArray[np.float64]) -> Any:
        return np.abs(difference).sum()

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> float:
        """Over all elements."""
        return float(sums["total"] / sums["count"]) if sums["count"] else float("nan")


class MeanAbsoluteError(_Error):
    """The mean of |prediction − target|."""


class MeanSquaredError(_Error):
    """The mean of (prediction − target)², or its root.

    Args:
        root: take the square root at the end.
    """

    def __init__(self, root: bool = False) -> None:
        super().__init__()
        self.root = root

    def _total(self, difference: NDArray[np.float64]) -> Any:
        return np.square(difference).sum()

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> float:
        """Over all elements."""
        mean = super().value(sums, rows)
        return mean**0.5 if self.root else mean


class R2Score(Metric):
    """The coefficient of determination: 1 − Σ (y − ŷ)² / Σ (y − ȳ)².

    Of several outputs, the mean over them. The spread of y is merged from means and squares about them, so
    that a large offset costs no digits.

    Source: Chan, Golub and LeVeque, The American Statistician 37, 1983 (merging the spreads).
    """

    def __init__(self) -> None:
        super().__init__()
        self.add_rows("moments")

    def update(self, predictions: Any, targets: Any) -> None:
        """Take in a batch of this rank.

        Collective: no; blocks: no.

        Args:
            predictions: ``[n]`` or ``[n, outputs]``.
            targets: of the same shape.
        """
        predicted = numbers_of("R2Score.update: predictions", predictions).astype(np.float64)
        target = numbers_of("R2Score.update: targets", targets).astype(np.float64)
        same_shape("R2Score.update", predicted, target)
        if target.ndim not in (1, 2):
            raise ShapeError(f"R2Score.update: both must be [n] or [n, outputs], got {list(target.shape)}")
        if not len(target):
            return
        rows = target.reshape(len(target), -1)
        error = np.square(rows - predicted.reshape(rows.shape)).sum(0)
        mean = rows.mean(0)
        count = np.full(len(mean), float(len(rows)))
        found = np.stack([count, mean, np.square(rows - mean).sum(0), error])
        kept = self.rows["moments"]
        if kept and kept[0].shape != found.shape:
            raise OptionError(
                f"R2Score.update: {found.shape[1]} outputs came, after batches of {kept[0].shape[1]}"
            )
        kept[:] = [_merged(kept[0], found) if kept else found]

    def value(self, sums: Mapping[str, NDArray[np.float64]], rows: Mapping[str, list[NDArray[Any]]]) -> float:
        """NaN for fewer than two samples; an output that never changes scores 1 if it is met, else 0."""
        parts = rows["moments"]
        if not parts:
            return float("nan")
        merged = parts[0]
        for part in parts[1:]:
            merged = _merged(merged, part)
        count, _, spread, error = merged
        if count[0] < 2:
            return float("nan")
        constant = np.where(error == 0, 1.0, 0.0)
        return float(np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), constant).mean())


def _merged(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count, mean, spread about it and error of two parts together."""
    (n, mean, spread, error), (m, other, others_spread, others_error) = a, b
    apart = other - mean
    return np.stack(
        [n + m, mean + apart * (m / (n + m)), spread + others_spread + apart**2 * (n * m / (n + m)),
         error + others_error]
    )  # fmt: skip
