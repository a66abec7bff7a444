"""Rung 5: an optimizer's state spread over GPUs, on the doubles of CuPy and NCCL."""

import numpy as np
import pytest
from device_programs import on_host
from parallel.problems import Network, batches

import distgrad as dg
from distgrad.errors import DeviceError
from distgrad.nn import functional as F
from distgrad.optim import LAMB, AdamW
from distgrad.parallel import DistributedDataParallel, join_states

SHARES = {2: (5, 2), 3: (4, 0, 3)}  # how many of 7 samples each rank gets
NEAR = {"rtol": 1e-9, "atol": 1e-12}


def worlds(*shapes):
    """Run a test on so many ranks, in that order of the streams' work."""
    return pytest.mark.parametrize(
        "world",
        [
            pytest.param(
                f"{ranks} {streams}",
                marks=pytest.mark.gpu_double(ranks=ranks, devices=ranks, streams=streams, timeout=150),
            )
            for ranks, streams in shapes
        ],
    )


def train(rule, comm=None, **options):
    """Parameters, norms and the optimizer's states."""
    device = "cpu" if comm is None else comm.device
    model = Network().to(device)
    if comm is not None:
        model = DistributedDataParallel(model, comm, bucket_cap_mb=0.0005, **options)
    optimizer, norms = rule(model.parameters(), lr=1e-2), []
    for x, y in batches(5, 7):
        if comm is not None:
            edges = np.cumsum(SHARES[comm.size])[:-1]
            x, y = (np.split(array, edges)[comm.rank] for array in (x, y))
        optimizer.zero_grad()
        F.cross_entropy(model(dg.tensor(x, device=device)), dg.tensor(y, device=device)).backward()
        norms.append(float(dg.nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        optimizer.step()
    return on_host(list(model.parameters())), norms, optimizer


@worlds((2, "late"), (3, "early"))
@pytest.mark.parametrize("rule", [AdamW, LAMB])
def test_training_equals_one_process(world, rule):
    comm = dg.comm.init(device="cuda")
    expected, expected_norms, alone = train(rule)
    found, norms, optimizer = train(rule, comm, shard="optimizer")
    np.testing.assert_allclose(norms, expected_norms, **NEAR)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **NEAR)
    pieces = comm.host.all_gather_object(
        {
            **(state := optimizer.state_dict(sharded=True)),
            "state": {
                number: {
                    name: on_host([dg.Tensor(value)])[0] if hasattr(value, "dtype") else value
                    for name, value in e.items()
                }
                for number, e in state["state"].items()
            },
        }
    )
    whole, joined = optimizer.state_dict()["state"], join_states(pieces)["state"]
    for number, entry in alone.state_dict()["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_allclose(on_host([dg.Tensor(whole[number][name])])[0], entry[name], **NEAR)
            np.testing.assert_allclose(joined[number][name], entry[name], **NEAR)


@worlds((2, "late"))
def test_what_gives_back_pages_is_for_the_host(world):
    comm = dg.comm.init(device="cuda")
    for shard in ("gradients", "parameters"):
        with pytest.raises(DeviceError, match="cannot be given back"):
            DistributedDataParallel(Network().to(comm.device), comm, shard=shard)
