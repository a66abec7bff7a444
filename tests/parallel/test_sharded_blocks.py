"""Parameters that are there only while their block computes."""

import copy
import time

import numpy as np
import pytest
from parallel.problems import parameters_of

import distgrad as dg
from distgrad.autograd.checkpoint import checkpoint
from distgrad.comm import ThreadWorld, init
from distgrad.comm.threads import ThreadCommunicator
from distgrad.errors import InPlaceError, OptionError, RankFailedError
from distgrad.nn import Module, ModuleList, Parameter, functional
from distgrad.parallel import DistributedDataParallel
from distgrad.parallel.blocks import Blocks, find_blocks

SIZES = (1, 2, 3, 5)
WIDTH, WORDS = 64, 40


pytestmark = pytest.mark.usefixtures("one_thread")


class Block(Module):
    """A residual block; ``again`` computes its middle once more in backward."""

    def __init__(self, rng, again):
        super().__init__()
        self.norm = dg.nn.LayerNorm(WIDTH, dtype=np.float64)
        self.up = Parameter(rng.standard_normal((2 * WIDTH, WIDTH)) / 8)
        self.down = Parameter(rng.standard_normal((WIDTH, 2 * WIDTH)) / 12)
        self.again = again
        self.size = None

    def middle(self, x):
        return functional.linear(functional.linear(x, self.up).tanh(), self.down)

    def forward(self, x):
        self.size = (self.up * self.up).mean()  # what a loss may add, beside the output
        x_norm = self.norm(x)
        return x + (checkpoint(self.middle, x_norm) if self.again else self.middle(x_norm))


class Network(Module):
    """An embedding, whose matrix is the last layer's too, blocks of which one is used twice, and a scale."""

    def __init__(self, again=False, outer=False):
        super().__init__()
        rng = np.random.default_rng(2)
        self.words = dg.nn.Embedding(WORDS, WIDTH, dtype=np.float64)
        self.words.weight._data[...] = rng.standard_normal((WORDS, WIDTH)) / 8
        self.blocks = ModuleList([Block(rng, again) for _ in range(3)])
        self.blocks[2].down = self.blocks[0].down  # of two blocks
        self.scale = Parameter(np.ones(WIDTH))
        self.outer = outer

    def forward(self, tokens):
        x = self.words(tokens)
        for block in (*self.blocks, self.blocks[1]):
            x = checkpoint(block, x) if self.outer else block(x)
        return functional.linear(x * self.scale, self.words.weight)


def batch(step, rank):
    rng = np.random.default_rng([step, rank])
    count = (2 + rank + step) % 4  # also none
    return rng.integers(0, WORDS, (count, 5)), rng.integers(0, WORDS, (count, 5))


def loss_of(model, tokens, targets, extra=False):
    out = model(dg.Tensor(tokens))
    loss = (
        functional.cross_entropy(out.reshape(-1, WORDS), targets.reshape(-1)) if targets.size else out.sum()
    )
    if extra:
        inner = getattr(model, "module", model)
        loss = loss + 0.1 * sum(block.size for block in inner.blocks[:2])
    return loss


def train(comm, stage, *, again=False, outer=False, extra=False, count=6, passes=1, name="AdamW", **options):
    model = DistributedDataParallel(Network(again, outer), comm, shard=stage, bucket_cap_mb=0.05, **options)
    if stage == "parameters":
        assert all(not unit.present for unit in units(model))
    optimizer = getattr(dg.optim, name)(model.parameters(), lr=1e-2)
    norms = []
    for step in range(count):
        optimizer.zero_grad()
        with model.no_sync():
            for number in range(1, passes):
                loss_of(model, *batch(step + 50 * number, comm.rank), extra).backward()
        loss_of(model, *batch(step, comm.rank), extra).backward()
        norms.append(float(model.clip_grad_norm_(1.0)))
        optimizer.step()
    return parameters_of(model).tobytes(), norms


def units(model):
    return model._sharded._blocks._all


def assert_same_bits(size, **options):
    expected = ThreadWorld(size).run(lambda comm: train(comm, None, **options))
    assert ThreadWorld(size).run(lambda comm: train(comm, "parameters", **options)) == expected


@pytest.mark.parametrize("size", SIZES)
def test_bits_are_those_of_training_without_shards(size):
    assert_same_bits(size)


@pytest.mark.parametrize(
    "options",
    [
        {"again": True},
        {"outer": True},
        {"again": True, "outer": True},
        {"extra": True},
        {"passes": 2},
        {"name": "LAMB"},
        {"shard_blocks": ["blocks.0", "words"]},
    ],
    ids=str,
)
def test_checkpoints_sums_beside_the_output_accumulation_and_chosen_blocks(options):
    named = options.pop("shard_blocks", None) if "shard_blocks" in options else None
    expected = ThreadWorld(3).run(lambda comm: train(comm, None, **options))
    more = {} if named is None else {"shard_blocks": named}
    assert ThreadWorld(3).run(lambda comm: train(comm, "parameters", **options, **more)) == expected


def test_units_are_what_blocks_have_in_common():
    module = Network()
    chosen, others = find_blocks(module, None)
    assert chosen == list(module.blocks)
    assert others == [module, module.words]

    def run(comm):
        model = DistributedDataParallel(Network(), comm, shard="parameters")
        names = {id(p): name for name, p in model.module.named_parameters()}
        found = []
        for unit in units(model):
            for sharding, number in unit.parts:
                found.append(
                    {names[id(sharding.buffer.parameters[place])] for place in sharding.parts[number]}
                )
        return found

    for found in ThreadWorld(2).run(run):
        assert {"blocks.0.down"} in found  # of two blocks
        assert {"words.weight"} in found
        assert {"scale"} in found
        assert {"blocks.1.norm.weight", "blocks.1.norm.bias", "blocks.1.up", "blocks.1.down"} in found


def test_nothing_is_there_between_passes_and_one_block_ahead_in_them():
    def run(comm):
        model = DistributedDataParallel(Network(), comm, shard="parameters")
        most = []
        for block in model.module.blocks:
            block.register_forward_hook(
                lambda *_: most.append(sum(unit.present or bool(unit.works) for unit in units(model)))
            )
        optimizer = dg.optim.SGD(model.parameters(), lr=1e-2)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, *batch(step + 1, 0)).backward()
            assert not any(unit.present or unit.works for unit in units(model))
            optimizer.step()
            assert not any(unit.present or unit.works for unit in units(model))
        with dg.no_grad():
            model(dg.Tensor(batch(1, 0)[0]))
        assert not any(unit.present or unit.works for unit in units(model))
        return max(most), len(units(model))

    for most, count in ThreadWorld(2).run(run):
        assert 2 <= most < count


def test_two_losses_gradients_of_inputs_and_a_penalty_on_weights():
    """Whatever walks the graph has the elements that it needs, in whatever order."""

    def run(comm, stage):
        model = DistributedDataParallel(Network(), comm, shard=stage)
        first = loss_of(model, *batch(1, comm.rank))
        second = loss_of(model, *batch(2, comm.rank))
        x = dg.Tensor(np.random.default_rng(comm.rank).standard_normal((3, WIDTH)), requires_grad=True)
        y = model.module.blocks[1](model.module.blocks[0](x))
        (slope,) = dg.autograd.grad(y.sum(), [x])
        with model.no_sync():
            first.backward()
        penalty = sum((p * p).sum() for p in model.parameters())
        (second + penalty).backward()
        dg.optim.SGD(model.parameters(), lr=1e-2).step()
        return slope.numpy().tobytes(), parameters_of(model).tobytes()

    expected = ThreadWorld(3).run(lambda comm: run(comm, None))
    assert ThreadWorld(3).run(lambda comm: run(comm, "parameters")) == expected


def test_frozen_blocks_stay_whole():
    def run(comm, stage):
        model = DistributedDataParallel(Network(), comm, shard=stage)
        optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(6):
            model.module.blocks[1].requires_grad_(step < 2 or step > 3)
            optimizer.zero_grad()
            loss_of(model, *batch(step + 1, comm.rank)).backward()
            optimizer.step()
        return parameters_of(model).tobytes()

    expected = ThreadWorld(2).run(lambda comm: run(comm, None))
    assert ThreadWorld(2).run(lambda comm: run(comm, "parameters")) == expected


def test_freezing_while_there_are_gradients_leaves_the_ranks_alike():
    """A frozen parameter that still has a gradient is updated once more, where it lay before."""

    def run(comm, stage):
        model = DistributedDataParallel(Network(), comm, shard=stage)
        optimizer = dg.optim.SGD(model.parameters(), lr=1e-1)
        loss_of(model, *batch(1, 0)).backward()
        model.module.blocks[1].requires_grad_(False)
        model.module.blocks[2].up.requires_grad_(False)
        loss_of(model, *batch(2, comm.rank))  # lays the others out anew
        optimizer.step()
        for step in (3, 4):
            optimizer.zero_grad()
            loss_of(model, *batch(step, comm.rank)).backward()
            optimizer.step()
            model.module.requires_grad_(True)
        return parameters_of(model).tobytes()

    expected = ThreadWorld(2).run(lambda comm: run(comm, None))
    assert expected[0] == expected[1]
    for stage in ("optimizer", "parameters"):
        assert ThreadWorld(2).run(lambda comm, s=stage: run(comm, s)) == expected


def test_a_call_that_fails_before_its_units_are_gathered_holds_none():
    def run(comm):
        model = DistributedDataParallel(Network(), comm, shard="parameters")
        planted = model.module.blocks[1].register_forward_pre_hook(lambda *_: {}["planted"], prepend=True)
        with pytest.raises(KeyError, match="planted"):
            loss_of(model, *batch(1, 0))
        planted.remove()
        assert not any(unit.holds for unit in units(model))
        loss_of(model, *batch(1, 0)).backward()
        assert not any(unit.holds or unit.present for unit in units(model))

    ThreadWorld(2).run(run)


def test_state_copies_and_loading():
    def run(comm, stage):
        model = DistributedDataParallel(Network(), comm, shard=stage)
        optimizer = dg.optim.AdamW(model.parameters(), lr=1e-2)
        loss_of(model, *batch(1, comm.rank)).backward()
        optimizer.step()
        state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
        inner = model.module.state_dict()
        for block in model.module.blocks:
            block.size = None  # which no copy can take along
        twin = copy.deepcopy(model.module)
        out = twin(dg.Tensor(batch(1, 0)[0]))
        optimizer.zero_grad()
        loss_of(model, *batch(2, comm.rank)).backward()
        optimizer.step()
        kept = all(
            (inner[name.removeprefix("module.")].numpy() == value).all() for name, value in state.items()
        )
        model.load_state_dict(state)
        back = model.state_dict()
        return (
            {name: value.tobytes() for name, value in state.items()},
            kept if stage else True,
            all((back[name].numpy() == value).all() for name, value in state.items()),
            out.detach().numpy().tobytes(),
            type(next(iter(twin.parameters()))) is Parameter,
        )

    expected = ThreadWorld(2).run(lambda comm: run(comm, None))
    found = ThreadWorld(2).run(lambda comm: run(comm, "parameters"))
    assert found == expected
    assert all(all(each[1:3]) and each[4] for each in found)


def test_writes_through_data_reach_the_parameter_and_those_into_a_copy_are_refused():
    def run(comm, stage):
        model = DistributedDataParallel(Network(), comm, shard=stage)
        optimizer = dg.optim.SGD(model.parameters(), lr=1e-2)
        for step in (1, 2):
            optimizer.zero_grad()
            loss_of(model, *batch(step, comm.rank)).backward()
            optimizer.step()
            for parameter in model.parameters():
                parameter.data.clamp_(-0.1, 0.1)
        model.module.scale.data = np.full(WIDTH, 2.0)
        dg.nn.init.zeros_(model.module.blocks[1].up)
        loss_of(model, *batch(3, comm.rank)).backward()
        if stage == "parameters":
            with pytest.raises(InPlaceError, match="read-only"):
                model.module.scale.detach().mul_(0.5)
            with pytest.raises(InPlaceError, match="read-only"):
                model.state_dict()["module.scale"].mul_(0.5)
        return parameters_of(model).tobytes()

    expected = ThreadWorld(3).run(lambda comm: run(comm, None))
    for stage in ("optimizer", "parameters"):
        assert ThreadWorld(3).run(lambda comm, s=stage: run(comm, s)) == expected


def test_loading_gathers_nothing():
    def run(comm):
        model = DistributedDataParallel(Network(), comm, shard="parameters")
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for value in state.values():
            value.mul_(0.5)
        issued = comm.family.num_issued
        model.load_state_dict(state)
        assert comm.family.num_issued == issued
        assert not any(unit.present or unit.works for unit in units(model))
        return all((value.numpy() == state[name].numpy()).all() for name, value in model.state_dict().items())

    for size in SIZES:
        assert all(ThreadWorld(size).run(run))


def test_state_for_rank_0_alone():
    def run(comm, stage):
        model = DistributedDataParallel(Network(), comm, shard=stage)
        return {name: value.numpy().tobytes() for name, value in model.state_dict(rank0_only=True).items()}

    for stage in (None, "optimizer", "parameters"):
        first, *others = ThreadWorld(3).run(lambda comm, s=stage: run(comm, s))
        assert first == ThreadWorld(1).run(lambda comm: run(comm, None))[0]
        assert others == [{}, {}]


@pytest.mark.parametrize("name", ["AdamW", "LBFGS"])
def test_a_checkpoint_of_three_ranks_goes_on_on_two(tmp_path, name):
    def make(comm, stage):
        model = DistributedDataParallel(Network(), comm, shard=stage)
        optimizer = getattr(dg.optim, name)(model.parameters(), lr=1e-2)
        manager = dg.checkpoint.CheckpointManager(tmp_path, comm=comm, signals=False)
        manager.add(model=model, optimizer=optimizer)
        return model, optimizer, manager

    def step(model, optimizer, number):
        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, *batch(number, model.comm.rank))
            loss.backward()
            return 0.0 * loss + 1.0  # a rank's loss is its own: each must go alike

        optimizer.step(closure)

    def save(comm):
        model, optimizer, manager = make(comm, "parameters")
        step(model, optimizer, 1)
        manager.save()
        manager.close()
        return parameters_of(model).tobytes()

    def go_on(comm, stage):
        model, optimizer, manager = make(comm, stage)
        assert manager.restore_latest() is not None
        before = parameters_of(model).tobytes()
        step(model, optimizer, 2)
        manager.close()
        return before, parameters_of(model).tobytes()

    (saved, *_) = ThreadWorld(3).run(save)
    expected = ThreadWorld(2).run(lambda comm: go_on(comm, None))
    assert expected[0][0] == saved
    assert ThreadWorld(2).run(lambda comm: go_on(comm, "parameters")) == expected


def test_a_name_that_no_module_has():
    def run(comm):
        with pytest.raises(OptionError, match=r"shard_blocks has 'blocks.7'"):
            DistributedDataParallel(Network(), comm, shard="parameters", shard_blocks=["blocks.7"])
        with pytest.raises(OptionError, match="goes with shard='parameters'"):
            DistributedDataParallel(Network(), comm, shard="optimizer", shard_blocks=["blocks.0"])

    ThreadWorld(1).run(run)


def test_a_rank_that_fails_while_blocks_are_gathered_is_named():
    others = {}

    def run(comm):
        model = DistributedDataParallel(Network(), comm, shard="parameters")
        if comm.rank == 1:
            model.module.blocks[1].register_forward_pre_hook(lambda *_: {}["planted"])
        try:
            loss_of(model, *batch(1, comm.rank)).backward()
        except RankFailedError as error:
            others[comm.rank] = str(error)
            raise

    with pytest.raises(KeyError, match="planted"):
        ThreadWorld(3).run(run)
    assert set(others) == {0, 2}
    assert all("all_gather" in text and "rank 1 of the world failed" in text for text in others.values())


@pytest.mark.parametrize("where", [None, "blocks.2", "blocks.0", "words"])
@pytest.mark.parametrize("options", [{}, {"again": True}, {"outer": True}], ids=str)
def test_a_backward_pass_that_fails_on_one_rank_ends_that_of_all_in_step(where, options):
    def plant(model, loss):
        place = next(model.module.get_submodule(where).parameters()) if where else loss
        return place.register_hook(lambda _: {}["planted"])

    def fail(model, loss):
        if model.comm.rank == 1:
            with pytest.raises(KeyError, match="planted"), plant(model, loss):
                loss.backward()
        else:
            with pytest.raises(
                RankFailedError, match=r"failed on rank 1 \(KeyError: 'planted'\); no gradients"
            ):
                loss.backward()
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(unit.present or unit.holds for unit in units(model))

    def run(comm, stage):
        model = DistributedDataParallel(Network(**options), comm, shard=stage, bucket_cap_mb=0.05)
        optimizer = dg.optim.SGD(model.parameters(), lr=1e-2)
        for step in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, *batch(step, comm.rank))
            if step % 2 == 0:
                loss.backward()
                optimizer.step()
            elif stage:
                fail(model, loss)
        return parameters_of(model).tobytes()

    expected = ThreadWorld(3).run(lambda comm: run(comm, None))
    assert ThreadWorld(3).run(lambda comm: run(comm, "parameters")) == expected


# -- planted faults


def fault_shows(monkeypatch, name, replacement):
    expected = ThreadWorld(2).run(lambda comm: train(comm, None, count=2, extra=True))
    monkeypatch.setattr(Blocks, name, replacement)
    return ThreadWorld(2).run(lambda comm: train(comm, "parameters", count=2, extra=True)) != expected


def test_a_block_that_is_let_go_early_is_seen(monkeypatch):
    """The planted fault: backward lets each unit go as soon as it has it."""
    hold = Blocks._hold

    def hold_not(self, unit):
        hold(self, unit)
        self._let_go(unit)

    assert fault_shows(monkeypatch, "_hold", hold_not)


def test_a_dropped_wait_is_seen(monkeypatch):
    """The planted fault: elements count as there when their gather was only issued, and comes too late."""

    class Late:
        seconds = 0.0

        def wait(self):
            pass

    def issue(self, unit):
        if not unit.present and not unit.works:
            unit.works = [Late() for _ in unit.parts]

    assert fault_shows(monkeypatch, "_issue", issue)


@pytest.mark.parametrize("stage", ["gradients", "parameters"])
def test_what_is_gathered_late_is_waited_for(stage, monkeypatch):
    """Every gather takes its time, so that whoever does not wait reads what was there before."""
    expected = ThreadWorld(2).run(lambda comm: train(comm, None, count=2))
    gather = ThreadCommunicator._all_gather

    def late(self, *arguments):
        time.sleep(0.02)
        gather(self, *arguments)

    monkeypatch.setattr(ThreadCommunicator, "_all_gather", late)
    assert ThreadWorld(2).run(lambda comm: train(comm, stage, count=2)) == expected


# -- processes


def match():
    comm = init(timeout_s=60)
    assert train(comm, "parameters", count=4) == train(comm, None, count=4)


@pytest.mark.ranks(3, backend="shm", timeout=180)
def test_three_processes_with_shared_memory():
    match()
