"""Horovod's names: every call's result, and training that equals one process's."""

import json

import numpy as np
import pytest

import distgrad as dg
import distgrad.horovod as hvd
from distgrad import nn
from distgrad.errors import CommError, DTypeError, OptionError
from distgrad.horovod import elastic
from distgrad.horovod import sets as horovod_sets


@pytest.fixture(autouse=True)
def world():
    hvd.init()
    yield
    hvd.shutdown()


def own(*shape, dtype=np.float32):
    return dg.tensor(np.arange(np.prod(shape), dtype=dtype).reshape(shape) + hvd.rank())


def numbers(*tensors):
    return [each.tolist() for each in tensors]


def check_reductions():
    rank, size = hvd.rank(), hvd.size()
    total = sum(range(size))
    x = own(3)
    assert hvd.allreduce(x, op=hvd.Sum).tolist() == [size * i + total for i in range(3)]
    assert hvd.allreduce(x).tolist() == pytest.approx([i + total / size for i in range(3)])
    assert hvd.allreduce(x, average=False, prescale_factor=2.0, postscale_factor=0.5).tolist() == [
        size * i + total for i in range(3)
    ]
    assert hvd.allreduce(x, op=hvd.Min).tolist() == [0, 1, 2]
    assert hvd.allreduce(x, op=hvd.Max).tolist() == [size - 1, size, size + 1]
    assert hvd.allreduce(own(1) + 1, op=hvd.Product).tolist() == [np.prod(np.arange(size) + 1)]
    assert hvd.allreduce(x, op=hvd.Adasum).shape == (3,)
    same = dg.tensor(np.array([1.0, 2.0], np.float32))
    np.testing.assert_allclose(hvd.allreduce(same, op=hvd.Adasum)._data, [1, 2], rtol=1e-6)  # alike: averaged
    half = hvd.allreduce(x, op=hvd.Sum, compression=hvd.Compression.fp16)
    assert (half.dtype, half.tolist()) == (np.float32, [size * i + total for i in range(3)])
    assert x.tolist() == [rank, rank + 1, rank + 2]
    y = own(2, 2).T
    handle = hvd.allreduce_async_(y, op=hvd.Sum)
    assert hvd.synchronize(handle) is y
    assert hvd.poll(handle)
    assert y.tolist() == [[total, 2 * size + total], [size + total, 3 * size + total]]
    found = hvd.grouped_allreduce([own(1), own(2)], op=hvd.Sum)
    assert numbers(*found) == [[total], [total, size + total]]
    a, b = own(1), own(2)
    hvd.grouped_allreduce_([a, b], op=hvd.Sum)
    assert numbers(a, b) == [[total], [total, size + total]]


def check_integers():
    """Whole numbers are scaled and averaged as Horovod does it, or refused before anything is issued."""
    size = hvd.size()
    total = sum(range(size))
    x = own(3, dtype=np.int64) * 4
    assert hvd.allreduce(x, op=hvd.Sum, prescale_factor=0.5).tolist() == [
        2 * (size * i + total) for i in range(3)
    ]
    assert hvd.allreduce(x, op=hvd.Sum, postscale_factor=0.25).tolist() == [
        size * i + total for i in range(3)
    ]
    assert hvd.allreduce(-x).tolist() == [-(4 * (size * i + total) // size) for i in range(3)]
    assert hvd.allreduce(own(2, dtype=np.int32)).dtype == np.int32
    whole = own(2 * size, dtype=np.int32)
    parts = hvd.allgather(hvd.reducescatter(whole, postscale_factor=2.5))
    assert parts.tolist() == [int(2.5 * ((size * i + total) // size)) for i in range(2 * size)]
    flags = dg.tensor(np.array([hvd.rank() == 0, True]))
    assert hvd.allreduce(flags, op=hvd.Min).tolist() == [size == 1, True]
    for call in (
        lambda: hvd.allreduce(flags),
        lambda: hvd.allreduce(flags, op=hvd.Max, prescale_factor=0.5),
        lambda: hvd.allreduce(x, op=hvd.Adasum),
        lambda: hvd.reducescatter(flags),
    ):
        with pytest.raises(DTypeError, match="does not take"):
            call()
    assert hvd.allreduce(x, op=hvd.Max).tolist() == [4 * (size - 1 + i) for i in range(3)]  # and on as before


def check_timeline(path):
    """The file of rank 0 has each call by its name, and how long it waited and took."""
    for cycles in (True, False):
        hvd.start_timeline(path, mark_cycles=cycles)
        hvd.start_timeline(path)
        hvd.allreduce(own(3), name="mine")
        hvd.stop_timeline()
        if hvd.rank() == 0:
            events = json.loads(path.read_text())
            assert {"NEGOTIATE_ALLREDUCE", "ALLREDUCE"} <= {each["name"] for each in events}
            assert {"name": "allreduce.mine"} in [each.get("args") for each in events]
            assert ("CYCLE_START" in [each["name"] for each in events]) == cycles
            path.unlink()
    assert not path.exists() or hvd.rank()
    with pytest.raises(OptionError, match="no folder"):
        hvd.start_timeline(path / "a" / "b")


def check_sparse():
    """A handle of a sparse sum is called; only means and sums are taken."""
    handle = hvd.sparse_allreduce_async(own(3), name="mine", op=hvd.Sum)
    assert handle().tolist() == hvd.allreduce(own(3), op=hvd.Sum).tolist()
    with pytest.raises(OptionError, match="Average or Sum"):
        hvd.sparse_allreduce_async(own(3), op=hvd.Max)
    for call in (hvd.allgather, hvd.alltoall, hvd.reducescatter):
        with pytest.raises(dg.ShapeError, match="tensors of rows"):
            call(dg.tensor(1.0))
    half = hvd.allreduce(own(2, dtype=np.float16) + 1000, op=hvd.Sum, prescale_factor=1 / 3)
    expected = sum(np.float16((1000.0 + r) * np.float32(1 / 3)) for r in range(hvd.size()))
    assert half.tolist()[0] == np.float16(expected)


def check_sums():
    """The gradients are the sums when backward returns, to be clipped at once; none is scaled twice."""
    rank, size = hvd.rank(), hvd.size()
    x = dg.tensor(np.ones(3, np.float32), requires_grad=True)
    optimizer = hvd.DistributedOptimizer(dg.optim.SGD([x], lr=1.0), op=hvd.Sum)
    total = size * (size + 1) / 2
    for _ in range(2):
        optimizer.zero_grad()
        (x * (rank + 1.0)).sum().backward()
        assert x.grad.tolist() == [total] * 3
    (x * (rank + 1.0)).sum().backward()
    optimizer.synchronize()
    assert x.grad.tolist() == [2 * total] * 3
    nn.utils.clip_grad_norm_([x], 1.0)
    before = x._data.copy()
    optimizer.step()
    np.testing.assert_allclose(before - x._data, [3**-0.5] * 3, rtol=1e-5)


def check_optimizers_of_sets():
    """Ranks that join go along with the optimizer of the world, which is the second one on every rank."""
    rank, size = hvd.rank(), hvd.size()
    first = hvd.add_process_set([0])
    hvd.DistributedOptimizer(sgd(), process_set=first)
    model = network()
    optimizer = hvd.DistributedOptimizer(dg.optim.SGD(model.parameters(), lr=0.1))
    for i in range(1 + rank):
        x, y = batch(i, rank, size)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    assert hvd.join() == size - 1


def check_other_verbs():
    rank, size = hvd.rank(), hvd.size()
    rows = dg.tensor(np.full((rank + 1, 2), rank, np.float32))
    expected = [[r, r] for r in range(size) for _ in range(r + 1)]
    assert hvd.allgather(rows).tolist() == expected
    assert hvd.synchronize(hvd.allgather_async(rows)).tolist() == expected
    assert numbers(*hvd.grouped_allgather([rows, rows])) == [expected, expected]
    x = own(2)
    assert hvd.broadcast(x, size - 1).tolist() == [size - 1, size]
    assert x.tolist() == [rank, rank + 1]
    assert hvd.broadcast_(x, 0) is x
    assert x.tolist() == [0, 1]
    assert hvd.alltoall(own(size)).tolist() == [rank + r for r in range(size)]
    sent = dg.tensor(np.repeat(np.arange(size), np.arange(size) + 1).astype(np.float32))
    received, counts = hvd.alltoall(sent, splits=list(range(1, size + 1)))
    assert received.tolist() == [rank] * (size * (rank + 1))
    assert counts.tolist() == [rank + 1] * size
    whole = own(2 * size + 1)
    parts = hvd.allgather(hvd.reducescatter(whole, op=hvd.Sum))
    assert parts.tolist() == hvd.allreduce(whole, op=hvd.Sum).tolist()
    assert hvd.reducescatter(whole, op=hvd.Sum).shape[0] == (3 if rank == 0 else 2)
    assert hvd.allgather_object(("a", rank)) == [("a", r) for r in range(size)]
    assert hvd.broadcast_object({"rank": rank}, root_rank=size - 1) == {"rank": size - 1}
    hvd.barrier()
    assert (hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size()) == (rank, size, 0, 1)


def check_gradients():
    size = hvd.size()
    x = dg.tensor(np.ones(2 * size, np.float32), requires_grad=True)
    hvd.allreduce(x * 2.0, op=hvd.Sum).sum().backward()
    assert x.grad.tolist() == [2.0 * size] * (2 * size)
    x.grad = None
    (hvd.allgather(x) * (hvd.rank() + 1.0)).sum().backward()
    assert x.grad.tolist() == [(size + 1) / 2] * (2 * size)
    x.grad = None
    hvd.broadcast(x, 0).sum().backward()
    assert x.grad.tolist() == [float(hvd.rank() == 0)] * (2 * size)
    x.grad = None
    (hvd.alltoall(x) * (hvd.rank() + 1.0)).sum().backward()
    assert x.grad.tolist() == [float(r // 2 + 1) for r in range(2 * size)]
    x.grad = None
    (hvd.reducescatter(x, op=hvd.Sum) * (hvd.rank() + 1.0)).sum().backward()
    assert x.grad.tolist() == [float(size * (r // 2 + 1)) for r in range(2 * size)]


def check_process_sets():
    rank, size = hvd.rank(), hvd.size()
    last = hvd.add_process_set([size - 1])
    evens = hvd.add_process_set(hvd.ProcessSet(list(range(0, size, 2))))
    assert last.included() == (rank == size - 1)
    if evens.included():
        assert hvd.allreduce(own(1), op=hvd.Sum, process_set=evens).tolist() == [sum(range(0, size, 2))]
        assert evens.rank() == rank // 2
    else:
        with pytest.raises(ValueError, match="is not in it"):
            hvd.allreduce(own(1), process_set=evens)
    assert hvd.remove_process_set(last)
    assert not hvd.remove_process_set(last)


def batch(step, rank, size, count=12):
    """A rank's part of a batch that all sizes have in common."""
    x = np.sin(np.arange(3.0 * count) * (1 + 0.3 * step)).reshape(count, 3).astype(np.float32)
    mine = slice(rank * count // size, (rank + 1) * count // size)
    return dg.tensor(x[mine]), dg.tensor(np.cos(x[mine, :2]))


def network():
    dg.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def sgd():
    return dg.optim.SGD(network().parameters(), lr=0.1)


def train(wrap, rank, size, passes=1, steps=4):
    model = network()
    optimizer = dg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if wrap is not None:
        optimizer = wrap(optimizer, model)
    for i in range(steps):
        optimizer.zero_grad()
        for j in range(passes):
            x, y = batch(i * passes + j, rank, size)
            (nn.functional.mse_loss(model(x), y) / passes).backward()
        optimizer.step()
    return np.concatenate([p._data.reshape(-1) for p in model.parameters()])


OPTIONS = {
    "plain": {},
    "groups": {"num_groups": 2, "gradient_predivide_factor": 2.0},
    "sum": {"op": hvd.Sum},
    "passes": {"backward_passes_per_step": 2},
    "half": {"compression": hvd.Compression.fp16},
}


def check_training(manner):
    options = OPTIONS[manner]
    size = hvd.size()

    def wrap(optimizer, model):
        if manner == "sum":
            for group in optimizer.param_groups:
                group["lr"] /= size
        found = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters(), **options)
        assert isinstance(found, dg.optim.SGD)
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        hvd.broadcast_optimizer_state(found, root_rank=0)
        return found

    passes = options.get("backward_passes_per_step", 1)
    found = train(wrap, hvd.rank(), size, passes)
    alone = train(None, 0, 1, passes)
    np.testing.assert_allclose(found, alone, atol=2e-3 if manner == "half" else 2e-6)


def check_join():
    rank, size = hvd.rank(), hvd.size()
    model = network()
    optimizer = hvd.DistributedOptimizer(dg.optim.SGD(model.parameters(), lr=0.1))
    for i in range(2 + rank):
        x, y = batch(i, rank, size)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        grads = [p.grad.numpy().copy() for p in model.parameters()]
        optimizer.step()
        total = hvd.allreduce(dg.tensor(np.ones(2, np.float32)), op=hvd.Sum)
        assert total.tolist() == [min(size, size - i + 1) if i >= 2 else size] * 2
        assert len(hvd.allgather(own(1))) == total.tolist()[0]
        assert hvd.allreduce(own(1) + 1, op=hvd.Min).tolist() == [1 if i < 2 else i]
    assert hvd.join() == size - 1
    assert np.isfinite(grads[0]).all()
    assert hvd.allreduce(own(1), op=hvd.Sum).tolist() == [sum(range(size))]  # and on as before


def check_elastic():
    rank, size = hvd.rank(), hvd.size()
    model = network()
    optimizer = hvd.DistributedOptimizer(dg.optim.SGD(model.parameters(), lr=0.1))
    state = elastic.TorchState(model, optimizer, batch=0)
    planted, resets = [True], []
    state.register_reset_callbacks([lambda: resets.append(state.batch)])

    @elastic.run
    def loop(state):
        while state.batch < 4:
            x, y = batch(state.batch, rank, size)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            state.batch += 1
            if state.batch == 3 and planted and size > 1:
                planted.clear()
                hvd.allreduce(dg.tensor(np.ones(1 + rank, np.float32)))  # shapes that differ
            if state.batch == 2:
                state.commit()
        return state.batch

    assert loop(state) == 4
    assert resets == ([2] if size > 1 else [])
    found = np.concatenate([p._data.reshape(-1) for p in model.parameters()])
    plain = network()
    optimizer = dg.optim.SGD(plain.parameters(), lr=0.1)
    for i in range(4):
        x, y = batch(i, 0, 1)
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(x), y).backward()
        optimizer.step()
    expected = np.concatenate([p._data.reshape(-1) for p in plain.parameters()])
    np.testing.assert_allclose(found, expected, atol=2e-6)


def check_all():
    for check in (check_reductions, check_integers, check_other_verbs, check_gradients, check_process_sets):
        check()
    check_sums()
    check_sparse()
    for manner in OPTIONS:
        check_training(manner)
    check_join()
    check_optimizers_of_sets()
    check_elastic()


def test_alone(tmp_path):
    check_all()
    check_timeline(tmp_path / "timeline.json")


@pytest.mark.ranks(2, backend="shm")
def test_on_two_ranks():
    check_all()


@pytest.mark.ranks(3, backend="shm")
def test_on_three_ranks():
    check_all()


@pytest.mark.ranks(5, backend="shm")
def test_on_five_ranks():
    check_reductions()
    check_other_verbs()
    check_join()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hvd.allreduce(own(1), average=True, op=hvd.Sum), OptionError, "both given"),
        (lambda: hvd.allreduce(own(1), op="median"), OptionError, "must be Average"),
        (lambda: hvd.allreduce(np.ones(1)), TypeError, "expected a tensor of distgrad's, got numpy"),
        (lambda: hvd.alltoall(own(3), splits=[1, 1]), OptionError, "add up to 3 rows"),
        (lambda: hvd.add_process_set([7]), ValueError, "ranks below 1"),
        (lambda: hvd.DistributedOptimizer(sgd(), op=hvd.Min), OptionError, "must be Average, Sum or Adasum"),
        (lambda: hvd.DistributedOptimizer(sgd(), [("a", own(1))]), ValueError, "parameters were not named"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_failure_that_comes_again_and_again_is_the_programs_own(monkeypatch):
    monkeypatch.setattr(elastic, "_MAX_FAILURES", 2)
    state = elastic.ObjectState(count=0)
    calls = []

    @elastic.run
    def loop(state):
        calls.append(state.count)
        raise CommError("planted")

    with pytest.raises(horovod_sets.HorovodInternalError, match="planted"):
        loop(state)
    assert calls == [0, 0, 0]


def test_an_elastic_sampler_deals_out_what_is_left():
    sampler = elastic.ElasticSampler(range(10), shuffle=False)
    sampler.record_batch(0, 4)
    again = elastic.ElasticSampler(range(10))
    again.load_state_dict(sampler.state_dict())
    assert sorted(again) == list(range(4, 10))
    again.set_epoch(1)
    assert len(again) == 10
