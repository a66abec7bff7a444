"""Trains in exact mode from where it stood: FOLDER NUM_STEPS [SIZES], the numbers of ranks to go through.

After 5 steps of an attempt, and as long as a further size is left, what names the hosts is changed to it:
for fewer ranks the last one dies, for more the job waits to be asked to save and end. What names them is the
file ``hosts`` in the folder above FOLDER.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import distgrad as dg
from distgrad import nn, optim
from distgrad.parallel import DistributedDataParallel, parameter_hash

folder, num_steps, sizes = Path(sys.argv[1]), int(sys.argv[2]), list(map(int, sys.argv[3:]))
comm = dg.comm.init()
dg.manual_seed(1)
net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
model = DistributedDataParallel(net, exact=True, shards=12)
optimizer = optim.AdamW(model.parameters(), lr=1e-2)
scheduler = optim.lr_scheduler.StepLR(optimizer, 7, 0.7)
manager = dg.checkpoint.CheckpointManager(folder, every=2)
manager.add(model=model, optimizer=optimizer, scheduler=scheduler)
start = manager.restore_latest() or 0
if comm.rank == 0:
    print(f"attempt {dg.comm.attempt()}: {comm.size} ranks from step {start}", flush=True)


def change(number):
    """Let there be ``number`` slots."""
    if comm.rank == comm.size - 1:
        hosts = folder.with_name("hosts")
        hosts.with_suffix(".new").write_text(f"localhost:{number}\n")
        hosts.with_suffix(".new").rename(hosts)
        if number < comm.size:
            os.kill(os.getpid(), signal.SIGKILL)
    comm.barrier()
    deadline_s = time.monotonic() + 60
    while manager._ending.why is None and time.monotonic() < deadline_s:
        time.sleep(0.05)


for step in range(start, num_steps):
    rng = np.random.default_rng(step)
    x, y = rng.standard_normal((24, 6)).astype(np.float32), rng.integers(0, 3, 24)
    optimizer.zero_grad()
    for part, labels in model.shards(x, y):
        nn.functional.cross_entropy(model(dg.asarray(part)), dg.asarray(labels)).backward()
    optimizer.step()
    scheduler.step()
    if step == start + 5 and len(sizes) > dg.comm.attempt() + 1:
        change(sizes[dg.comm.attempt() + 1])
    manager.step()
manager.close()
if comm.rank == 0:
    print("bits", parameter_hash(model))
