"""Modes: what is recorded, where, and in which thread."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd import detect_anomaly, is_inference_mode_enabled, set_detect_anomaly
from distgrad.autograd.modes import modes
from distgrad.autograd.tensor import Tensor
from distgrad.errors import GraphError


@pytest.fixture(autouse=True)
def modes_are_put_back():
    before = modes.state()
    with np.errstate(invalid="ignore"):  # the gradients that are meant to be NaN
        yield
    assert modes.state() == before


def recorded():
    return (Tensor(np.ones(2), requires_grad=True) * 2.0).requires_grad


OFF = [dg.no_grad, dg.inference_mode, lambda: dg.set_grad_enabled(False)]


@pytest.mark.parametrize("off", OFF)
def test_context_managers(off):
    with off():
        assert not recorded()
        assert not dg.is_grad_enabled()
    assert recorded()
    with pytest.raises(KeyError), off():
        raise KeyError
    assert recorded()


@pytest.mark.parametrize("off", OFF)
def test_decorators(off):
    function = off()(recorded)
    assert function.__name__ == "recorded"
    assert recorded()
    assert not function()
    assert recorded()


def test_a_decorated_function_may_call_itself():
    @dg.no_grad()
    def depth(n):
        assert not recorded()
        return 0 if n == 0 else 1 + depth(n - 1)

    assert depth(5) == 5
    assert recorded()


def test_decorators_without_brackets():
    assert not dg.no_grad(recorded)()
    with dg.no_grad():
        assert dg.enable_grad(recorded)()


@pytest.mark.parametrize("off", OFF)
def test_generators(off):
    log = []

    @off()
    def generate(n):
        """Count."""
        try:
            for i in range(n):
                assert not recorded()
                try:
                    log.append((yield i))
                except KeyError:
                    log.append("caught")
            return "end"
        finally:
            log.append(recorded())

    generator = generate(3)
    assert next(generator) == 0
    assert recorded()
    assert generator.send("sent") == 1
    assert generator.throw(KeyError()) == 2
    assert recorded()
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == "end"
    assert log == ["sent", "caught", None, False]
    generator = generate(3)
    next(generator)
    generator.close()
    assert log[-1] is False
    assert len(log) == 5
    assert list(generate(2)) == [0, 1]


def test_set_grad_enabled_acts_at_once():
    dg.set_grad_enabled(False)
    try:
        assert not recorded()
    finally:
        dg.set_grad_enabled(True)
    assert recorded()


def test_enable_grad_inside_no_grad_and_inference_mode():
    with dg.no_grad(), dg.enable_grad():
        assert recorded()
    with dg.inference_mode():
        assert is_inference_mode_enabled()
        with dg.enable_grad():
            assert not recorded()
        with dg.inference_mode(False):
            assert recorded()
    with dg.inference_mode(False):
        assert recorded()
        assert not is_inference_mode_enabled()


# -- anomaly mode


def bad(x):
    return dg.sqrt(x - 1.0)  # whose gradient at 1 is infinite


def test_the_first_nan_gradient_is_named_with_its_call():
    with detect_anomaly():
        x = Tensor(np.ones(2), requires_grad=True)
        y = (bad(x) * 0.0).sum()
        with pytest.raises(GraphError) as caught:
            y.backward()
    message = str(caught.value)
    assert message.startswith(f"backward: sqrt ({__file__}:")
    assert "gave NaN as the gradient of its input 0; it was called here:\n" in message
    assert "in bad\n" in message
    assert "test_the_first_nan_gradient" in message


def test_a_forward_pass_that_was_not_watched():
    x = Tensor(np.ones(2), requires_grad=True)
    y = (bad(x) * 0.0).sum()
    with (
        detect_anomaly(),
        pytest.raises(GraphError, match=r"sqrt \(.*run the forward pass inside detect_anomaly"),
    ):
        y.backward(retain_graph=True)
    with detect_anomaly(check_nan=False):
        y.backward(retain_graph=True)
    y.backward()
    assert np.isnan(x.grad.numpy()).all()


def test_nan_in_the_forward_pass():
    x = Tensor(np.array([-1.0]), requires_grad=True)
    with detect_anomaly(check_forward=True), pytest.raises(GraphError, match="forward: the result of sqrt"):
        dg.sqrt(x)
    dg.sqrt(x)


def test_anomaly_detection_with_gradients_of_gradients_and_other_modes():
    with detect_anomaly():
        x = Tensor(np.full(2, 2.0), requires_grad=True)
        with dg.no_grad():
            assert not recorded()
            with dg.enable_grad():
                y = dg.sqrt(x) ** 3
        (g,) = dg.autograd.grad(y.sum(), x, create_graph=True)
        g.sum().backward()
        first, *_ = dg.unstack(x)
        first.backward()
    assert len(y.grad_fn.line) == 3
    assert len((x * 1.0).grad_fn.line) == 2


def test_set_detect_anomaly():
    set_detect_anomaly(True)
    try:
        x = Tensor(np.ones(2), requires_grad=True)
        with pytest.raises(GraphError, match="it was called here"):
            (bad(x) * 0.0).sum().backward()
    finally:
        set_detect_anomaly(False)
    (bad(x) * 0.0).sum().backward()
    with set_detect_anomaly(True):
        assert modes.check is not None
    assert set_detect_anomaly(True)(lambda: modes.check)() is not None


# -- threads


def test_modes_belong_to_a_thread():
    seen = []
    with dg.no_grad():
        thread = threading.Thread(target=lambda: seen.append(recorded()))
        thread.start()
        thread.join(10)
        assert not recorded()
    assert seen == [True]


FIRST_CALLS = """
import sys, threading
import numpy as np
import distgrad as dg
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
results, errors = [], []

def work(seed):
    try:
        x = dg.Tensor(np.arange(12.0).reshape(3, 4) + 1.0, requires_grad=True)
        barrier.wait(20)
        y = dg.log(dg.exp(dg.tanh(x) @ dg.matrix_transpose(x)) + 1.0 - 0.5 * x[:, :3])
        y *= 2.0
        dg.concat([y.reshape(-1), dg.sqrt(x).sum(axis=0)]).mean().backward()
        results.append(x.grad.numpy().tobytes())
    except BaseException as error:
        errors.append(repr(error))

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[thread.start() for thread in threads]
[thread.join(30) for thread in threads]
assert not errors, errors
assert len(results) == 8 and len(set(results)) == 1, len(set(results))
"""


def test_first_calls_in_many_threads_at_once():
    for _ in range(3):
        ran = subprocess.run(
            [sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0, ran.stderr
