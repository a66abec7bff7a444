"""Values of the operations that are read when first asked for, computed anew in plain Python or NumPy."""

import importlib
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd import later
from distgrad.autograd.dispatch import operations
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.primitive import REGISTRY
from distgrad.errors import GraphError


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def close(found, expected, rtol=1e-12, atol=1e-12):
    np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=atol)


# -- where they stand


@pytest.mark.parametrize("file", later.FILES)
def test_a_file_holds_the_operations_that_are_listed(file):
    module = importlib.import_module(f"distgrad.autograd.ops.{file}")
    here = [name for name, record in REGISTRY.items() if record.formula.__module__ == module.__name__]
    assert sorted(here) == later.FILES[file].split()


@pytest.mark.parametrize("room", later.PUBLIC)
def test_a_room_gives_its_operations(room):
    module = dg if not room else getattr(dg, room)
    for name in later.PUBLIC[room].split():
        assert getattr(module, name) is getattr(operations, name)
        assert name in dir(module)
    with pytest.raises(AttributeError, match="gobble"):
        _ = module.gobble


def test_importing_the_package_reads_none_of_them():
    code = "import sys, distgrad; print(*[name for name in sys.modules if 'autograd.ops.' in name])"
    read = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    names = {name.rpartition(".")[2] for name in read.stdout.split()}
    assert "elementwise" in names
    assert not names & later.FILES.keys()


# -- products


def test_products_that_are_scaled_and_added():
    x, a, b = numbers(2, 3), numbers(2, 4, seed=1), numbers(4, 3, seed=2)
    close(operations.addmm(x, a, b, beta=0.5, alpha=2.0), 0.5 * x + 2.0 * (a @ b))
    close(operations.addmv(x[:, 0], a, b[:, 0]), x[:, 0] + a @ b[:, 0])
    close(operations.addr(x, a[:, 0], b[0]), x + np.outer(a[:, 0], b[0]))
    stack, other = numbers(5, 2, 4), numbers(5, 4, 3)
    close(operations.addbmm(x, stack, other), x + sum(s @ o for s, o in zip(stack, other, strict=True)))
    close(operations.baddbmm(x, stack, other, alpha=0.5), x + 0.5 * (stack @ other))
    close(operations.addmm(np.full((2, 3), np.nan), a, b, beta=0), a @ b)
    close(operations.addcmul(x, x, x, value=2.0), x + 2.0 * x * x)
    close(operations.addcdiv(x, x, x, value=2.0), x + 2.0)
    close(operations.lerp(x, 2.0 * x, 0.25), 1.25 * x)
    chain = [numbers(*shape) for shape in ((5, 2), (2, 9), (9, 3), (3, 4))]
    close(dg.linalg.multi_dot(*chain), np.linalg.multi_dot(chain))


# -- an element at a time

X = np.array([-7.5, -2.0, -0.5, 0.0, 0.3, 1.0, 4.25])


@pytest.mark.parametrize("name", ["deg2rad", "exp2", "rad2deg", "sinc"])
def test_a_function_of_one_array(name):
    close(getattr(operations, name)(X), getattr(np, name)(X))


@pytest.mark.parametrize("name", ["float_power", "fmax", "fmin", "fmod", "heaviside", "logaddexp2"])
def test_a_function_of_two_arrays(name):
    y = np.array([2.0, 3.0, -1.5, 0.5, 2.0, -1.0, np.nan])
    with np.errstate(all="ignore"):
        close(getattr(operations, name)(X, y), getattr(np, name)(X, y))


def test_parts_and_powers():
    close(operations.frac(X), X - np.trunc(X))
    close(operations.rsqrt(X[4:]), X[4:] ** -0.5)
    close(operations.ldexp(X, np.arange(7)), np.ldexp(X, np.arange(7)))
    for found, expected in zip(operations.frexp(X), np.frexp(X), strict=True):
        close(found, expected)
    holes = np.array([np.nan, np.inf, -np.inf, 1.0])
    close(dg.nan_to_num(holes), np.nan_to_num(holes))
    close(dg.nan_to_num(holes, 1.0, 2.0, 3.0), [1.0, 2.0, 3.0, 1.0])
    close(dg.special.entr(np.array([0.0, 0.5, -1.0])), [0.0, 0.5 * math.log(2.0), -math.inf])
    close(dg.special.xlog1py(np.array([0.0, 2.0]), np.array([-1.0, 3.0])), [0.0, 2.0 * math.log(4.0)])


def test_areas_and_slopes():
    y, x = numbers(3, 5), np.cumsum(np.abs(numbers(5, seed=1)) + 0.1)
    close(dg.trapezoid(y, x), np.trapezoid(y, x))
    close(dg.trapezoid(y, dx=0.5, axis=0), np.trapezoid(y, dx=0.5, axis=0))
    running = [np.trapezoid(y[:, : n + 1], x[: n + 1]) for n in range(1, 5)]
    close(operations.cumulative_trapezoid(y, x), np.stack(running, axis=1))
    for order in (1, 2):
        close(
            dg.gradient(y, spacing=[x], axis=1, edge_order=order)[0],
            np.gradient(y, x, axis=1, edge_order=order),
        )
    for found, expected in zip(dg.gradient(y, spacing=0.1), np.gradient(y, 0.1), strict=True):
        close(found, expected)
    close(dg.vander(x), np.vander(x))
    close(dg.vander(x, 3, increasing=True), np.vander(x, 3, increasing=True))


# -- special functions


def test_the_gamma_function_and_its_derivatives():
    x = np.concatenate([np.linspace(-6.3, 30.0, 700), 10.0 ** np.linspace(-12, 8, 100), [1 + 1e-9, 2 - 1e-9]])
    close(dg.special.gammaln(x), [math.lgamma(each) for each in x], rtol=1e-12, atol=1e-14)
    assert dg.special.gammaln(np.array([0.0, -3.0, np.inf])).tolist() == [math.inf] * 3
    gamma = np.euler_gamma
    close(dg.special.digamma(np.array([1.0, 0.5, 3.0])), [-gamma, -gamma - 2 * math.log(2), 1.5 - gamma])
    steps = x[(x > 0.1) & (x < 100)]
    for n in range(5):  # ψₙ(x + 1) = ψₙ(x) + (-1)ⁿ n! / xⁿ⁺¹
        here, there = dg.special.polygamma(n, steps).numpy(), dg.special.polygamma(n, steps + 1.0)
        close(there, here + (-1) ** n * math.factorial(n) / steps ** (n + 1), rtol=1e-10, atol=1e-8)
    close(dg.special.polygamma(1, np.array([1.0, 0.5])), [math.pi**2 / 6, math.pi**2 / 2])
    close(dg.special.zeta(np.array([2.0, 4.0]), 1.0), [math.pi**2 / 6, math.pi**4 / 90])
    close(
        dg.special.multigammaln(np.array([3.0]), 2),
        [0.5 * math.log(math.pi) + math.lgamma(3.0) + math.lgamma(2.5)],
    )


def test_the_incomplete_gamma_functions():
    x = np.array([0.01, 0.5, 1.0, 3.0, 12.0, 40.0, 99.0, 130.0])
    for order in range(1, 140, 9):  # of a whole order the upper one is a finite sum
        terms = [np.exp(k * np.log(x) - x - math.lgamma(k + 1)) for k in range(order)]
        upper = np.sum(terms, axis=0)
        close(dg.special.gammaincc(order, x), upper, rtol=1e-11, atol=1e-300)
        close(dg.special.gammainc(order, x), 1.0 - upper, atol=1e-13)
    close(dg.special.gammainc(0.5, x), [math.erf(math.sqrt(each)) for each in x])
    assert dg.special.gammainc(0.0, x[:1]).tolist() == [1.0]
    assert np.isnan(dg.special.gammainc(-1.0, x).numpy()).all()
    order = dg.tensor([2.0], requires_grad=True)
    with pytest.raises(GraphError, match="gammainc: there is no gradient of the order"):
        dg.special.gammainc(order, x).sum().backward()


def test_bessel_functions_by_their_integrals():
    # I_n(x) = 1/π ∫₀^π e^(x cos t) cos nt dt, which the trapezoidal rule gives to the last digit
    t = np.linspace(0.0, math.pi, 2001)
    x = np.array([-45.0, -20.5, -3.0, 0.0, 1e-3, 0.7, 12.0, 19.9, 20.1, 60.0])
    for order, name in ((0, "i0"), (1, "i1")):
        scaled = np.exp(x[:, None] * np.cos(t) - np.abs(x[:, None])) * np.cos(order * t)
        expected = np.trapezoid(scaled, t) / math.pi
        close(getattr(dg.special, f"{name}e")(x), expected)
        close(getattr(dg.special, name)(x), expected * np.exp(np.abs(x)))


def test_the_normal_distribution_in_its_tails():
    x = np.array([-8.0, -2.0, -0.3, 0.0, 0.4, 1.5, 6.0])
    close(dg.special.erfcx(x), [math.exp(each * each) * math.erfc(each) for each in x])
    close(dg.special.erfcx(np.array([1e6])), [1e-6 / math.sqrt(math.pi)])
    close(dg.special.log_ndtr(x), [math.log(0.5 * math.erfc(-each * math.sqrt(0.5))) for each in x])
    close(dg.special.log_ndtr(np.array([-40.0])), [-804.608442], rtol=1e-8)
    close(dg.special.ndtri(dg.special.ndtr(x[:5])), x[:5], rtol=1e-9)
    assert dg.special.ndtri(np.array([0.0, 1.0])).tolist() == [-math.inf, math.inf]


# -- transforms


@pytest.mark.parametrize("name", ["fft2", "ifft2", "irfft2", "rfft2"])
def test_transforms_along_two_axes(name):
    x = numbers(4, 6) if name == "rfft2" else numbers(4, 6) + 1j * numbers(4, 6, seed=1)
    for options in ({}, {"s": (3, 8), "norm": "ortho"}, {"axes": (1, 0), "norm": "forward"}):
        close(getattr(dg.fft, name)(x, **options), getattr(np.fft, name)(x, **options))


def test_transforms_of_hermitian_signals():
    x = numbers(4, 6)
    half = dg.fft.ihfftn(x)
    whole = np.conj(np.fft.fft2(x)) / 24
    close(half, whole[:, :4])
    close(dg.fft.hfftn(half, s=(4, 6)), x)
    close(dg.fft.hfft2(dg.fft.ihfft2(x, norm="ortho"), s=(4, 6), norm="ortho"), x)


@pytest.mark.parametrize("onesided", [True, False])
def test_a_signal_window_by_window_and_back(onesided):
    x, window = numbers(2, 40), np.hanning(10)[1:-1]
    options = {"hop_length": 3, "window": window, "onesided": onesided}
    y = operations.stft(x, 8, **options)
    padded = np.pad(x, [(0, 0), (4, 4)], mode="reflect")
    for t in range(y.shape[2]):
        frame = np.fft.fft(padded[:, 3 * t : 3 * t + 8] * window)
        np.testing.assert_allclose(y.numpy()[:, :, t], frame[:, : y.shape[1]], atol=1e-12)
    close(operations.istft(y, 8, length=39, **options), x[:, :39])


# -- linear algebra


REGULAR = np.array([[2.0, 0.3, -0.1], [0.4, -1.5, 0.2], [0.1, 0.6, 1.2]])


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 4), (0, 0)])
def test_the_lu_decomposition(shape):
    x = numbers(*shape)
    p, lower, upper = dg.linalg.lu(x)
    np.testing.assert_allclose((p @ lower @ upper).numpy(), x, atol=1e-12)
    assert (np.abs(lower.numpy()) <= 1.0 + 1e-12).all()
    packed, pivots = dg.linalg.lu_factor(x)
    order = np.arange(shape[-2])
    for k, other in enumerate(pivots.numpy()[(0,) * (len(shape) - 2)] if x.size else []):
        order[[k, other - 1]] = order[[other - 1, k]]
    first = (0,) * (len(shape) - 2)
    np.testing.assert_array_equal(x[first][order], p.numpy()[first].T @ x[first])
    if shape[-1] == shape[-2]:
        b = numbers(*shape[:-1], 2)
        close(dg.linalg.lu_solve(packed, pivots, b), np.linalg.solve(x, b), rtol=1e-9)


def test_triangular_and_positive_systems():
    b = numbers(3, 2)
    upper, lower = np.triu(REGULAR), np.tril(REGULAR)
    close(dg.linalg.solve_triangular(REGULAR, b, upper=True), np.linalg.solve(upper, b))
    close(dg.linalg.solve_triangular(REGULAR, b.T, upper=False, left=False), b.T @ np.linalg.inv(lower))
    unit = np.tril(REGULAR, -1) + np.eye(3)
    close(dg.linalg.solve_triangular(REGULAR, b, upper=False, unitriangular=True), np.linalg.solve(unit, b))
    close(dg.linalg.triangular_solve(b, REGULAR, transpose=True)[0], np.linalg.solve(upper.T, b))
    close(dg.linalg.cholesky_solve(b, lower), np.linalg.solve(lower @ lower.T, b))
    close(dg.linalg.cholesky_inverse(upper, upper=True), np.linalg.inv(upper.T @ upper))


def test_eigenvalues_and_functions_of_matrices():
    x = numbers(2, 4, 4)
    values, vectors = dg.linalg.eig(x)
    close(vectors @ (values[:, :, None] * dg.linalg.inv(vectors)), x, atol=1e-10)
    np.testing.assert_array_equal(dg.linalg.eigvals(x).numpy(), values.numpy())
    for scale in (0.01, 1.0, 30.0):
        rotation = scale * np.array([[0.0, -1.0], [1.0, 0.0]])
        expected = [[math.cos(scale), -math.sin(scale)], [math.sin(scale), math.cos(scale)]]
        close(dg.linalg.matrix_exp(rotation), expected, atol=1e-11)
    positive = REGULAR @ REGULAR.T
    root = dg.linalg.matrix_sqrth(positive)
    close(root @ root, positive)
    turn, stretch = dg.linalg.polar_decomposition(numbers(5, 3))
    close(turn @ stretch, numbers(5, 3))
    close(turn.mT @ turn, np.eye(3))


def test_the_gradient_of_eigenvalues_and_of_what_their_vectors_span():
    weights = np.arange(1.0, 5.0)

    def function(x):
        values, vectors = dg.linalg.eig(x)
        return values, dg.abs(vectors), vectors @ ((weights * values)[:, None] * dg.linalg.inv(vectors))

    x = dg.tensor(numbers(4, 4), requires_grad=True)
    assert gradcheck(function, [x])
    assert gradgradcheck(function, [x])


def test_reflections_and_least_squares():
    x = numbers(5, 3)
    packed, tau = np.linalg.qr(x, mode="raw")
    q = np.linalg.qr(x, mode="complete")[0]
    close(dg.linalg.householder_product(packed.T, tau), q[:, :3])
    other = numbers(5, 2, seed=1)
    close(dg.linalg.ormqr(packed.T, tau, other), q @ other)
    close(dg.linalg.ormqr(packed.T, tau, other.T, left=False, transpose=True), other.T @ q.T)
    close(dg.linalg.lstsq(x, other), np.linalg.lstsq(x, other, rcond=None)[0])
    u, s, v = dg.linalg.svd_lowrank(x, 3)
    close((u * s) @ v.mT, x)
    u, s, v = dg.linalg.pca_lowrank(x, 3)
    close((u * s) @ v.mT, x - x.mean(axis=0))
    cube = numbers(6, 2, 3)
    close(dg.linalg.tensorinv(cube, 1), np.linalg.tensorinv(cube, 1), rtol=1e-9)
    close(dg.linalg.tensorsolve(cube, numbers(6)), np.linalg.tensorsolve(cube, numbers(6)), rtol=1e-9)


# -- images


def bilinear(image, y, x):
    """The value between four elements, 0 outside."""
    total = 0.0
    for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
            total += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return total


@pytest.mark.parametrize("align_corners", [True, False])
def test_an_image_at_the_points_of_a_grid(align_corners):
    image, grid = numbers(1, 1, 4, 5), np.random.default_rng(1).uniform(-1.3, 1.3, (1, 2, 6, 2))
    found = operations.grid_sample(image, grid, align_corners=align_corners).numpy()[0, 0]
    for place in np.ndindex(2, 6):
        point = grid[0][place]
        if align_corners:
            x, y = (point + 1) / 2 * [4, 3]
        else:
            x, y = ((point + 1) * [5, 4] - 1) / 2
        assert found[place] == pytest.approx(bilinear(image[0, 0], y, x))


def test_the_identity_leaves_an_image_as_it_is():
    image = numbers(2, 3, 4, 5)
    theta = np.broadcast_to(np.eye(2, 3), (2, 2, 3))
    for mode, align in itertools.product(("bilinear", "nearest", "bicubic"), (True, False)):
        grid = operations.affine_grid(theta, image.shape, align)
        close(operations.grid_sample(image, grid, mode, align_corners=align), image, atol=1e-9)
    flipped = operations.affine_grid(theta * [[-1.0], [1.0]], image.shape)
    close(operations.grid_sample(image, flipped), image[..., ::-1], atol=1e-9)
    row = np.arange(4.0).reshape(1, 1, 1, 4)
    points = np.stack([np.array([1.25, 1.75, 2.25]), np.zeros(3)], axis=-1).reshape(1, 1, 3, 2)
    mirrored = operations.grid_sample(row, points, padding_mode="reflection")
    close(mirrored.reshape(3), [3.0, 2.0, 1.0])
    close(operations.grid_sample(row, points, padding_mode="border").reshape(3), [3.0, 3.0, 3.0])
