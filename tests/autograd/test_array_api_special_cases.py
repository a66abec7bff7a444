"""Special cases of the standard, signs of zeros included."""

import cmath
import math

import numpy as np
import pytest

import distgrad as dg

inf, nan, pi = math.inf, math.nan, math.pi

# fmt: off
UNARY = [
    ("abs", -0.0, 0.0), ("abs", -inf, inf),
    ("acos", 2.0, nan), ("acos", 1.0, 0.0), ("acosh", 0.5, nan), ("acosh", 1.0, 0.0), ("acosh", inf, inf),
    ("asin", -0.0, -0.0), ("asin", -2.0, nan), ("asinh", -0.0, -0.0), ("asinh", -inf, -inf),
    ("atan", -0.0, -0.0), ("atan", inf, pi / 2), ("atan", -inf, -pi / 2),
    ("atanh", -1.0, -inf), ("atanh", 1.0, inf), ("atanh", 2.0, nan), ("atanh", -0.0, -0.0),
    ("ceil", -0.5, -0.0), ("ceil", -0.0, -0.0), ("ceil", inf, inf),
    ("cos", -0.0, 1.0), ("cos", inf, nan), ("cosh", -inf, inf), ("cosh", -0.0, 1.0),
    ("exp", -inf, 0.0), ("exp", inf, inf), ("exp", -0.0, 1.0),
    ("expm1", -0.0, -0.0), ("expm1", -inf, -1.0), ("expm1", inf, inf),
    ("floor", -0.0, -0.0), ("floor", -inf, -inf), ("floor", 0.5, 0.0),
    ("log", 0.0, -inf), ("log", -1.0, nan), ("log", 1.0, 0.0), ("log", inf, inf),
    ("log1p", -1.0, -inf), ("log1p", -0.0, -0.0), ("log1p", -2.0, nan), ("log1p", inf, inf),
    ("log2", 0.0, -inf), ("log2", -1.0, nan), ("log10", 0.0, -inf), ("log10", 1.0, 0.0),
    ("reciprocal", -0.0, -inf), ("reciprocal", inf, 0.0), ("reciprocal", -inf, -0.0),
    ("round", 0.5, 0.0), ("round", 1.5, 2.0), ("round", -0.5, -0.0), ("round", -inf, -inf),
    ("sign", -0.0, 0.0), ("sign", 0.0, 0.0), ("sign", -inf, -1.0), ("sign", nan, nan),
    ("sin", -0.0, -0.0), ("sin", inf, nan), ("sinh", -0.0, -0.0), ("sinh", -inf, -inf),
    ("sqrt", -0.0, -0.0), ("sqrt", -1.0, nan), ("sqrt", inf, inf), ("square", -inf, inf),
    ("tan", -0.0, -0.0), ("tan", inf, nan), ("tanh", -0.0, -0.0), ("tanh", -inf, -1.0), ("tanh", inf, 1.0),
    ("trunc", -0.5, -0.0), ("trunc", -0.0, -0.0), ("trunc", inf, inf),
]
BINARY = [
    ("add", -0.0, -0.0, -0.0), ("add", -0.0, 0.0, 0.0), ("add", inf, -inf, nan),
    ("subtract", inf, inf, nan),
    ("multiply", inf, 0.0, nan), ("multiply", -inf, 2.0, -inf), ("multiply", -0.0, 2.0, -0.0),
    ("divide", 0.0, -0.0, nan), ("divide", 1.0, -0.0, -inf), ("divide", 1.0, -inf, -0.0),
    ("divide", inf, inf, nan),
    ("floor_divide", inf, inf, nan), ("floor_divide", 0.0, 0.0, nan),
    ("floor_divide", 0.0, 2.0, 0.0), ("floor_divide", -0.0, 2.0, -0.0), ("floor_divide", 0.0, -2.0, -0.0),
    ("floor_divide", -0.0, -2.0, 0.0), ("floor_divide", 1.0, 0.0, inf), ("floor_divide", 1.0, -0.0, -inf),
    ("floor_divide", -1.0, 0.0, -inf), ("floor_divide", -1.0, -0.0, inf),
    ("floor_divide", inf, 2.0, inf), ("floor_divide", inf, -2.0, -inf), ("floor_divide", -inf, 2.0, -inf),
    ("floor_divide", -inf, -2.0, inf), ("floor_divide", 1.0, inf, 0.0), ("floor_divide", 1.0, -inf, -0.0),
    ("floor_divide", -1.0, inf, -0.0), ("floor_divide", -1.0, -inf, 0.0), ("floor_divide", -5.0, 3.0, -2.0),
    ("remainder", inf, 2.0, nan), ("remainder", 1.0, 0.0, nan), ("remainder", 0.0, -2.0, -0.0),
    ("remainder", -0.0, 2.0, 0.0), ("remainder", -0.0, -2.0, -0.0), ("remainder", 1.0, inf, 1.0),
    ("remainder", 1.0, -inf, -inf), ("remainder", -1.0, inf, inf), ("remainder", -1.0, -inf, -1.0),
    ("pow", nan, 0.0, 1.0), ("pow", 1.0, nan, 1.0), ("pow", nan, 2.0, nan), ("pow", 0.5, inf, 0.0),
    ("pow", 2.0, -inf, 0.0), ("pow", -1.0, inf, 1.0), ("pow", -0.0, -3.0, -inf), ("pow", -0.0, -2.0, inf),
    ("pow", -0.0, 3.0, -0.0), ("pow", -inf, 3.0, -inf), ("pow", -inf, -3.0, -0.0), ("pow", -2.0, 0.5, nan),
    ("atan2", 0.0, -0.0, pi), ("atan2", -0.0, -0.0, -pi), ("atan2", -0.0, 0.0, -0.0),
    ("atan2", 1.0, -inf, pi),
    ("atan2", inf, -inf, 3 * pi / 4), ("atan2", -inf, inf, -pi / 4), ("atan2", inf, 1.0, pi / 2),
    ("hypot", inf, nan, inf), ("hypot", -inf, 1.0, inf), ("hypot", nan, 1.0, nan),
    ("hypot", 0.0, -2.0, 2.0),
    ("copysign", 1.0, -0.0, -1.0), ("copysign", -1.0, 0.0, 1.0), ("copysign", 0.0, -1.0, -0.0),
    ("logaddexp", nan, 1.0, nan), ("logaddexp", inf, 1.0, inf), ("logaddexp", -inf, -inf, -inf),
    ("maximum", nan, 1.0, nan), ("minimum", 1.0, nan, nan), ("nextafter", 1.0, 1.0, 1.0),
    ("nextafter", 1.0, nan, nan),
]
COMPLEX = [
    ("expm1", 0 + 0j, 0 + 0j), ("expm1", complex(-0.0, 0.0), 0 + 0j),
    ("expm1", complex(inf, 0), complex(inf, 0)),
    ("expm1", complex(-inf, inf), complex(-1, 0)), ("expm1", complex(inf, inf), complex(inf, nan)),
    ("expm1", complex(-inf, nan), complex(-1, 0)), ("expm1", complex(inf, nan), complex(inf, nan)),
    ("expm1", complex(nan, 0), complex(nan, 0)), ("expm1", complex(nan, 1), complex(nan, nan)),
    ("expm1", complex(1, inf), complex(nan, nan)), ("expm1", complex(1, nan), complex(nan, nan)),
    ("expm1", complex(-inf, 1), complex(-1, 0)), ("expm1", complex(inf, 1), complex(inf, inf)),
    ("tanh", complex(inf, 1), complex(1, 0)), ("tanh", complex(inf, 2), complex(1, 0)),
    ("tanh", complex(-inf, 2), complex(-1, 0)), ("tanh", complex(inf, nan), complex(1, 0)),
    ("tanh", complex(0, inf), complex(0, nan)), ("tanh", complex(nan, 0), complex(nan, 0)),
    ("sign", complex(-0.0, -0.0), 0j), ("sign", 3 + 4j, 0.6 + 0.8j),
    ("sqrt", complex(1, inf), complex(inf, inf)), ("exp", complex(-inf, inf), 0j), ("conj", 1 + 2j, 1 - 2j),
]
# fmt: on


def same(found, expected):
    """Whether two numbers agree, in the sign of zero too; for complex ones signs of zero parts may differ."""
    if math.isnan(expected):
        return math.isnan(found)
    return math.isclose(found, expected, rel_tol=1e-6) and math.copysign(1, found) == math.copysign(
        1, expected
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("name", "x", "expected"), UNARY)
def test_unary(name, x, expected, dtype):
    with np.errstate(all="ignore"):
        found = getattr(dg, name)(dg.asarray(x, dtype=dtype))
    assert found.dtype == dtype
    assert same(float(found), float(np.asarray(expected, dtype)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "x1", "x2", "expected"), BINARY)
def test_binary(name, x1, x2, expected, dtype):
    with np.errstate(all="ignore"):
        found = getattr(dg, name)(dg.asarray(x1, dtype=dtype), dg.asarray(x2, dtype=dtype))
    assert found.dtype == dtype
    assert same(float(found), expected)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize(("name", "x", "expected"), COMPLEX)
def test_complex(name, x, expected, dtype):
    with np.errstate(all="ignore"):
        found = complex(getattr(dg, name)(dg.asarray(x, dtype=dtype)))
    for part, wanted in ((found.real, expected.real), (found.imag, expected.imag)):
        assert (
            math.isnan(part) if math.isnan(wanted) else math.isclose(part, wanted, rel_tol=1e-6, abs_tol=1e-6)
        )


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_expm1_is_accurate(dtype):
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1e-3, 1.0, 5.0):
        x = (rng.uniform(-scale, scale, 50) + 1j * rng.uniform(-scale, scale, 50)).astype(dtype)
        found = dg.expm1(dg.asarray(x)).numpy()
        series = [z + z**2 / 2 + z**3 / 6 if scale < 0.1 else cmath.exp(z) - 1 for z in map(complex, x)]
        np.testing.assert_allclose(found, series, rtol=5e-5 if dtype == "complex64" else 1e-9)


def test_signs_of_zero_in_complex_limits():
    assert math.copysign(1, complex(dg.tanh(dg.asarray(complex(inf, 2)))).imag) == 1
    assert math.copysign(1, complex(dg.tanh(dg.asarray(complex(-inf, -2)))).imag) == -1


def test_reductions_of_special_values():
    x = dg.asarray([1.0, nan, inf])
    with np.errstate(all="ignore"):
        for name in ("sum", "prod", "max", "min", "mean", "std", "var"):
            assert math.isnan(float(getattr(dg, name)(x)))
        with pytest.warns(RuntimeWarning, match="Degrees of freedom"):
            assert math.isnan(float(dg.var(dg.zeros(1), correction=1)))
    assert float(dg.sum(dg.zeros(0))) == 0
    assert float(dg.prod(dg.zeros(0))) == 1
    assert bool(dg.all(dg.zeros(0)))
    assert not bool(dg.any(dg.zeros(0)))


def test_float16_sums_in_float32():
    x = dg.ones((5000, 2), dtype=dg.float16)
    for name, expected in (("sum", 5000), ("mean", 1), ("prod", 1), ("var", 0), ("std", 0)):
        out = getattr(dg, name)(x, axis=0)
        assert out.dtype == dg.float16
        assert out.tolist() == [expected, expected]
    assert dg.cumulative_sum(x, axis=0)[-1, 0].item() == 5000
    t = dg.ones(1, dtype=dg.float16, requires_grad=True)
    dg.sum(dg.broadcast_to(t, (5000, 1)), axis=1).sum().backward()
    assert t.grad.tolist() == [5000]
