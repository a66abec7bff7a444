"""Steps of several ranks: a captured run is an eager one to the bit on each, and none waits for ever."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.comm import get_world, init
from distgrad.errors import CaptureError
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel, PowerSGD, SyncBatchNorm, TopK, bf16, fp16

Step = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore:.*does not pay here")


def data(count: int, rank: int) -> list[tuple[Any, Any]]:
    """Batches of this rank's own, of another length on each, and smaller every seventh time."""
    rng = np.random.default_rng([7, rank])
    found = []
    for number in range(count):
        rows = 4 + rank if number % 7 < 6 else 2 + rank
        x = rng.standard_normal((rows, 6)).astype(np.float32)
        found.append((dg.asarray(x), dg.asarray(rng.integers(0, 3, rows))))
    return found


def layers(norm: Any = None) -> Any:
    dg.manual_seed(3)
    middle = [] if norm is None else [norm(16)]
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.Tanh(), nn.Linear(16, 3))


def usual(
    norm: Any = None,
    optimizer: Any = optim.AdamW,
    after: Callable[[Any, Any], Any] = lambda m, o: None,
    weigh: bool = False,
    **options: Any,
) -> Any:
    """A model on several ranks, its optimizer, and a step of both."""
    model = DistributedDataParallel(layers(norm), bucket_cap_mb=0.0003, **options)
    chosen = optimizer(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        chosen.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if weigh:
            model.batch_weight = (y != 0).sum()
        loss.backward()
        after(model, chosen)
        chosen.step()
        return loss

    return model, chosen, step


def accumulating() -> Any:
    """Two halves of a batch, of which the first is not reduced."""
    model = DistributedDataParallel(layers())
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        with model.no_sync():
            F.cross_entropy(model(x[:2]), y[:2]).backward()
        loss = F.cross_entropy(model(x[2:]), y[2:])
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def gathering() -> Any:
    """Gradients add up over the steps, as nothing clears them."""
    model = DistributedDataParallel(layers())
    optimizer = optim.SGD(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def by_hand() -> Any:
    """Verbs of the communicator, and a layer through which gradients flow between ranks."""
    model, comm = layers(), get_world()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        shared = dg.parallel.functional.all_reduce(model(x[:2]), "mean")
        loss = F.cross_entropy(model(x), y) + (shared * shared).sum()
        loss.backward()
        for parameter in model.parameters():
            parameter.grad.mul_(1.0 / comm.size)
            comm.all_reduce(parameter.grad._data)
        optimizer.step()
        rows = comm.all_gather(loss.detach()._data)
        return loss, rows

    return model, optimizer, step


def scaling(**options: Any) -> Any:
    """A loss whose scale grows every other step, until gradients overflow and a step is left out."""
    model = DistributedDataParallel(layers(), **options)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    scaler = dg.amp.GradScaler(init_scale=2.0**127, growth_interval=2)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        model.clip_grad_norm_(0.1)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return model, optimizer, step


CASES: dict[str, Callable[[], Any]] = {
    "AdamW": usual,
    "batch norm": lambda: usual(nn.BatchNorm1d),
    "averaged buffers": lambda: usual(nn.BatchNorm1d, average_buffers=True),
    "synchronised batch norm": lambda: usual(SyncBatchNorm),
    "weights of batches": lambda: usual(weigh=True),
    "ranks that count once": lambda: usual(weigh_by="ranks"),
    "clipping": lambda: usual(after=lambda m, o: m.clip_grad_norm_(0.1)),
    "float16": lambda: usual(hook=fp16),
    "bfloat16": lambda: usual(hook=bf16),
    "PowerSGD": lambda: usual(hook=PowerSGD(1)),
    "TopK": lambda: usual(hook=TopK(0.2)),
    "sharded optimizer": lambda: usual(shard="optimizer"),
    "sharded gradients": lambda: usual(shard="gradients"),
    "a sharded norm": lambda: usual(shard="optimizer", after=lambda m, o: m.clip_grad_norm_(0.1)),
    "replicas that are compared": lambda: usual(check_replicas_every=5),
    "a rule on whole parameters": lambda: usual(optimizer=optim.LAMB),
    "no_sync": accumulating,
    "gradients that add up": gathering,
    "verbs": by_hand,
    "loss scaling": scaling,
    "loss scaling over sharded gradients": lambda: scaling(shard="gradients"),
}


QUICK = (
    *("synchronised batch norm", "weights of batches", "bfloat16", "PowerSGD", "sharded optimizer"),
    *("no_sync", "gradients that add up", "verbs", "loss scaling"),
)


def outcome(make: Callable[[], Any], count: int, captured: bool) -> Any:
    model, optimizer, step = make()
    run = dg.capture(step, verify_every=20) if captured else step
    found = []
    for number, batch in enumerate(data(count, get_world().rank)):
        if number == count // 2:
            optimizer.param_groups[0]["lr"] *= 0.5
        with np.errstate(all="ignore"):  # a scaled loss overflows
            result = run(*batch)
        loss = result[0] if isinstance(result, tuple) else result
        found.append(loss.detach().numpy().tobytes())
    found += [x.detach().numpy().tobytes() for x in (*model.parameters(), *model.buffers())]
    gradients = [p.grad if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()]
    steps = model.reducer.num_steps if isinstance(model, DistributedDataParallel) else 0
    return (found, steps), gradients, run


def check_all(count: int, names: Any = CASES) -> None:
    init()
    for name in names:
        found, gradients, run = outcome(CASES[name], count, True)
        expected, expected_gradients, _ = outcome(CASES[name], count, False)
        assert found[0] == expected[0], name
        if "shard" not in name:  # of which the others' parts are nobody's
            assert gradients == expected_gradients, name
        assert run.num_replays > count // 2, (name, run.num_replays)


@pytest.mark.ranks(2, timeout=120)
def test_two_ranks() -> None:
    check_all(20, QUICK)


@pytest.mark.slow
@pytest.mark.ranks(1, timeout=300)
def test_one_rank() -> None:
    check_all(50)


@pytest.mark.slow
@pytest.mark.ranks(2, timeout=300, backend="shm")
def test_two_ranks_in_shared_memory() -> None:
    check_all(50)


@pytest.mark.slow
@pytest.mark.ranks(3, timeout=300)
def test_three_ranks() -> None:
    check_all(50)


@pytest.mark.slow
@pytest.mark.ranks(5, timeout=400)
def test_five_ranks() -> None:
    check_all(50)


def refused(make: Callable[[], Any], message: str) -> None:
    _, _, step = make()
    run = dg.capture(step)
    with pytest.raises(CaptureError, match=message):
        run_all(run, data(6, 0))


def run_all(run: Step, batches: list[tuple[Any, Any]]) -> None:
    for batch in batches:
        run(*batch)


def looking() -> Any:
    return usual(after=lambda m, o: bool(m.module[0].weight.grad.sum() > 1e9))


def all_finite() -> Any:
    return usual(after=lambda m, o: bool(m.all_finite()))


def objects() -> Any:
    comm = get_world()
    return None, None, lambda x, y: (comm.all_gather_object(1), x.sum())[1]


def pending() -> Any:
    comm = get_world()
    return None, None, lambda x, y: (comm.all_reduce(x._data * 1.0, async_op=True).wait(), x.sum())[1]


def exact() -> Any:
    model = DistributedDataParallel(layers(), exact=True, shards=2)

    def step(x: Any, y: Any) -> Any:
        for a, b in model.shards(x, y):
            F.cross_entropy(model(a), b).backward()
        return x.sum()

    return model, None, step


@pytest.mark.ranks(2, timeout=120)
def test_what_ranks_do_together_is_refused_by_name() -> None:
    init()
    refused(looking, r"looks at a number at .* behind")
    refused(all_finite, r"calls all_finite\(\)")
    refused(objects, "calls all_gather_object")
    refused(pending, "calls all_reduce with async_op=True")
    refused(lambda: usual(shard="parameters"), "shard='parameters'")
    refused(lambda: usual(tune=True), "tune=True")
    threads = dg.get_num_threads()
    refused(exact, "exact=True")
    dg.set_num_threads(threads)


@pytest.mark.ranks(3, timeout=120)
def test_a_rank_whose_guard_fails_computes_eagerly_while_the_others_replay() -> None:
    init()
    rank = get_world().rank

    def make() -> Any:
        model = DistributedDataParallel(layers(nn.BatchNorm1d))
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) * (2.0 if bool((x > 9.0).any()) else 1.0)
            loss.backward()
            optimizer.step()
            return loss

        return model, step

    def run(captured: bool) -> Any:
        model, step = make()
        call = dg.capture(step, verify_every=10) if captured else step
        for number, (x, y) in enumerate(data(40, rank)):
            if number > 5 and number % 7 < 6 and number % 3 == rank:
                x = x + 10.0
            call(x, y)
        return [p.detach().numpy().tobytes() for p in model.parameters()], call

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "capture: .*computed eagerly")  # as one rank says
        found, call = run(True)
    assert found == run(False)[0]
    assert 10 < call.num_replays < 40


@pytest.mark.ranks(2, timeout=120)
def test_a_replay_that_differs_on_one_rank_is_an_error_on_all() -> None:
    init()
    model, _, step = usual()
    calls = ctypes.c_long()  # of which Python's own attributes tell nothing
    rank = get_world().rank

    def rare() -> float:
        calls.value += 1
        return 2.0 if rank == 1 and calls.value == 6 else 1.0  # when a replay is compared

    def changed(x: Any, y: Any) -> Any:
        return step(x * rare(), y)

    run = dg.capture(changed, verify_every=4)
    before = []

    def remember(x: Any, y: Any) -> None:
        before[:] = [p.detach().numpy().tobytes() for p in model.parameters()]
        run(x, y)

    with pytest.raises(CaptureError, match="a replay of rank 0 leaves other numbers"):
        run_all(remember, data(6, 9) * 4)
    assert [p.detach().numpy().tobytes() for p in model.parameters()] == before
