"""Convolutions and attention by cuDNN, beside the CPU's, and what it has no engine for."""

import sys

import ml_dtypes
import numpy as np
import pytest
from gpu_double.test_stacks import LAYOUTS
from real_gpus import num_real_gpus

import distgrad as dg
import distgrad.nn.functional as F

pytestmark = pytest.mark.gpu_double(devices=1, streams="late")  # those marked gpu suit a real one too

DTYPES = {"f": np.float32, "e": np.float16, "E": ml_dtypes.bfloat16}


@pytest.fixture(autouse=True)
def library(monkeypatch, tmp_path):
    """The double of the library, with no plans yet; on a GPU the library itself, if it is there."""
    from distgrad.backend import cudnn

    def forget():
        for cached in (cudnn._library, cudnn._place, cudnn._plan):
            cached.cache_clear()

    monkeypatch.setattr(cudnn, "_folders", lambda *rest: [tmp_path / "cudnn-0123456789abcdef"])
    forget()
    if num_real_gpus():
        pytest.importorskip("cudnn")
        yield None
    else:
        from gpu_double import cudnn_double

        monkeypatch.setitem(sys.modules, "cudnn", None)
        yield cudnn_double.install()
    forget()


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


PAIR = (2, 3, 6, 5), (4, 3, 3, 3)
OPTIONS = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
GEOMETRIES = {  # x, weight, and what moves over it
    "plain": ((2, 3, 6, 5), (4, 3, 3, 2), {}),
    "one place": ((3, 4, 5, 5), (2, 4, 1, 1), {}),
    "options": ((2, 4, 9, 8), (6, 2, 3, 2), OPTIONS),
    "depthwise": ((2, 4, 7, 7), (4, 1, 3, 3), {"padding": 1, "groups": 4}),
    "over the edge": ((1, 2, 8, 8), (3, 2, 3, 3), {"stride": 3}),
    "a line": ((2, 3, 9), (4, 3, 3), {"stride": 2, "padding": 1}),
    "a space": ((1, 2, 4, 5, 6), (3, 2, 3, 2, 2), {"padding": 1}),
}  # fmt: skip


def convolve(x, weight, bias, **options):
    return (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3](x, weight, bias, **options)


def gradients(name, char, device, with_bias=True):
    """The result, and the gradients in all three, in float64; the host computes in float64."""
    x, weight, options = GEOMETRIES[name]
    arrays = [numbers(i, *shape).astype(DTYPES[char]) for i, shape in enumerate((x, weight, weight[:1]))]
    dtype = np.float64 if device == "cpu" else DTYPES[char]
    tensors = [dg.tensor(each.astype(dtype), device=device, requires_grad=True) for each in arrays]
    y = convolve(*tensors[: 2 + with_bias], *[None] * (not with_bias), **options)
    y.backward(dg.tensor(numbers(7, *y.shape).astype(DTYPES[char]).astype(dtype), device=device))
    found = [y.detach(), *(each.grad for each in tensors[: 2 + with_bias])]
    return [each.cpu().numpy().astype(np.float64) for each in found]


def check_close(found, expected, char):
    eps = float(ml_dtypes.finfo(DTYPES[char]).eps)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=8 * eps * max(1.0, np.abs(b).max()))


def started():
    from gpu_double.runtime import installed

    return installed().scheduler.started


def test_there_is_no_other_library_on_the_double():
    """Which has no driver: the real one, where it is installed, must not be found."""
    import importlib

    assert importlib.import_module("cudnn").__name__ == "gpu_double.cudnn_double"


@pytest.mark.gpu
@pytest.mark.parametrize("char", DTYPES)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolutions_and_their_gradients(name, char, library):
    before = dict(started()) if library else {}
    check_close(gradients(name, char, "cuda"), gradients(name, char, "cpu"), char)
    if library:
        counts = {key: count - before.get(key, 0) for key, count in started().items()}
        assert library.State.planned == {"conv_fprop": 1, "conv_dgrad": 1, "conv_wgrad": 1}
        assert [counts[f"cudnn conv_{which}"] for which in ("fprop", "dgrad", "wgrad")] == [1, 1, 1]
        ours = ("unroll", "unroll_across", "fold", "depthwise", "depthwise_input", "depthwise_weight")
        assert not any(counts.get(f"kernel {kernel}") for kernel in ours)


def test_a_plan_is_made_once_for_a_shape(library):
    if not library:
        pytest.skip("counts what the double is given")
    for _ in range(3):
        gradients("plain", "f", "cuda")
    assert library.State.planned == {"conv_fprop": 1, "conv_dgrad": 1, "conv_wgrad": 1}
    gradients("plain", "f", "cuda", with_bias=False)
    assert library.State.planned == {"conv_fprop": 2, "conv_dgrad": 1, "conv_wgrad": 1}


@pytest.mark.gpu
def test_gradients_of_gradients():
    def second(device, dtype):
        arrays = [numbers(i, *shape).astype("f").astype(dtype) for i, shape in enumerate(PAIR)]
        x, weight = (dg.tensor(each, device=device, requires_grad=True) for each in arrays)
        y = F.conv2d(x, weight, stride=2, padding=1)
        first = dg.autograd.grad((y * y).sum(), [x, weight], create_graph=True)
        (first[0] * first[0]).sum().backward()
        return [each.grad.cpu().numpy().astype(np.float64) for each in (x, weight)]

    for a, b in zip(second("cuda", np.float32), second("cpu", np.float64), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_what_is_refused_is_computed_by_the_kernels_and_not_asked_again(library, monkeypatch):
    if not library:
        pytest.skip("plants what the double refuses")
    asked = []
    library.State.refuses = lambda graph: asked.append(graph.operation) is None
    for _ in range(2):
        check_close(gradients("options", "f", "cuda"), gradients("options", "f", "cpu"), "f")
    assert sorted(asked) == ["conv_dgrad", "conv_fprop", "conv_fprop", "conv_wgrad"]  # with the bias, without
    assert not library.State.planned


def test_a_bias_that_is_refused_is_added(library):
    if not library:
        pytest.skip("plants what the double refuses")
    library.State.refuses = lambda graph: graph.bias_of_channels is not None
    check_close(gradients("plain", "E", "cuda"), gradients("plain", "E", "cpu"), "E")
    assert library.State.planned == {"conv_fprop": 1, "conv_dgrad": 1, "conv_wgrad": 1}


def test_an_error_that_is_no_refusal_is_raised(library):
    if not library:
        pytest.skip("plants an error")

    def fails(graph):
        raise RuntimeError("CUDNN_STATUS_INTERNAL_ERROR")

    library.State.refuses = fails
    with pytest.raises(dg.errors.DeviceError, match=r"cudnn\.plan: CUDNN_STATUS_INTERNAL_ERROR"):
        gradients("plain", "f", "cuda")


@pytest.mark.parametrize("why", ["environment", "missing", "old"])
def test_where_the_library_is_not_to_be_had_the_kernels_compute(why, library, monkeypatch):
    if not library:
        pytest.skip("plants what is there")
    if why == "environment":
        monkeypatch.setenv("DISTGRAD_GPU_LIBRARIES", "0")
    elif why == "missing":
        monkeypatch.setitem(sys.modules, "cudnn", None)
    else:
        monkeypatch.setattr(library, "__version__", "1.22.1")
    check_close(gradients("options", "f", "cuda"), gradients("options", "f", "cpu"), "f")
    assert not library.State.planned


@pytest.mark.gpu
def test_float64_is_computed_by_the_kernels(library):
    y = F.conv2d(*(dg.tensor(numbers(i, *shape), device="cuda") for i, shape in enumerate(PAIR)))
    expected = F.conv2d(*(dg.tensor(numbers(i, *shape)) for i, shape in enumerate(PAIR)))
    np.testing.assert_allclose(y.cpu().numpy(), expected.numpy(), rtol=1e-12, atol=1e-12)
    assert not library or not library.State.planned


@pytest.mark.gpu
@pytest.mark.parametrize("first", [1, 3, 4])
def test_views_at_any_address_and_in_any_order(first):
    long = numbers(0, 2 * 3 * 6 * 5 + 4).astype("f")
    filters = numbers(1, 3, 3, 3, 4).astype("f")
    long_x = dg.tensor(long, device="cuda", requires_grad=True)
    long_w = dg.tensor(filters, device="cuda", requires_grad=True)
    y = F.conv2d(long_x[first : first + 180].reshape(2, 3, 6, 5), long_w.permute(3, 0, 1, 2))
    y.sum().backward()
    here_x = dg.tensor(long.astype("d"), requires_grad=True)
    here_w = dg.tensor(filters.astype("d"), requires_grad=True)
    expected = F.conv2d(here_x[first : first + 180].reshape(2, 3, 6, 5), here_w.permute(3, 0, 1, 2))
    expected.sum().backward()
    for a, b in ((y, expected), (long_x.grad, here_x.grad), (long_w.grad, here_w.grad)):
        np.testing.assert_allclose(a.detach().cpu().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
def test_a_gradient_goes_where_a_flat_buffer_has_it_whatever_the_address():
    """Parameters behind one of three elements: their places are multiples of four bytes alone."""
    results = []
    for device in ("cuda", "cpu"):
        weights = [dg.nn.Parameter(dg.tensor(numbers(i, *shape).astype("f"), device=device)) for i, shape in
                   enumerate(((3,), (4, 3, 3, 3), (4,)))]  # fmt: skip
        optimizer = dg.optim.SGD(weights, lr=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            x = dg.tensor(numbers(5, 2, 3, 6, 6).astype("f"), device=device)
            y = F.conv2d(x * weights[0].reshape(3, 1, 1), weights[1], weights[2])
            (y * y).mean().backward()
            optimizer.step()
        results.append([each.detach().cpu().numpy() for each in weights])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_float32_is_rounded_where_the_user_lets_it_be(library):
    if not library:
        pytest.skip("looks at the double's rounding")
    errors = {}
    for precision in ("highest", "high"):
        dg.set_float32_matmul_precision(precision)
        try:
            found = gradients("plain", "f", "cuda")
        finally:
            dg.set_float32_matmul_precision("highest")
        expected = gradients("plain", "f", "cpu")
        errors[precision] = max(np.abs(a - b).max() for a, b in zip(found[:1], expected[:1], strict=True))
    assert errors["highest"] < 1e-5 < 1e-4 < errors["high"] < 1e-2
    assert library.State.planned["conv_fprop"] == 2


@pytest.mark.gpu
def test_work_is_on_the_current_stream():
    stream = dg.cuda.Stream()
    x, weight = (dg.tensor(numbers(i, *shape).astype("f"), device="cuda") for i, shape in enumerate(PAIR))
    dg.cuda.synchronize()
    for chosen in (stream, dg.cuda.current_stream()):
        with dg.cuda.stream(chosen):
            y = F.conv2d(x, weight)
            found = y.to("cpu", non_blocking=True)
            chosen.synchronize()
        expected = F.conv2d(*(dg.tensor(numbers(i, *shape)) for i, shape in enumerate(PAIR)))
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.gpu
def test_plans_lie_on_disk(library, tmp_path):
    from distgrad.backend import cudnn

    def again():
        cudnn._plan.cache_clear()
        if library:
            library.State.planned.clear()
            library.State.loaded.clear()
        check_close(gradients("plain", "E", "cuda"), gradients("plain", "E", "cpu"), "E")
        return (library.State.planned.total(), library.State.loaded.total()) if library else None

    assert again() in (None, (3, 0))
    assert again() in (None, (0, 3))
    files = sorted((tmp_path / "cudnn-0123456789abcdef").iterdir())
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:-7])  # cut off
    assert again() in (None, (1, 2))
    whole = files[0].read_bytes()
    files[1].write_bytes(b"")
    cudnn.cache.write_to([files[2].parent], files[2].name, b"no plan")  # whole, and another's
    assert again() in (None, (2, 1))
    assert again() in (None, (0, 3))
    assert files[0].read_bytes() == whole


@pytest.mark.gpu
def test_a_step_that_is_written_down():
    def model(device):
        dg.manual_seed(3)
        net = dg.nn.Sequential(dg.nn.Conv2d(2, 3, 3, padding=1), dg.nn.ReLU(), dg.nn.Conv2d(3, 2, 3))
        return net.to(device)

    def train(net, device, wrap):
        optimizer = dg.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

        def step(x):
            optimizer.zero_grad()
            loss = (net(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        step = wrap(step)
        for i in range(5):
            step(dg.tensor(numbers(i, 2, 2, 6, 6).astype("f"), device=device))
        return [each.detach().cpu().numpy() for each in net.parameters()]

    played = train(model("cuda"), "cuda", dg.cuda.graphed)
    eager = train(model("cuda"), "cuda", lambda step: step)
    for a, b, c in zip(played, eager, train(model("cpu"), "cpu", lambda step: step), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-6)


# -- attention


def attended(make, char, device, causal=True, size=720, **options):
    """Attention of views of one array, and that array's gradient, in float64.

    The host computes in float64, but where it draws numbers, which are others in each dtype.
    """
    host = numbers(0, size).astype(DTYPES[char])
    dtype = np.float64 if device == "cpu" and not options.get("dropout_p") else DTYPES[char]
    x = dg.tensor(host.astype(dtype), device=device, requires_grad=True)
    mask = options.pop("attn_mask", None)
    if mask is not None:
        mask = dg.tensor(mask if mask.dtype == bool else mask.astype(dtype), device=device)
    dg.manual_seed(5)
    y = F.scaled_dot_product_attention(*make(x), attn_mask=mask, is_causal=causal, **options)
    y.backward(dg.tensor(numbers(1, *y.shape).astype(DTYPES[char]).astype(dtype), device=device))
    return [each.cpu().numpy().astype(np.float64) for each in (y.detach(), x.grad)]


def check_attention(make, char, planned, library, **options):
    found = attended(make, char, "cuda", **options)
    expected = attended(make, char, "cpu", **options)
    eps = float(ml_dtypes.finfo(DTYPES[char]).eps)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=8 * eps * np.abs(b).max())
    if library:
        assert dict(library.State.planned) == dict.fromkeys(("sdpa", "sdpa_backward"), planned) or not planned
        assert bool(planned) == bool(library.State.planned)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("char", "eE")
@pytest.mark.parametrize("name", LAYOUTS)
def test_attention_of_arrays_as_they_lie(name, char, causal, library):
    planned = 0 if name == "rows_of_a_batch_apart" else 1  # which has four features
    check_attention(LAYOUTS[name], char, planned, library, causal=causal)


def shared_keys(x):
    """Four heads of queries, two of keys and values."""
    x = x.reshape(2, 5, 8, 8)
    return [x[:, :, heads].permute(0, 2, 1, 3) for heads in (slice(4), slice(4, 6), slice(6, 8))]


def one_batch(x):
    return list(x.reshape(3, 6, 5, 8))


def test_heads_that_share_keys(library):
    check_attention(shared_keys, "E", 1, library, size=640, enable_gqa=True)


def test_attention_without_an_axis_of_batches(library):
    check_attention(one_batch, "e", 1, library)


MASKS = {
    "booleans": numbers(3, 5, 5) > 0,
    "padding": np.array([[True] * 5, [True] * 3 + [False] * 2])[:, None, None],
    "a query that sees nothing": np.tri(5, k=-1, dtype=bool),
    "numbers": np.where(numbers(4, 2, 1, 5, 5) > 1, -np.inf, numbers(5, 2, 1, 5, 5)),
    "heads": np.where(np.tri(5, k=-1, dtype=bool), numbers(6, 3, 5, 5), -np.inf),
}


@pytest.mark.parametrize("name", MASKS)
def test_attention_with_a_mask(name, library):
    parts = LAYOUTS["parts_of_one"]
    check_attention(parts, "E", 1, library, causal=False, attn_mask=MASKS[name])


@pytest.mark.parametrize("causal", [False, True])
def test_dropout_of_weights_is_the_host_s(causal, library):
    """The same weights are set to 0: in the result and in the gradients."""
    check_attention(LAYOUTS["heads_within_a_row"], "E", 1, library, causal=causal, dropout_p=0.4)


def test_attention_that_is_not_taken(library):
    """By dtype, by a learned mask, and where the gradients would be refused: not halfway either."""
    if not library:
        pytest.skip("plants what the double refuses")
    check_close(
        attended(LAYOUTS["parts_of_one"], "f", "cuda"), attended(LAYOUTS["parts_of_one"], "f", "cpu"), "f"
    )
    x = dg.tensor(numbers(0, 2, 3, 5, 8).astype(np.float16), device="cuda")
    mask = dg.tensor(numbers(1, 5, 5).astype(np.float16), device="cuda", requires_grad=True)
    F.scaled_dot_product_attention(x, x, x, attn_mask=mask).sum().backward()
    assert mask.grad is not None
    assert not library.State.planned
    library.State.refuses = lambda graph: graph.operation == "sdpa_backward"
    before = started()["cudnn sdpa"]
    check_close(
        attended(LAYOUTS["parts_of_one"], "E", "cuda"), attended(LAYOUTS["parts_of_one"], "E", "cpu"), "E"
    )
    assert started()["cudnn sdpa"] == before
    with dg.no_grad():
        F.scaled_dot_product_attention(x, x, x)
    assert started()["cudnn sdpa"] == before + 1


def test_gradients_of_attention_s_gradients():
    def second(device, dtype):
        arrays = [numbers(i, 1, 2, 5, 8).astype(np.float16).astype(dtype) for i in range(3)]
        inputs = [dg.tensor(each, device=device, requires_grad=True) for each in arrays]
        y = F.scaled_dot_product_attention(*inputs, is_causal=True)
        first = dg.autograd.grad((y * y).sum(), inputs, create_graph=True)
        sum((each * each).sum() for each in first).backward()
        return [each.grad.cpu().numpy().astype(np.float64) for each in inputs]

    for a, b in zip(second("cuda", np.float16), second("cpu", np.float64), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * np.abs(b).max())
