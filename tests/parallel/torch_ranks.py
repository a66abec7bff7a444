"""A rank of PyTorch's DDP that trains what a file says; test_workloads.py starts it.

python torch_ranks.py TASK RANK SIZE
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from parallel.workloads import build_model


def train(name, start, batches, rank, size):
    """Values of all parameters after a few steps of SGD with momentum."""
    module = build_model(nn, F, F.scaled_dot_product_attention, name)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in start.items()})
    model = nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for batch in batches:
        x, y = (torch.from_numpy(np.array_split(each, size)[rank]) for each in batch)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y.reshape(-1)).backward()
        optimizer.step()
    return {k: v.numpy().copy() for k, v in module.state_dict().items()}


def main(path, rank, size):
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{path}.store", size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    tasks = pickle.loads(Path(path).read_bytes())
    states = {name: train(name, *task, rank, size) for name, task in tasks.items()}
    if rank == 0:
        Path(f"{path}.result").write_bytes(pickle.dumps(states))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
