"""The standard's ``linalg`` and ``fft`` extensions compute what array-api-strict does."""

import math

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.errors import GraphError

array_api_strict.set_array_api_strict_flags(api_version="2024.12")
pytestmark = pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype:UserWarning")

DTYPES = ["float32", "float64", "complex64", "complex128"]
REAL = DTYPES[:2]
SHAPES = [(3, 3), (2, 3, 3), (0, 0), (2, 0, 3, 3), (1, 1)]
RECTANGLES = [(3, 5), (2, 5, 3), (4, 4), (2, 1, 3, 2)]


def numbers(shape, dtype, seed=0):
    """Random numbers, complex where the dtype is."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    return np.asarray(x + 1j * rng.standard_normal(shape) if dtype.startswith("c") else x).astype(dtype)


def positive(shape, dtype):
    """Hermitian positive definite matrices."""
    x = numbers(shape, dtype)
    return (x @ np.conj(np.swapaxes(x, -1, -2)) + np.eye(shape[-1])).astype(dtype)


def call(name, *args, **options):
    """What a function of both namespaces gives, as lists of NumPy arrays."""
    found = []
    for root in (dg, array_api_strict):
        function = root
        for part in name.split("."):
            function = getattr(function, part)
        inputs = [root.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
        result = function(*inputs, **options)
        several = isinstance(result, tuple | list)
        found.append(([np.asarray(x) for x in result] if several else [np.asarray(result)], result))
    (ours, result), (theirs, expected) = found
    assert getattr(result, "_fields", None) == getattr(expected, "_fields", None)
    return ours, theirs


def check(name, *args, **options):
    """Both give the same dtypes, shapes and values."""
    ours, theirs = call(name, *args, **options)
    assert len(ours) == len(theirs)
    for found, expected in zip(ours, theirs, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_square_matrices(shape, dtype):
    x = numbers(shape, dtype)
    for name in ("inv", "det", "slogdet", "trace", "matrix_transpose"):
        check(f"linalg.{name}", x)
    for n in (0, 1, 2, 5, -1, -3):
        check("linalg.matrix_power", x, n)
    check("linalg.solve", x, numbers((*shape[:-1], 2), dtype, 1))
    check("linalg.solve", x, numbers(shape[-1:], dtype, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_hermitian_matrices(shape, dtype):
    x = positive(shape, dtype)
    check("linalg.cholesky", x)
    check("linalg.cholesky", x, upper=True)
    check("linalg.eigvalsh", x)
    (values, vectors), (expected, _) = call("linalg.eigh", x)
    assert vectors.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(x @ vectors, vectors * values[..., None, :], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", RECTANGLES)
def test_rectangular_matrices(shape, dtype):
    x = numbers(shape, dtype)
    check("linalg.svdvals", x)
    check("linalg.matrix_rank", x)
    check("linalg.matrix_rank", x, rtol=0.5)
    check("linalg.pinv", x)
    check("linalg.pinv", x, rtol=0.1)
    for mode in ("reduced", "complete"):
        check("linalg.qr", x, mode=mode)
    for full in (True, False):
        check("linalg.svd", x, full_matrices=full)
    for offset in (-3, -1, 0, 2, 9):
        check("linalg.diagonal", x, offset=offset)
        check("linalg.trace", x, offset=offset)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keepdims", [False, True])
def test_norms(dtype, keepdims):
    x = numbers((2, 3, 4), dtype)
    for order in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf):
        check("linalg.matrix_norm", x, ord=order, keepdims=keepdims)
    for order in (2, 1, 0, 3, 0.5, -1, math.inf, -math.inf):
        for axis in (None, 1, (0, -1)):
            check("linalg.vector_norm", x, axis=axis, ord=order, keepdims=keepdims)
    found = dg.linalg.matrix_norm(dg.asarray(x), ord=None)
    np.testing.assert_allclose(found.numpy(), np.linalg.norm(x, axis=(-2, -1)), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", *DTYPES])
def test_products(dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 5, shape).astype(dtype) for shape in ((2, 4, 3), (2, 4, 3)))
    check("vecdot", x, y)
    check("vecdot", x, y, axis=-2)
    check("vecdot", x, y[0])
    check("linalg.cross", x, y)
    check("linalg.cross", np.moveaxis(x, -1, 0).copy(), np.moveaxis(y, -1, 0).copy(), axis=-3)
    check("linalg.outer", x[0, 0], y[0, :, 0])
    for axes in (0, 1, 2, ((0, 1), (0, 1)), ((-1,), (2,))):
        right = y if axes not in (1, 2) else np.ascontiguousarray(np.moveaxis(y, 0, -1)[..., :2])
        left = x if axes not in (1, 2) else np.ascontiguousarray(np.moveaxis(x, -1, 0)[..., :4])
        if axes == 1:
            left, right = left.reshape(6, 4), right.reshape(4, 6)
        if axes == 2:
            left, right = left.reshape(2, 4, 3), right.reshape(4, 3, 2)
        check("tensordot", left, right, axes=axes)
    check("matmul", x, np.swapaxes(y, -1, -2).copy())
    check("matmul", x, y[0, 0])
    check("linalg.trace", x, dtype=None)


def test_a_complex_vecdot_conjugates_the_first():
    x, y = numbers((3,), "complex128"), numbers((3,), "complex128", 1)
    assert complex(dg.vecdot(dg.asarray(x), dg.asarray(y))) == pytest.approx(np.vdot(x, y))


def test_a_symmetric_part_is_taken():
    x = numbers((3, 3), "float64")
    half = (x + x.T) / 2
    np.testing.assert_allclose(dg.linalg.eigvalsh(dg.asarray(x)).numpy(), np.linalg.eigvalsh(half))


def test_the_determinant_of_singular_matrices_has_a_gradient():
    for x in (np.ones((2, 2)), np.zeros((2, 2)), np.diag([1.0, 2.0, 0.0])):
        t = dg.tensor(x, requires_grad=True)
        dg.linalg.det(t).backward()
        expected = np.empty_like(x)
        for i, j in np.ndindex(x.shape):
            minor = np.delete(np.delete(x, i, 0), j, 1)
            expected[i, j] = (-1) ** (i + j) * np.linalg.det(minor)
        np.testing.assert_allclose(t.grad.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("rank", range(5))
def test_the_determinant_of_singular_matrices_has_a_second_gradient(rank):
    x = numbers((4, rank), "float64") @ numbers((rank, 4), "float64")
    assert gradcheck(dg.linalg.det, [dg.tensor(x, requires_grad=True)])
    assert gradgradcheck(dg.linalg.det, [dg.tensor(x, requires_grad=True)])


def test_a_gradient_that_does_not_exist_is_an_error():
    tall = dg.tensor(numbers((4, 2), "float64"), requires_grad=True)
    with pytest.raises(GraphError, match="mode='complete' has no gradient"):
        dg.linalg.qr(tall, mode="complete").Q.sum().backward()
    with pytest.raises(GraphError, match="full_matrices=False"):
        dg.linalg.svd(tall).U.sum().backward()
    dg.linalg.svd(tall).S.sum().backward()
    assert np.isfinite(tall.grad.numpy()).all()


def test_values_that_coincide_have_gradients_where_vectors_do_not_matter():
    t = dg.tensor(np.eye(3), requires_grad=True)
    dg.linalg.eigh(t).eigenvalues.sum().backward()
    np.testing.assert_allclose(t.grad.numpy(), np.eye(3), atol=1e-12)
    t = dg.tensor(np.eye(3), requires_grad=True)
    dg.linalg.svd(t).S.sum().backward()
    np.testing.assert_allclose(t.grad.numpy(), np.eye(3), atol=1e-12)


# -- Fourier transforms


@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_transforms_along_an_axis(dtype, norm):
    x = numbers((3, 4), dtype)
    names = ["rfft", "ihfft"] if dtype in REAL else ["fft", "ifft", "irfft", "hfft"]
    for name in names:
        for n in (None, 3, 6):
            for axis in (-1, 0):
                check(f"fft.{name}", x, n=n, axis=axis, norm=norm)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transforms_along_several_axes(dtype):
    x = numbers((3, 4, 5), dtype)
    names = ["rfftn"] if dtype in REAL else ["fftn", "ifftn", "irfftn"]
    for name in names:
        for options in ({}, {"axes": (0, 2)}, {"s": (2, 6), "axes": (1, 0)}, {"norm": "ortho"}):
            check(f"fft.{name}", x, **options)


@pytest.mark.parametrize("name", ["fft", "ifft", "fftn", "ifftn"])
def test_real_input_of_a_complex_transform(name):
    x = numbers((3, 4), "float32")
    found = getattr(dg.fft, name)(dg.asarray(x))
    assert found.dtype == dg.complex64
    np.testing.assert_allclose(found.numpy(), getattr(np.fft, name)(x), rtol=1e-5, atol=1e-6)


def test_lengths_without_axes_are_those_of_the_last_axes():
    x = numbers((3, 4, 5), "float64")
    found = dg.fft.fftn(dg.asarray(x), s=(2, 6))
    np.testing.assert_allclose(found.numpy(), np.fft.fftn(x, s=(2, 6), axes=(1, 2)), atol=1e-12)


@pytest.mark.parametrize("name", ["fftshift", "ifftshift"])
def test_shifts(name):
    x = numbers((3, 4), "float32")
    for axes in (None, 0, (0, 1)):
        check(f"fft.{name}", x, axes=axes)


@pytest.mark.parametrize("name", ["fftfreq", "rfftfreq"])
def test_frequencies(name):
    found = getattr(dg.fft, name)(7, d=0.5)
    assert found.dtype == dg.float32
    np.testing.assert_allclose(found.numpy(), getattr(np.fft, name)(7, 0.5), rtol=1e-6)
    assert getattr(dg.fft, name)(7, dtype=dg.float64).dtype == dg.float64


def test_a_transform_and_its_inverse_have_the_gradient_of_the_identity():
    for n in (4, 5):
        t = dg.tensor(numbers((n,), "float32"), requires_grad=True)
        weights = dg.asarray(np.arange(1.0, n + 1), dtype=dg.float32)
        dg.sum(dg.fft.irfft(dg.fft.rfft(t), n=n) * weights).backward()
        np.testing.assert_allclose(t.grad.numpy(), weights.numpy(), rtol=1e-5)
