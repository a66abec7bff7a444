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


# -- by index: one place that is named 4096 times

NUM = 4096
HERE = np.zeros(NUM, np.int64)


#: What gives a gradient of 4096 (or of the number given) to some element of a tensor of this shape.
READ_OFTEN = {
    "embedding": (lambda w: F.embedding(dg.tensor(HERE), w), (4, 8)),
    "embedding of wide rows": (lambda w: F.embedding(dg.tensor(HERE), w), (4, 300)),
    "embedding_bag sum": (lambda w: F.embedding_bag(dg.tensor(HERE), w, dg.tensor([0]), mode="sum"), (4, 8)),
    "embedding_bag mean": (lambda w: F.embedding_bag(dg.tensor(HERE), w, dg.arange(NUM)), (4, 8)),
    "embedding_bag max": (lambda w: F.embedding_bag(dg.tensor(HERE), w, dg.arange(NUM), mode="max"), (4, 8)),
    "embedding_bag rows": (lambda w: F.embedding_bag(dg.tensor(HERE.reshape(8, -1)), w, mode="sum"), (4, 8)),
    "getitem": (lambda w: w[dg.tensor(HERE)], (4, 8)),
    "getitem of two axes": (lambda w: w[dg.tensor(HERE), dg.tensor(HERE)], (4, 8)),
    "take": (lambda w: dg.take(w, dg.tensor(HERE), axis=0), (4, 8)),
    "take of columns": (lambda w: dg.take(w, dg.tensor(HERE), axis=1), (4, 8)),
    "take_along_axis": (lambda w: dg.take_along_axis(w, dg.tensor(HERE[:, None]), axis=0), (4, 1)),
    "gather": (lambda w: dg.gather(w, 0, dg.tensor(HERE[:, None])), (4, 8)),
    "index_select": (lambda w: dg.index_select(w, 0, dg.tensor(HERE)), (4, 8)),
    "repeat": (lambda w: dg.repeat(w, NUM, axis=0), (1, 8)),
    "tile": (lambda w: dg.tile(w, (NUM, 1)), (1, 8)),
    "broadcast_to": (lambda w: dg.broadcast_to(w, (NUM, 8)), (1, 8)),
    "interpolate": (lambda w: F.interpolate(w, size=NUM, mode="nearest"), (1, 1, 1)),
    "pad replicate": (lambda w: F.pad(w, (0, NUM - 1), mode="replicate"), (1, 1, 1)),
    "avg_pool": (lambda w: 2049 * F.avg_pool1d(w, 2049, 1, 1024), (1, 1, 4096)),
    "unfold": (lambda w: dg.sliding_window_view(w, 2049), (4096,)),
    "conv": (lambda w: F.conv1d(w, dg.ones((1, 1, 300), dtype=w.dtype)), (1, 1, 600)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [dg.float16, dg.bfloat16], ids=str)
@pytest.mark.parametrize("name", READ_OFTEN)
def test_the_gradient_of_what_is_read_often(name, dtype):
    read, shape = READ_OFTEN[name]
    w = dg.ones(shape, dtype=dtype).requires_grad_()
    y = read(w)
    y.backward(dg.ones(y.shape, dtype=dtype))
    wide = dg.ones(shape).requires_grad_()
    y = read(wide)
    y.backward(dg.ones(y.shape))
    assert w.grad.dtype == dtype
    expected = wide.grad.numpy()
    assert expected.max() > 256
    np.testing.assert_allclose(w.grad.to(dg.float32).numpy(), expected, rtol=2**-8)


@pytest.mark.parametrize("dtype", [dg.float16, dg.bfloat16], ids=str)
def test_the_gradient_of_the_largest_of_many_windows(dtype):
    x = np.zeros((1, 1, 4096), np.float32)
    x[0, 0, 2048] = 1.0
    grads = []
    for each in (dtype, dg.float32):
        w = dg.tensor(x).to(each).requires_grad_()
        y = F.max_pool1d(w, 2049, 1, 1024)
        y.backward(dg.ones(y.shape, dtype=each))
        grads.append(w.grad.to(dg.float32).numpy())
    assert grads[1].max() > 2000
    np.testing.assert_allclose(*grads, rtol=2**-8)


@pytest.mark.parametrize("dtype", [dg.float16, dg.bfloat16], ids=str)
def test_what_is_added_by_index(dtype):
    one, zero = dg.ones((NUM, 8), dtype=dtype), dg.zeros((4, 8), dtype=dtype)
    index = dg.tensor(HERE)
    added = {
        "index_add": dg.index_add(zero, 0, index, one),
        "scatter_add": dg.scatter_add(zero, 0, dg.zeros((NUM, 8), dtype=dg.int64), one),
        "embedding_sum": F.embedding_bag(index, dg.ones((4, 8), dtype=dtype), dg.tensor([0]), mode="sum"),
    }
    assert {name: float(y[0, 0]) for name, y in added.items()} == dict.fromkeys(added, NUM)
    assert {y.dtype for y in added.values()} == {dtype}
