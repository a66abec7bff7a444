"""Datasets, samplers and loaders, under PyTorch's names."""

from distgrad.data.cifar import load_cifar10
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
from distgrad.data.folder import ArrayFolder
from distgrad.data.loader import DataLoader
from distgrad.data.mnist import load_mnist
from distgrad.data.sampler import BatchSampler, DistributedSampler, RandomSampler, Sampler, SequentialSampler
from distgrad.data.text import TextStream, Vocabulary, read_text
from distgrad.data.tokens import TokenDataset, TokenFile
from distgrad.data.worker import WorkerInfo, get_worker_info

__all__ = [
    "ArrayFolder",
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
    "TextStream",
    "TokenDataset",
    "TokenFile",
    "Vocabulary",
    "WorkerInfo",
    "default_collate",
    "get_worker_info",
    "load_cifar10",
    "load_mnist",
    "random_split",
    "read_text",
]
