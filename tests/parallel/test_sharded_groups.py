"""Shards within groups, replicas between them: the bits of a run that sums in the same two steps."""

import numpy as np
import pytest
from parallel.sharded_problems import OPTIMIZERS, SMALL_MB, WIDTHS, Net, make, mean_loss, parameters, steps

import distgrad as dg
from distgrad.checkpoint import CheckpointManager
from distgrad.comm import ThreadWorld, init
from distgrad.errors import CommMismatchError, OptionError
from distgrad.optim import Muon
from distgrad.parallel import DistributedDataParallel, join_states

STAGES = ("optimizer", "gradients", "parameters")
WORLDS = [(4, 2), (6, 2), (6, 3)]  # ranks, and ranks of a group


pytestmark = pytest.mark.usefixtures("one_thread")


def split(comm, size):
    return comm.split(comm.rank // size)


def in_two_steps(group, replicas):
    """A hook that sums within a group, and then between groups."""

    def hook(bucket):
        def reduce():
            group.all_reduce(bucket.gradients)
            replicas.all_reduce(bucket.gradients)

        return bucket.comm.submit(reduce)

    return hook


def batch(comm, step):
    """Four samples a rank, so that weights round nothing."""
    rng = np.random.default_rng([7, step, comm.rank])
    return rng.standard_normal((4, WIDTHS[0])), rng.integers(0, WIDTHS[-1], 4)


def train(comm, name, size, shard, dtype=np.float32):
    group = split(comm, size)
    options = {"hook": in_two_steps(group, comm.split(group.rank))}
    if shard is not None:
        options = {"shard": shard, "shard_group": group}
    kind = getattr(dg.optim, name)
    net = Net(dtype, biases=kind is not Muon)
    model = DistributedDataParallel(net, comm, bucket_cap_mb=SMALL_MB, **options)
    optimizer = kind(model.named_parameters(), **OPTIMIZERS[name])
    norms = []
    for step in range(8):
        x, y = batch(comm, step)
        optimizer.zero_grad()
        mean_loss(model, x.astype(dtype), y).backward()
        norms.append(float(model.clip_grad_norm_(0.5)))
        optimizer.step()
    return parameters(model).tobytes(), norms


@pytest.mark.parametrize(("ranks", "size"), WORLDS)
@pytest.mark.parametrize("name", ["AdamW", "LAMB"])
def test_the_bits_are_those_of_sums_in_the_same_order(name, ranks, size):
    expected = ThreadWorld(ranks).run(lambda comm: train(comm, name, size, None))
    assert len(set(map(str, expected))) == 1
    for stage in STAGES:
        assert ThreadWorld(ranks).run(lambda comm, s=stage: train(comm, name, size, s)) == expected


@pytest.mark.parametrize(("ranks", "size"), WORLDS)
def test_uneven_batches_and_accumulation_give_what_one_step_of_sums_gives(ranks, size):
    def run(comm, stage):
        options = {} if stage is None else {"shard": stage, "shard_group": split(comm, size)}
        model, optimizer = make(comm, "AdamW", **options)
        steps(model, optimizer, 6, clip=0.5, passes=2)
        return parameters(model)

    expected = ThreadWorld(ranks).run(lambda comm: run(comm, None))[0]
    for stage in STAGES:
        found = ThreadWorld(ranks).run(lambda comm, s=stage: run(comm, s))
        assert {each.tobytes() for each in found} == {found[0].tobytes()}
        np.testing.assert_allclose(found[0], expected, rtol=1e-7, atol=1e-10)


@pytest.mark.ranks(4, backend="shm", timeout=180)
def test_processes_that_share_memory():
    comm = init()
    expected = train(comm, "AdamW", 2, None)
    for stage in STAGES:
        assert train(comm, "AdamW", 2, stage) == expected


def state_is_in_each_group(comm):
    group = split(comm, 2)
    net = Net()
    model = DistributedDataParallel(net, comm, shard="gradients", shard_group=group)
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
    steps(model, optimizer, 2)
    kept = sum(array.size for entry in optimizer.state.values() for k, array in entry.items() if k != "step")
    whole = optimizer.state_dict()["state"]
    joined = join_states(group.all_gather_object(optimizer.state_dict(sharded=True)))["state"]
    for number, entry in whole.items():
        np.testing.assert_array_equal(joined[number]["exp_avg"], np.asarray(entry["exp_avg"]))
    return kept, 2 * sum(parameter.size for parameter in net.parameters())


def test_each_group_holds_all_of_the_state():
    found = ThreadWorld(4).run(state_is_in_each_group)
    assert found[0][0] + found[1][0] == found[0][1]
    assert [kept for kept, _ in found[:2]] == [kept for kept, _ in found[2:]]


@pytest.mark.parametrize("stage", STAGES)
def test_a_replica_that_differs_is_seen(stage):
    """Rank 2 changes what it owns of a parameter: its replica is rank 0, in the other group."""

    def run(comm):
        net = Net()
        for parameter in list(net.parameters())[:1]:
            parameter.requires_grad = False
        model = DistributedDataParallel(net, comm, shard=stage, shard_group=split(comm, 2))
        optimizer = dg.optim.AdamW(model.parameters())
        steps(model, optimizer, 2)
        model.check_replicas()
        if comm.rank == 2:
            parameter = list(net.parameters())[2]
            part = parameter.leaf_state().flat[0].shares.part(parameter)
            elements = parameter._data if part is None else part.data
            assert elements.size
            elements.reshape(-1)[0] += 1.0
        model.check_replicas()

    # Of a part that comes and goes the next rank says what it gets of it.
    ranks = r"\[0, 1\] against \[2, 3\]" if stage == "parameters" else r"\[0, 1, 3\] against \[2\]"
    with pytest.raises(CommMismatchError, match=rf"ranks {ranks}; all agreed last at step 2"):
        ThreadWorld(4, timeout_s=60).run(run)


@pytest.mark.parametrize("size", [2, 3])
def test_a_part_that_reaches_its_neighbour_otherwise_is_seen(size):
    """The planted fault: what rank 0 owns comes changed to the rank after it."""

    def run(comm, broken):
        model = DistributedDataParallel(Net(), comm, shard="parameters")
        model.check_replicas()
        gather = comm.all_gather

        def changed(x, async_op=False, out=None, **options):
            found = gather(x, out=out, **options)
            if comm.rank == 1 and async_op:
                out[0] += 1.0
            return Done() if async_op else found

        if broken:
            comm.all_gather = changed
        model.check_replicas()

    class Done:
        seconds = 0.0

        def wait(self):
            pass

    ThreadWorld(size, timeout_s=60).run(lambda comm: run(comm, False))
    with pytest.raises(CommMismatchError, match=r"ranks \[0\] against \[1\]"):
        ThreadWorld(size, timeout_s=60).run(lambda comm: run(comm, True))


def test_groups_that_do_not_cover_the_ranks_alike_are_refused():
    def run(comm, colors, **options):
        group = comm.split(colors[comm.rank])
        DistributedDataParallel(Net(), comm, shard_group=group, **options)

    with pytest.raises(OptionError, match="groups of one size"):
        ThreadWorld(3).run(lambda comm: run(comm, (0, 0, 1), shard="optimizer"))
    with pytest.raises(OptionError, match="goes with shard="):
        ThreadWorld(2).run(lambda comm: run(comm, (0, 0)))


def checkpointed(comm, folder, stage, group_size, restores):
    model, optimizer = make(comm, "AdamW", shard=stage, shard_group=group_size and split(comm, group_size))
    with CheckpointManager(folder, comm=comm, signals=False) as manager:
        manager.add(model=model, optimizer=optimizer)
        if restores:
            manager.restore_latest()
        else:
            steps(model, optimizer, 3)
            manager.save()
    saved = parameters(model).tobytes()
    steps(model, optimizer, 3, first=3)
    return saved, parameters(model).tobytes()


@pytest.mark.parametrize("stage", STAGES)
def test_what_groups_save_is_there_once_and_loads_into_any_number(tmp_path, stage):
    before = ThreadWorld(4).run(lambda comm: checkpointed(comm, tmp_path, stage, 2, False))
    assert ThreadWorld(4).run(lambda comm: checkpointed(comm, tmp_path, stage, 2, True)) == before
    (alone,) = ThreadWorld(1).run(lambda comm: checkpointed(comm, tmp_path, stage, None, True))
    assert alone[0] == before[0][0]
