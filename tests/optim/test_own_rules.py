"""Rules of the user's own, and what an optimizer costs beside its rule."""

import sys
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import optim
from distgrad.backend.kernels.elementwise import Elementwise, elementwise
from distgrad.errors import DefinitionError
from distgrad.optim.optimizer import Optimizer


@elementwise
def adam(
    p: float, g: float, exp_avg: float, exp_avg_sq: float, max_exp_avg_sq: float | None,
    *, sign: float, decay: float, shrink: float, beta1: float, rest1: float, beta2: float, rest2: float,
    root: float, eps: float, rate: float,
) -> Any:  # fmt: skip
    """What the package's own takes, so that its kernel would run on it, and something else."""
    exp_avg = sign * g + decay * g + shrink * g + beta1 * g + rest1 * g
    exp_avg_sq = beta2 * g + rest2 * g + root * g + eps * g
    p = p - rate * g * g
    return p, exp_avg, exp_avg_sq


def named(name):
    """A rule with one number, made inside a function, under a name that the package may have too."""

    @elementwise
    def rule(p: float, g: float, *, rate: float) -> Any:
        p = p - rate * g * g
        return p  # noqa: RET504

    rule.function.__name__ = name
    return rule


@pytest.mark.parametrize("size", [1, 8, 5000])  # kernels run from 1024 elements
@pytest.mark.parametrize("rule", [adam, *map(named, ["own", "sgd", "sigmoid"])], ids=lambda rule: rule.name)
def test_a_rule_of_the_users_own_is_what_runs_whatever_its_name(rule, size):
    class Own(Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def numbers(self, group, step):
            return dict.fromkeys(self.rule.numbers, 0.25)

    assert isinstance(rule, Elementwise)
    own = type("Own", (Own,), {"rule": rule})
    p = dg.Tensor(np.linspace(1.0, 2.0, size, dtype=np.float32), requires_grad=True)
    before, g = p.detach().numpy().copy(), np.linspace(-1.0, 3.0, size, dtype=np.float32)
    optimizer = own([p])
    p.grad = dg.Tensor(g)
    optimizer.step()
    assert np.array_equal(p.detach().numpy(), before - np.float32(0.25) * g * g)


def test_a_function_without_a_text_is_refused():
    space: dict[str, Any] = {}
    exec("def f(p, g):\n    p = p + g\n    return p", space)
    with pytest.raises(
        DefinitionError, match=r"<string>:1: f: expected a function written with def in a file"
    ):
        elementwise(space["f"])


def calls_of(step):
    """How many functions of Python are entered."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("rule", [optim.LAMB, optim.LARS, optim.Adafactor, optim.Muon, optim.SGD])
def test_a_step_and_a_state_dict_cost_a_parameter_the_same_however_many_there_are(rule):
    found = []
    for count in (20, 40, 60):
        params = [dg.Tensor(np.eye(2), requires_grad=True) for _ in range(count)]
        for p in params:
            p.grad = dg.Tensor(np.ones((2, 2)))
        optimizer = rule(params, lr=0.1)
        optimizer.step()
        found.append([calls_of(optimizer.step), calls_of(optimizer.state_dict)])
    least, middle, most = np.array(found)
    more, before = most - middle, middle - least
    assert (abs(more - before) <= 4).all(), found  # what other tests have left may be collected meanwhile
