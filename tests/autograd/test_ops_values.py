"""Values of operations beside NumPy's and the standard library's, and what only holds for one of them."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.dispatch import composite, numpy_module, operations
from distgrad.autograd.primitive import REGISTRY
from distgrad.nn import functional as F

HOLES = np.array([[1.0, np.nan, -2.0, 4.0], [np.nan] * 4, [3.0, 4.0, 7.0, 0.5]])


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# -- special functions


@pytest.mark.parametrize("name", ["erf", "erfc"])
@pytest.mark.parametrize(("low", "high"), [(-6, 6), (-0.5, 0.5), (0.4, 0.6), (3.9, 4.1), (0, 26)])
def test_error_functions_are_exact_to_a_few_units(name, low, high):
    x = np.linspace(low, high, 5001)
    exact = np.array([getattr(math, name)(each) for each in x])
    found = getattr(dg, name)(x).numpy()
    np.testing.assert_allclose(found, exact, rtol=1e-15, atol=1e-300)
    single = getattr(dg, name)(x.astype(np.float32)).numpy()
    exact = np.array([getattr(math, name)(float(each)) for each in x.astype(np.float32)])
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, rtol=4e-7, atol=1e-38)


def test_error_functions_at_the_ends():
    ends = np.array([-np.inf, -0.0, np.inf, np.nan])
    np.testing.assert_array_equal(dg.erf(ends).numpy(), [-1.0, -0.0, 1.0, np.nan])
    np.testing.assert_array_equal(dg.erfc(ends).numpy(), [2.0, 1.0, 0.0, np.nan])
    assert np.signbit(dg.erf(ends).numpy()[1])
    inverse = dg.erfinv(np.array([-1.0, 1.0, 1.5, np.nan])).numpy()
    np.testing.assert_array_equal(inverse, [-np.inf, np.inf, np.nan, np.nan])


def test_the_inverse_of_the_error_function_undoes_it_near_one():
    x = np.concatenate([np.linspace(-5.5, 5.5, 1001), [1e-300, -1e-10]])
    y = np.array([math.erf(each) for each in x])
    back = np.array([math.erf(each) for each in dg.erfinv(y).numpy()])
    np.testing.assert_allclose(back, y, rtol=1e-15)


# -- NumPy's functions

EINSUMS = [
    ("ij,jk->ik", (3, 4), (4, 2)),
    ("ba", (2, 3)),
    ("bij,bjk", (2, 3, 4), (2, 4, 2)),
    ("iji,jk->ki", (2, 3, 2), (3, 4)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("i...j->j...", (2, 3, 4)),
    ("i...,j...", (2, 3), (4, 3)),
    ("ijj,k->", (2, 3, 3), (4,)),
    ("i,j,k->kji", (2,), (3,), (4,)),
    ("ab,bc,cd,de", (2, 3), (3, 4), (4, 2), (2, 5)),
    ("ij,ij->ij", (2, 3), (2, 3)),
    ("ij,jk->ik", (3, 0), (0, 2)),
    (" i j , j k -> i k ", (3, 1), (1, 2)),
]


@pytest.mark.parametrize(("subscripts", "shapes"), [(s, shapes) for s, *shapes in EINSUMS])
@pytest.mark.parametrize("optimize", [True, False, "optimal"])
def test_einsum_is_numpys(subscripts, shapes, optimize):
    arrays = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    found = dg.einsum(subscripts, *arrays, optimize=optimize).numpy()
    np.testing.assert_allclose(found, np.einsum(subscripts, *arrays), atol=1e-12)


def test_einsum_takes_labels_as_lists_and_a_path():
    x, y = numbers(2, 3), numbers(3, 4)
    np.testing.assert_allclose(dg.einsum(x, [0, 1], y, [1, 2]).numpy(), x @ y)
    np.testing.assert_allclose(dg.einsum(x, [1, 0]).numpy(), x.T)
    path, _ = np.einsum_path("ij,jk,kl", x, y, y.T, optimize="optimal")
    np.testing.assert_allclose(dg.einsum("ij,jk,kl", x, y, y.T, optimize=path).numpy(), x @ y @ y.T)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric", "wrap"])
@pytest.mark.parametrize("widths", [2, (1, 3), [(0, 2), (5, 1)], [(9, 8), (7, 11)]])
def test_pad_is_numpys(mode, widths):
    x = numbers(3, 4)
    np.testing.assert_array_equal(dg.pad(x, widths, mode).numpy(), np.pad(x, widths, mode))


@pytest.mark.parametrize("name", ["nansum", "nanmean", "nanvar", "nanstd", "nanmax", "nanmin"])
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": 1, "keepdims": True}, {"axis": (0, 1)}])
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom", "ignore:All-NaN")
def test_reductions_without_nan_are_numpys(name, options):
    found = getattr(dg, name)(HOLES, **options).numpy()
    np.testing.assert_allclose(found, getattr(np, name)(HOLES, **options), rtol=1e-14)


@pytest.mark.parametrize("method", ["linear", "lower", "higher", "midpoint", "nearest"])
@pytest.mark.parametrize("q", [0.0, 0.3, 0.5, 1.0, [0.1, 0.25, 0.9]])
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": (0, 2), "keepdims": True}])
def test_quantile_is_numpys(method, q, options):
    x = numbers(3, 4, 5)
    found = dg.quantile(x, q, method=method, **options).numpy()
    np.testing.assert_allclose(found, np.quantile(x, q, method=method, **options), rtol=1e-14)


def test_a_nan_poisons_the_median():
    np.testing.assert_array_equal(dg.median(HOLES, axis=1).numpy(), np.median(HOLES, axis=1))
    assert float(dg.median(np.array([1.0, 2.0, np.inf]))) == 2.0


@pytest.mark.parametrize(("left", "right"), [((2, 3), (4, 2)), ((3,), (2, 2)), ((), (2,)), ((2, 1, 2), (3,))])
def test_kron_is_numpys(left, right):
    x, y = numbers(*left), numbers(*right, seed=1)
    np.testing.assert_allclose(dg.kron(x, y).numpy(), np.kron(x, y))


@pytest.mark.parametrize("ord", [None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf])
def test_norms_of_matrices_are_numpys(ord):
    x = numbers(2, 3, 4)
    for axis in ((0, 2), (-1, 0)):
        for keepdims in (False, True):
            found = dg.norm(x, ord, axis, keepdims).numpy()
            np.testing.assert_allclose(found, np.linalg.norm(x, ord, axis, keepdims), rtol=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "axis"),
    [((1, 2, 3), (2, 1, 3), -2), ((1, 2, 3), (2, 1, 3), 2), ((2, 3), (4, 2, 3), 1), ((3,), (4, 3), 0)],
)
def test_the_cosine_is_that_of_the_broadcast_vectors(one, other, axis):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(one), rng.standard_normal(other)
    wide, tall = np.broadcast_arrays(x, y)
    expected = (wide * tall).sum(axis) / np.linalg.norm(wide, axis=axis) / np.linalg.norm(tall, axis=axis)
    np.testing.assert_allclose(dg.cosine_similarity(x, y, axis=axis), expected, rtol=1e-12)


def test_windows_are_numpys_and_share_memory():
    x = numbers(4, 6)
    tensor = dg.Tensor(x)
    found = dg.sliding_window_view(tensor, (2, 3))
    np.testing.assert_array_equal(found.numpy(), np.lib.stride_tricks.sliding_window_view(x, (2, 3)))
    assert np.shares_memory(found.numpy(), x)
    with pytest.raises(ValueError, match="read-only"):
        found.numpy()[0, 0, 0, 0] = 1.0


# -- indices


def test_the_best_of_several_equal_ones_come_with_their_own_indices():
    x = np.array([[3, 1, 3, 2, 3]], dtype=np.uint8)
    values, index = dg.topk(x, 4)
    assert values.tolist() == [[3, 3, 3, 2]]
    assert sorted(index.tolist()[0][:3]) == [0, 2, 4]
    values, index = dg.topk(x, 2, largest=False)
    assert (values.tolist(), index.tolist()) == ([[1, 2]], [[1, 3]])


def test_the_embeddings_gradient_adds_repeated_rows_and_spares_the_padding():
    weight = dg.Tensor(numbers(4, 2), requires_grad=True)
    index = dg.Tensor(np.array([[1, 3], [3, 3]]))
    dg.embedding(index, weight, padding_idx=-3).sum().backward()
    assert weight.grad.tolist() == [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [3.0, 3.0]]


def test_running_extrema_pass_a_nan_on():
    values, index = dg.cummax(np.array([1.0, np.nan, 5.0, 2.0]), 0)
    np.testing.assert_array_equal(values.numpy(), [1.0, np.nan, np.nan, np.nan])
    assert index.tolist()[:2] == [0, 1]


# -- random numbers


@pytest.mark.parametrize("name", ["dropout", "feature_dropout", "alpha_dropout"])
def test_dropout_repeats_with_its_generator_and_keeps_the_mean(name):
    drop = getattr(dg, name)
    x = np.ones((400, 50, 4)) if name != "alpha_dropout" else numbers(400, 50, 4)
    first = drop(x, 0.3, True, generator=dg.Generator(7)).numpy()
    again = drop(x, 0.3, True, generator=dg.Generator(7)).numpy()
    other = drop(x, 0.3, True, generator=dg.Generator(8)).numpy()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert abs(first.mean() - x.mean()) < 0.02
    if name == "alpha_dropout":
        assert abs(first.var() - x.var()) < 0.05
    else:
        assert set(np.unique(first)) == {0.0, 1.0 / 0.7}
    if name == "feature_dropout":
        assert (first == first[:, :, :1]).all()


def test_dropout_gives_the_gradient_to_what_it_kept():
    x = dg.Tensor(np.ones(1000), requires_grad=True)
    y = dg.dropout(x, 0.5)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())


# -- composites


def test_a_composite_runs_on_tensors_and_on_arrays():
    try:

        @composite(math="y = 2 x1 x2ᵀ", dtypes="floating-point")
        def twice_outer(xp, x1: "Array", x2: "Array", /, *, scale=2.0):  # noqa: F821 (text, as in a module)
            """Doc."""
            return scale * xp.matmul(x1, xp.matrix_transpose(x2))

        x1, x2 = numbers(3, 4), numbers(2, 4)
        np.testing.assert_array_equal(twice_outer(x1, dg.Tensor(x2)).numpy(), 2.0 * (x1 @ x2.T))
        np.testing.assert_array_equal(numpy_module.twice_outer(x1, x2, scale=1.0), x1 @ x2.T)
        with pytest.raises(dg.DistgradError, match="x2 must be floating-point, got int64"):
            twice_outer(x1, np.arange(4))
        with pytest.raises(dg.DistgradError, match="matmul") as caught:
            twice_outer(x1, x1[:, :2])
        assert "in twice_outer" in caught.value.__notes__
        with pytest.raises(TypeError, match="registered twice"):
            composite(math="")(twice_outer.record.formula)
    finally:
        for registry in (REGISTRY, operations.__dict__, numpy_module.__dict__):
            registry.pop("twice_outer", None)


@pytest.mark.parametrize(
    ("options", "windows_of_first"),
    [
        ({"kernel_size": 2, "stride": 1, "padding": 1}, 4),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, 1),
    ],
    ids=["two", "three"],
)
@pytest.mark.parametrize("lowest", [-np.inf, np.iinfo(np.int64).min])
def test_a_window_of_the_lowest_value_alone_keeps_its_gradient_from_the_padding(
    options, windows_of_first, lowest
):
    """So small that the plain formula runs, whose padding holds the same value."""
    x = np.full((1, 2, 5, 4), lowest, dtype=np.result_type(lowest))
    x[0, 0, 3, 2] = 1
    y, places = dg.max_pool_with_indices(dg.tensor(x), **options)
    assert places[0, 1, 0, 0].item() == 0
    if x.dtype.kind == "f":
        leaf = dg.tensor(x, requires_grad=True)
        F.max_pool2d(leaf, **options).sum().backward()
        assert leaf.grad.sum(axis=(2, 3)).tolist() == [[y[0, 0].size] * 2]
        assert leaf.grad[0, 1, 0, 0] == windows_of_first


def test_determinants_of_what_is_not_finite_have_gradients_that_are_not():
    x = dg.tensor(np.array([[[np.nan, 1.0], [0.0, 2.0]], [[3.0, 1.0], [0.0, 2.0]]]), requires_grad=True)
    with np.errstate(invalid="ignore"):
        dg.linalg.det(x).sum().backward(create_graph=True)
    assert np.isnan(x.grad[0].detach().numpy()).all()
    np.testing.assert_allclose(x.grad[1].detach().numpy(), [[2.0, 0.0], [-1.0, 3.0]], atol=1e-12)


def test_quantiles_of_no_probability_are_nan():
    np.testing.assert_array_equal(
        dg.special.ndtri(np.array([0.0, 1.0, -0.1, 1.5, np.nan])), [-np.inf, np.inf, *[np.nan] * 3]
    )


def test_small_arguments_keep_their_digits():
    x = dg.tensor(np.array([0.0, 1e-300, 1e-8, 0.029, 0.031]), requires_grad=True)
    dg.sinc(x).sum().backward()
    z = np.pi * np.array([0.029, 0.031])
    slopes = np.pi * (z * np.cos(z) - np.sin(z)) / z**2
    np.testing.assert_allclose(
        x.grad.numpy(), [0.0, -(np.pi**2) / 3e300, -(np.pi**2) / 3e8, *slopes], rtol=1e-12
    )
    with np.errstate(all="raise"):
        y = dg.tensor(np.array([1e-300, 0.0, 1e300]), requires_grad=True)
        dg.atan2(y, 2 * y.detach()).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), [4e299, 0.0, 4e-301], rtol=1e-12)


def test_expm1_of_a_negative_zero():
    real, turned = dg.expm1(np.array([-0.0])), dg.expm1(np.array([-0.0 + 0j, complex(-0.0, -0.0)])).numpy()
    assert np.signbit(real.numpy()).all()  # as the standard has them
    assert [np.signbit([each.real, each.imag]).tolist() for each in turned] == [[False, False], [False, True]]
