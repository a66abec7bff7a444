"""Datasets, samplers and loaders, under PyTorch's names."""

from distgrad.data.collate import default_collate
from distgrad.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from distgrad.data.loader import DataLoader
from distgrad.data.mnist import load_mnist
from distgrad.data.sampler import BatchSampler, DistributedSampler, RandomSampler, Sampler, SequentialSampler
from distgrad.data.worker import WorkerInfo, get_worker_info

__all__ = [
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "IterableDataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "TensorDataset",
    "WorkerInfo",
    "default_collate",
    "get_worker_info",
    "load_mnist",
    "random_split",
]
