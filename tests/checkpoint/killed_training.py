"""Trains for 200 steps in exact mode, from where it stood: FOLDER STAGE [PAUSE]; prints its hash.

Dropout, a schedule, samples that a worker changes at random, AdamW, whose state is sharded with STAGE.
"""

import hashlib
import sys
import time

import numpy as np

import distgrad as dg
from distgrad import nn
from distgrad.nn import functional as F
from distgrad.optim.lr_scheduler import OneCycleLR

STEPS, ROWS = 200, 24


class Noisy:
    """Samples to which whoever makes them adds noise of three generators."""

    def __len__(self):
        return 240

    def __getitem__(self, index):
        x = np.random.default_rng(index).standard_normal(12).astype(np.float32)
        noise = dg.randn(12).numpy() + np.random.randn(12)  # noqa: NPY002
        return (x + 0.1 * noise).astype(np.float32), index % 5


def main():
    folder, stage, pause_s = sys.argv[1], sys.argv[2], float([*sys.argv, 0][3])
    comm = dg.comm.init()
    dg.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(12, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 64), nn.Linear(64, 5)
    )
    shard = None if stage == "none" else stage
    model = dg.parallel.DistributedDataParallel(net, comm, exact=True, shards=4, shard=shard)
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = OneCycleLR(optimizer, 1e-2, total_steps=STEPS + 1)
    loader = dg.data.DataLoader(Noisy(), ROWS, shuffle=True, num_workers=1)
    manager = dg.checkpoint.CheckpointManager(folder, keep=2, every=3)
    manager.add(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)
    manager.restore_latest()
    while manager.finished < STEPS:
        for x, y in loader:
            optimizer.zero_grad()
            for part, labels in model.shards(x, y):
                F.cross_entropy(model(part), labels).backward()
            optimizer.step()
            scheduler.step()
            manager.step()
            time.sleep(pause_s)  # so that somebody can come in between
            if manager.finished == STEPS:
                break
    manager.close()
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        if isinstance(value, dg.Tensor):
            digest.update(value.numpy().tobytes())
    for entry in optimizer.state_dict()["state"].values():
        for value in entry.values():
            digest.update(np.asarray(value).tobytes())
    if comm.rank == 0:
        print(f"{manager.finished} steps {digest.hexdigest()}")


if __name__ == "__main__":
    main()
