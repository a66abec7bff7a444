"""Random tensors: the generator decides, and the distributions are right."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError

DRAWS = {
    "rand": lambda **options: dg.rand(100, 3, **options),
    "randn": lambda **options: dg.randn((100, 3), **options),
    "normal": lambda **options: dg.normal(2.0, 3.0, (100, 3), **options),
    "randint": lambda **options: dg.randint(-5, 5, (100, 3), **options),
    "randperm": lambda **options: dg.randperm(50, **options),
    "rand_like": lambda **options: dg.rand_like(dg.zeros((4, 5)), **options),
    "randn_like": lambda **options: dg.randn_like(dg.zeros((4, 5)), **options),
    "bernoulli": lambda **options: dg.bernoulli(dg.full((50,), 0.3), **options),
    "multinomial": lambda **options: dg.multinomial(dg.ones((7, 20)), 5, **options),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_generator_decides(name):
    draw = DRAWS[name]
    first, again, other = (draw(generator=dg.Generator(seed)).tolist() for seed in (1, 1, 2))
    assert first == again != other
    dg.manual_seed(1)
    assert draw().tolist() == first
    assert draw().tolist() != first


def test_a_saved_state_goes_on():
    generator = dg.Generator(3, stream=1)
    dg.rand(5, generator=generator)
    state = generator.get_state()
    expected = dg.randn(4, generator=generator).tolist()
    generator.set_state(state)
    assert dg.randn(4, generator=generator).tolist() == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_moments(dtype):
    generator = dg.Generator(0)
    uniform = dg.rand(20000, generator=generator, dtype=dtype).numpy().astype(float)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01
    assert abs(uniform.var() - 1 / 12) < 0.005
    standard = dg.randn(20000, generator=generator, dtype=dtype).numpy().astype(float)
    assert abs(standard.mean()) < 0.03
    assert abs(standard.var() - 1) < 0.05
    moved = dg.normal(2.0, 3.0, (20000,), generator=generator, dtype=dtype)
    assert moved.dtype == dtype
    assert abs(moved.numpy().astype(float).mean() - 2) < 0.1
    assert abs(moved.numpy().astype(float).std() - 3) < 0.1


def test_integers_and_permutations():
    draws = dg.randint(-2, 3, (10000,), generator=dg.Generator(0))
    values, counts = np.unique(draws.numpy(), return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2]
    assert abs(counts - 2000).max() < 200
    assert draws.dtype == dg.int64
    assert dg.randint(0, 2, (3,), dtype=dg.uint8).dtype == dg.uint8
    assert sorted(dg.randperm(100).tolist()) == list(range(100))


def test_bernoulli():
    p = dg.asarray([0.0, 1.0, 0.25])
    draws = dg.bernoulli(dg.broadcast_to(p, (20000, 3)), generator=dg.Generator(0))
    assert draws.dtype == dg.float32
    assert set(np.unique(draws.numpy())) == {0.0, 1.0}
    np.testing.assert_allclose(draws.numpy().mean(axis=0), [0, 1, 0.25], atol=0.02)


@pytest.mark.parametrize("replacement", [False, True])
def test_multinomial(replacement):
    weights = dg.broadcast_to(dg.asarray([1.0, 0.0, 3.0, 6.0]), (20000, 4))
    draws = dg.multinomial(weights, 2, replacement=replacement, generator=dg.Generator(0)).numpy()
    assert draws.shape == (20000, 2)
    np.testing.assert_allclose(np.bincount(draws[:, 0], minlength=4) / 20000, [0.1, 0, 0.3, 0.6], atol=0.02)
    assert bool((draws[:, 0] == draws[:, 1]).any()) is replacement
    rest = draws[draws[:, 0] == 3, 1]
    expected = [0.1, 0, 0.3, 0.6] if replacement else [0.25, 0, 0.75, 0]
    np.testing.assert_allclose(np.bincount(rest, minlength=4) / len(rest), expected, atol=0.02)


def test_shapes_and_gradients():
    assert dg.rand().shape == ()
    assert dg.rand(2, 3).shape == dg.rand((2, 3)).shape == (2, 3)
    assert dg.multinomial(dg.ones(3), 2).shape == (2,)
    assert dg.randn(2, requires_grad=True).requires_grad
    assert dg.rand_like(dg.zeros(2, dtype=dg.float64)).dtype == dg.float64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dg.rand(2, dtype=dg.int64), DTypeError, "rand: dtype must be real floating-point"),
        (lambda: dg.randint(3, 3, (2,)), ValueError, "expected low < high"),
        (lambda: dg.bernoulli(dg.asarray([1.5])), ValueError, r"\[0, 1\]"),
        (lambda: dg.bernoulli(dg.asarray([1])), DTypeError, "bernoulli: dtype"),
        (lambda: dg.multinomial(dg.asarray([1.0, 0.0]), 2), ShapeError, "2 draws without replacement from 1"),
        (lambda: dg.multinomial(dg.asarray([-1.0, 1.0]), 1), ValueError, "0 or more"),
        (lambda: dg.multinomial(dg.ones((2, 2, 2)), 1), ShapeError, "one or two axes"),
        (lambda: dg.randn(2, -1), ShapeError, r"0 or more, got \[2, -1\]"),
        (lambda: dg.rand((-1,)), ShapeError, r"0 or more, got \[-1\]"),
        (lambda: dg.randn(2, device="cuda:99"), dg.DeviceError, "cuda"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
