"""Rung 6: steps written down as graphs and played again, to the bit what eager steps leave."""

import copy

import numpy as np
import pytest
from device_programs import on_host

import distgrad as dg
from distgrad import nn
from distgrad.cuda import graphed
from distgrad.errors import CaptureError, OptionError
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel

in_both_orders = pytest.mark.parametrize(
    "order",
    [
        pytest.param("late", marks=pytest.mark.gpu_double(ranks=1, streams="late")),
        pytest.param("eager", marks=[pytest.mark.gpu_double(ranks=1, streams="eager"), pytest.mark.slow]),
    ],
)


def network(width=6):
    return nn.Sequential(
        nn.Linear(width, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 4)
    )


def step_of(model, optimizer, scaler):
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        return {"loss": loss, "norm": norm}

    return step


def batches(calls, rank=0, overflows=True):
    """What each call is given; in one of them a gradient overflows."""
    rng = np.random.default_rng(rank)
    for call in range(calls):
        x, y = rng.standard_normal((8, 6)).astype("f4"), rng.integers(0, 4, 8)
        if call == calls // 2 and overflows:
            x[0, 0] = np.inf
        yield x, y


def train(model, rule, wrap, calls, device="cuda", rank=0, overflows=True):
    """All that is left behind a call, for every call, and the function that made them."""
    dg.manual_seed(7 + rank)
    optimizer = rule(model.parameters())
    scaler = dg.amp.GradScaler(init_scale=2.0**10, growth_interval=2)
    step, left = wrap(step_of(model, optimizer, scaler)), []
    for call, (x, y) in enumerate(batches(calls, rank, overflows)):
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + call % 5)
        found = step(dg.tensor(x, device=device), dg.tensor(y, device=device))
        dg.rand(3, device=device)  # outside the step too the generator goes on
        arrays = on_host([*model.parameters(), *model.buffers(), found["loss"], found["norm"]])
        steps = max(optimizer._steps.values())
        left.append((arrays, scaler.get_scale(), steps, dg.default_generator.get_state()))
    return left, step


def assert_same(left, expected):
    for call, (ours, theirs) in enumerate(zip(left, expected, strict=True)):
        for x, y in zip(ours[0], theirs[0], strict=True):
            np.testing.assert_array_equal(x, y, err_msg=f"call {call}")
        assert ours[1:] == theirs[1:], call


RULES = {
    "AdamW": lambda p: dg.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "SGD": lambda p: dg.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "NAdam": lambda p: dg.optim.NAdam(p, lr=1e-2),
}
SHORT, WHOLE = 8, 22  # calls: two run as they are, and the others are played


def runs():
    """A short run of one rule, and whole ones of all of them in both orders."""
    yield pytest.param("AdamW", SHORT, marks=pytest.mark.gpu_double(ranks=1, streams="late"))
    for order in ("eager", "late"):
        marks = [pytest.mark.gpu_double(ranks=1, streams=order, timeout=150), pytest.mark.slow]
        for rule in RULES:
            yield pytest.param(rule, WHOLE, marks=marks, id=f"{rule}-{WHOLE}-{order}")


@pytest.mark.parametrize(("rule", "calls"), list(runs()))
def test_a_played_step_leaves_the_bits_of_an_eager_one(rule, calls):
    dg.manual_seed(0)
    model = network().to("cuda")
    expected, _ = train(copy.deepcopy(model), RULES[rule], lambda step: step, calls)
    left, step = train(copy.deepcopy(model), RULES[rule], graphed, calls)
    assert_same(left, expected)
    assert step.num_replays == calls - 3  # one call was written down, and played at once
    scales = [scale for _, scale, _, _ in left]
    assert len(set(scales)) > 2  # grown, and shrunk where a gradient overflowed
    assert max(steps for _, _, steps, _ in left) == calls - 1


class Averaged(nn.Module):
    """Without what differs between ranks but for their numbers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 4))

    def forward(self, x):
        return self.layers(x)


def worlds():
    for ranks, order, calls in ((2, "late", SHORT), (2, "late", WHOLE), (3, "eager", WHOLE)):
        marks = [pytest.mark.gpu_double(ranks=ranks, devices=ranks, streams=order, timeout=240)]
        slow = [pytest.mark.slow] if calls == WHOLE else []
        yield pytest.param(calls, marks=marks + slow, id=f"{ranks} {order}, {calls}")


@pytest.mark.parametrize("calls", list(worlds()))
def test_ranks_play_their_reductions_too(calls):
    comm = dg.comm.init(device="cuda")
    dg.manual_seed(1)
    model = Averaged().to(comm.device)
    found = []
    for wrap in (lambda step: step, graphed):
        ranks = DistributedDataParallel(
            copy.deepcopy(model), comm, bucket_cap_mb=0.0005, check_replicas_every=0
        )
        left, step = train(ranks, RULES["AdamW"], wrap, calls, comm.device, comm.rank, overflows=False)
        assert len(ranks.reducer.buckets) > 1
        found.append(left)
    assert_same(found[1], found[0])
    assert step.num_replays == calls - 3
    x = dg.ones(3, device=comm.device)
    assert comm.all_reduce(x._data).tolist() == [comm.size] * 3  # the communicator serves eager calls on


@in_both_orders
def test_what_a_step_makes_is_nobody_else_s(order):
    weight = dg.ones(64, device="cuda")

    @graphed
    def step(x):
        nonlocal weight
        y = x * 3 + 1
        return (y * weight).sum(), y

    for call in range(6):
        x = dg.full(64, float(call), device="cuda")
        total, y = step(x)
        others = [dg.full(64, 7.0, device="cuda") for _ in range(4)]  # would lie where the graph writes
        step(x)
        assert float(total) == 64 * (3 * call + 1)
        assert y.tolist() == [3.0 * call + 1] * 64
        assert all(other.tolist() == [7.0] * 64 for other in others)


def refused(step, words, *args):
    played = graphed(step)
    for _ in range(2):
        played(*args)
    with pytest.raises(CaptureError, match=words):
        played(*args)


@in_both_orders
def test_what_no_replay_could_do_again_is_refused(order):
    x = dg.ones(4, device="cuda")
    refused(lambda x: float(x.sum()), r"lets the host wait", x)
    refused(lambda x: x.sum().item(), r"\(float, item, print", x)
    refused(lambda x: x if x.sum() > 0 else -x, r"a branch on a tensor", x)
    refused(lambda x: x + dg.tensor([1.0, 2.0, 3.0, 4.0], device="cuda"), r"sends it numbers", x)
    own = dg.Generator().manual_seed(1)
    refused(lambda x: x + dg.rand(4, generator=own, device="cuda"), r"generator of one's own", x)
    refused(lambda x: x @ x, r"cannot have a product of float32\[4\] and float32\[4\]", x)
    whole = nn.Parameter(dg.ones((4, 4), device="cuda"))
    optimizer = dg.optim.Muon([whole])

    def step(x):
        (whole @ dg.reshape(x, (4, 1))).sum().backward()
        optimizer.step()

    refused(step, r"Muon.step by a rule that looks at parameters as a whole", x)
    assert (x * 2).tolist() == [2.0] * 4  # after all that the GPU computes on
    for args, words in (
        ((np.ones(3),), r"an argument is a ndarray"),
        ((dg.ones(3),), r"must be tensors on a GPU without a gradient, got one on cpu"),
        ((dg.ones(3, device="cuda").requires_grad_(),), r"that wants one"),
        ((1.0,), r"expected a tensor on a GPU"),
    ):
        with pytest.raises(CaptureError, match=words):
            graphed(lambda *_: None)(*args)
    with pytest.raises(OptionError, match=r"warm_up must be a whole number from 2 up, got 1"):
        graphed(warm_up=1)


@in_both_orders
def test_each_kind_of_arguments_has_its_graph(order):
    step = graphed(lambda x, factor=1.0: x * factor)
    for _ in range(4):
        assert step(dg.ones(3, device="cuda"), factor=2.0).tolist() == [2.0] * 3
        assert step(dg.ones(2, device="cuda"), factor=3.0).tolist() == [3.0] * 2
    assert step.num_replays == 2
    for length in range(4, 10):
        step(dg.ones(length, device="cuda"))
    with pytest.raises(CaptureError, match=r"8 kinds of arguments have come, and now .*float32\[20\]"):
        step(dg.ones(20, device="cuda"))
