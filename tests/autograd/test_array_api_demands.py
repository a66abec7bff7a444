"""Dtypes and shapes of results, over all dtypes that promote: functions, operators, in place."""

import itertools
import math
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.array_api import make_strategies_namespace

import distgrad as dg

xps = make_strategies_namespace(dg, api_version="2024.12")
few = settings(max_examples=100, deadline=None)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

BOOL = ["bool"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float32", "float64"]
COMPLEX = ["complex64", "complex128"]
REAL = INTEGERS + FLOATS
FLOATING = FLOATS + COMPLEX
NUMERIC = REAL + COMPLEX
ALL = BOOL + NUMERIC
PART = {"complex64": "float32", "complex128": "float64", "float32": "float32", "float64": "float64"}
WHOLE = {"float32": "complex64", "float64": "complex128"}


def promoted(first, second):
    """The standard's table; None where it has no entry."""
    kinds = {np.dtype(first).kind, np.dtype(second).kind}
    result = np.promote_types(first, second)
    if kinds == {"b"} or kinds <= {"f", "c"} or (kinds <= {"i", "u"} and result.kind in "iu"):
        return result.name
    return None


BINARY = {
    **dict.fromkeys(["add", "subtract", "multiply", "pow"], NUMERIC),
    **dict.fromkeys(["floor_divide", "remainder", "maximum", "minimum"], REAL),
    **dict.fromkeys(["atan2", "copysign", "hypot", "logaddexp", "nextafter"], FLOATS),
    "divide": FLOATING,
    **dict.fromkeys(["bitwise_and", "bitwise_or", "bitwise_xor"], BOOL + INTEGERS),
    **dict.fromkeys(["bitwise_left_shift", "bitwise_right_shift"], INTEGERS),
}
QUESTIONS = {
    **dict.fromkeys(["logical_and", "logical_or", "logical_xor"], BOOL),
    **dict.fromkeys(["equal", "not_equal"], ALL),
    **dict.fromkeys(["less", "less_equal", "greater", "greater_equal"], REAL),
}
OPERATORS = {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "truediv",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "pow": "pow",
    "bitwise_and": "and_",
    "bitwise_or": "or_",
    "bitwise_xor": "xor",
    "bitwise_left_shift": "lshift",
    "bitwise_right_shift": "rshift",
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
}
UNARY = {
    **dict.fromkeys(["abs", "negative", "positive", "round", "sign", "square"], NUMERIC),
    **dict.fromkeys(["acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp"], FLOATING),
    **dict.fromkeys(["expm1", "log", "log1p", "log2", "log10", "reciprocal", "sin", "sinh"], FLOATING),
    **dict.fromkeys(["sqrt", "tan", "tanh"], FLOATING),
    **dict.fromkeys(["ceil", "floor", "trunc"], REAL),
    **dict.fromkeys(["conj", "real", "imag"], COMPLEX),
    **dict.fromkeys(["isfinite", "isinf", "isnan"], NUMERIC),
    "signbit": FLOATS,
    "bitwise_invert": BOOL + INTEGERS,
    "logical_not": BOOL,
}
NUMBERS = {"b": [True], "i": [2], "u": [2], "f": [2, 2.5], "c": [2, 2.5, 1j]}


def expect(found, dtype, shape, checked):
    assert found.dtype == dtype
    assert found.shape == shape
    checked["dtypes and shapes of the array API standard"] += 1


@pytest.mark.parametrize("name", [*BINARY, *QUESTIONS])
def test_two_arrays(name, checked):
    taken = (BINARY | QUESTIONS)[name]
    functions = [getattr(dg, name)]
    functions += [getattr(operator, OPERATORS[name])] if name in OPERATORS else []
    for first, second in itertools.product(taken, taken):
        result = promoted(first, second)
        if result is None:
            continue
        x, y = dg.ones((2, 1), dtype=first), dg.ones((3,), dtype=second)
        for f in functions:
            expect(f(x, y), "bool" if name in QUESTIONS else result, (2, 3), checked)
        if name in OPERATORS and name in BINARY and result == first:
            z = dg.ones((2, 3), dtype=first)
            changed = getattr(operator, "i" + OPERATORS[name].strip("_"))(z, y)
            expect(changed, first, (2, 3), checked)
            assert changed is z


@pytest.mark.parametrize("name", [*BINARY, *QUESTIONS])
def test_an_array_and_a_python_number(name, checked):
    for dtype in (BINARY | QUESTIONS)[name]:
        x = dg.ones((2, 1), dtype=dtype)
        result = "bool" if name in QUESTIONS else dtype
        for number in NUMBERS[np.dtype(dtype).kind]:
            expect(getattr(dg, name)(x, number), result, (2, 1), checked)
            expect(getattr(dg, name)(number, x), result, (2, 1), checked)
            if name in OPERATORS:
                f = getattr(operator, OPERATORS[name])
                expect(f(x, number), result, (2, 1), checked)
                expect(f(number, x), result, (2, 1), checked)
                array = dg.full((2, 1), number, dtype=dtype)
                np.testing.assert_array_equal(f(number, x).numpy(), f(array, x).numpy())


@pytest.mark.parametrize("name", UNARY)
def test_one_array(name, checked):
    for dtype in UNARY[name]:
        result = PART.get(dtype, dtype) if name in ("abs", "real", "imag") else dtype
        result = "bool" if name.startswith("is") or name == "signbit" else result
        for shape in ((), (0,), (2, 3)):
            expect(getattr(dg, name)(dg.ones(shape, dtype=dtype)), result, shape, checked)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_rounding_leaves_large_integers_alone(dtype):
    largest = dg.iinfo(dtype).max
    for name in ("ceil", "floor", "trunc", "round"):
        assert int(getattr(dg, name)(dg.asarray(largest, dtype=dtype))) == largest


# -- reductions


@pytest.mark.parametrize("dtype", NUMERIC)
def test_sums_widen_integers(dtype, checked):
    wide = {"i": "int64", "u": "uint64"}.get(np.dtype(dtype).kind, dtype)
    x = dg.ones((2, 3), dtype=dtype)
    for name in ("sum", "prod"):
        for axis, shape in ((None, ()), (0, (3,)), (-1, (2,)), ((0, 1), ()), ((), (2, 3))):
            expect(getattr(dg, name)(x, axis=axis), wide, shape, checked)
            expect(getattr(dg, name)(x, axis=axis, dtype=x.dtype), dtype, shape, checked)
    for name in ("cumulative_sum", "cumulative_prod"):
        expect(getattr(dg, name)(x, axis=1), wide, (2, 3), checked)
        started = getattr(dg, name)(x, axis=0, include_initial=True, dtype=x.dtype)
        expect(started, dtype, (3, 3), checked)
        assert bool(dg.all(started[0] == (0 if name == "cumulative_sum" else 1)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_reductions_of_nan_and_of_nothing(dtype):
    x = dg.asarray([1.0, math.nan, 2.0], dtype=dtype)
    for name in ("max", "mean", "min", "prod", "std", "sum", "var"):
        assert math.isnan(float(getattr(dg, name)(x)))
    for name in ("cumulative_sum", "cumulative_prod"):
        assert [math.isnan(each) for each in getattr(dg, name)(x).tolist()] == [False, True, True]
    nothing = dg.zeros(0, dtype=dtype)
    assert all(math.isnan(float(getattr(dg, name)(nothing))) for name in ("mean", "std", "var"))
    assert (float(dg.sum(nothing)), float(dg.prod(nothing))) == (0, 1)


# -- elements


@few
@given(data=st.data())
def test_integer_arrays_beside_integers(data):
    shape = data.draw(xps.array_shapes(max_dims=3, max_side=4))
    x = data.draw(xps.arrays(xps.scalar_dtypes(), shape))
    places = data.draw(xps.array_shapes(min_dims=0, max_dims=2, max_side=3))

    def part(length):
        taken = st.sampled_from([dg.int64, dg.int32, dg.int8, dg.uint8])
        arrays = xps.arrays(taken, places, elements={"min_value": 0, "max_value": length - 1})
        return data.draw(st.integers(-length, length - 1) | arrays)

    key = tuple(part(length) for length in shape)
    plain = tuple(each if isinstance(each, int) else each.numpy() for each in key)
    np.testing.assert_array_equal(x[key].numpy(), x.numpy()[plain])
    value = data.draw(xps.from_dtype(x.dtype))
    changed, expected = dg.asarray(x, copy=True), x.numpy().copy()
    changed[key] = value
    expected[plain] = value
    np.testing.assert_array_equal(changed.numpy(), expected)


@few
@given(data=st.data())
def test_masks_of_other_shapes(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), xps.array_shapes(min_dims=0, max_dims=3, min_side=0)))
    key = data.draw(xps.arrays(dg.bool, xps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
    fits = key.ndim <= x.ndim and all(k in (0, n) for k, n in zip(key.shape, x.shape, strict=False))
    if not fits:
        with pytest.raises(IndexError):
            x[key]
    elif key.shape == x.shape[: key.ndim]:
        np.testing.assert_array_equal(x[key].numpy(), x.numpy()[key.numpy()])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_repetitions_of_any_integer_dtype(dtype):
    x = dg.asarray([[1, 2, 3]])
    counts = dg.asarray([2, 0, 1], dtype=dtype)
    assert dg.repeat(x, counts, axis=1).tolist() == [[1, 1, 3]]
    assert dg.repeat(x, dg.asarray([2], dtype=dtype)).tolist() == [1, 1, 2, 2, 3, 3]


def test_no_differences_are_the_array_itself():
    x = dg.asarray([1, 5, 2])
    assert dg.diff(x, n=0, prepend=dg.asarray([7])).tolist() == [1, 5, 2]


# -- inspection and exchange


def test_namespace_info_by_kind_and_device():
    info = dg.__array_namespace_info__()
    assert {name: type(value) for name, value in info.capabilities().items()} == {
        "boolean indexing": bool,
        "data-dependent shapes": bool,
        "max dimensions": int,
    }
    assert info.default_device() in info.devices()
    for device in [None, *info.devices()]:
        defaults = info.default_dtypes(device=device)
        assert defaults == {
            "real floating": dg.float32,
            "complex floating": dg.complex64,
            "integral": dg.int64,
            "indexing": dg.int64,
        }
        for kind in (None, "bool", "integral", "numeric", ("real floating", "complex floating")):
            for name, dtype in info.dtypes(kind=kind, device=device).items():
                assert dg.empty(1, dtype=dtype, device=device).dtype == getattr(dg, name)


@pytest.mark.parametrize("dtype", ALL)
def test_dlpack_with_every_option(dtype):
    x = dg.ones((2, 1), dtype=dtype)
    assert tuple(map(int, x.__dlpack_device__())) == (1, 0)
    versions = ((0, 0), (1, 0), (2, 0), None)
    for copy, version, device in itertools.product((True, False, None), versions, ((1, 0), None)):
        assert "dltensor" in repr(x.__dlpack__(copy=copy, max_version=version, dl_device=device))
    for copy, device in itertools.product((True, False, None), (x.device, None)):
        y = dg.from_dlpack(x, copy=copy, device=device)
        assert y.device == x.device
        assert bool(dg.all(y == x))
        assert np.shares_memory(x.numpy(), y.numpy()) is not (copy is True)


@pytest.mark.parametrize(("dtype", "target"), list(itertools.product(ALL, ALL)))
def test_astype_options(dtype, target):
    if dtype in COMPLEX and target not in COMPLEX + BOOL:
        return
    x = dg.ones((2, 3), dtype=dtype)
    for options in ({}, {"copy": True}, {"copy": False}, {"device": x.device}):
        y = dg.astype(x, getattr(dg, target), **options)
        assert (y.dtype, y.shape) == (target, (2, 3))
        shared = options.get("copy") is False and dtype == target
        assert np.shares_memory(x.numpy(), y.numpy()) is shared


# -- matrices

SHAPES = [(0, 0), (1, 1), (3, 3), (2, 4), (4, 2), (0, 3), (3, 0)]
STACKS = [(), (2,), (2, 0), (1, 3)]


def matrices(stack, shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(stack + shape)
    return dg.asarray(x + 1j * rng.standard_normal(x.shape) if dtype in COMPLEX else x).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stack", STACKS)
def test_matrices(stack, shape, dtype, checked):
    x, (m, n), k, part = matrices(stack, shape, dtype), shape, min(shape), PART[dtype]
    q, r = dg.linalg.qr(x)
    expect(q, dtype, (*stack, m, k), checked)
    expect(r, dtype, (*stack, k, n), checked)
    q, r = dg.linalg.qr(x, mode="complete")
    expect(q, dtype, (*stack, m, m), checked)
    expect(r, dtype, (*stack, m, n), checked)
    for full, left, right in ((True, m, n), (False, k, k)):
        u, s, vh = dg.linalg.svd(x, full_matrices=full)
        expect(u, dtype, (*stack, m, left), checked)
        expect(s, part, (*stack, k), checked)
        expect(vh, dtype, (*stack, right, n), checked)
    expect(dg.linalg.svdvals(x), part, (*stack, k), checked)
    for offset in (-99, -2, 0, 1, 99):
        length = max(min(n - offset, m) if offset >= 0 else min(m + offset, n), 0)
        expect(dg.linalg.diagonal(x, offset=offset), dtype, (*stack, length), checked)
        expect(dg.linalg.trace(x, offset=offset), dtype, stack, checked)
    if k:
        for order in (-math.inf, -2, -1, 1, 2, math.inf, "fro", "nuc"):
            expect(dg.linalg.matrix_norm(x, ord=order), part, stack, checked)
            expect(dg.linalg.matrix_norm(x, ord=order, keepdims=True), part, (*stack, 1, 1), checked)
        for options in ({}, {"rtol": 0.1}, {"rtol": dg.full(stack, 0.1)}):
            expect(dg.linalg.matrix_rank(x, **options), "int64", stack, checked)
            expect(dg.linalg.pinv(x, **options), dtype, (*stack, n, m), checked)


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("stack", STACKS)
def test_square_matrices(stack, n, dtype, checked):
    x, part = matrices(stack, (n, n), dtype), PART[dtype]
    positive = x @ (dg.conj(x.mT) if dtype in COMPLEX else x.mT) + 3 * dg.eye(n, dtype=dtype)
    sign, size = dg.linalg.slogdet(x)
    expect(sign, dtype, stack, checked)
    expect(size, part, stack, checked)
    expect(dg.linalg.det(x), dtype, stack, checked)
    expect(dg.linalg.eigvalsh(positive), part, (*stack, n), checked)
    values, vectors = dg.linalg.eigh(positive)
    expect(values, part, (*stack, n), checked)
    expect(vectors, dtype, (*stack, n, n), checked)
    for upper, triangle in ((True, dg.triu), (False, dg.tril)):
        factor = dg.linalg.cholesky(positive, upper=upper)
        expect(factor, dtype, (*stack, n, n), checked)
        assert bool(dg.all(triangle(factor) == factor))
    for power in (-3, -1, 0, 1, 5):
        expect(dg.linalg.matrix_power(positive, power), dtype, (*stack, n, n), checked)
    expect(dg.linalg.solve(positive, dg.ones(n, dtype=dtype)), dtype, (*stack, n), checked)
    for ahead in ((), stack, (1,)):
        shape = (*np.broadcast_shapes(stack, ahead), n, 2)
        expect(dg.linalg.solve(positive, dg.ones((*ahead, n, 2), dtype=dtype)), dtype, shape, checked)


# fmt: off
PRODUCTS = [
    (dg.matmul, {}, (3,), (3,), ()), (dg.matmul, {}, (2, 3), (3,), (2,)),
    (dg.matmul, {}, (3,), (3, 2), (2,)), (dg.matmul, {}, (4, 1, 2, 3), (5, 3, 2), (4, 5, 2, 2)),
    (dg.matmul, {}, (2, 0), (0, 2), (2, 2)), (dg.linalg.outer, {}, (2,), (3,), (2, 3)),
    (dg.vecdot, {}, (2, 3), (1, 3), (2,)), (dg.vecdot, {"axis": -2}, (3, 2), (3, 2), (2,)),
    (dg.vecdot, {}, (4, 1, 3), (2, 3), (4, 2)),
    (dg.tensordot, {"axes": 0}, (2,), (3,), (2, 3)), (dg.tensordot, {"axes": 1}, (2, 3), (3, 4), (2, 4)),
    (dg.tensordot, {}, (2, 3, 4), (3, 4), (2,)),
    (dg.tensordot, {"axes": ((-1, 0), (0, -1))}, (2, 3), (3, 2), ()),
    (dg.linalg.cross, {}, (2, 3), (3,), (2, 3)),
    (dg.linalg.cross, {"axis": -2}, (3, 2), (1, 3, 1), (1, 3, 2)),
]
# fmt: on


@pytest.mark.parametrize(("product", "options", "first", "second", "shape"), PRODUCTS)
def test_products(product, options, first, second, shape, checked):
    for one, other in itertools.product(NUMERIC, NUMERIC):
        if promoted(one, other):
            found = product(dg.ones(first, dtype=one), dg.ones(second, dtype=other), **options)
            expect(found, promoted(one, other), shape, checked)


@few
@given(data=st.data())
def test_vector_norms_of_any_order(data):
    x = data.draw(xps.arrays(st.sampled_from(FLOATING).map(np.dtype), xps.array_shapes(max_dims=3)))
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1) | xps.valid_tuple_axes(x.ndim, min_size=1))
    order = data.draw(st.sampled_from([math.inf, -math.inf, 0]) | st.integers(-99, 99) | st.floats(-99, 99))
    keepdims = data.draw(st.booleans())
    found = dg.linalg.vector_norm(x, axis=axis, ord=order, keepdims=keepdims)
    assert found.dtype == PART[x.dtype.name]
    assert found.shape == np.sum(x.numpy(), axis=axis, keepdims=keepdims).shape


# -- transforms


@few
@given(data=st.data())
def test_transforms(data):
    name = data.draw(st.sampled_from(["fft", "ifft", "rfft", "irfft", "hfft", "ihfft"]))
    several = data.draw(st.booleans()) and "h" not in name
    real = name in ("rfft", "ihfft")
    dtype = data.draw(st.sampled_from(FLOATS if real else COMPLEX))
    finite = {"allow_nan": False, "allow_infinity": False}
    x = data.draw(xps.arrays(dtype, xps.array_shapes(min_side=2, max_dims=3, max_side=4), elements=finite))
    options = {"norm": data.draw(st.sampled_from(["backward", "ortho", "forward"]))}
    if several:
        name += "n"
        axes = data.draw(st.lists(st.integers(0, x.ndim - 1), min_size=1, unique=True))
        lengths = data.draw(st.none() | st.tuples(*[st.integers(1, 6)] * len(axes)))
        options |= {"axes": axes, "s": lengths}
    else:
        options |= {"axis": data.draw(st.integers(-x.ndim, x.ndim - 1))}
        options |= {"n": data.draw(st.none() | st.integers(1, 8))}
    found = getattr(dg.fft, name)(x, **options)
    expected = getattr(np.fft, name)(x.numpy(), **options)
    assert found.shape == expected.shape
    back = name in ("irfft", "hfft", "irfftn")
    assert found.dtype == (WHOLE[dtype] if real else PART[dtype] if back else dtype)
