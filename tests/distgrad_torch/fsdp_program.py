"""A model trained in every manner of sharding; prints its state as JSON, on each rank.

Written for PyTorch, so that its own answers can be had by the same program:
``python fsdp_program.py RANK SIZE ADDRESS``.
"""

import functools
import json
import sys

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.fsdp import FullStateDictConfig, ShardingStrategy, StateDictType, fully_shard
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import (
    ModuleWrapPolicy,
    enable_wrap,
    size_based_auto_wrap_policy,
    transformer_auto_wrap_policy,
    wrap,
)
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel as DDP

OURS = "distgrad" in torch.__version__
HOST = {} if OURS else {"device_id": torch.device("cpu")}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


class Net(nn.Module):
    def __init__(self, around=lambda each: each):
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)
        self.blocks = nn.ModuleList([Block() for _ in range(2)])
        with torch.no_grad():
            for place, each in enumerate(self.parameters()):
                each.copy_(torch.linspace(-1, 1, each.numel()).reshape(each.shape) * (1 + 0.1 * place))
        self.blocks = nn.ModuleList([around(each) for each in self.blocks])

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def train(model, optimizer, rank, clip=None):
    for i in range(3):
        x = torch.sin(torch.arange(12.0) * (1 + rank + 0.3 * i)).reshape(4, 3)
        nn.functional.mse_loss(model(x), x[:, :2].cos()).backward()
        if clip is not None:
            clip(0.5)
        optimizer.step()
        optimizer.zero_grad()
    return model


def whole(model):
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, FullStateDictConfig(rank0_only=False)):
        return model.state_dict()


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def replicated(rank):
    model = DDP(Net())
    return train(model, adam(model), rank).module.state_dict()


def clipped(rank):
    model = DDP(Net())
    clip = functools.partial(nn.utils.clip_grad_norm_, list(model.parameters()))
    return train(model, adam(model), rank, clip).module.state_dict()


def by_class(rank):
    policy = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={Block})
    model = FSDP(Net(), auto_wrap_policy=policy, **HOST)
    return whole(train(model, adam(model), rank))


def by_size(rank):
    policy = functools.partial(size_based_auto_wrap_policy, min_num_params=40)
    model = FSDP(Net(), auto_wrap_policy=policy, sharding_strategy=ShardingStrategy.SHARD_GRAD_OP, **HOST)
    return whole(train(model, adam(model), rank))


def clipped_shards(rank):
    model = FSDP(Net(), auto_wrap_policy=ModuleWrapPolicy({Block}), **HOST)
    return whole(train(model, adam(model), rank, model.clip_grad_norm_))


def nested(rank):
    model = FSDP(Net(lambda each: FSDP(each, **HOST)), **HOST)
    return whole(train(model, adam(model), rank))


def by_context(rank):
    with enable_wrap(wrapper_cls=FSDP, **HOST):
        model = wrap(Net(wrap))
    return whole(train(model, adam(model), rank))


def unsharded(rank):
    model = FSDP(Net(), sharding_strategy=ShardingStrategy.NO_SHARD, **HOST)
    return whole(train(model, adam(model), rank))


def in_place(rank):
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    net = Net()
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    model = fully_shard(net, mesh=mesh)
    assert isinstance(model, Net)
    state = train(model, adam(model), rank).state_dict()
    return {key: value if OURS else value.full_tensor() for key, value in state.items()}


def redundancy_free(rank):
    model = DDP(Net())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-2)
    assert isinstance(optimizer, torch.optim.Optimizer)
    train(model, optimizer, rank)
    optimizer.consolidate_state_dict(to=0)
    if rank == 0:
        state = optimizer.state_dict()["state"]
        assert state[0]["exp_avg"].shape == model.module.first.weight.shape
    return model.module.state_dict()


def main():
    rank, size, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    found = {}
    for run in (
        *(replicated, clipped, by_class, by_size, clipped_shards, nested, by_context, unsharded, in_place),
        redundancy_free,
    ):
        state = run(rank)
        found[run.__name__] = {key: value.double().reshape(-1).tolist() for key, value in state.items()}
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
