"""Attention reads and writes its arrays as they lie: heads within a row, parts of one array, shared keys."""

import ml_dtypes
import numpy as np
import pytest

import distgrad as dg

pytestmark = pytest.mark.gpu_double(devices=1)

DTYPES = {"f": np.float32, "d": np.float64, "e": np.float16, "E": ml_dtypes.bfloat16}
B, S, H, D = 2, 5, 3, 8


def parts_of_one(x):
    return list(x.reshape(B, S, 3, H, D).permute(2, 0, 3, 1, 4))


def heads_within_a_row(x):
    return [each.reshape(B, S, H, D).permute(0, 2, 1, 3) for each in x.reshape(3, B, S, H, D)]


def parts_in_another_order(x):
    q, k, v = parts_of_one(x)
    return [v, q, k]


def turned_features(x):
    return [each.mT for each in x.reshape(3, B, H, D, S)]


def rows_of_a_batch_apart(x):
    return [each[:, ::2] for each in x.reshape(3, B, 2 * H, S, D // 2)]


_MADE_BY = (parts_of_one, heads_within_a_row, parts_in_another_order, turned_features, rows_of_a_batch_apart)
LAYOUTS = {make.__name__: make for make in _MADE_BY}


def results(make, host, device, dtype, causal):
    """Attention's result and the gradient of what its arrays are views of, in float64."""
    x = dg.tensor(host.astype(dtype), device=device, requires_grad=True)
    y = dg.scaled_dot_product_attention(*make(x), is_causal=causal)
    (y * y).sum().backward()
    return [each.cpu().numpy().astype("d") for each in (y.detach(), x.grad)]


@pytest.mark.parametrize("most", [1 << 26, 20], ids=["whole", "blocks"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("char", DTYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_have_the_same_results(name, char, causal, most, monkeypatch):
    from distgrad.backend.kernels.cuda import attention

    monkeypatch.setattr(attention, "_BLOCK_ELEMENTS", most)
    host = np.random.default_rng(0).standard_normal(3 * B * S * H * D).astype(DTYPES[char]).astype("d")
    found = results(LAYOUTS[name], host, "cuda", DTYPES[char], causal)
    expected = results(LAYOUTS[name], host, "cpu", np.float64, causal)
    eps = float(ml_dtypes.finfo(DTYPES[char]).eps)
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() <= 12 * eps * (np.abs(b).max() + 1)


def test_shared_keys_are_not_copied():
    def gqa(x):
        q = x[: B * S * 4 * D].reshape(B, S, 4, D).permute(0, 2, 1, 3)
        k, v = (x[n : n + B * S * 2 * D].reshape(B, S, 2, D).permute(0, 2, 1, 3) for n in (0, 40))
        return dg.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    host = np.random.default_rng(0).standard_normal(B * S * 4 * D)
    outs = []
    for device in ("cuda", "cpu"):
        x = dg.tensor(host, device=device, requires_grad=True)
        gqa(x).sum().backward()
        outs.append(x.grad.cpu().numpy())
    np.testing.assert_allclose(*outs, rtol=1e-9, atol=1e-12)


def test_nothing_is_copied_and_addresses_are_written_once():
    """From the product that queries, keys and values are parts of to the one that follows, and back."""
    from gpu_double.runtime import installed

    started = installed().scheduler.started
    weight = dg.rand(3 * H * D, 7, device="cuda").requires_grad_()
    inputs, gradient = dg.rand(B, S, 7, device="cuda"), dg.rand(B, S, H * D, device="cuda")

    def step():
        q, k, v = parts_of_one(dg.linear(inputs, weight))
        y = dg.scaled_dot_product_attention(q, k, v, is_causal=True).permute(0, 2, 1, 3)
        weight.grad = None
        y.reshape(B, S, H * D).backward(gradient)

    for _ in range(3):
        step()
    before = started.copy()
    step()
    new = started - before
    assert not new["kernel write_addresses"]
    assert new["kernel cupy_copy__float32_float32"] == 1  # the gradient that the leaf keeps


def test_another_stream_writes_addresses_of_its_own():
    x = dg.rand(3 * B * S * H * D, device="cuda")
    results_ = []
    streams = [dg.cuda.Stream() for _ in range(2)]
    dg.cuda.synchronize()
    for stream in streams:
        with dg.cuda.stream(stream):
            results_.append(dg.scaled_dot_product_attention(*parts_of_one(x)))
    dg.cuda.synchronize()
    np.testing.assert_array_equal(*(each.cpu().numpy() for each in results_))


def test_a_step_that_is_played_reads_where_its_arrays_lie():
    weight = dg.rand(3 * H * D, 7, device="cuda")

    def step(inputs):
        return dg.scaled_dot_product_attention(*parts_of_one(dg.linear(inputs, weight)))

    played = dg.cuda.graphed(step)
    for i in range(5):
        inputs = dg.full((B, S, 7), 0.1 * i, device="cuda") * dg.arange(7, device="cuda")
        np.testing.assert_array_equal(played(inputs).cpu().numpy(), step(inputs).cpu().numpy())
