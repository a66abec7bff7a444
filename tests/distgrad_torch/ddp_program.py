"""Models under ``DistributedDataParallel`` in every manner; prints their parameters as JSON, on each rank.

Written for PyTorch, so that its own answers can be had by the same program: ``python ddp_program.py RANK SIZE
ADDRESS``.
"""

import json
import sys

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, post_localSGD_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.unused = nn.Linear(2, 2)
        with torch.no_grad():
            for place, each in enumerate(self.parameters()):
                each.copy_(torch.linspace(-1, 1, each.numel()).reshape(each.shape) * (1 + 0.1 * place))

    def forward(self, x, use=False):
        y = self.second(torch.tanh(self.norm(self.first(x))))
        return self.unused(y) if use else y


def batch(rank, step, count=4):
    x = torch.sin(torch.arange(3.0 * count) * (1 + rank + 0.3 * step)).reshape(count, 3)
    return x, x[:, :2].cos()


def wrap(**options):
    net = Net()
    model = DDP(net, **options)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step(model, optimizer, x, y, **options):
    loss = nn.functional.mse_loss(model(x, **options), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def plain(rank, size):
    model, optimizer = wrap(find_unused_parameters=True, gradient_as_bucket_view=True)
    for i in range(3):
        step(model, optimizer, *batch(rank, i), use=i == 1)
    return model


def unequal(rank, size):
    model, optimizer = wrap(find_unused_parameters=True, broadcast_buffers=False, bucket_cap_mb=1)
    for i in range(3):
        step(model, optimizer, *batch(rank, i, 2 + 3 * rank), use=True)
    return model


def accumulated(rank, size):
    model, optimizer = wrap()
    for i in range(2):
        with model.no_sync():
            for j in range(2):
                x, y = batch(rank, 10 * i + j)
                nn.functional.mse_loss(model(x, use=True), y).backward()
        x, y = batch(rank, 10 * i + 5)
        nn.functional.mse_loss(model(x, use=True), y).backward()
        optimizer.step()
        if i == 0:
            optimizer.zero_grad()
    return model


def hooked(rank, size):
    model, optimizer = wrap()
    model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    for i in range(2):
        step(model, optimizer, *batch(rank, i), use=True)
    return model


def own_hook(rank, size):
    seen = []

    def hook(state, bucket):
        state.append((bucket.index(), len(bucket.parameters()), len(bucket.gradients())))
        halved = bucket.buffer() / (2 * dist.get_world_size())
        future = dist.all_reduce(halved, async_op=True).get_future()
        return future.then(lambda each: each.value()[0] * 2)

    model, optimizer = wrap()
    model.register_comm_hook(seen, hook)
    for i in range(2):
        step(model, optimizer, *batch(rank, i), use=True)
    assert seen
    assert all(parameters == gradients for _, parameters, gradients in seen)
    return model


def local(rank, size):
    model, optimizer = wrap()
    state = post_localSGD_hook.PostLocalSGDState(None, None, 1, post_local_gradient_allreduce=False)
    model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
    averager = PeriodicModelAverager(period=2, warmup_steps=1)
    for i in range(4):
        step(model, optimizer, *batch(rank, i), use=True)
        averager.average_parameters(model.parameters())
    return model


def uneven(rank, size, **options):
    model, optimizer = wrap()
    with model.join(**options):
        for i in range(2 + rank):
            step(model, optimizer, *batch(rank, i), use=True)
    return model


def uneven_by_active(rank, size):
    return uneven(rank, size, divide_by_initial_world_size=False)


def joined(rank, size):
    model, optimizer = wrap()
    with Join([model]):
        for i in range(3 - rank if rank < 3 else 1):
            step(model, optimizer, *batch(rank, i), use=True)
    return model


def dealt(rank, size):
    data = TensorDataset(*batch(0, 0, 11))  # one is drawn twice
    sampler = DistributedSampler(data, shuffle=False)
    model, optimizer = wrap()
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for x, y in DataLoader(data, batch_size=2, sampler=sampler):
            step(model, optimizer, x, y, use=True)
    return model


def main():
    rank, size, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    found = {}
    for run in (
        plain,
        unequal,
        accumulated,
        hooked,
        own_hook,
        local,
        uneven,
        uneven_by_active,
        joined,
        dealt,
    ):
        state = run(rank, size).state_dict()
        found[run.__name__] = {key: value.double().reshape(-1).tolist() for key, value in state.items()}
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
