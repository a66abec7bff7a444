"""A run in exact mode that prints what it comes to: python exact_training.py START STOP [FILE]

It trains from step START to STOP, loads FILE before if it starts late, and saves it if it ends early. Every
rank prints the hash of parameters and buffers.
"""

import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np

import distgrad as dg
from distgrad import nn
from distgrad.nn import functional as F

SHARDS, ROWS = 8, 44  # the shards have 5 or 6 samples


class Network(nn.Module):
    """Convolution, batch norm, dropout, and a part that only some samples use."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.rare = nn.Linear(8 * 36, 16)
        self.one, self.two = nn.Linear(8 * 36, 64), nn.Linear(64, 10)

    def forward(self, x):
        h = self.drop(F.relu(self.norm(self.conv(x)))).reshape(len(x), -1)
        y = self.two(F.gelu(self.one(h)))
        return y + self.rare(h).sum() * 1e-3 if float(x._data.sum()) > 0.0 else y


def batch(step):
    rng = np.random.default_rng(step)
    return rng.standard_normal((ROWS, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, ROWS)


def main():
    start, stop = int(sys.argv[1]), int(sys.argv[2])
    dg.manual_seed(5)
    comm = dg.comm.init()
    model = dg.parallel.DistributedDataParallel(Network(), comm, exact=True, shards=SHARDS)
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
    file = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    if start:
        saved = pickle.loads(file.read_bytes())
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    for step in range(start, stop):
        optimizer.zero_grad()
        for x, y in model.shards(*batch(step)):
            F.cross_entropy(model(dg.asarray(x)), dg.asarray(y)).backward()
        model.clip_grad_norm_(0.5)
        optimizer.step()
    if file is not None and not start and comm.rank == 0:
        file.write_bytes(pickle.dumps({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
    digest = hashlib.sha256()
    for tensor in (*model.parameters(), *model.buffers()):
        digest.update(tensor._data.tobytes())
    print(f"bits {digest.hexdigest()}\n", end="", flush=True)  # one write: ranks share a pipe


if __name__ == "__main__":
    main()
