"""Rung 5: data-parallel training on the doubles of CuPy and NCCL, against one process with all samples."""

from types import SimpleNamespace

import numpy as np
import pytest
from device_programs import on_host
from gpu_double.worlds import num_host_waits, num_started
from parallel.problems import Network, batches

import distgrad as dg
from distgrad import nn
from distgrad.backend.device import CPU, Device
from distgrad.comm import ThreadWorld
from distgrad.errors import CommMismatchError, DeviceError, GraphError, RankFailedError
from distgrad.nn import functional as F
from distgrad.nn.utils import clip_grad_norm_
from distgrad.optim import SGD, AdamW
from distgrad.parallel import (
    DistributedDataParallel,
    LocalSGD,
    PowerSGD,
    SyncBatchNorm,
    TopK,
    adasum,
    bf16,
    buckets,
    fp16,
)

SMALL = 0.0005
#: how many of 7 samples each rank gets
SHARES = {2: (5, 2), 3: (4, 0, 3)}
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


in_every_order = worlds((2, "late"), (2, "early"), (3, "late"), (3, "early"))
in_both_orders = worlds((3, "late"), (2, "early"))
in_one_order = worlds((2, "late"))


def put(array, device):
    return dg.tensor(array, device=device)


def loss_of(model, x, y, device="cpu"):
    """Mean cross entropy."""
    return F.cross_entropy(model(put(x, device)), put(y, device))


def mine(comm, *arrays):
    """This rank's samples."""
    edges = np.cumsum(SHARES[comm.size])[:-1]
    return [np.split(array, edges)[comm.rank] for array in arrays]


def numbers_of(module):
    return on_host([*module.parameters(), *module.buffers()])


def gradients_of(module):
    return on_host([p.grad for p in module.parameters()])


def assert_near(found, expected, **tolerance):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **(tolerance or NEAR))


def alone(make, steps, rule=AdamW, loss=loss_of):
    """What one process comes to, on the host."""
    module = make()
    optimizer = rule(module.parameters(), lr=1e-2)
    for x, y in steps:
        optimizer.zero_grad()
        loss(module, x, y).backward()
        optimizer.step()
    return numbers_of(module)


def together(comm, make, steps, rule=AdamW, **options):
    """The model that the ranks come to, and how often each step made the host wait for the device."""
    model = DistributedDataParallel(make().to(comm.device), comm, bucket_cap_mb=SMALL, **options)
    optimizer, waits = rule(model.parameters(), lr=1e-2), []
    for x, y in steps:
        x, y = (put(array, comm.device) for array in mine(comm, x, y))
        before = num_host_waits()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        waits.append(num_host_waits() - before)
    return model, waits


@in_every_order
def test_training_equals_one_process_and_the_host_never_waits(world):
    comm, steps = dg.comm.init(device="cuda"), batches(5, 7)
    model, waits = together(comm, lambda: Network(seed=comm.rank), steps, check_replicas_every=0)
    assert waits == [0] * 5
    assert len(model.reducer.buckets) > 2
    assert {bucket.gradients.device.id for bucket in model.reducer.buckets} == {comm.device.index}
    assert_near(numbers_of(model), alone(Network, steps))
    stats = model.stats()  # reading the parameters has waited for the device
    assert stats.num_steps == 5
    assert stats.communication_s > 0.0
    assert 0.0 <= stats.hidden_share <= 1.0
    assert all(bucket["busy_s"] >= 0.0 for bucket in stats.buckets)


@worlds((2, "late"), (3, "early"))
@pytest.mark.parametrize("shard", [None, "optimizer"])
def test_where_weights_agree_the_mean_is_nccl_s_alone(world, shard):
    comm = dg.comm.init(device="cuda")
    x, y = batches(1, 4 * comm.size)[0]
    own, fewer = (slice(4 * comm.rank + few, 4 * comm.rank + 4) for few in (0, comm.rank))
    model = DistributedDataParallel(Network().to(comm.device), comm, bucket_cap_mb=SMALL, shard=shard)
    plain, found = Network().to(comm.device), []
    # A first step sets the unit of weights; in the last one the first ranks have more samples.
    expected = Network()
    loss_of(expected, x, y).backward()
    for module, samples in ((model, own), (plain, own), (model, own), (model, fewer)):
        module.zero_grad()
        loss = loss_of(module, x[samples], y[samples], comm.device)
        before = num_started("multiply")
        loss.backward()
        found.append(num_started("multiply") - before)
        if samples is own and module is model and shard is None:
            assert_near(gradients_of(model), gradients_of(expected))
    if num_started("multiply"):
        _, alone, alike, unlike = found
        assert alike == alone
        assert unlike >= alone + len(model.reducer.buckets)


def test_the_number_of_buckets_follows_what_a_call_costs_there(monkeypatch):
    asked = []

    def time_all_reduce(comm, num_bytes, device):
        asked.append(num_bytes)
        return 0.5e-3 if num_bytes else 20e-6

    monkeypatch.setattr(buckets, "time_all_reduce", time_all_reduce)
    given = [("weight", dg.zeros(12_500_000))]
    comm = SimpleNamespace(size=2)
    on_gpu = buckets.find_cap(None, given, comm, Device("cuda", 0), None, False)
    assert asked == [50_000_000, 0]
    on_host = buckets.find_cap(None, given, comm, CPU, None, False)
    assert asked[2:] == [50_000_000]  # the host's cost is the processor's, beside backward
    assert on_gpu == pytest.approx(50_000_000 / 5)
    assert on_host == 25 * 2**20  # the largest there is


class Heads(nn.Module):
    """A trunk, a head for even and one for odd ranks, and one for nobody."""

    def __init__(self):
        super().__init__()
        self.trunk = Network()
        rng = np.random.default_rng(5)
        self.heads = nn.ParameterList([nn.Parameter(rng.standard_normal((3, 4))) for _ in range(3)])

    def forward(self, x, which):
        return self.trunk(x) @ self.heads[which].T


@in_both_orders
def test_parameters_that_some_or_all_ranks_do_not_use(world):
    comm, (x, y) = dg.comm.init(device="cuda"), batches(1, 7)[0]
    y = y % 3
    expected = Heads()
    edges = np.cumsum((0, *SHARES[comm.size]))
    for rank in range(comm.size):
        part = slice(edges[rank], edges[rank + 1])
        out = expected(dg.tensor(x[part]), rank % 2)
        (F.cross_entropy(out, dg.tensor(y[part]), reduction="sum") / 7).backward()
    model = DistributedDataParallel(Heads().to("cuda"), comm, bucket_cap_mb=SMALL)
    mine_x, mine_y = (put(array, comm.device) for array in mine(comm, x, y))
    for _ in range(3):  # after the first the buckets are planned anew, and what the second leaves is stale
        before = num_host_waits()
        model.zero_grad()
        out = model(mine_x, comm.rank % 2)
        F.cross_entropy(out, mine_y).backward()
        assert num_host_waits() == before
        found = dict(model.module.named_parameters())
        assert found["heads.2"].grad is None
        for name, p in expected.named_parameters():
            if p.grad is not None:
                np.testing.assert_allclose(on_host([found[name].grad])[0], p.grad.numpy(), **NEAR)


@in_both_orders
def test_accumulation_equals_the_large_batch(world):
    comm, steps = dg.comm.init(device="cuda"), batches(4, 7)
    large = [np.concatenate(arrays) for arrays in zip(*steps[:3], strict=True)]
    expected = alone(Network, [large, steps[3]], SGD)
    model = DistributedDataParallel(Network().to("cuda"), comm, bucket_cap_mb=SMALL)
    optimizer = SGD(model.parameters(), lr=1e-2)
    before = num_host_waits()
    with model.no_sync():
        for x, y in steps[:2]:
            loss_of(model, *mine(comm, x, y), comm.device).backward()
    loss_of(model, *mine(comm, *steps[2]), comm.device).backward()
    optimizer.step()
    optimizer.zero_grad()
    loss_of(model, *mine(comm, *steps[3]), comm.device).backward()
    optimizer.step()
    assert num_host_waits() == before
    assert_near(numbers_of(model), expected)


@in_one_order
def test_gradients_that_nobody_cleared_are_added_to(world):
    comm, (first, second) = dg.comm.init(device="cuda"), batches(2, 7)
    expected = Network()
    for x, y in (first, second):
        loss_of(expected, x, y).backward()
    model = DistributedDataParallel(Network().to("cuda"), comm, bucket_cap_mb=SMALL)
    for x, y in (first, second):
        loss_of(model, *mine(comm, x, y), comm.device).backward()
    assert_near(
        on_host([p.grad for p in model.parameters()]), [p.grad.numpy() for p in expected.parameters()]
    )


class Normed(nn.Module):
    """Batch norm between two layers."""

    def __init__(self, norm=nn.BatchNorm1d):
        super().__init__()
        dg.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(6, 8), norm(8), nn.Tanh(), nn.Linear(8, 4)).double()

    def forward(self, x):
        return self.layers(x)


@in_both_orders
def test_batch_norm_over_all_ranks(world):
    comm, steps = dg.comm.init(device="cuda"), batches(3, 7)
    model, waits = together(comm, lambda: SyncBatchNorm.convert_sync_batchnorm(Normed()), steps)
    assert waits == [0] * 3
    assert_near(numbers_of(model), alone(Normed, steps), rtol=1e-7, atol=1e-9)


@in_both_orders
def test_half_precision_and_an_overflow_that_all_ranks_share(world):
    comm, steps = dg.comm.init(device="cuda"), batches(3, 7)
    steps = [(x.astype(np.float32), y) for x, y in steps]

    def make():
        return Normed(nn.LayerNorm).float()

    model = DistributedDataParallel(make().to("cuda"), comm, bucket_cap_mb=SMALL)
    optimizer, scaler = SGD(model.parameters(), lr=1e-2), dg.amp.GradScaler(init_scale=2.0**10)
    scales = []
    for step, (x, y) in enumerate([*steps[:2], steps[0], steps[2]]):
        optimizer.zero_grad()
        with dg.autocast("cuda", dtype=dg.float16):
            loss = loss_of(model, *mine(comm, x, y), comm.device)
        if step == 2 and comm.rank == comm.size - 1:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [2.0**10, 2.0**10, 2.0**9, 2.0**9]
    assert_near(numbers_of(model), alone(make, steps, SGD), rtol=2e-2, atol=2e-3)
    model.check_replicas()


HOOKS = {
    "fp16": lambda: fp16,
    "bf16": lambda: bf16,
    "PowerSGD": lambda: PowerSGD(2),
    "TopK": lambda: TopK(0.2),
    "adasum": lambda: adasum,
}


class Wide(Network):
    """With a layer that PowerSGD shrinks."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Parameter(np.random.default_rng(8).standard_normal((24, 6)) * 0.1)
        self.back = nn.Parameter(np.random.default_rng(9).standard_normal((6, 24)) * 0.1)

    def forward(self, x):
        return super().forward(x + x @ self.wide.T @ self.back.T)


@in_both_orders
@pytest.mark.parametrize("name", HOOKS)
def test_hooks_do_what_they_do_on_the_host(world, name):
    comm, steps = dg.comm.init(device="cuda"), batches(3, 7)

    def train(comm, device):
        model = DistributedDataParallel(Wide().to(device), comm, bucket_cap_mb=0.002, hook=HOOKS[name]())
        optimizer = SGD(model.parameters(), lr=0.1)
        before = num_host_waits()
        for x, y in steps:
            optimizer.zero_grad()
            loss_of(model, *mine(comm, x, y), device).backward()
            optimizer.step()
        assert num_host_waits() == before
        return numbers_of(model)

    expected = ThreadWorld(comm.size).run(lambda thread: train(thread, "cpu"))[0]
    assert_near(train(comm, comm.device), expected, rtol=1e-7, atol=1e-9)


@worlds((3, "late"), (3, "early"))
def test_ranks_that_train_apart_and_average(world):
    comm, steps = dg.comm.init(device="cuda"), batches(5, 7)

    def train(comm, device):
        model = DistributedDataParallel(Network().to(device), comm, bucket_cap_mb=SMALL)
        optimizer = SGD(model.parameters(), lr=0.1)
        averager = LocalSGD(model, {2: 3}, warmup_steps=1)
        before = num_host_waits()
        for x, y in steps:
            optimizer.zero_grad()
            x, y = np.array_split(x, 3)[comm.rank], np.array_split(y, 3)[comm.rank]
            loss_of(model, x, y, device).backward()
            optimizer.step()
            averager.step()
        averager.finish()
        assert num_host_waits() == before
        return numbers_of(model)

    expected = ThreadWorld(comm.size).run(lambda thread: train(thread, "cpu"))[0]
    assert_near(train(comm, comm.device), expected)


@in_both_orders
def test_what_is_done_to_all_gradients(world):
    comm, (x, y) = dg.comm.init(device="cuda"), batches(1, 7)[0]
    expected = Network()
    loss_of(expected, x, y).backward()
    norm = clip_grad_norm_(expected.parameters(), 0.05).item()
    model = DistributedDataParallel(Network().to("cuda"), comm, bucket_cap_mb=SMALL)
    loss_of(model, *mine(comm, x, y), comm.device).backward()
    before = num_host_waits()
    total = model.clip_grad_norm_(0.05)
    assert num_host_waits() == before
    assert total.item() == pytest.approx(norm, rel=1e-6)
    assert_near(gradients_of(model), gradients_of(expected), rtol=1e-6, atol=1e-9)
    assert model.all_finite()
    if comm.rank == 1:
        model.module.bias1.grad._data[2] = np.inf
    assert not model.all_finite()


class Counts(nn.Module):
    """Buffers of several dtypes, one of them on the host."""

    def __init__(self, start):
        super().__init__()
        self.weight = nn.Parameter(np.ones(2))
        for name, dtype in (("flag", np.bool_), ("narrow", np.float16), ("total", np.float64)):
            self.register_buffer(name, dg.tensor(np.full(3, start, dtype)))
        self.count = nn.Buffer(dg.tensor(int(start)))

    def forward(self, x):
        return x * self.weight


@in_one_order
@pytest.mark.parametrize("average", [False, True])
def test_buffers(world, average):
    comm = dg.comm.init(device="cuda")
    module = Counts(comm.rank).to("cuda")
    module.there = nn.Buffer(dg.tensor(float(comm.rank)))
    model = DistributedDataParallel(module, comm, average_buffers=average)
    assert module.flag.tolist() == [False] * 3
    assert module.narrow.tolist() == module.total.tolist() == [0.0] * 3
    assert (module.count.item(), module.there.item(), module.there.device) == (0, 0.0, "cpu")
    for buffer in model.buffers():
        buffer._data[...] = comm.rank
    x = dg.ones((2, 2), dtype=dg.float64, device="cuda")
    model(x)
    model.batch_weight = 3.0 if comm.rank else 1.0
    model.reduce_gradients()
    for buffer in model.buffers():
        buffer._data[...] = comm.rank
    model(x)
    middle = 0.75 if average else 0.0
    assert module.flag.tolist() == [False] * 3
    assert module.narrow.tolist() == module.total.tolist() == [middle] * 3
    assert (module.count.item(), module.there.item()) == (0, middle)


@in_one_order
def test_a_replica_that_drifts_is_named(world):
    comm = dg.comm.init(device="cuda")
    model, _ = together(comm, Network, batches(3, 7), check_replicas_every=2)
    model.check_replicas()
    if comm.rank == 1:
        model.module.bias1._data[3] += 1e-12
    with pytest.raises(CommMismatchError, match=r"1 of 6 parameters, first in bias1; .*\[0\] against \[1\]"):
        model.check_replicas()


@in_both_orders
def test_a_rank_whose_backward_pass_fails_takes_no_other_along(world):
    comm, steps = dg.comm.init(device="cuda"), batches(3, 7)
    model = DistributedDataParallel(Network().to("cuda"), comm, bucket_cap_mb=SMALL)
    optimizer = SGD(model.parameters(), lr=1e-2)
    expected = alone(Network, [steps[0], steps[2]], SGD)

    def refuse(g):
        raise ArithmeticError("planted")

    for step, (x, y) in enumerate(steps):
        optimizer.zero_grad()
        loss = loss_of(model, *mine(comm, x, y), comm.device)
        if step != 1:
            loss.backward()
            optimizer.step()
            continue
        handle = model.module.weight1.register_hook(refuse) if comm.rank == 1 else None
        with pytest.raises((ArithmeticError, RankFailedError), match=r"planted"):
            loss.backward()
        if handle is not None:
            handle.remove()
        assert all(p.grad is None for p in model.parameters())
    assert_near(numbers_of(model), expected)


@in_one_order
def test_modules_that_lie_elsewhere(world):
    comm = dg.comm.init(device="cuda")
    with pytest.raises(DeviceError, match=r"weight0 lies on cpu, .*nccl.* move the module first, module\.to"):
        DistributedDataParallel(Network(), comm)
    other = f"cuda:{1 - comm.rank}"
    with pytest.raises(DeviceError, match=rf"weight0 lies on {other}, .*this rank's GPU"):
        DistributedDataParallel(Network().to(other), comm)
    with pytest.raises(DeviceError, match=r"weight0 lies on cuda:\d, .*init\('nccl'\)"):
        DistributedDataParallel(Network().to("cuda"), comm.host)
    with pytest.raises(DeviceError, match="exact=True gives the same bits on CPUs"):
        DistributedDataParallel(Network().to("cuda"), comm, exact=True, shards=4)
    model = DistributedDataParallel(Network().to("cuda"))  # the world's
    assert model.comm is comm
    assert model.to("cuda") is model
    with pytest.raises(GraphError, match="before it is wrapped"):
        model.cpu()
    on_hosts = DistributedDataParallel(Network(), comm.host)
    x, y = mine(comm, *batches(1, 7)[0])
    loss_of(on_hosts, x, y).backward()
    assert on_hosts.module.weight0.grad.device == "cpu"
