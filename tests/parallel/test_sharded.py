"""Sharded training has the bits of training without shards, and a part of its memory."""

import copy

import numpy as np
import pytest
from parallel.sharded_problems import (
    OPTIMIZERS,
    SMALL_MB,
    WIDTHS,
    Net,
    make,
    mean_loss,
    parameters,
    samples,
    steps,
)

import distgrad as dg
from distgrad.amp import GradScaler
from distgrad.backend import memory
from distgrad.backend.memory import PageReserve, release_pages
from distgrad.backend.whole import BLOCK
from distgrad.comm import ThreadWorld, init
from distgrad.errors import GraphError, OptionError, StateDictError
from distgrad.nn import Parameter
from distgrad.nn.utils import clip_grad_norm_, clip_grad_value_
from distgrad.parallel import DistributedDataParallel, LocalSGD, PowerSGD, TopK, bf16, join_states
from distgrad.parallel.sharding import Sharding, assign_whole, cut_evenly

SIZES = (1, 2, 3, 5)
STAGES = ("optimizer", "gradients", "parameters")


pytestmark = pytest.mark.usefixtures("one_thread")


def train(comm, name, dtype=np.float64, count=20, **options):
    clip, passes = options.pop("clip", None), options.pop("passes", 1)
    model, optimizer = make(comm, name, dtype, **options)
    found = steps(model, optimizer, count, clip=clip, passes=passes)
    return parameters(model).tobytes(), found


def assert_same_bits(size, name, dtype=np.float64, stages=STAGES, **options):
    expected = ThreadWorld(size).run(lambda comm: train(comm, name, dtype, **options))
    for stage in stages:
        assert ThreadWorld(size).run(lambda comm, s=stage: train(comm, name, dtype, shard=s, **options)) == (
            expected
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gives_the_bits_of_training_without_shards(name):
    """Uneven and empty batches, and clipped gradients, whose norm must have the same bits too."""
    assert_same_bits(3, name, np.float32, clip=0.5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["AdamW", "LAMB"])
def test_any_number_of_ranks(name, size):
    assert_same_bits(size, name, clip=0.5, passes=2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*SIZES, 8])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_on_any_number_of_ranks(name, size, dtype):
    assert_same_bits(size, name, dtype, clip=0.5)


def test_without_clipping_and_with_16_bits():
    assert_same_bits(3, "AdamW", np.float16)
    assert_same_bits(2, "SGD", dg.bfloat16)


@pytest.mark.parametrize("hook", [bf16, "PowerSGD", "TopK"], ids=["bf16", "PowerSGD", "TopK"])
def test_compressors_act_on_what_travels(hook):
    made = {"PowerSGD": lambda: PowerSGD(2), "TopK": lambda: TopK(0.1)}

    def run(comm, stage):
        each = made[hook]() if hook in made else hook
        return train(comm, "AdamW", np.float32, 8, shard=stage, hook=each)

    expected = ThreadWorld(3).run(lambda comm: run(comm, None))
    for stage in STAGES[:2] if hook == "TopK" else STAGES:  # whose choice depends on the buckets
        assert ThreadWorld(3).run(lambda comm, s=stage: run(comm, s)) == expected


def train_exactly(comm, stage):
    model = DistributedDataParallel(Net(), comm, exact=True, shards=4, shard=stage)
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        batch = dg.Tensor(rng.standard_normal((9, WIDTHS[0]))), dg.Tensor(rng.integers(0, WIDTHS[-1], 9))
        optimizer.zero_grad()
        for x, y in model.shards(*batch):
            mean_loss(model, x.numpy(), y.numpy()).backward()
        model.clip_grad_norm_(0.5)
        optimizer.step()
    return parameters(model).tobytes()


def test_exact_mode():
    (expected,) = ThreadWorld(1).run(lambda comm: train_exactly(comm, None))
    for size in (2, 3, 5):  # with as many shards on each, fewer on some, and none on one
        for stage in STAGES:
            assert set(ThreadWorld(size).run(lambda comm, s=stage: train_exactly(comm, s))) == {expected}


def freeze_and_thaw(comm, stage):
    model, optimizer = make(comm, "AdamW", shard=stage)
    steps(model, optimizer, 3)
    model.module.weight1.requires_grad_(False)
    steps(model, optimizer, 3, first=3)
    model.module.weight1.requires_grad_(True)
    model.module.bias0.requires_grad_(False)
    steps(model, optimizer, 3, first=6)
    return parameters(model).tobytes()


def test_frozen_and_thawed_parameters_keep_their_state():
    expected = ThreadWorld(3).run(lambda comm: freeze_and_thaw(comm, None))
    for stage in STAGES:
        assert ThreadWorld(3).run(lambda comm, s=stage: freeze_and_thaw(comm, s)) == expected


class Branches(dg.nn.Module):
    """One matrix is used twice; another, which is large, only on some ranks and in some steps."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(5)
        self.shared = Parameter(rng.standard_normal((12, 12)) * 0.3)
        self.seldom = Parameter(rng.standard_normal((1000, 12)) * 0.1)
        self.never = Parameter(rng.standard_normal(7))

    def forward(self, x, seldom):
        x = (dg.nn.functional.linear(x, self.shared)).tanh()
        x = dg.nn.functional.linear(x, self.shared)
        return dg.nn.functional.linear(x, self.seldom).sum() if seldom else x.square().sum()


def train_branches(comm, stage, name):
    model = DistributedDataParallel(Branches(), comm, bucket_cap_mb=SMALL_MB, shard=stage)
    optimizer = getattr(dg.optim, name)(model.parameters(), lr=1e-2)
    for step in range(6):
        optimizer.zero_grad()
        x = np.random.default_rng([step, comm.rank]).standard_normal((4, 12))
        model(dg.Tensor(x), step == 3 or (step % 2 == 1 and comm.rank == 0)).backward()
        optimizer.step()
    return parameters(model).tobytes(), model.module.never.grad is None


@pytest.mark.parametrize("name", ["AdamW", "LAMB"])
def test_unused_and_shared_parameters(name):
    expected = ThreadWorld(3).run(lambda comm: train_branches(comm, None, name))
    assert expected[0][1]
    for stage in STAGES:
        assert ThreadWorld(3).run(lambda comm, s=stage: train_branches(comm, s, name)) == expected


def scaled(comm, stage):
    model, optimizer = make(comm, "SGD", np.float32, shard=stage)
    scaler = GradScaler(init_scale=1024.0)
    outcomes = []
    for step in range(4):
        optimizer.zero_grad()
        loss = mean_loss(model, *samples(step, comm.rank, np.float32))
        scaler.scale(loss).backward()
        if step == 2 and comm.rank == 0:  # in a place that one rank owns
            model.module.weight2.grad._data[...] = np.inf
            model.module.weight0.grad._data[...] = np.inf
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        outcomes.append((model.all_finite(), scaler.get_scale() / before))
    return outcomes, parameters(model).tobytes()


def test_the_loss_scaler_leaves_a_step_out_on_all_ranks():
    for stage in STAGES:
        results = ThreadWorld(3).run(lambda comm, s=stage: scaled(comm, s))
        assert [ratio for _, ratio in results[0][0]] == [1.0, 1.0, 0.5, 1.0]
        assert not results[0][0][2][0]
        assert all(result == results[0] for result in results)


@pytest.mark.parametrize("order", [0.0, 1.0, 2.0, 3.0, np.inf])
def test_norms_of_every_order_are_those_of_the_whole(order):
    def run(comm, stage):
        model, _ = make(comm, "SGD", shard=stage)
        mean_loss(model, *samples(1, comm.rank, np.float64)).backward()
        alone = Parameter(np.ones(3))  # every rank's, beside what is sharded
        alone.grad = dg.Tensor(np.full(3, 2.0))
        return float(clip_grad_norm_([*model.parameters(), alone], 1e9, order))

    expected = ThreadWorld(3).run(lambda comm: run(comm, None))
    assert ThreadWorld(3).run(lambda comm: run(comm, "gradients")) == expected


def test_clipping_values():
    def run(comm, stage):
        model, optimizer = make(comm, "SGD", shard=stage)
        mean_loss(model, *samples(1, comm.rank, np.float64)).backward()
        clip_grad_value_(model.parameters(), 1e-3)
        optimizer.step()
        return parameters(model).tobytes()

    expected = ThreadWorld(3).run(lambda comm: run(comm, None))
    assert ThreadWorld(3).run(lambda comm: run(comm, "gradients")) == expected


# -- state


def assert_equal_states(got, expected):
    assert got["param_groups"] == expected["param_groups"]
    assert got["state"].keys() == expected["state"].keys()
    for number, entry in expected["state"].items():
        assert got["state"][number].keys() == entry.keys()
        for name, value in entry.items():
            np.testing.assert_array_equal(got["state"][number][name], value)


@pytest.mark.parametrize("name", ["AdamW", "Adafactor", "Muon"])
def test_state_is_whole_on_every_rank_and_loads_on_any_number(name):
    def save(comm, stage):
        model, optimizer = make(comm, name, shard=stage)
        steps(model, optimizer, 3)
        kinds = [{}, {"rank0_only": True}, {"sharded": True}] if stage else [{}]
        return model.state_dict(), [optimizer.state_dict(**kind) for kind in kinds]

    module, (expected,) = ThreadWorld(4).run(lambda comm: save(comm, None))[0]
    saved = ThreadWorld(4).run(lambda comm: save(comm, "gradients"))
    for rank, (_, (whole, on_the_first, _)) in enumerate(saved):
        assert_equal_states(whole, expected)
        if rank == 0:
            assert_equal_states(on_the_first, expected)
        else:
            assert all(list(entry) == ["step"] for entry in on_the_first["state"].values())
    joined = join_states([states[2] for _, states in saved])
    assert_equal_states(joined, expected)

    def go_on(comm, stage):
        model, optimizer = make(comm, name, shard=stage)
        model.load_state_dict(module)
        optimizer.load_state_dict(joined)
        steps(model, optimizer, 3, first=3)
        return parameters(model).tobytes()

    for size in (1, 2, 3):
        assert ThreadWorld(size).run(lambda comm: go_on(comm, "optimizer")) == (
            ThreadWorld(size).run(lambda comm: go_on(comm, None))
        )


def test_a_rank_holds_a_part_of_the_state():
    def run(comm):
        model, optimizer = make(comm, "AdamW", shard="optimizer")
        steps(model, optimizer, 1)
        return sum(
            array.size for entry in optimizer.state.values() for k, array in entry.items() if k != "step"
        )

    total = 2 * sum(p.size for p in Net().parameters())
    held = ThreadWorld(3).run(run)
    assert sum(held) == total
    assert max(held) < total / 2


def test_pieces_do_not_load_as_a_whole():
    def run(comm):
        model, optimizer = make(comm, "AdamW", shard="optimizer")
        steps(model, optimizer, 1)
        with pytest.raises(StateDictError, match="join_states"):
            optimizer.load_state_dict(optimizer.state_dict(sharded=True))
        pieces = optimizer.state_dict(sharded=True)
        with pytest.raises(StateDictError, match="exp_avg of parameter 0"):
            join_states([pieces, pieces])

    ThreadWorld(2).run(run)


# -- who owns what


def test_whole_parameters_are_spread_evenly():
    sizes = [400, 400, 100, 100, 1600, 10] * 12
    for size in (2, 3, 5, 8):
        owners = assign_whole(sizes, size)
        loads = np.bincount(owners, weights=sizes, minlength=size)
        assert loads.max() <= 1.1 * loads.mean()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_cuts_lie_where_the_norm_is_cut_and_parts_are_even(size):
    slices = [slice(0, 100), slice(112, 112 + 20 * BLOCK + 5), slice(112 + 21 * BLOCK, 112 + 30 * BLOCK)]
    loads = [0] * size
    stop = slices[-1].stop + 11
    edges = cut_evenly(slices, stop, loads)
    assert edges[0] == 0
    assert edges[-1] == stop
    assert edges == sorted(edges)
    assert sum(loads) == stop
    inside = {start for each in slices for start in range(each.start, each.stop, BLOCK)}
    assert set(edges[1:-1]) <= inside
    assert max(loads) - min(loads) <= 2 * BLOCK


def count_owners(comm_size, name):
    def run(comm):
        model, _ = make(comm, name, shard="optimizer")
        return [(buffer.size, list(buffer.shares.owned)) for buffer in model.reducer.storage]

    ranks = ThreadWorld(comm_size).run(run)
    counts = [np.zeros(size, int) for size, _ in ranks[0]]
    for rank in ranks:
        for count, (_, owned) in zip(counts, rank, strict=True):
            for own in owned:
                count[own] += 1
    return counts


@pytest.mark.parametrize("name", ["AdamW", "LAMB"])
def test_every_element_has_one_owner(name):
    for size in SIZES:
        assert all((count == 1).all() for count in count_owners(size, name))


def test_an_owner_that_reaches_too_far_or_too_short_is_seen():
    """The planted faults: a rank updates an element of its neighbour's, or leaves one of its own out."""
    expected = ThreadWorld(3).run(lambda comm: train(comm, "AdamW", count=2)[0])

    def run(comm, by):
        model, optimizer = make(comm, "AdamW", shard="optimizer")
        if comm.rank == 1:
            for buffer in model.reducer.storage:
                shares = buffer.shares
                shares.owned = [slice(own.start + by, own.stop + by) for own in shares.owned]
        steps(model, optimizer, 2)
        return parameters(model).tobytes()

    assert ThreadWorld(3).run(lambda comm: run(comm, 0)) == expected
    for by in (-1, 1):
        assert ThreadWorld(3).run(lambda comm, by=by: run(comm, by)) != expected


# -- parameters on their way


def test_whoever_reads_a_parameter_waits_for_it():
    """A copy does, which is no forward pass; a shape need not."""

    def run(comm):
        model, optimizer = make(comm, "AdamW", shard="optimizer")
        steps(model, optimizer, 1)
        kinds = [type(p) for p in model.parameters()]
        assert all(kind is not Parameter and issubclass(kind, Parameter) for kind in kinds)
        shapes = [p.shape for p in model.parameters()]
        assert [type(p) for p in model.parameters()] == kinds
        assert shapes[0] == (WIDTHS[1], WIDTHS[0])
        twin = copy.deepcopy(model.module)
        assert all(type(p) is Parameter for p in [*twin.parameters(), *model.parameters()])
        return parameters(twin).tobytes(), parameters(model).tobytes()

    results = ThreadWorld(3).run(run)
    assert len({text for pair in results for text in pair}) == 1


def test_a_dropped_wait_is_seen(monkeypatch):
    """The planted fault: parameters count as present while they are under way."""
    expected = ThreadWorld(3).run(lambda comm: train(comm, "AdamW", count=3))

    def run(comm):
        gather = comm.all_gather

        def late(x, async_op=False, **options):
            work = gather(x, async_op=async_op, **options)
            return Late(work) if async_op else work

        monkeypatch.setattr(comm, "all_gather", late)
        return train(comm, "AdamW", count=3, shard="optimizer")

    class Late:
        """A gather whose elements are those of another time until somebody has waited."""

        seconds = 0.0

        def __init__(self, work):
            self.out = work.wait()
            self.values = self.out.copy()
            self.out[...] = 0.0

        def wait(self):
            self.out[...] = self.values

    assert ThreadWorld(3).run(run) == expected
    arrive = Sharding._arrive

    def arrive_early(self, number):
        self._works.pop(number, None)
        arrive(self, number)

    monkeypatch.setattr(Sharding, "_arrive", arrive_early)
    assert ThreadWorld(3).run(run) != expected


# -- memory


def test_released_pages_read_as_zeros_and_take_new_values():
    array = np.ones(1 << 16)
    release_pages(array[100:-100])
    assert array[:100].all()
    assert array[-100:].all()
    assert not array[2000:-2000].any()
    array[...] = 3.0
    assert (array == 3.0).all()


@pytest.mark.parametrize("keeps", ["1", "0"])
def test_the_first_pages_that_are_given_back_stay(keeps, monkeypatch):
    monkeypatch.setattr(memory, "RESERVE_BYTES", 1 << 17)
    monkeypatch.setenv("DISTGRAD_KEEP_MEMORY", keeps)
    pages, array = PageReserve(), np.empty(1 << 16)
    halves = (array[1 << 15 : 1 << 15], array[: 1 << 13], array[1 << 15 :], array[1 << 14 : 1 << 15])
    for _ in range(2):
        array[...] = 1.0
        for half in halves:
            pages.release(half)
        kept = [half[2000:-2000].any() for half in halves]
        assert kept == [False, keeps == "1", False, False]  # the second fills the half of the reserve


def test_gradients_of_others_are_released():
    def run(comm, stage):
        model, _ = make(comm, "SGD", shard=stage)
        mean_loss(model, np.ones((2, WIDTHS[0])), np.zeros(2, int)).backward()
        grad = model.module.weight1.grad.numpy().reshape(-1)
        return np.count_nonzero(grad) / grad.size

    whole = ThreadWorld(2).run(lambda comm: run(comm, "optimizer"))
    parts = ThreadWorld(2).run(lambda comm: run(comm, "gradients"))
    assert min(whole) == 1.0
    assert min(parts) < 0.9


def test_state_in_a_folder(tmp_path):
    def run(comm, folder):
        return train(comm, "AdamW", count=3, shard="gradients", offload_dir=folder)

    expected = ThreadWorld(2).run(lambda comm: run(comm, None))
    assert ThreadWorld(2).run(lambda comm: run(comm, str(tmp_path))) == expected
    assert list(tmp_path.iterdir()) == []  # files without names end with the process


# -- what is refused


def test_refusals(tmp_path):
    def run(comm):
        with pytest.raises(OptionError, match="'optimizer', 'gradients'"):
            DistributedDataParallel(Net(), comm, shard="optimiser")
        with pytest.raises(OptionError, match="offload_dir"):
            DistributedDataParallel(Net(), comm, offload_dir=str(tmp_path))
        with pytest.raises(OptionError, match="make it first"):
            DistributedDataParallel(Net(), comm, shard="optimizer", offload_dir=str(tmp_path / "none"))
        model, _optimizer = make(comm, "AdamW", shard="optimizer")
        with pytest.raises(GraphError, match="cannot go apart"):
            LocalSGD(model, 2)
        with pytest.raises(GraphError, match="cannot go apart"):
            model.average_parameters(comm)
        with model.no_sync():
            mean_loss(model, np.ones((2, WIDTHS[0])), np.zeros(2, int)).backward()
        with pytest.raises(GraphError, match="before the first backward pass"):
            dg.optim.LAMB(model.parameters())
        with pytest.raises(OptionError, match="every rank has all"):
            dg.optim.LBFGS(model.parameters()).state_dict(sharded=True)

    ThreadWorld(2).run(run)


# -- processes


def match():
    comm = init(timeout_s=60)
    expected, found = train(comm, "AdamW", np.float32, 8, clip=0.5, passes=2)
    exact = comm.backend == "shm"
    for stage in STAGES:
        got, norms = train(comm, "AdamW", np.float32, 8, shard=stage, clip=0.5, passes=2)
        if exact:
            assert got == expected
            assert norms == found
        pair = (np.frombuffer(text, np.float32) for text in (got, expected))
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-6)


@pytest.mark.ranks(3, backend="shm", timeout=180)
def test_three_processes_with_shared_memory():
    match()


@pytest.mark.ranks(3, timeout=180)
def test_three_processes_over_mpi():
    match()
