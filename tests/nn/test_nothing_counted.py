"""Losses over targets that are ignored, whatever stands there, and means over nothing."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.nn import functional as F

INF, NAN = float("inf"), float("nan")
IGNORED = -100
LARGE = 600  # logits, from which on the compiled kernels run


def gradient(loss, x):
    loss.sum().backward()
    return np.asarray(x.grad.numpy())


def logits_of(dtype=np.float32, columns=3, rows=2):
    rng = np.random.default_rng(rows)
    return dg.Tensor(rng.standard_normal((rows, columns)).astype(dtype), requires_grad=True)


@pytest.mark.parametrize("columns", [3, LARGE])
@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("options", [{}, {"weight": True}, {"label_smoothing": 0.1}], ids=str)
def test_no_counted_target_gives_nan_and_a_gradient_of_zero(loss, options, columns):
    if "label_smoothing" in options and loss == "nll_loss":
        options = {"weight": True}
    given = {**options, "weight": dg.ones(columns)} if "weight" in options else options
    for reduction, expected in (("mean", NAN), ("sum", 0.0)):
        x = logits_of(columns=columns)
        value = getattr(F, loss)(x, dg.tensor([IGNORED, IGNORED]), reduction=reduction, **given)
        np.testing.assert_array_equal(value.detach().numpy(), expected)
        np.testing.assert_array_equal(gradient(value, x), 0)


def test_weights_of_zero_are_no_counted_targets():
    x = logits_of()
    value = F.cross_entropy(x, dg.tensor([0, 0]), weight=dg.tensor([0.0, 1.0, 2.0]))
    assert np.isnan(value.item())
    np.testing.assert_array_equal(gradient(value, x), 0)


def test_a_mean_over_no_divergence_has_a_gradient_of_nothing():
    x = dg.zeros((0, 3)).requires_grad_()
    value = F.kl_div(x, dg.zeros((0, 3)), reduction="batchmean")
    assert np.isnan(value.item())
    assert gradient(value, x).shape == (0, 3)


@pytest.mark.parametrize("what", [[-INF, 0.0, 3.0], [NAN, 0.0, 3.0], [-INF] * 3, [INF, 0.0, 0.0]], ids=str)
@pytest.mark.parametrize("repeats", [1, LARGE])
@pytest.mark.parametrize("options", [{}, {"weight": True}, {"label_smoothing": 0.1}], ids=str)
def test_an_ignored_row_may_hold_anything(what, repeats, options):
    given = {**options, "weight": dg.tensor([1.0, 2.0, 3.0])} if "weight" in options else options
    rows, targets = [[0.5, 1.0, 2.0], what] * repeats, [1, IGNORED] * repeats
    for reduction in ("mean", "sum", "none"):
        x = dg.tensor(rows, dtype=dg.float32, requires_grad=True)
        counted = dg.tensor(rows[::2], dtype=dg.float32, requires_grad=True)
        value = F.cross_entropy(x, dg.tensor(targets), reduction=reduction, **given)
        expected = F.cross_entropy(counted, dg.tensor(targets[::2]), reduction=reduction, **given)
        found = value.detach().numpy()
        if reduction == "none":
            np.testing.assert_array_equal(found[1::2], 0)
            found = found[::2]
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5)
        g = gradient(value, x)
        np.testing.assert_array_equal(g[1::2], 0)
        np.testing.assert_allclose(g[::2], gradient(expected, counted), rtol=1e-5, atol=1e-7)


def test_a_masked_class_of_an_ignored_row_leaves_pytorchs_loss():
    x = dg.tensor([[-INF, 1.0, 2.0], [-INF, 0.0, 3.0]], requires_grad=True)
    value = F.cross_entropy(x, dg.tensor([1, IGNORED]))
    assert value.item() == pytest.approx(1.3132616, rel=1e-6)
    np.testing.assert_allclose(gradient(value, x)[0], [0, -0.7310586, 0.7310586], rtol=1e-6)


def test_an_ignored_class_may_be_one_that_there_is():
    x = logits_of(rows=4)
    value = F.cross_entropy(x, dg.tensor([0, 1, 2, 0]), ignore_index=0)
    np.testing.assert_array_equal(gradient(value, x)[[0, 3]], 0)
    with pytest.raises(IndexError, match="holds class -1"):
        F.cross_entropy(x, dg.tensor([0, -1, 2, 0]), ignore_index=0)


@pytest.mark.parametrize("dtype", [dg.bfloat16, dg.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"weight": True}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
def test_the_count_and_the_sum_have_room_in_16_bits(loss, options, dtype):
    if loss == "nll_loss":
        options = {"weight": True} if options else {}
    rng = np.random.default_rng(0)
    x = 20 * rng.standard_normal((5000, 4)).astype(np.float32)
    target = rng.integers(0, 4, 5000)
    target[0] = IGNORED
    weight = np.array([1.0, 2.0, 0.5, 4.0], np.float32)
    found, expected = (
        getattr(F, loss)(
            dg.tensor(x).to(each), dg.tensor(target),
            **{**options, **({"weight": dg.tensor(weight).to(each)} if "weight" in options else {})},
        )
        for each in (dtype, dg.float32)
    )  # fmt: skip
    assert found.dtype == dtype
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("dtype", [dg.bfloat16, dg.float16], ids=str)
def test_batchmean_has_room_in_16_bits(dtype):
    x = dg.ones((5000, 4), dtype=dtype) * -20.0
    value = F.kl_div(x, dg.ones((5000, 4), dtype=dtype), reduction="batchmean")
    assert value.item() == pytest.approx(80.0, rel=0.01)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("correction", "expected"), [(1.0, NAN), (0.0, 0.0)])
def test_the_variance_of_one_has_a_gradient_like_its_value(correction, expected):
    x = dg.tensor([2.0], requires_grad=True)
    value = dg.var(x, correction=correction)
    np.testing.assert_array_equal(value.item(), expected)
    np.testing.assert_array_equal(gradient(value, x), expected)
