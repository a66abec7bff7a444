"""Rung 2: data-parallel training on the strict fake device, against the CPU; the host waits for nothing."""

import fake_device
import numpy as np
import pytest
from device_programs import on_host
from parallel.problems import batches

import distgrad as dg
from distgrad import nn
from distgrad.comm.single import SingleCommunicator
from distgrad.nn import functional as F
from distgrad.optim import AdamW
from distgrad.parallel import DistributedDataParallel, PowerSGD, TopK, adasum, all_reduce, bf16, fp16
from distgrad.parallel.replicas import checksums

fake_device.install()
STEPS = 4
HOOKS = {
    "none": lambda: None,
    "all_reduce": lambda: all_reduce,
    "fp16": lambda: fp16,
    "bf16": lambda: bf16,
    "adasum": lambda: adasum,
    "PowerSGD": lambda: PowerSGD(2),
    "TopK": lambda: TopK(0.15),
}


@pytest.fixture(autouse=True)
def fake_is_active():
    """Every test starts on fake:0."""
    fake_device._active.index = 0


def make_model(dtype):
    dg.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 7), nn.BatchNorm1d(7)).to(dtype)


def train(device, make, dtype):
    """Parameters, buffers, norms of gradients and what a hook remembers, after some steps; and the waits."""
    model = DistributedDataParallel(
        make_model(dtype).to(device),
        SingleCommunicator(),
        bucket_cap_mb=0.001,
        hook=make(),
        check_replicas_every=0,
    )
    optimizer = AdamW(model.parameters(), lr=1e-2, eps=1e-3)
    data = [
        (dg.tensor(x.astype(dtype), device=device), dg.tensor(y, device=device)) for x, y in batches(STEPS, 7)
    ]
    norms = []
    with fake_device.counted_syncs() as waits:
        for step, (x, y) in enumerate(data):
            if step != 2:  # then the mean is added to what is there
                optimizer.zero_grad()
            if step == 3:
                with model.no_sync():
                    F.cross_entropy(model(x[:3]), y[:3]).backward()
                x, y = x[3:], y[3:]
            F.cross_entropy(model(x), y).backward()
            norms.append(model.clip_grad_norm_(0.1))
            optimizer.step()
    assert model.all_finite()
    assert model.stats().num_steps == STEPS
    remembered = getattr(model.hook, "errors", {})
    return on_host(
        [*model.parameters(), *model.buffers(), *norms, *map(dg.Tensor, remembered.values())]
    ), waits


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize("name", HOOKS)
def test_training(name, dtype):
    found, waits = train("fake:1", HOOKS[name], dtype)
    expected, _ = train("cpu", HOOKS[name], dtype)
    assert waits == []
    assert len(found) == len(expected)
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if dtype is np.float64 else {"rtol": 3e-2, "atol": 3e-3}
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **tolerance)


@pytest.mark.parametrize("make", [lambda: PowerSGD(2), lambda: TopK(0.15)])
def test_what_a_hook_remembers_goes_to_files_and_comes_back(make, tmp_path):
    def model():
        module = make_model(np.float64).to("fake:0")
        return DistributedDataParallel(module, SingleCommunicator(), hook=make())

    x, y = (dg.tensor(array, device="fake:0") for array in batches(1, 7)[0])
    first, second = model(), model()
    F.cross_entropy(first(x), y).backward()
    dg.save({"model": first.state_dict()}, tmp_path / "state")
    second.load_state_dict(dg.load(tmp_path / "state")["model"])
    gradients = []
    for each in (first, second):
        each.zero_grad()
        F.cross_entropy(each(x), y).backward()
        gradients.append(on_host([p.grad for p in each.parameters()]))
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.bool_, np.int32])
def test_a_checksum_on_a_device_shows_every_change(dtype):
    values = (np.arange(40).reshape(8, 5) % 2).astype(dtype)

    def checksum(array):
        with fake_device.counted_syncs() as waits:
            (found,) = checksums([dg.tensor(array, device="fake:1")])
        assert len(waits) == 1
        return found

    seen = {checksum(values)}
    for place in np.ndindex(values.shape):
        changed = values.copy()
        changed[place] = 1 - changed[place]
        seen.add(checksum(changed))
    swapped = values.copy()
    swapped[0], swapped[1] = values[1], values[0]
    seen.add(checksum(swapped))
    assert len(seen) == 42
