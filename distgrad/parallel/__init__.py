"""Training on several ranks."""

from distgrad.parallel.ddp import DistributedDataParallel, parameter_hash
from distgrad.parallel.reducer import Reducer, Statistics

__all__ = ["DistributedDataParallel", "Reducer", "Statistics", "parameter_hash"]
