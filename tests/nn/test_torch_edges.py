"""Beside PyTorch at the edges: axes without elements, NaN in a maximum, output padding beyond the stride."""

import itertools

import numpy as np
import pytest

import distgrad as dg
from distgrad.nn import functional as F

torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")


def both(function, *arrays, seed=0):
    """Value and gradients of ``function(library, its functional, *tensors)`` in either library."""
    results = []
    for library, functional in ((dg, F), (torch, torch.nn.functional)):
        tensors = [library.tensor(array, requires_grad=True) for array in arrays]
        y = function(library, functional, *tensors)
        g = np.random.default_rng(seed).standard_normal(tuple(y.shape)).astype(arrays[0].dtype)
        y.backward(library.tensor(g))
        results.append([y.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)])
    return results


def assert_same(function, *arrays, rtol=1e-9):
    ours, theirs = both(function, *arrays)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_with_any_output_padding(spatial, groups):
    rng = np.random.default_rng(spatial)
    x, w = rng.standard_normal((2, 4, *(4, 3, 3)[:spatial])), rng.standard_normal((4, 3, *(2,) * spatial))
    bias = rng.standard_normal(3 * groups)
    name = f"conv_transpose{spatial}d"
    for p, (s, extra, d) in itertools.product((0, 1), ((1, 1, 2), (1, 2, 3), (2, 2, 3), (3, 2, 1))):
        settings = (s, p, extra, groups, d)
        assert_same(lambda _, f, *each, rest=settings: getattr(f, name)(*each, *rest), x, w, bias)


def test_the_layer_takes_such_output_padding_too():
    options = {"stride": 1, "output_padding": 1, "dilation": 3}
    layer, twin = dg.nn.ConvTranspose2d(2, 3, 2, **options), torch.nn.ConvTranspose2d(2, 3, 2, **options)
    layer.load_state_dict({k: dg.tensor(v.detach().numpy()) for k, v in twin.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5)).astype("f")
    np.testing.assert_allclose(
        layer(dg.tensor(x)).detach().numpy(), twin(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "name", ["softmax", "log_softmax", "logsumexp", "sum", "mean", "prod", "cumsum", "cumprod"]
)
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 0), 1), ((0, 3), 0), ((0,), 0), ((0, 3), 1), ((2, 0, 3), 1)]
)
@pytest.mark.parametrize("dtype", ["d", "f"])
def test_over_an_axis_without_elements(name, shape, axis, dtype):
    keyword = {dg: "axis", torch: "dim"}
    assert_same(
        lambda library, _, x: getattr(library, name)(x, **{keyword[library]: axis}), np.zeros(shape, dtype)
    )


@pytest.mark.parametrize("shapes", [
    ((1, 2, 3, 4), (1, 2, 0, 4), (1, 2, 0, 5)), ((1, 2, 0, 4), (1, 2, 3, 4), (1, 2, 3, 5)),
    ((0, 2, 3, 4), (0, 2, 3, 4), (0, 2, 3, 5)), ((1, 2, 3, 0), (1, 2, 3, 0), (1, 2, 3, 5)),
])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": True}], ids=str)
def test_attention_without_keys_queries_or_features(shapes, options):
    def attend(library, functional, *tensors):
        given = dict(options)
        if "attn_mask" in given:
            given["attn_mask"] = library.ones((shapes[0][-2], shapes[1][-2]), dtype=library.bool)
        return functional.scaled_dot_product_attention(*tensors, **given)

    assert_same(attend, *(np.full(shape, 0.5) for shape in shapes))


POOLS = [
    ("max_pool1d", (2, 3, 12), {"kernel_size": 2}),
    ("max_pool1d", (2, 3, 300), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool2d", (2, 3, 4, 6), {"kernel_size": 2}),
    ("max_pool2d", (2, 3, 24, 26), {"kernel_size": 2}),
    ("max_pool2d", (2, 3, 24, 26), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool2d", (2, 3, 24, 26), {"kernel_size": (3, 2), "stride": (1, 3), "dilation": (2, 1)}),
    ("max_pool3d", (1, 2, 6, 6, 6), {"kernel_size": 2}),
    ("max_pool3d", (1, 2, 6, 6, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "options"), POOLS, ids=[f"{n}-{s}" for n, s, _ in POOLS])
@pytest.mark.parametrize("dtype", ["d", "f"])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_the_gradient_of_max_pooling_goes_to_nan(name, shape, options, dtype, share):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    x[rng.random(shape) < share] = np.nan
    assert_same(lambda _, f, x: getattr(f, name)(x, **options), x, rtol=1e-5)
    ours, theirs = (
        getattr(f, name)(library.tensor(x), return_indices=True, **options)[1].numpy()
        for library, f in ((dg, F), (torch, torch.nn.functional))
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_the_gradient_of_max_pooling_goes_to_infinities(infinity):
    x = np.full((1, 1, 6, 6), infinity)
    assert_same(lambda _, f, x: f.max_pool2d(x, 3, 2, 1), x)
