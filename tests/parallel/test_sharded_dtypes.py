"""Parameters of 16 bits for computing, whose owners keep, update and save them in float32."""

import copy

import numpy as np
import pytest
from parallel.problems import parameters_of
from parallel.sharded_problems import OPTIMIZERS, SMALL_MB, WIDTHS, Net, mean_loss, samples, steps

import distgrad as dg
from distgrad.autograd.masters import Masters
from distgrad.checkpoint import CheckpointManager
from distgrad.comm import ThreadWorld, init
from distgrad.errors import OptionError
from distgrad.nn import Parameter
from distgrad.nn.utils import clip_grad_norm_
from distgrad.parallel import DistributedDataParallel, bf16

STAGES = ("optimizer", "gradients", "parameters")
COUNT = 6


pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(size, name, dtype, clip, rounds=False):
    """One process plays all ranks: float32 parameters, a copy of 16 bits that computes, sums in float32."""
    net = Net(np.float32)
    named = [(key, Parameter(p.detach().numpy().copy())) for key, p in net.named_parameters()]
    net = net.to(dtype)
    optimizer = getattr(dg.optim, name)(named, **OPTIMIZERS[name])
    for step in range(COUNT):
        for (_, master), rounded in zip(named, net.parameters(), strict=True):
            rounded.data.copy_(master.detach())
        sums, total = [np.zeros(p.shape, np.float32) for _, p in named], 0
        for rank in range(size):
            x, y = samples(step, rank, np.float32)
            net.zero_grad()
            mean_loss(net, x.astype(dtype), y).backward()
            for each, rounded in zip(sums, net.parameters(), strict=True):
                each += rounded.grad.numpy().astype(np.float32) * np.float32(len(y))
            total += len(y)
        for (_, master), each in zip(named, sums, strict=True):
            mean = each * np.float32(1.0 / total if total else 0.0)
            master.grad = dg.Tensor(mean.astype(dtype).astype(np.float32) if rounds else mean)
        clip_grad_norm_([master for _, master in named], clip)
        optimizer.step()
    return np.concatenate([master.detach().numpy().reshape(-1) for _, master in named])


def make(comm, name="AdamW", stage="gradients", param_dtype=dg.bfloat16, reduce_dtype="float32", **options):
    model = DistributedDataParallel(
        Net(np.float32),
        comm,
        bucket_cap_mb=SMALL_MB,
        shard=stage,
        param_dtype=param_dtype,
        reduce_dtype=reduce_dtype,
        **options,
    )
    return model, getattr(dg.optim, name)(model.named_parameters(), **OPTIMIZERS[name])


def masters_of(model):
    """All digits of the parameters: what a state dict has."""
    state = model.module.state_dict()
    assert {value.dtype for value in state.values()} == {np.dtype(np.float32)}
    return np.concatenate([state[name].numpy().reshape(-1) for name, _ in model.module.named_parameters()])


def train_here(model, optimizer, count=COUNT, first=0, clip=0.5):
    """As :func:`steps`, on float32 samples."""
    for step in range(first, first + count):
        optimizer.zero_grad()
        mean_loss(model, *samples(step, model.comm.rank, np.float32)).backward()
        model.clip_grad_norm_(clip)
        optimizer.step()


def train(comm, *args, **options):
    model, optimizer = make(comm, *args, **options)
    train_here(model, optimizer)
    return masters_of(model).tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["AdamW", "LAMB"])
def test_bits_are_those_of_float32_masters_kept_by_hand(name, size):
    expected = by_hand(size, name, dg.bfloat16, 0.5).tobytes()
    for stage in STAGES:
        assert set(ThreadWorld(size).run(lambda comm, s=stage: train(comm, name, s))) == {expected}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, dg.bfloat16])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("LBFGS", "Muon")])
def test_every_optimizer_updates_masters(name, dtype):
    expected = by_hand(3, name, dtype, 0.5).tobytes()
    for stage in STAGES:
        found = ThreadWorld(3).run(lambda comm, s=stage: train(comm, name, s, param_dtype=dtype))
        assert set(found) == {expected}


def test_means_of_16_bits_are_near_and_those_of_float32_differ_from_them():
    rounded = by_hand(3, "SGD", dg.bfloat16, 0.5, rounds=True)
    for stage in STAGES:
        (found, *others) = ThreadWorld(3).run(lambda comm, s=stage: train(comm, "SGD", s, reduce_dtype=None))
        assert set(others) == {found}
        np.testing.assert_allclose(np.frombuffer(found, np.float32), rounded, rtol=1e-2, atol=1e-3)
    assert found != by_hand(3, "SGD", dg.bfloat16, 0.5).tobytes()


def test_float32_gradients_that_travel_in_16_bits():
    def run(comm, **options):
        model = DistributedDataParallel(
            Net(np.float32), comm, bucket_cap_mb=SMALL_MB, shard="gradients", **options
        )
        steps(model, dg.optim.AdamW(model.parameters()), 4)
        return parameters_of(model).tobytes()

    expected = ThreadWorld(3).run(lambda comm: run(comm, hook=bf16))
    assert ThreadWorld(3).run(lambda comm: run(comm, reduce_dtype="bfloat16")) == expected
    assert ThreadWorld(3).run(lambda comm: run(comm, reduce_dtype="float32")) != expected


def test_what_a_rank_holds():
    def run(comm):
        model, optimizer = make(comm)
        train_here(model, optimizer, 1)
        assert {p.dtype for p in model.parameters()} == {np.dtype(dg.bfloat16)}
        (buffer,) = model.reducer.storage
        masters = buffer.shares.masters
        assert masters.data.dtype == masters.grad.dtype == np.float32
        state = [a for e in optimizer.state.values() for n, a in e.items() if n != "step"]
        assert {array.dtype for array in state} == {np.dtype(np.float32)}
        return masters.data.size, buffer.size

    sizes = ThreadWorld(3).run(run)
    assert sum(owned for owned, _ in sizes) == sizes[0][1]


def test_writes_into_parameters_and_gradients_reach_the_masters():
    def run(comm, stage):
        model, optimizer = make(comm, "SGD", stage)
        train_here(model, optimizer, 2)
        before = masters_of(model)
        for parameter in model.parameters():
            parameter.data.clamp_(-0.1, 0.1)
        found = masters_of(model)
        limit = float(dg.tensor(0.1, dtype=dg.bfloat16))
        inside = np.abs(before.astype(dg.bfloat16).astype(np.float32)) <= limit
        assert not inside.all()
        np.testing.assert_array_equal(found[inside], before[inside])  # all digits of what was not changed
        np.testing.assert_allclose(np.abs(found[~inside]), limit)
        optimizer.zero_grad(set_to_none=False)
        optimizer.param_groups[0]["momentum"] = 0.0
        optimizer.step()
        np.testing.assert_array_equal(masters_of(model), found)  # gradients that were set to 0
        mean_loss(model, *samples(3, comm.rank, np.float32)).backward()
        for parameter in model.parameters():
            parameter.grad = dg.zeros_like(parameter)
        optimizer.step()
        np.testing.assert_array_equal(masters_of(model), found)

    for stage in STAGES:
        ThreadWorld(3).run(lambda comm, s=stage: run(comm, s))


def test_accumulated_passes_and_frozen_parameters_give_one_result_in_all_stages():
    def run(comm, stage):
        model, optimizer = make(comm, "AdamW", stage)
        for step in range(6):
            model.module.weight1.requires_grad_(step not in (2, 3))
            optimizer.zero_grad()
            with model.no_sync():
                mean_loss(model, *samples(100 + step, comm.rank, np.float32)).backward()
            mean_loss(model, *samples(step, comm.rank, np.float32)).backward()
            optimizer.step()
        return masters_of(model).tobytes()

    results = {each for stage in STAGES for each in ThreadWorld(3).run(lambda comm, s=stage: run(comm, s))}
    assert len(results) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_has_all_digits_and_goes_on_on_another_number_of_ranks(stage, tmp_path):
    def begin(comm):
        model, optimizer = make(comm, stage=stage)
        manager = CheckpointManager(tmp_path, comm=comm, signals=False)
        manager.add(model=model, optimizer=optimizer)
        return model, optimizer, manager

    def save(comm):
        model, optimizer, manager = begin(comm)
        train_here(model, optimizer, 3)
        manager.save()
        manager.close()
        return masters_of(model), model.module.state_dict(), model.state_dict(rank0_only=True)

    def restore(comm):
        model, optimizer, manager = begin(comm)
        assert manager.restore_latest() is not None
        found = masters_of(model)
        train_here(model, optimizer, 2, first=3)
        manager.close()
        return found, masters_of(model).tobytes()

    def load(comm, state):
        model, _ = make(comm, stage=stage)
        model.module.load_state_dict(state)
        return masters_of(model)

    saved = ThreadWorld(3).run(save)
    assert [len(first) > 0 for _, _, first in saved] == [True, False, False]
    restored = ThreadWorld(2).run(restore)
    for found, after in restored:
        np.testing.assert_array_equal(found, saved[0][0])
        assert after == restored[0][1] != found.tobytes()
    for found in ThreadWorld(2).run(lambda comm: load(comm, saved[0][1])):
        np.testing.assert_array_equal(found, saved[0][0])
    Net(np.float32).load_state_dict(saved[0][1])


def test_modules_on_meta_and_ranks_that_differ_start_from_the_numbers_of_rank_0():
    def build():
        return dg.nn.Sequential(dg.nn.Linear(6, 40), dg.nn.Tanh(), dg.nn.Linear(40, 3))

    def run(comm, module, stage):
        model = DistributedDataParallel(module, comm, shard=stage, param_dtype="bfloat16")
        model.check_replicas()
        return masters_of(model).tobytes()

    dg.manual_seed(3)
    modules = [build() for _ in range(3)]
    expected = np.concatenate([p.detach().numpy().reshape(-1) for p in modules[0].parameters()]).tobytes()
    for stage in STAGES:
        copies = [copy.deepcopy(each) for each in modules]
        found = ThreadWorld(3).run(lambda comm, s=stage, c=copies: run(comm, c[comm.rank], s))
        assert set(found) == {expected}
    with dg.device("meta"):
        empty = build()
    dg.manual_seed(3)
    assert set(ThreadWorld(1).run(lambda comm: run(comm, empty, "parameters"))) == {expected}


def test_masters_that_are_lost_are_seen(monkeypatch):
    """The planted fault: what was rounded for computing is taken for the masters."""
    expected = by_hand(2, "AdamW", dg.bfloat16, 0.5).tobytes()
    publish = Masters.publish

    def lose(self, parameters):
        parameters = list(parameters)
        publish(self, parameters)
        self.data[...] = self.data.astype(self._buffer.dtype)

    monkeypatch.setattr(Masters, "publish", lose)
    assert ThreadWorld(2).run(train)[0] != expected


def test_refusals():
    def run(comm):
        for options, text in (
            ({"param_dtype": "bfloat16"}, "go with shard="),
            ({"shard": "optimizer", "param_dtype": "float64"}, "float16 or bfloat16"),
            ({"shard": "optimizer", "param_dtype": "half-baked"}, "must be a dtype"),
            ({"shard": "optimizer", "reduce_dtype": "int32"}, "must be float32, or 16 bits"),
            (
                {"shard": "optimizer", "param_dtype": "float16", "reduce_dtype": "bfloat16"},
                "those of param_dtype",
            ),
            ({"shard": "optimizer", "reduce_dtype": "bfloat16", "hook": bf16}, "so does a hook"),
            ({"shard": "optimizer", "reduce_dtype": "float32", "exact": True, "shards": 2}, "exact=True"),
        ):
            with pytest.raises(OptionError, match=text):
                DistributedDataParallel(Net(np.float32), comm, **options)
        with pytest.raises(OptionError, match="got one of float64"):
            DistributedDataParallel(Net(), comm, shard="optimizer", param_dtype="bfloat16")
        model, optimizer = make(comm, "LBFGS")
        with pytest.raises(OptionError, match="leave it out"):
            optimizer.step(lambda: mean_loss(model, np.ones((2, WIDTHS[0])), np.zeros(2, int)))

    ThreadWorld(2).run(run)


@pytest.mark.ranks(2, backend="shm", timeout=180)
def test_processes_that_share_memory():
    comm = init(timeout_s=60)
    expected = by_hand(2, "AdamW", dg.bfloat16, 0.5).tobytes()
    for stage in STAGES:
        assert train(comm, "AdamW", stage) == expected
