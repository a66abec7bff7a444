"""Training on several ranks."""

from distgrad.parallel import functional
from distgrad.parallel.adasum import adasum
from distgrad.parallel.batchnorm import SyncBatchNorm
from distgrad.parallel.buckets import Bucket, all_reduce
from distgrad.parallel.compress import PowerSGD, TopK, bf16, fp16
from distgrad.parallel.ddp import DistributedDataParallel
from distgrad.parallel.localsgd import LocalSGD
from distgrad.parallel.plan import MemoryPlan, memory_plan
from distgrad.parallel.reducer import Reducer
from distgrad.parallel.replicas import parameter_hash
from distgrad.parallel.sharded import join_states
from distgrad.parallel.statistics import Statistics

__all__ = [
    "Bucket",
    "DistributedDataParallel",
    "LocalSGD",
    "MemoryPlan",
    "PowerSGD",
    "Reducer",
    "Statistics",
    "SyncBatchNorm",
    "TopK",
    "adasum",
    "all_reduce",
    "bf16",
    "fp16",
    "functional",
    "join_states",
    "memory_plan",
    "parameter_hash",
]
