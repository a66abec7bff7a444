"""Datasets, samplers and loaders, under PyTorch's names."""

from distgrad.data.collate import default_collate
from distgrad.data.dataset import Dataset, Subset, TensorDataset, random_split
from distgrad.data.loader import DataLoader
from distgrad.data.mnist import load_mnist
from distgrad.data.sampler import BatchSampler, DistributedSampler, RandomSampler, Sampler, SequentialSampler

__all__ = [
    "BatchSampler",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "TensorDataset",
    "default_collate",
    "load_mnist",
    "random_split",
]
