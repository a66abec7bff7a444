"""Horovod's own module of the collectives, which libraries name: ``horovod.torch.mpi_ops``."""

from distgrad.horovod.tensors import *  # noqa: F403
from distgrad.horovod.verbs import Adasum, Average, Max, Min, Product, Sum, barrier, join, poll, synchronize

__all__ = ["Adasum", "Average", "Max", "Min", "Product", "Sum", "barrier", "join", "poll", "synchronize"]
