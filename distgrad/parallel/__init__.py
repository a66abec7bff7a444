"""Training on several ranks."""

from distgrad.parallel.buckets import Bucket, all_reduce
from distgrad.parallel.ddp import DistributedDataParallel, parameter_hash
from distgrad.parallel.reducer import Reducer, Statistics

__all__ = [
    "Bucket",
    "DistributedDataParallel",
    "Reducer",
    "Statistics",
    "all_reduce",
    "parameter_hash",
]
