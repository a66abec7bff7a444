"""What a step's Python code sees may change outside it: the next call computes with what is there then."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np
import pytest
from replay.steps import batches, mlp

import distgrad as dg
from distgrad import nn, optim
from distgrad.errors import CaptureError
from distgrad.nn import functional as F

DATA = batches(18)
AT = 9  # the call before which something is changed
CONFIG = types.SimpleNamespace(scale=1.0, nested=[{"scale": 1.0}])
SCALE = 1.0


class Options:
    scale = 1.0


def scaled(h: Any) -> Any:
    """Names a global that the step itself does not name."""
    return h * SCALE


def set_scale(model: Any, optimizer: Any) -> None:
    globals()["SCALE"] = 3.0


class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.temperature, self.activation = mlp(), 1.0, dg.tanh

    def forward(self, x: Any) -> Any:
        return self.activation(self.inner(x)) * self.temperature


class Slotted:
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 1.0


SLOTTED = Slotted()
HALF = functools.partial(lambda options, h: h * options.scale, Options)


def dropping() -> Any:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))


def setting(thing: Any, name: str, value: Any) -> Any:
    return lambda m, o: setattr(thing, name, value)


def rate(model: Any, optimizer: Any) -> None:
    optimizer.param_groups[0].update(lr=0.01, momentum=0.5, weight_decay=0.1)


def replace_parameter(model: Any, optimizer: Any) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach() * 0.5)


def add_hook(model: Any, optimizer: Any) -> None:
    model[0].weight.register_hook(lambda g: g * 2.0)


def replace_module(model: Any, optimizer: Any) -> None:
    model[1] = nn.ReLU()


#: The model, what is computed with it, and what is changed outside the step on the way.
CHANGED: dict[str, tuple[Any, Any, Any]] = {
    "a global of a helper": (mlp, lambda m, o, x: scaled(m(x)), set_scale),
    "a namespace": (mlp, lambda m, o, x: m(x) * CONFIG.scale, setting(CONFIG, "scale", 3.0)),
    "a dict in a list": (
        mlp,
        lambda m, o, x: m(x) * CONFIG.nested[0]["scale"],
        lambda m, o: CONFIG.nested[0].update(scale=3.0),
    ),
    "a class": (mlp, lambda m, o, x: HALF(m(x)), setting(Options, "scale", 3.0)),
    "an object with slots": (mlp, lambda m, o, x: m(x) * SLOTTED.scale, setting(SLOTTED, "scale", 3.0)),
    "a module's number": (Tempered, lambda m, o, x: m(x), lambda m, o: setattr(m, "temperature", 2.0)),
    "a module's function": (Tempered, lambda m, o, x: m(x), lambda m, o: setattr(m, "activation", dg.exp)),
    "dropout's probability": (dropping, lambda m, o, x: m(x), lambda m, o: setattr(m[2], "p", 0.1)),
    "batch norm's momentum": (dropping, lambda m, o, x: m(x), lambda m, o: setattr(m[1], "momentum", 0.9)),
    "a module": (mlp, lambda m, o, x: m(x), replace_module),
    "another module": (mlp, lambda m, o, x: m(x), lambda m, o: m.append(nn.Tanh())),
    "a parameter": (mlp, lambda m, o, x: m(x), replace_parameter),
    "a tensor's hook": (mlp, lambda m, o, x: m(x), add_hook),
    "a module's hook": (
        mlp,
        lambda m, o, x: m(x),
        lambda m, o: m[0].register_forward_hook(lambda module, given, y: y * 2.0),
    ),
    "a rate that the step looks at": (mlp, lambda m, o, x: m(x) * o.param_groups[0]["lr"], rate),
    "all options": (mlp, lambda m, o, x: m(x), rate),
    "an optimizer's state": (mlp, lambda m, o, x: m(x), lambda m, o: o.load_state_dict(o.state_dict())),
    "the generator": (dropping, lambda m, o, x: m(x), lambda m, o: dg.manual_seed(3)),
}


@pytest.fixture(autouse=True)
def as_before() -> Any:
    yield
    globals()["SCALE"] = SLOTTED.scale = CONFIG.scale = CONFIG.nested[0]["scale"] = Options.scale = 1.0


def run(name: str, captured: bool) -> Any:
    make, forward, change = CHANGED[name]
    dg.manual_seed(5)
    model = make()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(model, optimizer, x), y)
        loss.backward()
        optimizer.step()
        return loss

    call = dg.capture(step) if captured else step
    found = []
    for number, batch in enumerate(DATA):
        if number == AT:
            change(model, optimizer)
        found.append(call(*batch).detach().numpy().tobytes())
    found += [x.detach().numpy().tobytes() for x in (*model.parameters(), *model.buffers())]
    return found, call


@pytest.mark.parametrize("name", CHANGED)
def test_what_is_changed_outside_is_seen(name: str) -> None:
    found, call = run(name, True)
    globals()["SCALE"] = SLOTTED.scale = CONFIG.scale = CONFIG.nested[0]["scale"] = Options.scale = 1.0
    assert found == run(name, False)[0]
    assert call.num_replays >= len(DATA) - 8


def test_parameters_that_are_frozen_for_a_while() -> None:
    """Those that were frozen have taken fewer steps afterwards, so that a rule's call is no longer shared."""

    def train(captured: bool) -> Any:
        dg.manual_seed(5)
        model = mlp()
        optimizer = optim.AdamW(model.parameters(), lr=0.01)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        call = dg.capture(step) if captured else step
        for number, batch in enumerate(batches(22)):
            if number in (8, 14):
                model[0].weight.requires_grad_(number == 14)
            call(*batch)
        return [p.detach().numpy().tobytes() for p in model.parameters()]

    assert train(True) == train(False)


def test_a_rate_that_is_handed_out() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.StepLR(optimizer, 9)
    call = dg.capture(lambda x: (model(x).detach(), schedule.get_last_lr()[0]))
    for x, _ in DATA:
        assert call(x)[1] == optimizer.param_groups[0]["lr"]
        schedule.step()
    assert call.num_replays >= 9


def test_a_number_that_is_computed_anew_is_the_same_number() -> None:
    holder = types.SimpleNamespace(scale=0.5)
    call = dg.capture(lambda x: x * holder.scale)
    for number in range(20):
        holder.scale = float(f"0.{5 + (number > 30)}")
        assert call(dg.ones(3)).numpy().tolist() == [0.5] * 3
    assert call.num_replays == 16


def test_arguments_that_are_handed_back_are_new_tensors() -> None:
    call = dg.capture(lambda x: (x, x[0], x.T, x * 1.0))
    kept = [(x, call(x)) for x, _ in DATA]
    for x, (same, row, turned, _) in kept:
        assert same.numpy().tobytes() == x.numpy().tobytes()
        assert row.numpy().tobytes() == x[0].numpy().tobytes()
        assert turned.numpy().tolist() == x.T.numpy().tolist()


def test_the_order_in_memory_is_the_arguments() -> None:
    """Sums go along the memory, so another order has other bits, and a tape of its own."""
    rng = np.random.default_rng(2)
    call = dg.capture(lambda x: (x.sum(), x.sum(0), x.sum(1)))
    for number in range(24):
        x = rng.standard_normal((300, 190)).astype("f4")
        x = [x, np.asfortranarray(x), x[::2, ::-1]][number % 3]
        expected = [x.sum(), x.sum(0), x.sum(1)]
        assert [y.numpy().tobytes() for y in call(dg.asarray(x))] == [y.tobytes() for y in expected]
    assert call.num_replays >= 12


def test_one_tensor_as_two_arguments_and_two_that_overlap() -> None:
    """NumPy computes half of a matrix times its own transpose."""
    rng = np.random.default_rng(3)
    call = dg.capture(lambda x, y: x @ y.T)
    for number in range(20):
        x = dg.asarray(rng.standard_normal((64, 200)).astype("f4"))
        y = x if number % 2 else x * 1.0
        assert call(x, y).numpy().tobytes() == (x @ y.T).numpy().tobytes()
    assert call.num_replays >= 12
    whole = dg.zeros((9, 4))
    for _ in range(2):
        call(whole[:8], whole[1:])
    with pytest.raises(CaptureError, match=r"arguments 0 and 1 .* overlap"):
        call(whole[:8], whole[1:])


def test_objects_among_arguments_are_not_taken_for_each_other() -> None:
    """An object that is gone may leave its address to the next one."""
    call = dg.capture(lambda options, x: x * options.scale)
    for number in range(200):
        options = types.SimpleNamespace(scale=float(number // 20))
        assert call(options, dg.ones(2)).numpy().tolist() == [number // 20] * 2
        del options
    assert len(call._kinds) <= 64


def test_negative_zero_is_another_number() -> None:
    call = dg.capture(lambda x, scale: x * scale)
    for number in range(20):
        scale = -0.0 if number % 2 else 0.0
        assert np.signbit(call(dg.ones(2), scale).numpy()).tolist() == [bool(number % 2)] * 2


def test_a_result_whose_shape_depends_on_numbers_is_computed_before_anything_changes() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        return np.bincount(y.numpy())

    call = dg.capture(step)
    for x, _ in DATA[:8]:
        call(x, dg.asarray(np.arange(8) % 3))
    assert call.num_replays
    before = [p.detach().numpy().copy() for p in model.parameters()]
    with pytest.warns(UserWarning, match="computed eagerly"):
        assert len(call(DATA[8][0], dg.asarray(np.arange(8) % 2))) == 2
    after = [p.detach().numpy().tobytes() for p in model.parameters()]
    with dg.no_grad():
        for p, x in zip(model.parameters(), before, strict=True):
            p.copy_(dg.asarray(x))
    step(DATA[8][0], dg.asarray(np.arange(8) % 2))
    assert [p.detach().numpy().tobytes() for p in model.parameters()] == after


def test_a_profiler_goes_on() -> None:
    import sys

    seen = []

    def profile(frame: Any, event: str, value: Any) -> None:
        seen.append(event)

    sys.setprofile(profile)
    try:
        call = dg.capture(lambda x: x * 2.0)
        for _ in range(8):
            call(dg.ones(2))
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert seen


def test_what_the_step_makes_itself_may_change() -> None:
    def count(numbers: dict[str, int], seen: list[int], holder: Any) -> int:
        numbers["n"] += 1
        seen.append(numbers["n"])
        holder.last = sum(each * 2 for each in range(1, 3))
        return holder.last

    def step(x: Any) -> Any:
        numbers, seen, holder = {"n": 0}, [0], types.SimpleNamespace(last=0)
        for _ in range(3):
            x = x * float(count(numbers, seen, holder))
        return x * float(len(seen)) + sum(each + 0.0 for each in iter(seen))

    call = dg.capture(step)
    for number in range(12):
        x = dg.asarray(np.full(3, float(number)))
        assert call(x).numpy().tolist() == step(x).numpy().tolist()
    assert call.num_replays == 8
