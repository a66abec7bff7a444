"""A training run repeats itself to the bit, on one thread and on two: each workload of the step benchmark."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.kernels.workers import Pool
from distgrad.scale.bench.peers import distgrad_step
from distgrad.scale.bench.workloads import WORKLOADS


@pytest.fixture(autouse=True)
def restored_threads():
    before = dg.get_num_threads()
    yield
    dg.set_num_threads(before)


def train(name, threads):
    """Loss and parameters after three steps."""
    models = []
    step = distgrad_step(name, threads, wrap=lambda model: models.append(model) or model)
    losses = [step() for _ in range(3)]
    return [losses[-1].detach().numpy(), *(p.detach().numpy().copy() for p in models[0].parameters())]


#: In every run: a product, a convolution, attention, a recurrence. The others take minutes together.
SAMPLED = ("tiny", "cnn", "gpt", "lstm")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SAMPLED else pytest.mark.slow) for n in WORKLOADS]
)
def test_a_training_run_repeats_itself_to_the_bit(name, threads, monkeypatch):
    monkeypatch.setattr(Pool, "is_quiet", lambda self: False)  # threads share the work on a busy machine too
    first, second = train(name, 1), train(name, threads)
    assert np.isfinite(first[0])
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
