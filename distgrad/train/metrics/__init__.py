"""Metrics over ranks: every sample counts once, wherever it was seen, and all ranks get the same bits."""

from distgrad.train.metrics.classification import (
    F1,
    Accuracy,
    ClassMetric,
    ConfusionMatrix,
    IoU,
    Precision,
    Recall,
)
from distgrad.train.metrics.metric import Metric, Metrics
from distgrad.train.metrics.ranking import AUROC, AveragePrecision, RankingMetric
from distgrad.train.metrics.regression import Mean, MeanAbsoluteError, MeanSquaredError, R2Score
from distgrad.train.metrics.text import BLEU, Perplexity

__all__ = [
    "AUROC",
    "BLEU",
    "F1",
    "Accuracy",
    "AveragePrecision",
    "ClassMetric",
    "ConfusionMatrix",
    "IoU",
    "Mean",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Metrics",
    "Perplexity",
    "Precision",
    "R2Score",
    "RankingMetric",
    "Recall",
]
