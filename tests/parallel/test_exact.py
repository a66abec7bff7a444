"""Exact mode: the same bits on any number of ranks, over any communicator, also after a change of both."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from parallel.problems import Network, batches, mean_loss, parameters_of, train
from ranks_plugin import run_ranks

from distgrad.backend.rng import default_generator
from distgrad.comm import ThreadWorld
from distgrad.comm.single import SingleCommunicator
from distgrad.data import DataLoader
from distgrad.errors import CommMismatchError, GraphError, OptionError, RankFailedError, ShapeError
from distgrad.nn.module import Module
from distgrad.optim.adam import AdamW
from distgrad.parallel import DistributedDataParallel, SyncBatchNorm
from distgrad.parallel.exact import Partials, Tree, owned_shards

PROGRAM = str(Path(__file__).parent / "exact_training.py")


def bits(size, *arguments, backend="shm"):
    """The hash that every rank of a run comes to."""
    job = run_ranks(size, [sys.executable, PROGRAM, *map(str, arguments)], timeout=100, backend=backend)
    assert job.returncode == 0, job.output
    found = re.findall(r"bits (\w+)", job.output)
    assert len(found) == size, job.output
    assert len(set(found)) == 1, job.output
    return found[0]


@pytest.fixture(scope="module")
def expected():
    return bits(1, 0, 4)


@pytest.mark.parametrize("size", [2, 3, 4, pytest.param(8, marks=pytest.mark.slow)])
def test_any_number_of_ranks_gives_the_same_bits(size, expected):
    assert bits(size, 0, 4) == expected


def test_other_communicators_give_the_same_bits(expected):
    assert bits(3, 0, 4, backend="mpi") == expected


@pytest.mark.parametrize(("before", "after"), [(1, 3), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_training_goes_on_with_another_number_of_ranks(before, after, tmp_path, expected):
    file = tmp_path / "state"
    bits(before, 0, 2, file)
    assert bits(after, 2, 4, file) == expected


def run(size, steps, shards=5, seed=0, **options):
    """Each rank's parameters after training in exact mode, with ranks that are threads."""

    def rank(comm):
        model = DistributedDataParallel(Network(), comm, exact=True, shards=shards, **options)
        optimizer = AdamW(model.parameters(), lr=1e-2)
        for x, y in steps:
            optimizer.zero_grad()
            for a, b in model.shards(x, y):
                mean_loss(model, a, b).backward()
            optimizer.step()
        return parameters_of(model)

    return ThreadWorld(size).run(rank)


@pytest.mark.parametrize("rows", [3, 5, 23])
def test_it_trains_as_one_process_does_up_to_rounding(rows):
    steps = batches(4, rows)
    one = parameters_of(train(steps))
    reference = run(1, steps)[0]
    np.testing.assert_allclose(reference, one, rtol=1e-9, atol=1e-12)
    for size in (2, 3, 5, 8):
        for parameters in run(size, steps):
            assert parameters.tobytes() == reference.tobytes()


def test_the_number_of_shards_decides_the_bits():
    steps = batches(4, 23)
    assert run(1, steps, shards=5)[0].tobytes() != run(1, steps, shards=4)[0].tobytes()


@pytest.mark.parametrize("num_leaves", [1, 2, 3, 5, 8, 13])
def test_a_sum_along_the_tree_has_the_same_bits_on_any_ranks(num_leaves):
    values = np.random.default_rng(0).standard_normal((num_leaves, 101)).astype(np.float32)
    tree = Tree(num_leaves)

    def rank(comm):
        partials = Partials(tree, comm, 101, np.float32)
        for shard in owned_shards(comm.rank, comm.size, num_leaves):
            partials.add(shard, values[shard])
        total = np.empty(101, np.float32)
        partials.total(total)
        return total

    by_hand = ThreadWorld(1).run(rank)[0]
    np.testing.assert_allclose(by_hand, values.sum(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-5)
    for size in (2, 3, 4, 5, 7, 16):
        owned = [owned_shards(r, size, num_leaves) for r in range(size)]
        assert [shard for part in owned for shard in part] == list(range(num_leaves))
        for total in ThreadWorld(size).run(rank):
            assert total.tobytes() == by_hand.tobytes()


def test_gradients_add_to_those_that_are_there():
    def rank(comm):
        model = DistributedDataParallel(Network(), comm, exact=True, shards=4)
        found = []
        for _ in range(2):
            for x, y in model.shards(*batches(1, 9)[0]):
                mean_loss(model, x, y).backward()
            found.append(model.module.weight1.grad.numpy().copy())
        return found

    for once, twice in ThreadWorld(3).run(rank):
        np.testing.assert_array_equal(twice, 2 * once)


def test_a_batch_by_its_numbers_and_weights_of_the_users():
    x, y = batches(1, 12)[0]
    weights = np.arange(12.0) % 3

    def weighted(comm):
        model = DistributedDataParallel(Network(), comm, exact=True, shards=12)
        for index in model.shards(np.arange(12)):
            loss = mean_loss(model, x[index], y[index])
            model.batch_weight = weights[index[0]]
            loss.backward()
        return model.module.weight1.grad.numpy().copy()

    module = Network()
    total = sum(mean_loss(module, x[i : i + 1], y[i : i + 1]) * weights[i] for i in range(12))
    (total / weights.sum()).backward()
    for size in (1, 3):
        for gradient in ThreadWorld(size).run(weighted):
            np.testing.assert_allclose(gradient, module.weight1.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_a_loop_that_is_left_makes_the_other_ranks_raise():
    def rank(comm):
        model = DistributedDataParallel(Network(), comm, exact=True, shards=4)
        x, y = batches(1, 8)[0]

        def go_through():
            for a, b in model.shards(x, y):
                mean_loss(model, a, b).backward()

        if comm.rank == 1:
            for _ in model.shards(x, y):
                break
        else:
            with pytest.raises(RankFailedError, match="left before its end on 1 ranks"):
                go_through()
        assert model.module.weight1.grad is None
        go_through()
        return model.module.weight1.grad.numpy().copy()

    one, *others = ThreadWorld(3).run(rank)
    for other in others:
        np.testing.assert_array_equal(one, other)


def test_ranks_with_other_batches_are_an_error():
    def rank(comm):
        model = DistributedDataParallel(Network(), comm, exact=True, shards=4)
        with pytest.raises(CommMismatchError, match="this rank's has"):
            list(model.shards(np.zeros(8 + comm.rank)))

    ThreadWorld(2).run(rank)


def test_what_does_not_go_together_is_an_error():
    class WithNorm(Module):
        def __init__(self):
            super().__init__()
            self.norm = SyncBatchNorm(3)

    def rank(comm):
        for wrong in (
            {"exact": True},
            {"shards": 4},
            {"exact": True, "shards": 4, "average_buffers": True},
            {"exact": True, "shards": 4, "bucket_cap_mb": 1.0},
        ):
            with pytest.raises(OptionError, match="exact=True goes with shards="):
                DistributedDataParallel(Network(), comm, **wrong)
        with pytest.raises(OptionError, match="shards must be from 1"):
            DistributedDataParallel(Network(), comm, exact=True, shards=0)
        with pytest.raises(OptionError, match="norm is a SyncBatchNorm"):
            DistributedDataParallel(WithNorm(), comm, exact=True, shards=4)
        model = DistributedDataParallel(Network(), comm, exact=True, shards=4)
        x, y = batches(1, 8)[0]
        with pytest.raises(GraphError, match="train inside its loop"):
            mean_loss(model, x, y)
        with pytest.raises(GraphError, match="no_sync: not with exact=True"), model.no_sync():
            pass
        with pytest.raises(GraphError, match="reduce_gradients: not with exact=True"):
            model.reduce_gradients()
        with pytest.raises(ShapeError, match=r"got lengths \[8, 7\]"):
            next(model.shards(x, y[1:]))
        with pytest.raises(GraphError, match="shards: made for"):
            DistributedDataParallel(Network(), comm).shards(x)
        model.eval()
        mean_loss(model, x, y)

    ThreadWorld(1).run(rank)


def test_a_shard_is_no_new_seed_of_the_loaders_epochs():
    """Its numbers have a stream of their own; workers draw others in the next epoch."""
    default_generator.manual_seed(0)  # a test before may have left a shard's stream
    model = DistributedDataParallel(Network(), SingleCommunicator(), exact=True, shards=4)
    before = default_generator.num_seedings, default_generator.get_state()
    loader = DataLoader(np.arange(8), 4)
    epochs = []
    for _ in range(3):
        for x in loader:
            for _part in model.shards(x):
                assert default_generator.get_state()["stream"] != before[1]["stream"]
        epochs.append(loader.state_dict()["epoch"])
    assert epochs == [0, 1, 2]
    assert (default_generator.num_seedings, default_generator.get_state()) == before
