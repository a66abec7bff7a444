"""A captured step gives what an eager one gives, to the bit: models, optimizers, and what else steps do."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from replay.steps import assert_bit_equal, batches, mlp, training

import distgrad as dg
from distgrad import nn, optim
from distgrad.backend import threads
from distgrad.backend.kernels import machine
from distgrad.errors import CaptureError, OptionError
from distgrad.nn import functional as F
from distgrad.replay.emit import Arrays
from distgrad.replay.holders import recording
from distgrad.replay.loops import Assembler
from distgrad.replay.record import Record

DATA = batches(18)

OPTIMIZERS = {
    name: getattr(optim, name)
    for name in (
        *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "LAMB", "LARS", "Lion"),
        *("NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
    )
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_with_a_changing_rate(name: str) -> None:
    assert_bit_equal(training(optimizer=lambda p: OPTIMIZERS[name](p, lr=1e-2)), DATA)


def matrices() -> Any:
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.Tanh(), nn.Linear(16, 3, bias=False))


OPTIONS = {
    "amsgrad": training(optimizer=lambda p: optim.Adam(p, lr=0.01, amsgrad=True)),
    "momentum": training(optimizer=lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    "Muon": training(matrices, lambda p: optim.Muon(p, lr=0.01)),
    "weight penalty": training(loss=lambda h, y: F.cross_entropy(h, y) + 0.01 * (h * h).sum()),
    "clipping": training(after=lambda m, o: nn.utils.clip_grad_norm_(m.parameters(), 0.1) and None),
    "clipping values": training(after=lambda m, o: nn.utils.clip_grad_value_(m.parameters(), 0.01)),
    "inf norm": training(
        after=lambda m, o: nn.utils.clip_grad_norm_(m.parameters(), 0.1, float("inf")) and None
    ),
    "BatchNorm": training(lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))),
    "BatchNorm's plain mean": training(
        lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16, momentum=None), nn.Linear(16, 3))
    ),
    "dropout": training(lambda: nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))),
    "dropout by a kernel": training(
        lambda: nn.Sequential(nn.Linear(6, 512), nn.Dropout(0.5), nn.Linear(512, 3))
    ),
    "noise": training(forward=lambda m, x: m(x + 0.1 * dg.randn(*x.shape) + dg.rand(*x.shape))),
    "random places": training(forward=lambda m, x: m(x)[dg.randperm(8)]),
    "labels that are smoothed": training(loss=lambda h, y: F.cross_entropy(h, y, label_smoothing=0.1)),
    "checkpointing": training(
        lambda: nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3)),
        forward=dg.autograd.checkpoint,
    ),
    "layer norm and GELU": training(
        lambda: nn.Sequential(nn.Linear(6, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 3))
    ),
    "powers": training(forward=lambda m, x: m(x) ** 2 + m(x).abs() ** 1.5 + (x.sum() ** 2) * 1e-3),
    "NumPy on what numpy() gives": training(forward=lambda m, x: m(x) + dg.asarray(np.sin(x.numpy())[:, :3])),
    "a view that is changed in place": training(
        forward=lambda m, x: (lambda h: (h[:, :1].mul_(2.0), h)[1])(m(x) * 1.0)
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_steps_do(name: str) -> None:
    assert_bit_equal(OPTIONS[name], DATA)


def scaled() -> Any:
    model, scaler = mlp(), dg.amp.GradScaler(growth_interval=3)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    model.others = [dg.asarray(0.0)]

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        return loss

    model.scaler = scaler
    return model, optimizer, step


def overflowing() -> Any:
    """A scale that grows every other step until gradients overflow, at the first step too."""
    model, scaler = mlp(), dg.amp.GradScaler(init_scale=2.0**127, growth_interval=2)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    model.others = [dg.asarray(0.0)]

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return model, optimizer, step


def accumulated() -> Any:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def in_parts() -> Any:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        for part in (slice(0, 4), slice(4, 8)):
            loss = F.cross_entropy(model(x[part]), y[part]) * 0.5
            loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


def scheduled() -> Any:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    warm = optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=6)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        warm.step()
        return loss

    return model, optimizer, step


def averaged() -> Any:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    ema = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
    model.others = [*ema.parameters(), *ema.buffers()]

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        return loss

    return model, optimizer, step


def adversarial() -> Any:
    """Two optimizers in one step, and a target that is looked at behind the first one's update."""
    model, critic = mlp(), mlp()
    optimizer, other = optim.AdamW(model.parameters(), lr=0.01), optim.SGD(critic.parameters(), lr=0.1)
    model.others = list(critic.parameters())

    def step(x: Any, y: Any) -> Any:
        other.zero_grad()
        F.cross_entropy(critic(x), y).backward()
        other.step()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x) + critic(x).detach(), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, step


@pytest.mark.parametrize(
    "make", [scaled, overflowing, accumulated, in_parts, scheduled, averaged, adversarial]
)
def test_whole_steps(make: Any) -> None:
    assert_bit_equal(make, DATA)


def test_a_scale_grows_in_replays() -> None:
    model, _, step = scaled()
    before = model.scaler.get_scale()
    run = dg.capture(step)
    for batch in DATA:
        run(*batch)
    assert run.num_replays > 10
    assert model.scaler.get_scale() == before * 2.0**6  # once in three steps


@pytest.mark.parametrize("dtype", [dg.float64, dg.float32])
def test_both_dtypes(dtype: Any) -> None:
    data = [(x.astype(dtype), y) for x, y in DATA]
    assert_bit_equal(training(lambda: mlp().to(dtype=dtype)), data)


def test_parts_that_threads_share() -> None:
    before = dg.get_num_threads()
    dg.set_num_threads(2)
    try:
        wide = training(lambda: nn.Sequential(nn.Linear(6, 2048), nn.GELU(), nn.Linear(2048, 3)))
        run = assert_bit_equal(wide, batches(14, rows=256))
    finally:
        dg.set_num_threads(before)
    assert run.num_replays >= 9


def test_parts_that_make_arrays_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a convolution computes in an array of its own, which no group of kernels may hold."""
    monkeypatch.setattr(threads, "count_parts", lambda work_ns: 2)

    def model() -> Any:
        return nn.Sequential(
            nn.Unflatten(1, (3, 8, 8)), nn.Conv2d(3, 32, 3), nn.Flatten(), nn.Linear(32 * 36, 3)
        )

    assert assert_bit_equal(training(model), batches(14, rows=16, features=192)).num_replays >= 9


def test_gradients_that_are_cleared_outside_only_now_and_then() -> None:
    """Whether there are gradients is a condition: each case has a tape."""

    def train(captured: bool) -> Any:
        dg.manual_seed(1)
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def gather(x: Any, y: Any) -> Any:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        run = dg.capture(gather) if captured else gather
        losses = []
        for number, batch in enumerate(batches(40)):
            losses.append(run(*batch).detach().numpy().tobytes())
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
        return losses, [p.detach().numpy().tobytes() for p in model.parameters()], run

    (losses, state, run), expected = train(True), train(False)
    assert (losses, state) == expected[:2]
    assert run.num_replays > 25


def test_inference() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()
    run = dg.capture(model)
    with dg.no_grad():
        for x, _ in DATA:
            assert run(x).numpy().tobytes() == model(x).numpy().tobytes()
    assert run.num_replays > 10


def test_results_are_new_tensors_and_inputs_stay() -> None:
    run = dg.capture(lambda x, y: {"sum": x + y, "both": (x * 2.0, [y])})
    results = []
    for number in range(12):
        x, y = dg.asarray(np.full(3, float(number))), dg.asarray(np.ones(3))
        results.append(run(x, y))
        assert x.numpy().tolist() == [number] * 3
    for number, result in enumerate(results):
        assert result["sum"].numpy().tolist() == [number + 1.0] * 3
        assert result["both"][0].numpy().tolist() == [2.0 * number] * 3


def test_another_shape_has_a_tape_of_its_own_and_nine_are_too_many() -> None:
    run = dg.capture(lambda x: (x * 2.0).sum())
    for rows in range(1, 9):
        for _ in range(6):
            assert run(dg.ones(rows)).item() == 2.0 * rows
    for _ in range(2):
        run(dg.ones(9))
    with pytest.raises(CaptureError, match=r"8 tapes .* for \(float32\[9\]\)"):
        run(dg.ones(9))


def test_modes_have_tapes_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5))
    run = dg.capture(lambda x: model(x).detach())
    x = DATA[0][0]
    for _ in range(8):
        run(x)
    model.eval()
    for _ in range(8):
        assert run(x).numpy().tobytes() == model(x).detach().numpy().tobytes()
    model.train()
    state = dg.default_generator.get_state()
    dropped = run(x).numpy().tobytes()
    dg.default_generator.set_state(state)
    assert dropped == model(x).detach().numpy().tobytes()


def test_parameters_that_move() -> None:
    model = mlp()
    run = dg.capture(model)
    with dg.no_grad():
        for number, (x, _) in enumerate(DATA):
            if number == 12:  # into other memory, with other values
                model.to(dtype=dg.float64).to(dtype=dg.float32)
                model[0].weight.mul_(2.0)
            assert run(x).numpy().tobytes() == model(x).numpy().tobytes()


@pytest.mark.parametrize("name", ["clipping", "BatchNorm", "layer norm and GELU", "dropout"])
def test_calls_in_place_of_loops(name: str) -> None:
    assert_bit_equal(OPTIONS[name], DATA, mode="calls")


def test_small_calls_become_instructions() -> None:
    """And those whose instruction gives other bits, or that have none, stay calls."""
    run = assert_bit_equal(training(), DATA)
    (tape,) = [tape for kind in run._kinds.values() for tape in kind.tapes]
    small = [call for call in tape.calls if call.kind in ("ufunc", "guard", "fill")]
    assert tape.num_instructions >= len(small)
    with pytest.raises(OptionError, match="'loops' or 'calls'"):
        dg.capture(lambda x: x, mode="graph")


def test_an_instruction_with_other_bits_is_not_taken() -> None:
    """Planted: a machine that computes nothing."""
    with recording() as recorder:
        x = recorder.wrap(np.ones(4))
        y = x * 3.0
        outputs = [recorder.place(y)]
    record = Record(recorder, outputs)
    call = record.calls[0]
    for storage in record.storages:
        storage.is_born = False
    assembler = Assembler(Arrays(np.zeros(0, np.uint8)))
    assert assembler.assemble(call, lambda code: -1) is None
    assert assembler.assemble(call, machine.run) is not None


def test_explain_and_a_decorator() -> None:
    @dg.capture(verify_every=7)
    def double(x: Any) -> Any:
        """Twice x."""
        return x * 2.0

    assert double.__doc__ == "Twice x."
    for number in range(30):
        assert double(dg.asarray(float(number))).item() == 2.0 * number
    text = double.explain()
    assert "tape of 1 calls" in text
    assert "multiply 1" in text
    with pytest.raises(OptionError, match="verify_every"):
        dg.capture(lambda x: x, verify_every=-1)


def test_a_closure_is_captured_and_lbfgs_calls_it() -> None:
    x, y = batches(1, rows=16)[0]

    def searched(captured: bool) -> Any:
        dg.manual_seed(2)
        model = mlp()
        optimizer = optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe")

        def closure() -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        run = dg.capture(closure) if captured else closure
        losses = [float(optimizer.step(run)) for _ in range(5)]
        assert not captured or run.num_replays > 10
        return losses, [p.detach().numpy().tobytes() for p in model.parameters()]

    assert searched(True) == searched(False)


def test_a_copy_records_for_itself() -> None:
    model = mlp()
    run, x = dg.capture(model), batches(1)[0][0]
    with dg.no_grad():
        for _ in range(6):
            before = run(x)
        other, copied = copy.deepcopy((model, run))
        for parameter in other.parameters():
            parameter.mul_(0.0)
        for _ in range(6):
            assert not copied(x).any()
        assert (run.num_replays, copied.num_replays) == (2, 2)
        assert (run(x) == before).all()
    assert copied.step is other
