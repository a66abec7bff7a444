"""A long training on several ranks where every step is another: ``python soak.py STEPS``, a rank a process.

Batch sizes (also 0), unused layers, accumulation and delays are random on every rank, from numbers that all
know, so that now and then each rank computes in one process what must come out.
"""

import gc
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from parallel.problems import CLASSES, FEATURES, Network

import distgrad as dg
from distgrad import nn, optim
from distgrad.parallel import DistributedDataParallel, parameter_hash

CHECKED_EVERY = 25
MAX_GROWTH_MIB = 6.0
SLOW_SHARE = 0.02


class Branches(nn.Module):
    """Runs its input through some of its networks."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([Network(seed) for seed in range(4)])

    def forward(self, x, chosen):
        return sum(self.branches[i](x) for i in chosen)


def passes_of(rank, step):
    """(inputs, targets, chosen branches) of each of a rank's passes of a step; none at all now and then."""
    rng = np.random.default_rng([rank, step])
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        count = rng.integers(0, 6)
        chosen = np.flatnonzero(rng.random(4) < 0.5).tolist() or [int(rng.integers(4))]
        yield rng.standard_normal((count, FEATURES)), rng.integers(0, CLASSES, count), chosen


def loss_of(module, x, y, chosen):
    return dg.softmax_cross_entropy(module(dg.Tensor(x), chosen), target=y).mean()


def backward(model, rank, step):
    *before, last = [*passes_of(rank, step)] or [None]
    with model.no_sync():
        for each in before:
            loss_of(model, *each).backward()
    if last is None:
        model.reduce_gradients()
    else:
        loss_of(model, *last).backward()


def check(model, size, step):
    """Compare the gradients with those of one process that makes all ranks' passes."""
    alone = Branches()
    alone.load_state_dict(model.module.state_dict())
    everything = [each for rank in range(size) for each in passes_of(rank, step)]
    count = sum(len(y) for _, y, _ in everything)
    for x, y, chosen in everything:
        (dg.softmax_cross_entropy(alone(dg.Tensor(x), chosen), target=y).sum() / max(count, 1)).backward()
    for (name, p), q in zip(model.module.named_parameters(), alone.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), f"step {step}: {name}"
        if p.grad is not None:
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 1e-9, 1e-12, err_msg=f"{step} {name}")


def resident_mib():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(steps):
    comm = dg.comm.init()
    model = DistributedDataParallel(Branches(), comm, bucket_cap_mb=0.001, check_replicas_every=50)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    delays = np.random.default_rng(comm.rank + 1000)
    settled = None
    for step in range(steps):
        if delays.random() < SLOW_SHARE:
            time.sleep(delays.random() * 0.01)
        optimizer.zero_grad()
        backward(model, comm.rank, step)
        if step % CHECKED_EVERY == 0:
            check(model, comm.size, step)
        model.clip_grad_norm_(1.0)
        optimizer.step()
        if step == steps // 3:
            settled = resident_mib()
    growth = resident_mib() - settled
    assert growth < MAX_GROWTH_MIB, f"rank {comm.rank} has grown by {growth:.1f} MiB"
    assert len(set(comm.all_gather_object(parameter_hash(model)))) == 1
    assert model.stats().num_steps == steps
    print(f"rank {comm.rank}: {steps} steps, grown by {growth:.2f} MiB", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
