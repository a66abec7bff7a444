"""Loggers: where the numbers of a run are written down, by rank 0."""

from distgrad.train.loggers.files import CSVLogger, JSONLogger
from distgrad.train.loggers.logger import Logger, Loggers
from distgrad.train.loggers.services import MLflowLogger, TensorBoardLogger, WandbLogger

__all__ = [
    "CSVLogger",
    "JSONLogger",
    "Logger",
    "Loggers",
    "MLflowLogger",
    "TensorBoardLogger",
    "WandbLogger",
]
