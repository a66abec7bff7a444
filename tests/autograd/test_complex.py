"""Gradients through complex numbers: the samples of every operation that takes them, with imaginary parts."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.primitive import DTYPE_CHARS
from distgrad.autograd.samples import is_floating, sample_cases
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError, GraphError

#: Whose gradient with respect to a complex input is refused.
REFUSED = {"cholesky", "qr", "svd", "pinv", "slogdet"}
#: Others: vectors of eigh have any phase, losses compare, astype drops an imaginary part, lstsq ends in pinv.
APART = {"round", "eigh", "lstsq", "astype", "multi_margin_loss", "multilabel_margin_loss"}
#: Whose gradient goes through what is refused.
ONCE = {"svdvals", "matrix_norm"}


def complexified(case):
    """The inputs, floating ones with an imaginary part."""
    rng = np.random.default_rng(case.index)
    for x in case.inputs():
        if is_floating(x):
            yield Tensor(np.asarray(x + 0.3j * rng.standard_normal(x.shape)), requires_grad=True)
        elif isinstance(x, np.ndarray) and x.dtype.kind == "c":
            yield Tensor(x, requires_grad=True)
        else:
            yield x


CASES = [
    case
    for case in sample_cases()
    if "D" in DTYPE_CHARS[case.record.dtypes]
    and case.record.differentiable
    and case.example.grad
    and case.record.name not in APART
    and any(isinstance(x, Tensor) for x in complexified(case))
]


@pytest.mark.parametrize("case", [case for case in CASES if case.record.name not in REFUSED], ids=str)
def test_gradients_of_both_orders(case, checked):
    inputs = list(complexified(case))
    assert gradcheck(case.call, inputs, directions=1)
    if case.record.name not in ONCE:
        assert gradgradcheck(case.call, inputs, directions=1)
    checked["complex gradchecks"] += 1


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_complex_gradient_says_so(name):
    case = next(case for case in CASES if case.record.name == name)
    outs = case.call(*complexified(case))
    outs = [outs] if isinstance(outs, Tensor) else outs
    with pytest.raises(GraphError, match=f"{name}: there is no gradient with respect to complex matrices"):
        sum(dg.abs(out).sum() for out in outs).backward()


def test_what_does_not_depend_on_the_phase_of_eigenvectors_has_its_gradient():
    def function(x):
        values, vectors = dg.linalg.eigh(x)
        return values, vectors @ (values[:, None] ** 3 * dg.conj(vectors.mT)), dg.abs(vectors)

    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4)), requires_grad=True)
    assert gradcheck(function, [x])
    assert gradgradcheck(function, [x])


def test_a_real_input_has_a_real_gradient():
    x = dg.tensor([1.0, 2.0], requires_grad=True)
    y = dg.tensor([1j, 1 - 1j], requires_grad=True)
    (x * y).imag.sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (dg.float32, dg.complex64)
    assert x.grad.tolist() == [1.0, -1.0]
    assert y.grad.tolist() == [1j, 2j]


def test_a_complex_loss_is_refused():
    z = dg.tensor(1j, requires_grad=True)
    with pytest.raises(DTypeError, match="backward: a gradient must be given for a complex tensor"):
        (z * z).backward()
    with pytest.raises(DTypeError, match="gradient is complex64 but the tensor float32"):
        dg.abs(z).backward(dg.tensor(1j))


def test_a_network_of_fourier_filters_trains():
    rng = np.random.default_rng(0)
    x = dg.asarray(rng.standard_normal((8, 16)))
    wanted = dg.fft.irfft(dg.fft.rfft(x) * dg.asarray(np.exp(-np.arange(9) / 3)), n=16)
    weight = dg.tensor(np.zeros(9, np.complex128), requires_grad=True)
    losses = []
    for _ in range(60):
        y = dg.fft.irfft(dg.fft.rfft(x) * weight, n=16)
        loss = ((y - wanted) ** 2).mean()
        weight.grad = None
        loss.backward()
        with dg.no_grad():
            weight -= 0.5 * weight.grad * len(weight)
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]
    assert np.allclose(weight.detach().numpy().imag, 0.0, atol=1e-12)
