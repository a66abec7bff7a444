"""Rung 5: a trace of training on the doubles of CuPy and NCCL; times are those of the device's events."""

import numpy as np
import pytest
from parallel.problems import CLASSES, FEATURES, Network

import distgrad as dg
from distgrad.nn import functional as F
from distgrad.optim import SGD
from distgrad.parallel import DistributedDataParallel
from distgrad.profiler import chrome


@pytest.mark.gpu_double(ranks=1, devices=1, streams="late", timeout=150)
def test_a_device_s_passes_and_collectives_are_in_the_trace(tmp_path):
    dg.comm.init(device="cuda")
    model = DistributedDataParallel(Network().to("cuda"))
    optimizer = SGD(model.parameters(), lr=0.1)
    rng = np.random.default_rng(0)
    x, y = (dg.asarray(rng.standard_normal((7, width)), device="cuda") for width in (FEATURES, CLASSES))
    path = tmp_path / "out.json"
    with dg.profiler.record(path):
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        dg.cuda.synchronize()
        model.stats()  # a step counts when the device has finished it
    found = chrome.read(path)
    for name in ("forward", "backward", "bucket.wait", "optimizer.step", "step"):
        assert len(found.spans(name)) == 3, name
    memory = [event["args"] for event in found.events if event["name"] == "memory"][-1]
    assert memory["parameters"] == memory["gradients"] > 0
