"""What a training script needs besides the model, each piece usable alone: no trainer, no hidden loop.

Metrics over ranks (:mod:`distgrad.train.metrics`), a loop for evaluation, loggers, a meter, early stopping,
a learning-rate finder, seeds and a model's summary.
"""

from distgrad.train.evaluation import evaluate
from distgrad.train.loggers import (
    CSVLogger,
    JSONLogger,
    Logger,
    Loggers,
    MLflowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from distgrad.train.lr_finder import LRCurve, find_lr
from distgrad.train.meter import Meter, Rates, measured_flops
from distgrad.train.metrics import (
    AUROC,
    BLEU,
    F1,
    Accuracy,
    AveragePrecision,
    ClassMetric,
    ConfusionMatrix,
    IoU,
    Mean,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    Metrics,
    Perplexity,
    Precision,
    R2Score,
    RankingMetric,
    Recall,
)
from distgrad.train.plots import plot_runs, read_run
from distgrad.train.seeding import seed_everything
from distgrad.train.stopping import EarlyStopping
from distgrad.train.summary import ModuleLine, Summary, summary

__all__ = [
    "AUROC",
    "BLEU",
    "F1",
    "Accuracy",
    "AveragePrecision",
    "CSVLogger",
    "ClassMetric",
    "ConfusionMatrix",
    "EarlyStopping",
    "IoU",
    "JSONLogger",
    "LRCurve",
    "Logger",
    "Loggers",
    "MLflowLogger",
    "Mean",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Meter",
    "Metric",
    "Metrics",
    "ModuleLine",
    "Perplexity",
    "Precision",
    "R2Score",
    "RankingMetric",
    "Rates",
    "Recall",
    "Summary",
    "TensorBoardLogger",
    "WandbLogger",
    "evaluate",
    "find_lr",
    "measured_flops",
    "plot_runs",
    "read_run",
    "seed_everything",
    "summary",
]
