"""Optimizers, run over the flat buffers that hold the parameters."""

from distgrad.optim import lr_scheduler, swa_utils
from distgrad.optim.adam import Adam, AdamW
from distgrad.optim.adaptive import ASGD, Adadelta, Adagrad, Adamax, Lion, NAdam, RAdam, RMSprop, Rprop
from distgrad.optim.lbfgs import LBFGS
from distgrad.optim.matrix import LAMB, LARS, Adafactor, Muon
from distgrad.optim.optimizer import Optimizer
from distgrad.optim.sgd import SGD
from distgrad.optim.sparse import SparseAdam

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
    "lr_scheduler",
    "swa_utils",
]
