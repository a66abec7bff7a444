"""Mixed precision: the policy, values against PyTorch's autocast on the CPU, the cache, nesting, threads."""

import threading

import ml_dtypes
import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.autograd import casting
from distgrad.autograd.ops import blas
from distgrad.autograd.primitive import REGISTRY
from distgrad.errors import DTypeError, OptionError

BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCES = {"float16": 1e-3, "bfloat16": 8e-3}
SUMMED = ["addmm", "baddbmm"]  # and addmv and addr, which PyTorch keeps in float32 on the CPU alone
PRODUCTS = [
    "linear",
    "matmul",
    "operator @",
    "bmm",
    "einsum",
    "conv2d",
    "conv_transpose2d",
    "attention",
    *SUMMED,
]


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def test_the_policy_names_operations_that_exist():
    assert set(casting.POLICY) <= set(REGISTRY), set(casting.POLICY) - set(REGISTRY)
    assert set(casting.POLICY.values()) == {"low", "wide"}


def summed():
    """The arguments of products that are added to something."""
    x, a, b = numbers(4, 5), numbers(4, 6), numbers(6, 5)
    return {
        "addmm": (x, a, b),
        "addmv": (x[:, 0].copy(), a, b[:, 0].copy()),
        "addr": (x, a[:, 0].copy(), b[0].copy()),
        "baddbmm": (numbers(2, 4, 5), numbers(2, 4, 6), numbers(2, 6, 5)),
    }


def pairs(torch):
    """The products of both libraries on the same numbers."""
    x, w, b, image, kernel = (
        numbers(4, 6),
        numbers(5, 6),
        numbers(5),
        numbers(2, 3, 8, 8),
        numbers(4, 3, 3, 3),
    )
    q, k, v = (numbers(2, 2, 7, 8, seed=i) for i in range(3))
    functional, theirs = dg.nn.functional, torch.nn.functional
    return {
        "linear": ((x, w, b), functional.linear, theirs.linear),
        "matmul": ((x, w.T.copy()), dg.matmul, torch.matmul),
        "operator @": ((x, w.T.copy()), lambda a, c: a @ c, lambda a, c: a @ c),
        "bmm": ((q[0], k[0].swapaxes(1, 2).copy()), dg.bmm, torch.bmm),
        "einsum": (
            (x, w),
            lambda a, c: dg.einsum("ik,jk->ij", a, c),
            lambda a, c: torch.einsum("ik,jk->ij", a, c),
        ),
        "conv2d": ((image, kernel), functional.conv2d, theirs.conv2d),
        "conv_transpose2d": (
            (image, kernel.swapaxes(0, 1).copy()),
            functional.conv_transpose2d,
            theirs.conv_transpose2d,
        ),
        "attention": (
            (q, k, v),
            functional.scaled_dot_product_attention,
            theirs.scaled_dot_product_attention,
        ),
        **{
            name: (args, getattr(blas, name), getattr(torch, name))
            for name, args in summed().items()
            if name in SUMMED
        },
    }


@pytest.mark.parametrize("name", summed())
def test_products_that_are_added_to_something_are_of_16_bits(name):
    x, a, b = map(dg.tensor, summed()[name])
    with dg.autocast("cpu", dtype=dg.bfloat16):
        assert getattr(blas, name)(x, a, b).dtype == BF16


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES.items())
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_those_of_pytorch(name, dtype, tolerance):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    arrays, ours, theirs = pairs(torch)[name]
    tensors = [dg.tensor(array, requires_grad=True) for array in arrays]
    others = [torch.tensor(array, requires_grad=True) for array in arrays]
    with dg.autocast("cpu", dtype=dtype):
        y = ours(*tensors)
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        expected = theirs(*others)
    assert str(expected.dtype).removeprefix("torch.") == dtype
    assert y.dtype.name == dtype
    expected32 = expected.detach().float().numpy()
    scale = np.abs(expected32).max()
    result = y.astype(dg.float32).detach().numpy()
    np.testing.assert_allclose(result, expected32, rtol=tolerance, atol=tolerance * scale)
    y.astype(dg.float32).sum().backward()
    expected.float().sum().backward()
    for tensor, other in zip(tensors, others, strict=True):
        assert tensor.grad.dtype == np.float32
        reference = other.grad.numpy()
        np.testing.assert_allclose(
            tensor.grad.numpy(), reference, rtol=2 * tolerance, atol=2 * tolerance * np.abs(reference).max()
        )


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_losses_and_norms_are_computed_in_float32(dtype):
    x = dg.tensor(numbers(4, 6)).astype(np.dtype(dtype) if dtype == "float16" else BF16)
    labels = dg.tensor(np.array([0, 5, 2, 1]))
    functional = dg.nn.functional
    with dg.autocast("cpu", dtype=dtype):
        results = {
            "softmax": functional.softmax(x, dim=-1),
            "log_softmax": functional.log_softmax(x, dim=-1),
            "cross_entropy": functional.cross_entropy(x, labels),
            "layer_norm": functional.layer_norm(x, (6,)),
            "sum": dg.sum(x),
            "mean": x.mean(),
            "exp": dg.exp(x),
            "pow": x**2,
        }
        kept = functional.relu(x)
    assert {name: str(y.dtype) for name, y in results.items()} == dict.fromkeys(results, "float32")
    assert kept.dtype == x.dtype
    wide = x.astype(dg.float32)
    np.testing.assert_array_equal(results["softmax"].numpy(), functional.softmax(wide, dim=-1).numpy())
    np.testing.assert_array_equal(results["layer_norm"].numpy(), functional.layer_norm(wide, (6,)).numpy())


def test_float64_and_outside_stay_as_they_are():
    x = dg.tensor(numbers(3, 3))
    with dg.autocast("cpu", dtype="float16"):
        assert dg.matmul(x.astype(dg.float64), x.astype(dg.float64)).dtype == np.float64
        with dg.autocast("cpu", enabled=False):
            assert dg.matmul(x, x).dtype == np.float32
        with dg.autocast("cpu", dtype="bfloat16"):
            assert dg.matmul(x, x).dtype == BF16
            assert dg.get_autocast_dtype("cpu") == BF16
        assert dg.matmul(x, x).dtype == np.float16
    with dg.autocast("cuda", dtype="float16"):
        assert dg.is_autocast_enabled("cuda")
        assert dg.matmul(x, x).dtype == np.float32
    assert dg.matmul(x, x).dtype == np.float32
    assert not dg.is_autocast_enabled("cpu")
    assert casting.ACTIVE == []


def test_it_is_a_decorator_and_a_threads_own():
    x = dg.tensor(numbers(3, 3))

    @dg.autocast("cpu", dtype="float16")
    def product():
        return dg.matmul(x, x).dtype

    seen = []
    with dg.autocast("cpu", dtype="bfloat16"):
        thread = threading.Thread(target=lambda: seen.append(dg.matmul(x, x).dtype))
        thread.start()
        thread.join()
        assert product() == np.float16
        assert dg.matmul(x, x).dtype == BF16
    assert seen == [np.float32]


def casts_of(node, found=None):
    found = {} if found is None else found
    if node is not None and hasattr(node, "edges"):
        if node.op.name == "astype":
            found[id(node)] = node
        for edge in node.edges:
            casts_of(edge, found)
    return found


def test_a_parameter_is_cast_once_in_a_pass_and_anew_after_an_update():
    weight = dg.tensor(numbers(4, 4), requires_grad=True)
    x = dg.tensor(numbers(2, 4))
    with dg.autocast("cpu", dtype="float16"):
        y = dg.matmul(dg.matmul(x, weight), weight)
        first = y.astype(dg.float32)
        assert len(casts_of(y._node)) == 1
        with dg.no_grad():
            weight *= 2.0
        second = dg.matmul(dg.matmul(x, weight), weight).astype(dg.float32)
        with dg.no_grad():
            assert dg.matmul(x, weight)._node is None
        assert dg.matmul(x, weight)._node is not None
    np.testing.assert_allclose(second.detach().numpy(), 4 * first.detach().numpy(), rtol=2e-3)
    with dg.autocast("cpu", dtype="float16", cache_enabled=False):
        assert len(casts_of(dg.matmul(dg.matmul(x, weight), weight)._node)) == 2


def test_a_checkpoint_computes_again_in_the_same_precision():
    weight = dg.tensor(numbers(4, 4), requires_grad=True)
    x = dg.tensor(numbers(2, 4), requires_grad=True)

    def body(x):
        return dg.tanh(dg.matmul(x, weight)).astype(dg.float32)

    grads = []
    for run in (body, lambda x: dg.autograd.checkpoint(body, x)):
        weight.grad = x.grad = None
        with dg.autocast("cpu", dtype="float16"):
            loss = run(x).sum()
        loss.backward()
        grads.append((weight.grad.numpy().copy(), x.grad.numpy().copy()))
    for plain, again in zip(*grads, strict=True):
        np.testing.assert_array_equal(plain, again)


def test_what_it_does_not_take():
    with pytest.raises(OptionError, match="device_type must be 'cpu' or 'cuda', got 'tpu'"):
        dg.autocast("tpu")
    with pytest.raises(DTypeError, match="dtype must be float16 or bfloat16, got float64"):
        dg.autocast("cpu", dtype=np.float64)
    assert dg.bfloat16 == BF16


def test_products_of_16_bits_add_in_float32():
    x = dg.tensor(np.full((1, 4096), 1.0, np.float32))
    with dg.autocast("cpu", dtype="bfloat16"):
        y = dg.matmul(x, x.T if hasattr(x, "T") else dg.matrix_transpose(x))
    assert float(y.astype(dg.float32).item()) == 4096.0  # added in bfloat16 it would stay at 256


@pytest.mark.parametrize(
    "operation", [dg.add, dg.maximum, dg.matmul, dg.pow, dg.concat, dg.where, dg.result_type]
)
def test_the_two_kinds_of_16_bits_have_no_common_dtype(operation):
    x, y = dg.ones((2, 2), dtype=dg.bfloat16), dg.ones((2, 2), dtype=dg.float16)
    arguments = {dg.concat: ([x, y],), dg.where: (x > 0, x, y)}.get(operation, (x, y))
    with pytest.raises(dg.DTypeError, match="bfloat16"):
        operation(*arguments)


def test_the_matmul_precision_is_told_to_backends():
    from distgrad.backend import precision

    heard = []
    before = dg.get_float32_matmul_precision()
    precision.on_precision(heard.append)
    try:
        dg.set_float32_matmul_precision("high")
        assert dg.get_float32_matmul_precision() == "high"
        with pytest.raises(OptionError, match="must be one of highest, high, medium, got 'low'"):
            dg.set_float32_matmul_precision("low")
    finally:
        dg.set_float32_matmul_precision(before)
        precision._listeners.remove(heard.append) if heard.append in precision._listeners else None
    assert heard == ["highest", "high", "highest"]


HIDDEN = np.array([[False, False, True, True], [False, False, False, True]])
NETWORKS = {
    "pooling": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 4, 2), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 1), nn.AdaptiveMaxPool2d(3)),
            *(nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
        ),
        (2, 1, 12, 12),
    ),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (2, 4, 8)),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_train_in_16_bits(name, dtype):
    build, shape = NETWORKS[name]
    dg.manual_seed(3)
    model = build()
    x = dg.randn(*shape)
    options = {"src_key_padding_mask": dg.asarray(HIDDEN)} if name == "attention" else {}
    results = []
    for enabled in (False, True):
        model.zero_grad()
        with dg.autocast("cpu", dtype=dtype, enabled=enabled):
            y = model(x, **options)
            loss = nn.functional.cross_entropy(y.reshape(2, -1), y.detach().reshape(2, -1).softmax(axis=1))
        loss.backward()
        results.append([loss.detach().numpy(), *(p.grad.numpy().copy() for p in model.parameters())])
    for low, full in zip(*results[::-1], strict=True):
        assert low.dtype == np.float32
        np.testing.assert_allclose(low, full, atol=30 * TOLERANCES[dtype] * max(1e-2, np.abs(full).max()))
