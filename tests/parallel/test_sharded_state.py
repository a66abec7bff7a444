"""Sharded training in which a step concerns some parameters, or ranks, and not others."""

import copy
import time

import numpy as np
import pytest
from parallel.sharded_problems import WIDTHS, Net, mean_loss, parameters, samples, steps
from parallel.sharded_problems import make as problem

import distgrad as dg
from distgrad.comm import ThreadWorld
from distgrad.comm.threads import ThreadCommunicator
from distgrad.nn import Module, ModuleList, Parameter, functional
from distgrad.parallel import DistributedDataParallel, SyncBatchNorm, join_states

SIZE = 5
KINDS = ({}, {"rank0_only": True}, {"sharded": True})


def make(comm, stage):
    model = DistributedDataParallel(Net(), comm, shard=stage)
    first, *others = model.parameters()
    return model, dg.optim.NAdam([{"params": [first]}, {"params": others, "lr": 1e-3}], lr=1e-2)


def step(model, optimizer, number):
    optimizer.zero_grad()
    mean_loss(model, *samples(number, model.comm.rank, np.float64)).backward()
    optimizer.param_groups[0]["betas"] = (0.9 - 0.1 * number, 0.999)  # so that the product is of several
    optimizer.step()


def numbers_of(state):
    """What counts the steps of each parameter, and multiplies along with them."""
    return [(entry["step"], entry.get("mu_product")) for _, entry in sorted(state["state"].items())]


def test_the_product_of_momenta_is_every_ranks_whoever_owns_the_group():
    def save(comm, stage):
        model, optimizer = make(comm, stage)
        for number in range(3):
            step(model, optimizer, number)
        states = [optimizer.state_dict(**kind) for kind in (KINDS if stage else KINDS[:1])]
        owned = [optimizer._states.of(each["params"][0]) is not None for each in optimizer.param_groups]
        return owned, model.state_dict(), states

    _, module, (expected,) = ThreadWorld(SIZE).run(lambda comm: save(comm, None))[0]
    saved = ThreadWorld(SIZE).run(lambda comm: save(comm, "optimizer"))
    assert any(not owns for owned, _, _ in saved for owns in owned)
    assert all(product is not None for _, product in numbers_of(expected))
    for _, _, states in saved:
        assert [numbers_of(state) for state in states] == [numbers_of(expected)] * len(KINDS)

    def go_on(comm, stage, state):
        model, optimizer = make(comm, stage)
        model.load_state_dict(module)
        optimizer.load_state_dict(state)
        step(model, optimizer, 3)
        return [p.detach().numpy().tobytes() for p in model.parameters()]

    on = ThreadWorld(2).run(lambda comm: go_on(comm, None, expected))
    pieces = [states[2] for _, _, states in saved]
    for whole in (saved[0][2][1], join_states(pieces), join_states(pieces[::-1])):
        assert ThreadWorld(2).run(lambda comm, state=whole: go_on(comm, "gradients", state)) == on


class Heads(Module):
    """One block of two matrices, each with a result of its own."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(4)
        self.blocks = ModuleList([Module()])
        self.blocks[0].first = Parameter(rng.standard_normal((64, 64)))
        self.blocks[0].second = Parameter(rng.standard_normal((64, 64)))
        self.blocks[0].forward = lambda x: [functional.linear(x, p) for p in self.blocks[0].parameters()]

    def forward(self, x):
        return self.blocks[0](x)


def test_a_step_of_one_loss_leaves_the_graph_of_another_as_it_was():
    """The second matrix was not updated, so its graph is right still, and its elements come again."""

    def run(comm, stage):
        model = DistributedDataParallel(Heads(), comm, shard=stage)
        optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
        samples = np.random.default_rng(comm.rank).standard_normal((3, 64))
        x = dg.Tensor(samples, requires_grad=True)
        first, second = model(x)
        first.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        x.grad = None
        second.sum().backward()
        optimizer.step()
        return x.grad.numpy().tobytes(), [p.detach().numpy().tobytes() for p in model.parameters()]

    expected = ThreadWorld(2).run(lambda comm: run(comm, None))
    for stage in ("gradients", "parameters"):
        assert ThreadWorld(2).run(lambda comm, s=stage: run(comm, s)) == expected


@pytest.mark.parametrize(
    ("stage", "name"), [("gradients", "LAMB"), ("parameters", "AdamW"), ("parameters", "LBFGS")]
)
def test_a_copy_has_all_of_what_ranks_own_parts_of(stage, name):
    """And goes on by itself, wrapped or not, as its original does."""

    def run(comm):
        model, optimizer = problem(comm, name, shard=stage)
        steps(model, optimizer, 2)
        module, twin = copy.deepcopy((model.module, optimizer))
        assert not twin.is_sharded
        steps(model, optimizer, 2, first=2)
        steps(DistributedDataParallel(module, comm), twin, 2, first=2)
        return parameters(model).tobytes() == parameters(module).tobytes()

    assert ThreadWorld(3).run(run) == [True] * 3


def test_how_long_gathers_took_and_were_waited_for_is_told_a_bucket(monkeypatch):
    gather = ThreadCommunicator._all_gather

    def late(self, *arguments):
        time.sleep(0.02)
        gather(self, *arguments)

    monkeypatch.setattr(ThreadCommunicator, "_all_gather", late)

    def run(comm, stage):
        model, optimizer = problem(comm, "SGD", shard=stage)
        steps(model, optimizer, 2)
        return model.stats().buckets

    for stage in (None, "optimizer", "parameters"):
        for buckets in ThreadWorld(2).run(lambda comm, s=stage: run(comm, s)):
            assert buckets
            for each in buckets:
                assert ("gather_s" in each) == (stage is not None)
                assert stage is None or (each["gather_s"] >= 0.02 and each["gather_waited_s"] >= 0.0)


class Normed(Module):
    """A batch norm between two layers, which is a block."""

    def __init__(self, comm):
        super().__init__()
        rng = np.random.default_rng(5)
        self.first = Parameter(rng.standard_normal((64, WIDTHS[0])) / 4)
        self.norms = ModuleList([SyncBatchNorm(64, process_group=comm, dtype=np.float64)])
        self.last = Parameter(rng.standard_normal((WIDTHS[-1], 64)) / 8)

    def forward(self, x):
        return functional.linear(self.norms[0](functional.linear(x, self.first)).tanh(), self.last)


def test_batch_norm_over_all_ranks_and_averaged_buffers():
    def run(comm, stage):
        model = DistributedDataParallel(Normed(comm), comm, shard=stage, average_buffers=True)
        optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
        for number in range(4):
            optimizer.zero_grad()
            mean_loss(model, *samples(number, comm.rank, np.float64)).backward()
            optimizer.step()
        return [value.numpy().tobytes() for value in model.state_dict().values()]

    expected = ThreadWorld(3).run(lambda comm: run(comm, None))
    for stage in ("optimizer", "gradients", "parameters"):
        assert ThreadWorld(3).run(lambda comm, s=stage: run(comm, s)) == expected
