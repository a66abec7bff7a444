"""Every module of ``nn``, captured: values, gradients and steps are those of eager calls, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nn import (
    test_torch_equality,
    test_torch_layers,
    test_torch_losses,
    test_torch_recurrent,
    test_torch_sequences,
)
from nn.twins import Case, _converted, _leaves, _value, flat, ours_of

import distgrad as dg
from distgrad import nn, optim

FILES = (
    test_torch_equality,
    test_torch_layers,
    test_torch_losses,
    test_torch_recurrent,
    test_torch_sequences,
)
CASES = [case for file in FILES for case in file.CASES]
CALLS = 8  # two as they are, two recorded, one compared, and three replays


def differentiated(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(differentiated, x))
    is_floating = isinstance(x, dg.Tensor) and x.dtype == dg.float32
    return x.detach().requires_grad_() if is_floating else x


def outcome(case: Case, captured: bool) -> Any:
    dg.manual_seed(1)
    module = getattr(nn, case.name)(
        *[_converted(each, "float32", ours_of) for each in case.args],
        **{key: _converted(each, "float32", ours_of) for key, each in case.options.items()},
    ).train(case.training)
    keywords = {key: _converted(each, "float32", lambda a: a) for key, each in case.keywords.items()}
    parameters = list(module.parameters())
    optimizer = optim.SGD(parameters, lr=0.01) if parameters else None

    def step(*given: Any) -> Any:
        module.zero_grad()
        xs = [differentiated(each) for each in given]
        ys = [y for y in flat(module(*xs, **keywords)) if isinstance(y, dg.Tensor)]
        floating = [y for y in ys if y.requires_grad]
        if floating:
            dg.stack([(y * y).sum() for y in floating]).sum().backward()
        if optimizer is not None:
            optimizer.step()
        gradients = [x.grad for x in flat(xs) if isinstance(x, dg.Tensor) and x.grad is not None]
        return [y.detach() for y in ys], gradients

    call = dg.capture(step) if captured else step
    rng = np.random.default_rng(3)
    found: list[Any] = []
    for _ in range(CALLS):
        given = [_leaves(_value(each, rng, "float32"), ours_of) for each in case.inputs]
        ys, gradients = call(*given)
        found.append([x.numpy().tobytes() for x in (*ys, *gradients)])
    found.append([x.detach().numpy().tobytes() for x in (*parameters, *module.buffers())])
    return found, call


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_module(case: Case) -> None:
    found, call = outcome(case, True)
    assert found == outcome(case, False)[0]
    assert call.num_replays == CALLS - 4
