"""Inside somebody's MPI program: some of its ranks train, and the others neither wait for them nor end."""

import sys
import textwrap

import numpy as np
import pytest
from ranks_plugin import Job, run_ranks

import distgrad as dg
from distgrad.errors import CommError, RankFailedError
from distgrad.parallel import DistributedDataParallel


def data(rank: int, step: int) -> np.ndarray:
    """The batch of one rank: of another length on each."""
    return np.random.default_rng([rank, step]).standard_normal((2 + rank, 3)).astype(np.float32)


def train(comm: object, ranks: list[int], steps: int) -> dict[str, np.ndarray]:
    """Train on the batches of ``ranks``, the members' numbers in the program; return the parameters."""
    dg.manual_seed(0)
    net = dg.nn.Sequential(dg.nn.Linear(3, 4), dg.nn.Tanh(), dg.nn.Linear(4, 1))
    ddp = DistributedDataParallel(net, comm)
    optimizer = dg.optim.SGD(net.parameters(), lr=0.1)
    for step in range(steps):
        x = dg.tensor(data(ranks[ddp.comm.rank], step))
        optimizer.zero_grad()
        (ddp(x) ** 2).mean().backward()
        optimizer.step()
    return {name: parameter.detach().numpy().copy() for name, parameter in net.named_parameters()}


def train_alone(ranks: list[int], steps: int) -> dict[str, np.ndarray]:
    """The same in one process, on all their batches together."""
    dg.manual_seed(0)
    net = dg.nn.Sequential(dg.nn.Linear(3, 4), dg.nn.Tanh(), dg.nn.Linear(4, 1))
    optimizer = dg.optim.SGD(net.parameters(), lr=0.1)
    for step in range(steps):
        x = dg.tensor(np.concatenate([data(rank, step) for rank in ranks]))
        optimizer.zero_grad()
        (net(x) ** 2).mean().backward()
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in net.named_parameters()}


def check_training(comm: object, ranks: list[int], steps: int) -> None:
    found, expected = train(comm, ranks, steps), train_alone(ranks, steps)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=2e-5, atol=1e-6, err_msg=name)


def part(ranks: list[int]) -> object:
    """The communicator of some of the program's ranks; MPI_COMM_NULL elsewhere."""
    from mpi4py import MPI

    return MPI.COMM_WORLD.Split(0 if MPI.COMM_WORLD.rank in ranks else MPI.UNDEFINED)


@pytest.mark.ranks(5)
def test_every_fourth_rank_trains_while_the_others_talk():
    from mpi4py import MPI

    world, trainers = MPI.COMM_WORLD, [0, 4]
    group = part(trainers)
    if world.rank in trainers:
        check_training(group, trainers, steps=4)
        assert dg.comm.get_world().size == 2
        assert dg.comm.get_world().mpi is group
    else:  # the others' own ring, none of which a trainer takes part in
        total = world.rank
        for _ in range(100):
            ahead = {1: 2, 2: 3, 3: 1}[world.rank]
            total = world.sendrecv(total, dest=ahead, source=MPI.ANY_SOURCE)
        assert not dg.comm.is_initialized()
    assert world.allreduce(1) == 5


@pytest.mark.ranks(4)
def test_two_groups_train_at_once_each_its_own_model():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    groups = {0: [0, 3], 1: [1, 2]}
    color = next(color for color, ranks in groups.items() if world.rank in ranks)
    group = world.Split(color)
    check_training(group, groups[color], steps=2 + 3 * color)  # one group is done before the other
    assert world.allreduce(1) == 4


@pytest.mark.ranks(3)
def test_all_ranks_and_a_part_of_them():
    from mpi4py import MPI

    everyone = dg.comm.init(comm=MPI.COMM_WORLD)
    assert dg.comm.init(comm=MPI.COMM_WORLD) is dg.comm.init() is dg.comm.get_world() is everyone
    if everyone.rank != 1:
        pair = dg.comm.init(comm=part([0, 2]))
    else:
        part([0, 2])
    x = np.full(5, everyone.rank, np.float32)
    assert everyone.all_reduce(x)[0] == 3
    if everyone.rank != 1:
        assert (pair.rank, pair.size) == (everyone.rank // 2, 2)
        assert pair.all_reduce(np.ones(3))[0] == 2
    assert dg.comm.get_world() is everyone


@pytest.mark.ranks(3)
def test_on_several_hosts_and_with_groups_of_groups(monkeypatch):
    from mpi4py import MPI

    from distgrad.comm import mpi

    rank = MPI.COMM_WORLD.rank
    monkeypatch.setattr(mpi, "host_name", lambda: "ab"[rank == 1])
    comm = dg.comm.init(comm=MPI.COMM_WORLD)
    check_training(comm, [0, 1, 2], steps=2)
    half = comm.split(rank % 2)
    assert half.mpi.allreduce(rank) == (1 if rank == 1 else 2)
    assert half.mpi is half.mpi
    assert half.all_reduce(np.full(4, rank))[0] == half.mpi.allreduce(rank)


@pytest.mark.ranks(3)
def test_messages_never_meet_the_programs_own():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    comm = dg.comm.init(comm=world)
    ahead, behind = (world.rank + 1) % 3, (world.rank - 1) % 3
    received = np.empty(2)
    request = world.Irecv(received, MPI.ANY_SOURCE, MPI.ANY_TAG)  # would take anything
    comm.send(np.full(3, world.rank), ahead)
    assert comm.recv(np.empty(3, int), behind)[0] == behind
    comm.barrier()
    assert not request.Test()
    comm.barrier()
    world.Send(np.full(2, 7.0), ahead)
    request.Wait()
    assert received[0] == 7.0


@pytest.mark.ranks(3)
def test_what_was_duplicated_is_freed():
    from mpi4py import MPI

    group = MPI.COMM_WORLD.Dup()
    for _ in range(5):  # by close()
        with dg.comm.init(comm=group) as comm:
            comm.split(comm.rank % 2).all_reduce(np.ones(2))
            opened = list(comm.family._opened)
            assert len(opened) >= 3
            assert dg.comm.init(comm=group) is comm
        assert all(handle == MPI.COMM_NULL for handle in opened)
        dg.comm.finalize()
    comm = dg.comm.init(comm=group)
    opened = list(comm.family._opened)
    group.Free()  # the user's own, and with it ours
    assert all(handle == MPI.COMM_NULL for handle in opened)
    with pytest.raises(CommError, match="the communicator is closed"):
        comm.barrier()


ENDS = """
from mpi4py import MPI
import numpy as np
import distgrad as dg

world = MPI.COMM_WORLD
rank = world.rank
part = world.Split(0 if rank else MPI.UNDEFINED)
groups = [part] if rank else []  # so the first communicator, and with it the world, differs by rank
for group in (*groups, world, world.Dup(), world.Create_cart([world.size])):
    last = dg.comm.init(comm=group)
    last.all_reduce(np.ones(2))
{end}
print("came to the end of rank", rank, flush=True)
"""


FINALIZES = """
MPI.Finalize()
assert not dg.comm.is_initialized()
for late, text in ((last.barrier, "communicator is closed"), (dg.comm.init, "MPI_Finalize was called")):
    try:
        late()
    except dg.errors.CommError as error:
        assert text in str(error), error
    else:
        raise AssertionError(text)
"""


@pytest.mark.parametrize("end", ["", FINALIZES])
def test_ranks_of_different_worlds_end_their_groups_in_one_order(tmp_path, end):
    program = tmp_path / "ends.py"
    program.write_text(ENDS.format(end=end))
    job = run_ranks(3, [sys.executable, str(program)], timeout=60)
    assert job.returncode == 0, job.output
    assert job.output.count("came to the end") == 3


@pytest.mark.ranks(3)
def test_what_is_no_group_is_refused():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    sides = world.Split(world.rank == 0)
    inter = sides.Create_intercomm(0, world, 1 if world.rank == 0 else 0)
    with pytest.raises(CommError, match=r"an intercommunicator; merge its sides, comm\.Merge\(\)"):
        dg.comm.init(comm=inter)
    with pytest.raises(CommError, match="MPI_COMM_NULL; call this on the ranks of the group alone"):
        dg.comm.init(comm=MPI.COMM_NULL)
    with pytest.raises(CommError, match="must be an intracommunicator of mpi4py, got int"):
        dg.comm.init(comm=3)
    with pytest.raises(CommError, match="comm= goes with backend 'mpi' or 'nccl', got 'shm'"):
        dg.comm.init("shm", comm=world)
    with pytest.raises(TypeError, match="comm must be a Communicator, one of mpi4py, or None, got int"):
        DistributedDataParallel(dg.nn.Linear(1, 1), 3)
    assert not dg.comm.is_initialized()


def test_ranks_that_are_not_mpis_have_no_communicator_of_it():
    with pytest.raises(CommError, match="are not MPI's"):
        _ = dg.comm.ThreadWorld(1).run(lambda comm: comm.mpi)


@pytest.mark.ranks(3)
def test_an_error_in_backward_raises_on_its_ranks_and_training_goes_on():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    trainers = [0, 1]
    group = part(trainers)
    if world.rank in trainers:
        net = dg.nn.Linear(3, 1)
        ddp = DistributedDataParallel(net, group)
        y = ddp(dg.tensor(data(world.rank, 0)))
        if world.rank == 1:
            y.register_hook(lambda g: 1 // 0)
        with pytest.raises(ZeroDivisionError if world.rank == 1 else RankFailedError):
            y.mean().backward()
        check_training(group, trainers, steps=1)
    assert world.allreduce(1) == 3


# Whole programs --------------------------------------------------------------------------------------------

PROGRAM = """
    import os, sys, time
    import numpy as np
    from mpi4py import MPI
    import distgrad as dg
    world = MPI.COMM_WORLD
    if {several_hosts}:
        import distgrad.comm.mpi
        distgrad.comm.mpi.host_name = lambda: f"host {{world.rank}}"
    trainers = world.Split(world.rank < 3)
    def train():
        with dg.comm.init(comm=trainers, timeout_s=20) as comm:
            for step in range(5):
                comm.all_reduce(np.full(1000, comm.rank + 1.0), async_op=True).wait()
                if step == 2 and comm.rank == 1:
                    raise ValueError("diverged")
    if world.rank < 3:
        {call}
    world.barrier()
    print(f"simulation {{world.rank}} ended\\n", end="", flush=True)
"""
CAUGHT = """
        began_s = time.monotonic()
        try:
            train()
        except (ValueError, dg.errors.RankFailedError) as error:
            print(f"{type(error).__name__} on {world.rank}\\n", end="", flush=True)
        assert time.monotonic() - began_s < 10.0
"""


def run_program(tmp_path, call: str, *, several_hosts: bool = False) -> Job:
    program = tmp_path / "program.py"
    text = textwrap.dedent(PROGRAM).format(
        call=textwrap.dedent(call).strip().replace("\n", "\n    "), several_hosts=several_hosts
    )
    program.write_text(text)
    return run_ranks(4, [sys.executable, str(program)], timeout=50)


@pytest.mark.parametrize("several_hosts", [False, True])
def test_a_caught_error_ends_training_and_nothing_else(tmp_path, several_hosts):
    job = run_program(tmp_path, CAUGHT, several_hosts=several_hosts)
    assert job.returncode == 0, job.output
    assert "ValueError on 1" in job.output
    for rank in (0, 2):
        assert f"RankFailedError on {rank}" in job.output
    for rank in range(4):
        assert f"simulation {rank} ended" in job.output


def test_an_error_that_nobody_catches_ends_the_program(tmp_path):
    job = run_program(tmp_path, "train()")
    assert job.returncode not in (0, None), job.output
    assert "ValueError: diverged" in job.output
    assert "so the whole job ends" in job.output
    assert "simulation" not in job.output
