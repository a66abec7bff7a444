"""Every function on every combination of special values, against what the standard lists for it.

The lists of the standard are those of IEEE 754 and of C99's Annex G; Python's ``math`` and ``cmath`` follow
them, and where they raise instead, the value stands here. Each case is computed by the function, the operator
and in place, from arrays, arrays without axes, and Python numbers on either side.
"""

import cmath
import math
import operator

import numpy as np
import pytest

import distgrad as dg

inf, nan, pi = math.inf, math.nan, math.pi
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# fmt: off
REALS = [
    nan, inf, -inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.0, -2.0, 2.5, -2.5, 3.0, -3.0, 4.0, -4.0,
    1e-40, -1e-40, 1e-10, 1e30, -1e30,
]
# fmt: on
PARTS = [nan, inf, -inf, 0.0, -0.0, 1.0, -1.0, 0.7, -2.3, 3.1]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "complex64": 1e-4, "complex128": 1e-10}


def is_negative(x):
    return math.copysign(1, x) < 0


def is_odd(x):
    return math.isfinite(x) and x % 2 == 1


def same(found, expected, tolerance):
    """Whether two numbers agree, in the sign of zero too."""
    if math.isnan(expected):
        return math.isnan(found)
    close = found == expected if expected == 0 else math.isclose(found, expected, rel_tol=tolerance)
    return close and is_negative(found) == is_negative(expected)


# -- two real arguments; None where the standard lists nothing


def divide(x, y):
    if y == 0:
        return nan if x == 0 or math.isnan(x) else inf * math.copysign(1, x) * math.copysign(1, y)
    return x / y


def floor_divide(x, y):
    if math.isnan(x) or math.isnan(y) or (math.isinf(x) and math.isinf(y)) or x == y == 0:
        return nan
    sign = math.copysign(1, x) * math.copysign(1, y)
    if y == 0 or math.isinf(x):
        return inf * sign
    return 0.0 * sign if x == 0 or math.isinf(y) else None


def remainder(x, y):
    if math.isnan(x) or math.isnan(y) or math.isinf(x) or y == 0:
        return nan
    if x == 0:
        return math.copysign(0.0, y)
    if math.isinf(y):
        return x if is_negative(x) == is_negative(y) else y
    return x % y


def power(x, y):
    if x == 0 and y < 0:
        return math.copysign(inf, x) if is_odd(y) else inf
    try:
        return math.pow(x, y)
    except ValueError:
        return nan
    except OverflowError:
        return None


def logaddexp(x, y):
    if math.isnan(x) or math.isnan(y):
        return nan
    return inf if inf in (x, y) else None


def extremum(choose):
    def of(x, y):
        if math.isnan(x) or math.isnan(y):
            return nan
        return choose(x, y) if x != y else None

    return of


def nextafter(x, y):
    if math.isnan(x) or math.isnan(y):
        return nan
    return y if x == y else None


BINARY = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": divide,
    "floor_divide": floor_divide,
    "remainder": remainder,
    "pow": power,
    "atan2": math.atan2,
    "copysign": math.copysign,
    "hypot": math.hypot,
    "logaddexp": logaddexp,
    "maximum": extremum(max),
    "minimum": extremum(min),
    "nextafter": nextafter,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}
ARITHMETIC = {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "truediv",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "pow": "pow",
}
COMPARISONS = {
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
}


def in_place(name, make):
    """The operator that changes its left side, on an array that ``make`` copies first."""
    change = getattr(operator, "i" + name)
    return lambda x, y: change(dg.asarray(x, copy=True), make(y))


def calls(name, dtype):
    """All ways to compute ``name`` of two numbers."""

    def array(x):
        return dg.asarray([x, 1.0], dtype=dtype)

    def scalar(x):
        return dg.asarray(x, dtype=dtype)

    functions = [getattr(dg, name)]
    if name in ARITHMETIC | COMPARISONS:
        functions.append(getattr(operator, (ARITHMETIC | COMPARISONS)[name]))
    for f in functions:
        yield lambda x, y, f=f: f(array(x), array(y))[0]
        yield lambda x, y, f=f: f(scalar(x), scalar(y))
        yield lambda x, y, f=f: f(array(x), scalar(y))[0]
        yield lambda x, y, f=f: f(array(x), y)[0]
        yield lambda x, y, f=f: f(x, array(y))[0]
    if name in ARITHMETIC:
        for make in (array, scalar, float):
            change = in_place(ARITHMETIC[name], make)
            yield lambda x, y, change=change: change(array(x), y)[0]
        for make in (scalar, float):
            change = in_place(ARITHMETIC[name], make)
            yield lambda x, y, change=change: change(scalar(x), y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BINARY)
def test_two_numbers(name, dtype, checked):
    numbers = [float(np.dtype(dtype).type(x)) for x in REALS]
    wrong = []
    for call in calls(name, dtype):
        for x in numbers:
            for y in numbers:
                expected = BINARY[name](x, y)
                if expected is None:
                    continue
                with np.errstate(all="ignore"):
                    expected, found = float(np.dtype(dtype).type(expected)), float(call(x, y))
                checked["special values of the array API standard"] += 1
                if not same(found, expected, TOLERANCE[dtype]):
                    wrong.append((x, y, found, expected))
    assert wrong == []


# -- one real argument


def but(function, **exceptions):
    """A function of ``math`` that gives NaN outside its domain, and ∞ where it overflows."""

    def of(x):
        for special, value in exceptions.items():
            if x == {"zero": 0, "one": 1, "minus_one": -1}[special]:
                return value
        try:
            return function(x)
        except ValueError:
            return nan
        except OverflowError:
            return inf if x > 0 or function is math.cosh else -inf

    return of


def whole(function):
    return lambda x: math.copysign(function(x), x) if math.isfinite(x) else x


def step(function):
    """``floor`` or ``ceil``, whose zeros have the argument's sign."""
    return lambda x: (function(x) or math.copysign(0.0, x)) if math.isfinite(x) else x


def sign(x):
    return x if math.isnan(x) else (x > 0) - (x < 0) + 0.0


UNARY = {
    "abs": abs,
    "acos": but(math.acos),
    "acosh": but(math.acosh),
    "asin": but(math.asin),
    "asinh": but(math.asinh),
    "atan": but(math.atan),
    "atanh": but(math.atanh, one=inf, minus_one=-inf),
    "ceil": step(math.ceil),
    "cos": but(math.cos),
    "cosh": but(math.cosh),
    "exp": but(math.exp),
    "expm1": but(math.expm1),
    "floor": step(math.floor),
    "isfinite": math.isfinite,
    "isinf": math.isinf,
    "isnan": math.isnan,
    "log": but(math.log, zero=-inf),
    "log10": but(math.log10, zero=-inf),
    "log1p": but(math.log1p, minus_one=-inf),
    "log2": but(math.log2, zero=-inf),
    "negative": operator.neg,
    "positive": operator.pos,
    "reciprocal": lambda x: divide(1.0, x),
    "round": whole(round),
    "sign": sign,
    "signbit": is_negative,
    "sin": but(math.sin),
    "sinh": but(math.sinh),
    "sqrt": but(math.sqrt),
    "square": lambda x: x * x,
    "tan": but(math.tan),
    "tanh": but(math.tanh),
    "trunc": whole(math.trunc),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", UNARY)
def test_one_number(name, dtype, checked):
    function, wrong = getattr(dg, name), []
    for x in REALS:
        with np.errstate(all="ignore"):
            x = float(np.dtype(dtype).type(x))
            expected = float(np.dtype(dtype).type(UNARY[name](x)))
            found = [float(function(dg.asarray(x, dtype=dtype)))]
            found += [float(function(dg.asarray([x] * length, dtype=dtype))[-1]) for length in (1, 9, 40)]
        checked["special values of the array API standard"] += len(found)
        if not all(same(each, expected, TOLERANCE[dtype]) for each in found):
            wrong.append((x, found, expected))
    assert wrong == []


# -- one complex argument


def turned(z):
    return complex(-z.imag, z.real)


def turned_back(z):
    return complex(z.imag, -z.real)


def exp(z):
    if math.isinf(z.real) and not math.isfinite(z.imag):
        return complex(inf, nan) if z.real > 0 else 0j
    return cmath.exp(z) if math.isfinite(z.imag) or math.isnan(z.real) else complex(nan, nan)


def expm1(z):
    if math.isinf(z.real):
        if z.real < 0:
            return complex(-1, 0)
        return complex(inf, nan) if not math.isfinite(z.imag) else exp(z)
    if math.isnan(z.real):
        return complex(nan, z.imag if z.imag == 0 else nan)
    if not math.isfinite(z.imag):
        return complex(nan, nan)
    return complex(
        math.expm1(z.real) * math.cos(z.imag) - 2 * math.sin(z.imag / 2) ** 2,
        math.exp(z.real) * math.sin(z.imag),
    )


def cosh(z):
    if math.isinf(z.imag):
        return complex(*(nan, 0.0) if z.real == 0 else (inf, nan) if math.isinf(z.real) else (nan, nan))
    return cmath.cosh(z)


def sinh(z):
    if math.isinf(z.imag):
        return complex(*(z.real, nan) if z.real == 0 else (inf, nan) if math.isinf(z.real) else (nan, nan))
    return cmath.sinh(z)


def tanh(z):
    if not math.isfinite(z.imag) and not math.isinf(z.real):
        return complex(z.real if z.real == 0 else nan, nan)
    return cmath.tanh(z)


def atanh(z):
    if z.imag == 0 and abs(z.real) == 1:
        return complex(math.copysign(inf, z.real), z.imag)
    return cmath.atanh(z)


def acosh(z):
    return complex(nan, pi / 2) if z.real == 0 and math.isnan(z.imag) else cmath.acosh(z)


def logarithm(base):
    def of(z):
        real, angle = (-inf, cmath.phase(z)) if z == 0 else (cmath.log(z).real, cmath.log(z).imag)
        return complex(real / math.log(base), angle / math.log(base))

    return of


def complex_sign(z):
    if cmath.isnan(z) or z == 0:
        return complex(nan, nan) if z else 0j
    return None if cmath.isinf(z) else z / abs(z)


COMPLEX = {
    "abs": lambda z: complex(math.hypot(z.real, z.imag), 0),
    "acos": cmath.acos,
    "acosh": acosh,
    "asin": cmath.asin,
    "asinh": cmath.asinh,
    "atan": lambda z: turned_back(atanh(turned(z))),
    "atanh": atanh,
    "conj": lambda z: z.conjugate(),
    "cos": lambda z: cosh(turned(z)),
    "cosh": cosh,
    "exp": exp,
    "expm1": expm1,
    "log": logarithm(math.e),
    "log10": logarithm(10),
    "log1p": lambda z: complex(-inf, z.imag) if z == -1 else cmath.log(complex(1 + z.real, z.imag)),
    "log2": logarithm(2),
    "negative": operator.neg,
    "round": lambda z: complex(whole(round)(z.real), whole(round)(z.imag)),
    "sign": complex_sign,
    "sin": lambda z: turned_back(sinh(turned(z))),
    "sinh": sinh,
    "sqrt": cmath.sqrt,
    "tan": lambda z: turned_back(tanh(turned(z))),
    "tanh": tanh,
}


def same_part(found, expected, tolerance, sign_matters):
    """As :func:`same`, but Annex G leaves the signs of zeros open, and those of infinities beside a NaN."""
    if math.isnan(expected):
        return math.isnan(found)
    if math.isinf(expected):
        return found == expected if sign_matters else math.isinf(found)
    return math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", COMPLEX)
def test_one_complex_number(name, dtype, checked):
    wrong = []
    for z in (complex(np.dtype(dtype).type(complex(x, y))) for x in PARTS for y in PARTS):
        expected = COMPLEX[name](z)
        if expected is None:
            continue
        with np.errstate(all="ignore"):
            found = complex(getattr(dg, name)(dg.asarray([z], dtype=dtype))[0])
        checked["special values of the array API standard"] += 1
        pairs = ((found.real, expected.real), (found.imag, expected.imag))
        if not all(same_part(*pair, TOLERANCE[dtype], not cmath.isnan(expected)) for pair in pairs):
            wrong.append((z, found, expected))
    assert wrong == []


def test_a_wrong_special_value_is_seen():
    assert not same(0.0, -0.0, 1e-5)
    assert not same(1.0, nan, 1e-5)
    assert same(nan, nan, 1e-5)
    assert not same_part(-inf, inf, 1e-5, True)
