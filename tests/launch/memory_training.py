"""Trains in exact mode and keeps its state in memory: FOLDER NUM_STEPS [STEP [SHARD]].

In that step of the first attempt the last rank dies; with STEP 0 all wait after a few steps to be killed. The
file ``hosts`` beside FOLDER, where there is one, has a slot fewer once the rank has died.
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import distgrad as dg
from distgrad import nn, optim
from distgrad.parallel import DistributedDataParallel

folder, num_steps, die = Path(sys.argv[1]), int(sys.argv[2]), int([*sys.argv, -1][3])
shard = [*sys.argv, None][4] if len(sys.argv) > 3 else None
comm = dg.comm.init()
dg.manual_seed(1)
net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
model = DistributedDataParallel(net, exact=True, shards=12, shard=shard)
optimizer = optim.AdamW(model.parameters(), lr=1e-2)
manager = dg.checkpoint.CheckpointManager(folder, memory=True)
manager.add(model=model, optimizer=optimizer)
start = manager.restore_latest() or 0
if comm.rank == 0:
    print(f"attempt {dg.comm.attempt()}: {comm.size} ranks from step {start}", flush=True)
for step in range(start, num_steps):
    rng = np.random.default_rng(step)
    x, y = rng.standard_normal((24, 6)).astype(np.float32), rng.integers(0, 3, 24)
    optimizer.zero_grad()
    for part, labels in model.shards(x, y):
        nn.functional.cross_entropy(model(dg.asarray(part)), dg.asarray(labels)).backward()
    optimizer.step()
    if step + 1 == die and dg.comm.attempt() == 0 and comm.rank == comm.size - 1:
        hosts = folder.with_name("hosts")
        if hosts.exists():
            hosts.write_text(f"localhost:{comm.size - 1}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    manager.step()
    if die == 0 and step == 5:
        if comm.rank == 0:
            print("under way", flush=True)
        time.sleep(1000)
manager.close()
digest = hashlib.sha256()
states = [model.state_dict(), *optimizer.state_dict()["state"].values()]
for value in (value for state in states for value in state.values()):
    if not isinstance(value, dict):  # of the modules' own
        digest.update(np.asarray(value).tobytes())
if comm.rank == 0:
    print("bits", digest.hexdigest())
