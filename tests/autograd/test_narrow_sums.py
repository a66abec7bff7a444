"""Sums of float16 and bfloat16 numbers are computed in float32: no term is rounded away, none overflows."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.nn import functional as F


def ones(count, dtype):
    return dg.tensor(np.ones(count, np.float32)).to(dtype)


SUMS = {
    "sum": (lambda x: x.sum(), 4096.0),
    "sum of rows": (lambda x: x.reshape(4096, 1).sum(axis=0)[0], 4096.0),
    "mean": (lambda x: x.mean(), 1.0),
    "var": (lambda x: x.var(correction=0), 0.0),
    "prod": (dg.prod, 1.0),
    "cumulative sum": (lambda x: dg.cumulative_sum(x)[-1], 4096.0),
    "norm": (dg.linalg.vector_norm, 64.0),
    "loss": (lambda x: F.mse_loss(x, x * 0), 1.0),
}


@pytest.mark.parametrize("dtype", [dg.float16, dg.bfloat16], ids=str)
@pytest.mark.parametrize("name", SUMS)
def test_no_term_is_rounded_away(name, dtype):
    call, expected = SUMS[name]
    y = call(ones(4096, dtype))
    assert y.dtype == dtype
    assert float(y) == expected


@pytest.mark.parametrize("dtype", [dg.float16, dg.bfloat16], ids=str)
def test_a_gradient_that_broadcasting_sums(dtype):
    bias = ones(1, dtype).requires_grad_()
    (bias * ones(4096, dtype)).sum().backward()
    assert float(bias.grad) == 4096.0


def test_what_float16_cannot_hold_between():
    x = ones(70_000, dg.float16)  # whose sum would be infinite
    assert float(x.mean()) == 1.0
    assert float(F.l1_loss(x, x * 0)) == 1.0
    assert float(dg.linalg.vector_norm(x)) == pytest.approx(70_000**0.5, rel=1e-3)
    assert float(dg.linalg.vector_norm(dg.tensor(np.array([300.0, 400.0], np.float16)))) == 500.0


def test_a_softmax_over_more_terms_than_float16_counts():
    x = ones(70_000, dg.float16).reshape(1, 70_000).requires_grad_()
    p = dg.softmax(x, axis=1)
    assert float(p[0, 0].detach()) == pytest.approx(1 / 70_000, rel=5e-3)
    assert float(dg.softmax(x, axis=1).sum().detach()) == pytest.approx(1.0, abs=5e-3)
    assert float(F.softmin(x, dim=1)[0, 0].detach()) == pytest.approx(1 / 70_000, rel=5e-3)
    log = -np.log(70_000)
    assert float(dg.log_softmax(x, axis=1)[0, 3].detach()) == pytest.approx(log, rel=1e-3)
    assert float(dg.logsumexp(x, axis=1).detach()) == pytest.approx(1 - log, rel=1e-3)
    for smoothing in (0.0, 0.5):
        loss = F.cross_entropy(x, dg.tensor([5]), label_smoothing=smoothing)
        assert float(loss.detach()) == pytest.approx(-log, rel=1e-3)
    dg.log_softmax(x, axis=1).to(dg.float32).sum().backward()  # its gradients add up to 70,000
    np.testing.assert_allclose(x.grad.numpy(), 0.0, atol=2e-3)


@pytest.mark.parametrize("dtype", [dg.float16, dg.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"])
def test_a_norm_of_values_whose_squares_float16_cannot_hold(name, dtype):
    """Against the same in float32, forward and backward; the sums run over 80,000 elements."""
    values = np.random.default_rng(0).standard_normal((2, 4, 20_000)).astype(np.float32) * 500
    options = {"layer_norm": ((20_000,),), "rms_norm": ((20_000,),), "group_norm": (2,)}
    found = []
    for each in (dg.float32, dtype):
        x = dg.tensor(values).to(dtype).to(each).requires_grad_()
        arguments = (None, None) if name == "batch_norm" else options.get(name, ())
        y = getattr(F, name)(x, *arguments, **({"training": True} if name == "batch_norm" else {}))
        assert y.dtype == each
        (y.to(dg.float32) ** 3).sum().backward()
        found.append((y.detach().to(dg.float32).numpy(), x.grad.to(dg.float32).numpy()))
    tolerance = 2e-3 if dtype == dg.float16 else 2e-2
    for ours, expected in zip(found[1], found[0], strict=True):
        assert np.isfinite(ours).all()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours, expected, atol=tolerance * scale)


def test_windows_and_what_is_not_a_number():
    image = ones(300 * 300, dg.float16).reshape(1, 1, 300, 300)
    assert float(F.avg_pool2d(image, 300)) == 1.0
    assert float(F.avg_pool2d(image * 3, 300, divisor_override=90_000)) == 3.0
    assert float(F.lp_pool2d(image, 2, 300)) == 300.0
    assert float(F.cosine_similarity(image.reshape(1, -1), image.reshape(1, -1))) == pytest.approx(
        1, abs=1e-3
    )
    holes = dg.where(dg.arange(90_000) == 7, np.nan, 1.0).to(dg.float16)
    assert float(dg.nanmean(holes)) == 1.0
    assert float(dg.nanvar(holes)) == 0.0
    counts = dg.where(dg.arange(600) < 301, 1.0, np.nan).to(dg.bfloat16)  # 301 is no number of bfloat16
    assert float(dg.nanmean(counts)) == 1.0
