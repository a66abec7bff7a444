"""Datasets, samplers and loaders, under PyTorch's names."""

from distgrad.data.cifar import load_cifar10
from distgrad.data.collate import default_collate, default_convert
from distgrad.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from distgrad.data.folder import ArrayFolder
from distgrad.data.loader import DataLoader
from distgrad.data.mnist import load_mnist
from distgrad.data.sampler import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from distgrad.data.stream import DistributedStream
from distgrad.data.tar import TarDataset
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
    "DistributedStream",
    "IterableDataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "StackDataset",
    "Subset",
    "SubsetRandomSampler",
    "TarDataset",
    "TensorDataset",
    "TextStream",
    "TokenDataset",
    "TokenFile",
    "Vocabulary",
    "WeightedRandomSampler",
    "WorkerInfo",
    "default_collate",
    "default_convert",
    "get_worker_info",
    "load_cifar10",
    "load_mnist",
    "random_split",
    "read_text",
]
