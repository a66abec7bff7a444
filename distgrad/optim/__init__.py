"""Optimizers, run over the flat buffers that hold the parameters."""

from distgrad.optim.adam import Adam, AdamW
from distgrad.optim.flat import FlatBuffer, flatten
from distgrad.optim.optimizer import Optimizer
from distgrad.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "FlatBuffer", "Optimizer", "flatten"]
