"""Rung 5: owned parameters and their state on the host, updated there, on the doubles of CuPy and NCCL."""

import numpy as np
import pytest
from device_programs import on_host
from gpu_double.test_sharded import NEAR, SHARES, worlds
from gpu_double.worlds import num_started
from parallel.problems import Network, batches

import distgrad as dg
from distgrad.backend.streams import synchronize
from distgrad.errors import OptionError
from distgrad.nn import functional as F
from distgrad.optim import LAMB, AdamW
from distgrad.parallel import DistributedDataParallel, join_states

CAP_MB = 0.0005
STEPS = 6


def shares_of(comm, step):
    """This rank's samples of a step, of which ranks have another number each."""
    x, y = batches(STEPS, 7)[step]
    edges = np.cumsum(SHARES[comm.size])[:-1]
    x, y = (np.split(array, edges)[comm.rank] for array in (x, y))
    return dg.tensor(x, device=comm.device), dg.tensor(y, device=comm.device)


def backward(model, comm, step):
    """Two passes that add up, the first of them unreduced, or one."""
    x, y = shares_of(comm, step)
    if step % 2 and comm.size == 2:
        with model.no_sync():
            F.cross_entropy(model(x), y).backward()
    F.cross_entropy(model(x), y).backward()
    if step > 1:
        dg.nn.utils.clip_grad_norm_(model.parameters(), 0.5 if step > 2 else 1e9)


def wrap(comm, **options):
    return DistributedDataParallel(
        Network().to(comm.device), comm, bucket_cap_mb=CAP_MB, shard="optimizer", **options
    )


def trained(comm, rule, num_steps=STEPS, **options):
    model = wrap(comm, offload="host", **options)
    optimizer = rule(model.parameters(), lr=1e-2)
    for step in range(num_steps):
        optimizer.zero_grad()
        backward(model, comm, step)
        optimizer.step()
        synchronize(comm.device)  # the double's streams go on while a host waits, and a rank may own nothing
    return model, optimizer


def updated_by_hand(comm, rule):
    """The same gradients, taken to a twin on the host, which an optimizer of the host updates."""
    model, twin = wrap(comm), Network()
    optimizer = rule(twin.parameters(), lr=1e-2)
    for step in range(STEPS):
        model.zero_grad()
        backward(model, comm, step)
        for buffer in model.reducer.storage:
            buffer.shares.gather_gradients()
        for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
            ours.grad = None if theirs.grad is None else theirs.grad.cpu()
        optimizer.step()
        with dg.no_grad():
            for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
                theirs.copy_(ours.to(comm.device))
    return twin, optimizer


@worlds((2, "late"))
@pytest.mark.parametrize("rule", [AdamW, LAMB])
def test_bits_are_those_of_an_update_on_the_host_by_hand(world, rule):
    check_bits(rule)


@pytest.mark.slow
@worlds((3, "early"))
@pytest.mark.parametrize("rule", [AdamW, LAMB])
def test_bits_on_three_ranks_of_which_one_owns_nothing(world, rule):
    check_bits(rule)


def check_bits(rule):
    comm = dg.comm.init(device="cuda")
    twin, alone = updated_by_hand(comm, rule)
    model, optimizer = trained(comm, rule)
    for ours, theirs in zip(on_host([*model.parameters()]), on_host([*twin.parameters()]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all(type(array) is np.ndarray for array in optimizer._states.arrays())
    whole = optimizer.state_dict()["state"]
    joined = join_states(comm.host.all_gather_object(optimizer.state_dict(sharded=True)))["state"]
    for number, entry in alone.state_dict()["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_array_equal(np.asarray(whole[number][name]), np.asarray(entry[name]))
            np.testing.assert_array_equal(joined[number][name], np.asarray(entry[name]))
    for name, value in model.module.state_dict().items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(twin.state_dict()[name]))


@worlds((2, "late"))
def test_gradients_are_under_way_when_backward_ends(world):
    comm = dg.comm.init(device="cuda")
    model = wrap(comm, offload="host")
    optimizer = AdamW(model.parameters(), lr=1e-2)
    x, y = (array[:4] for array in batches(1, 8)[0])  # as many on each rank: nothing is left to scale
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(dg.tensor(x, device=comm.device)), dg.tensor(y, device=comm.device)).backward()
        (masters,) = (buffer.shares.masters for buffer in model.reducer.storage)
        sent, places = dict(masters._sent), [bucket.own for bucket in model.reducer.buckets]
        assert len(sent) == sum(own.stop > own.start for own in places) > 0
        copies = num_started("copy")
        masters.bring(list(model.parameters()))
        assert num_started("copy") == copies  # nothing was sent again
        for parameter in model.parameters():
            where, inside = masters.owned(*parameter.leaf_state().flat[1:])
            (mean,) = on_host([dg.Tensor(masters.mean(where, inside))])
            np.testing.assert_array_equal(masters.updated(where, inside)[1], mean)
        optimizer.step()
    assert num_started("adam") == 0  # no kernel of a rule has run on the device


@worlds((2, "late"))
def test_16_bits_frozen_parameters_writes_and_an_overflow(world, tmp_path):
    comm = dg.comm.init(device="cuda")
    found = []
    for options in ({}, {"offload": "host"}, {"offload": "host", "offload_dir": str(tmp_path)}):
        module = Network().float().to(comm.device)
        model = DistributedDataParallel(
            module, comm, bucket_cap_mb=CAP_MB, shard="optimizer", param_dtype="float16",
            reduce_dtype="float32", **options,
        )  # fmt: skip
        optimizer = AdamW(model.parameters(), lr=1e-2)
        scaler = dg.amp.GradScaler(init_scale=8.0)
        first = next(model.parameters())
        for step in range(STEPS):
            optimizer.zero_grad()
            first.requires_grad_(step != 2)
            x, y = shares_of(comm, step)
            loss = F.cross_entropy(model(x.float()).float(), y)
            scaler.scale(loss * (float("inf") if step == 3 and comm.rank == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            if step == 4:
                with dg.no_grad():
                    first.mul_(0.5)
        assert scaler.get_scale() == 4.0
        assert model.all_finite()
        found.append([np.asarray(on_host([p])[0]) for p in model.module.state_dict().values()])
    for plain, on_the_host, in_files in zip(*found, strict=True):
        np.testing.assert_allclose(on_the_host, plain, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(in_files, on_the_host)


@pytest.mark.slow
@worlds((3, "early"))
def test_state_of_the_host_loads_on_devices_and_back(world):
    comm = dg.comm.init(device="cuda")
    model, optimizer = trained(comm, AdamW, 3)
    saved = model.state_dict(), optimizer.state_dict()
    ends = []
    for options in ({"offload": "host"}, {}):
        other = wrap(comm, **options)
        again = AdamW(other.parameters(), lr=1.0)
        other.load_state_dict(saved[0])
        again.load_state_dict(saved[1])
        again.zero_grad()
        backward(other, comm, 4)
        again.step()
        synchronize(comm.device)
        ends.append(on_host(list(other.parameters())))
    optimizer.zero_grad()
    backward(model, comm, 4)
    optimizer.step()
    synchronize(comm.device)
    for straight, on_the_host, on_devices in zip(on_host(list(model.parameters())), *ends, strict=True):
        np.testing.assert_array_equal(on_the_host, straight)
        np.testing.assert_allclose(on_devices, straight, **NEAR)


@worlds((2, "late"))
def test_what_is_refused(world):
    comm = dg.comm.init(device="cuda")
    with pytest.raises(OptionError, match="give shard='optimizer' too"):
        DistributedDataParallel(Network().to(comm.device), comm, offload="host")
    with pytest.raises(OptionError, match="offload must be 'host' or None, got 'disk'"):
        wrap(comm, offload="disk")
    with pytest.raises(OptionError, match="where these parameters lie anyway"):
        DistributedDataParallel(Network(), comm.host, shard="optimizer", offload="host")
    model = wrap(comm, offload="host")
    optimizer = dg.optim.LBFGS(model.parameters())
    with pytest.raises(OptionError, match="leave it out"):
        optimizer.step(lambda: dg.tensor(0.0))
