"""Every function of the array API standard computes what array-api-strict does, on random arrays.

Dtypes, shapes and special values are drawn; results are compared in dtype, shape and value. Both compute with
NumPy underneath, so that real values agree to the last bit, unless the standard asks for something else.
"""

import math

import array_api_strict
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from hypothesis.extra.array_api import make_strategies_namespace

import distgrad as dg

array_api_strict.set_array_api_strict_flags(api_version="2024.12")
xps = make_strategies_namespace(dg, api_version="2024.12")
pytestmark = pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype:UserWarning")
few = settings(max_examples=25, deadline=None)

BOOL = ["bool"]
SIGNED = ["int8", "int16", "int32", "int64"]
UNSIGNED = ["uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float32", "float64"]
COMPLEX = ["complex64", "complex128"]
INTEGERS = SIGNED + UNSIGNED
REAL = INTEGERS + FLOATS
NUMERIC = REAL + COMPLEX
ALL = BOOL + NUMERIC
FLOATING = FLOATS + COMPLEX

#: Where the standard and NumPy differ, the special cases stand in test_array_api_special_cases.py.
CLOSE_ONLY = {"expm1", "sign", "tanh"}


# -- arrays


@st.composite
def array(draw, dtypes, shape=None, **shapes):
    """A NumPy array of one of the dtypes, with special values among its elements."""
    dtype = draw(st.sampled_from(dtypes))
    if shape is None:
        shape = draw(
            npst.array_shapes(**{"min_dims": 0, "max_dims": 3, "min_side": 0, "max_side": 4, **shapes})
        )
    return draw(npst.arrays(dtype, shape, elements=npst.from_dtype(np.dtype(dtype))))


@st.composite
def arrays_that_broadcast(draw, dtypes, number=2):
    """Arrays of dtypes that promote, with shapes that fit."""
    shapes = draw(npst.mutually_broadcastable_shapes(num_shapes=number, max_dims=3, max_side=3)).input_shapes
    first = draw(st.sampled_from(dtypes))
    kind = np.dtype(first).kind
    alike = [each for each in dtypes if np.dtype(each).kind == kind]
    return [draw(array(alike, shape)) for shape in shapes]


def small(values):
    """Finite numbers of moderate size, for what overflows or is not defined elsewhere."""
    finite = np.nan_to_num(values, nan=1.5, posinf=2.5, neginf=-3.5)
    return np.asarray(np.clip(finite, -8, 8)).astype(values.dtype)


# -- comparison


def leaves(result):
    """The arrays of a result, whether one or several."""
    return (
        [each for part in result for each in leaves(part)] if isinstance(result, list | tuple) else [result]
    )


def to(namespace, value):
    """NumPy arrays inside a value as arrays of a namespace."""
    if isinstance(value, np.ndarray | np.generic):
        return namespace.asarray(np.asarray(value))
    if isinstance(value, dict):
        return {key: to(namespace, each) for key, each in value.items()}
    return type(value)(to(namespace, each) for each in value) if isinstance(value, list | tuple) else value


def agree(found, expected):
    """Where complex numbers are equal part by part, or as near as vector instructions leave them."""
    pairs = [(found.real, expected.real), (found.imag, expected.imag)]
    equal = [(one == other) | (np.isnan(one) & np.isnan(other)) for one, other in pairs]
    with np.errstate(all="ignore"):
        return (equal[0] & equal[1]) | (np.abs(found - expected) <= 1e-5 * np.abs(expected))


def check(name, *args, exact=True, **options):
    """The function gives what array-api-strict gives, and leaves its inputs alone."""
    results = []
    before = [each.copy() for each in args if isinstance(each, np.ndarray)]
    for namespace in (dg, array_api_strict):
        function = namespace
        for part in name.split("."):
            function = getattr(function, part)
        with np.errstate(all="ignore"):
            results.append(leaves(function(*to(namespace, args), **to(namespace, options))))
    ours, theirs = results
    assert len(ours) == len(theirs)
    for found, expected in zip(ours, theirs, strict=True):
        expected = np.asarray(expected)
        assert isinstance(found, dg.Tensor)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        if exact and expected.dtype.kind == "c":
            assert agree(found.numpy(), expected).all(), (found, expected)
        elif exact:
            np.testing.assert_array_equal(found.numpy(), expected)
        else:
            np.testing.assert_allclose(found.numpy(), expected, rtol=3e-5, atol=3e-5)
    for x, copy in zip([each for each in args if isinstance(each, np.ndarray)], before, strict=True):
        np.testing.assert_array_equal(x, copy)


# -- an element at a time

UNARY = {
    **dict.fromkeys(["logical_not"], BOOL),
    **dict.fromkeys(["bitwise_invert"], BOOL + INTEGERS),
    **dict.fromkeys(["ceil", "floor", "trunc"], REAL),
    **dict.fromkeys(
        [
            "abs",
            "conj",
            "isfinite",
            "isinf",
            "isnan",
            "negative",
            "positive",
            "real",
            "round",
            "sign",
            "square",
        ],
        NUMERIC,
    ),
    **dict.fromkeys(["imag"], COMPLEX),
    **dict.fromkeys(["signbit"], FLOATS),
    **dict.fromkeys(
        [
            "acos",
            "acosh",
            "asin",
            "asinh",
            "atan",
            "atanh",
            "cos",
            "cosh",
            "exp",
            "expm1",
            "log",
            "log10",
            "log1p",
            "log2",
            "reciprocal",
            "sin",
            "sinh",
            "sqrt",
            "tan",
            "tanh",
        ],
        FLOATING,
    ),
}
BINARY = {
    **dict.fromkeys(["logical_and", "logical_or", "logical_xor"], BOOL),
    **dict.fromkeys(["bitwise_and", "bitwise_or", "bitwise_xor"], BOOL + INTEGERS),
    **dict.fromkeys(["add", "subtract", "multiply"], NUMERIC),
    **dict.fromkeys(["equal", "not_equal"], ALL),
    **dict.fromkeys(
        ["less", "less_equal", "greater", "greater_equal", "maximum", "minimum", "remainder"], REAL
    ),
    **dict.fromkeys(["divide"], FLOATING),
    **dict.fromkeys(["atan2", "copysign", "hypot", "logaddexp", "nextafter"], FLOATS),
}


@pytest.mark.parametrize("name", UNARY)
@few
@given(data=st.data())
def test_unary(name, data):
    x = data.draw(array(UNARY[name]))
    if name in CLOSE_ONLY and x.dtype.kind == "c":
        x = small(x.real).astype(x.dtype) + x.dtype.type(1j) * small(x.imag)
        assume(np.isfinite(x).all())
        check(name, x, exact=False)
    else:
        check(name, x)


@pytest.mark.parametrize("name", BINARY)
@few
@given(data=st.data())
def test_binary(name, data):
    check(name, *data.draw(arrays_that_broadcast(BINARY[name])))


@pytest.mark.parametrize("name", ["bitwise_left_shift", "bitwise_right_shift"])
@few
@given(data=st.data())
def test_shift(name, data):
    x1, x2 = data.draw(arrays_that_broadcast(INTEGERS))
    check(name, x1, np.abs(x2 % np.asarray(10, x2.dtype)).astype(x2.dtype))


@few
@given(pair=arrays_that_broadcast(REAL))
def test_floor_divide(pair):
    x1, x2 = pair
    check(
        "floor_divide",
        np.where(np.isinf(x1), 1, x1).astype(x1.dtype),
        np.where(np.isinf(x2), 1, x2).astype(x2.dtype),
    )


@few
@given(pair=arrays_that_broadcast(NUMERIC))
def test_pow(pair):
    x1, x2 = pair
    check("pow", x1, (x2 & 7).astype(x2.dtype) if x2.dtype.kind == "i" else x2)


SCALARS = {
    "b": st.booleans(),
    "i": st.integers(-5, 5),
    "u": st.integers(0, 5),
    "f": st.floats(-5, 5, width=32),
}


@pytest.mark.parametrize(
    "name", ["add", "multiply", "maximum", "less", "equal", "remainder", "pow", "divide"]
)
@few
@given(data=st.data())
def test_with_a_python_number(name, data):
    x = data.draw(array(FLOATS if name == "divide" else [*INTEGERS, *FLOATS]))
    number = data.draw(SCALARS[x.dtype.kind])
    if x.dtype.kind in "iu" and name == "pow":
        x, number = np.abs(x), abs(number)
    check(name, *data.draw(st.sampled_from([(x, number), (number, x)] if name != "pow" else [(x, number)])))


@few
@given(x=array(REAL), data=st.data())
def test_clip(x, data):
    bound = st.none() | SCALARS[x.dtype.kind] | array([x.dtype.name], ())
    low, high = data.draw(bound), data.draw(bound)
    if low is not None and high is not None:
        assume(low <= high)
    out = dg.clip(*to(dg, [x, low, high]))
    assert out.dtype == x.dtype
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out.numpy(), np.clip(x, low, high))


@few
@given(condition=array(BOOL, (2, 3)), pair=arrays_that_broadcast(ALL))
def test_where(condition, pair):
    x1, x2 = pair
    assume(all(shape in ((), (3,), (1,), (2, 3), (1, 3), (2, 1)) for shape in (x1.shape, x2.shape)))
    check("where", condition, x1, x2)
    number = data_number(x1)
    assert dg.where(*to(dg, [condition, x1]), number).dtype == x1.dtype
    assert dg.where(dg.asarray(condition), number, dg.asarray(x1)).dtype == x1.dtype


def data_number(x):
    """A Python number of an array's kind."""
    return {"b": True, "i": 1, "u": 1, "f": 1.5, "c": 1.5j}[x.dtype.kind]


# -- reductions

REDUCTIONS = {
    **dict.fromkeys(["all", "any"], ALL),
    **dict.fromkeys(["count_nonzero"], NUMERIC),
    **dict.fromkeys(["max", "min"], REAL),
    **dict.fromkeys(["sum", "prod"], NUMERIC),
    **dict.fromkeys(["mean"], FLOATING),
    **dict.fromkeys(["std", "var"], FLOATS),
}


@st.composite
def axes(draw, x):
    """None, one axis or several."""
    if x.ndim == 0:
        return None
    one = st.integers(-x.ndim, x.ndim - 1)
    several = npst.valid_tuple_axes(x.ndim, min_size=1)
    return draw(st.none() | one | several)


@pytest.mark.parametrize("name", REDUCTIONS)
@few
@given(data=st.data())
def test_reduction(name, data):
    x = data.draw(array(REDUCTIONS[name], min_side=1))
    x = small(x) if x.dtype.kind == "f" and name in ("sum", "prod", "mean", "std", "var") else x
    options = {"axis": data.draw(axes(x)), "keepdims": data.draw(st.booleans())}
    if name in ("std", "var"):
        count = math.prod(
            np.asarray(x.shape)[list(np.atleast_1d(options["axis"]))]
            if options["axis"] is not None
            else x.shape
        )
        options["correction"] = data.draw(st.sampled_from([0.0, 1, 0.5]))
        assume(count > 1)
        check(name, x, exact=False, **options)
    elif name in ("sum", "prod", "mean") and x.dtype.kind in "fc":
        assume(np.isfinite(x).all() and np.abs(x).max(initial=0) < 1e4)
        check(name, x, exact=False, **options)
    else:
        check(name, x, **options)


@pytest.mark.parametrize("name", ["sum", "prod", "cumulative_sum", "cumulative_prod"])
@few
@given(data=st.data())
def test_dtype_of_a_sum(name, data):
    x = data.draw(array(INTEGERS, min_dims=1, max_dims=1))
    check(name, x, dtype=data.draw(st.sampled_from([None])))
    out = getattr(dg, name)(dg.asarray(x), dtype=dg.float64)
    assert out.dtype == dg.float64


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@few
@given(data=st.data())
def test_place_of_an_extremum(name, data):
    x = data.draw(array(REAL, min_side=1))
    axis = data.draw(st.none() if x.ndim == 0 else st.none() | st.integers(-x.ndim, x.ndim - 1))
    check(name, x, axis=axis, keepdims=data.draw(st.booleans()))


@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod"])
@few
@given(data=st.data())
def test_running(name, data):
    x = data.draw(array(NUMERIC, min_dims=1))
    assume(x.dtype.kind != "c" or np.isfinite(x).all())  # (1 + 0i) times a complex infinity has a NaN part
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    check(name, x, axis=axis, include_initial=data.draw(st.booleans()))


@few
@given(x=array(NUMERIC, min_dims=1), data=st.data())
def test_diff(x, data):
    check("diff", x, axis=data.draw(st.integers(-x.ndim, x.ndim - 1)), n=data.draw(st.integers(0, 3)))
    check("diff", x.ravel(), prepend=x.ravel()[:1], append=x.ravel()[:2])


# -- shapes


@few
@given(x=array(ALL, min_dims=1), data=st.data())
def test_moving_elements(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    shift = data.draw(st.integers(-7, 7))
    check("flip", x, axis=data.draw(axes(x)))
    check("roll", x, shift, axis=axis)
    check("roll", x, shift)
    check("roll", x, (shift, 1), axis=(axis, axis)) if x.ndim == 1 else None
    check("moveaxis", x, axis, data.draw(st.integers(-x.ndim, x.ndim - 1)))
    check("expand_dims", x, axis=axis)
    check("squeeze", x[None, ..., None], (0, -1))
    check("permute_dims", x, tuple(data.draw(st.permutations(range(x.ndim)))))
    check("reshape", x, (-1, 1) if x.size else x.shape)
    check("repeat", x, data.draw(st.integers(0, 3)), axis=axis)
    check("tile", x, data.draw(st.lists(st.integers(0, 2), max_size=4).map(tuple)))
    check("stack", [x, x], axis=axis)
    check("unstack", x, axis=axis)
    check("concat", [x, x], axis=data.draw(st.sampled_from([axis, None])))
    check("broadcast_to", x, (2, *x.shape))
    check("broadcast_arrays", x, x[:1] if len(x) else x)


@few
@given(x=array(NUMERIC, min_dims=2), k=st.integers(-5, 5))
def test_triangles_and_transposes(x, k):
    check("tril", x, k=k)
    check("triu", x, k=k)
    check("matrix_transpose", x)


@few
@given(x=array(ALL, min_dims=1, min_side=1), data=st.data())
def test_taking(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    length = x.shape[axis]
    places = data.draw(npst.arrays(np.int64, st.integers(0, 4), elements=st.integers(0, length - 1)))
    check("take", x, places, axis=axis)
    shape = list(x.shape)
    shape[axis] = 2
    along = data.draw(npst.arrays(np.int64, tuple(shape), elements=st.integers(-length, length - 1)))
    out = dg.take_along_axis(dg.asarray(x), dg.asarray(along), axis=axis)
    np.testing.assert_array_equal(out.numpy(), np.take_along_axis(x, along, axis))
    negative = dg.take(dg.asarray(x), dg.asarray(places - length), axis=axis)
    np.testing.assert_array_equal(negative.numpy(), np.take(x, places, axis))


@few
@given(x=array(ALL, min_dims=1))
def test_nonzero(x):
    check("nonzero", x)


@few
@given(
    parts=st.lists(array(NUMERIC, max_dims=1), min_size=1, max_size=3), indexing=st.sampled_from(["xy", "ij"])
)
def test_meshgrid(parts, indexing):
    with np.errstate(all="ignore"):
        same = [part.astype(parts[0].dtype) if parts[0].dtype.kind == "c" else part.real for part in parts]
        same = [part.astype(same[0].dtype) for part in same]
    check("meshgrid", *same, indexing=indexing)


# -- order


@pytest.mark.parametrize("name", ["sort", "argsort"])
@few
@given(data=st.data())
def test_order(name, data):
    x = data.draw(array(REAL, min_dims=1))
    assume(not np.isnan(x).any())
    axis, descending = data.draw(st.integers(-x.ndim, x.ndim - 1)), data.draw(st.booleans())
    check(name, x, axis=axis, descending=descending)
    unstable = getattr(dg, name)(dg.asarray(x), axis=axis, descending=descending, stable=False)
    if name == "argsort":
        unstable = dg.take_along_axis(dg.asarray(x), unstable, axis=axis)
    expected = np.sort(x, axis=axis)
    np.testing.assert_array_equal(unstable.numpy(), np.flip(expected, axis) if descending else expected)


@few
@given(data=st.data(), side=st.sampled_from(["left", "right"]))
def test_searchsorted(data, side):
    x1, x2 = (data.draw(array(["float32"], max_dims=n, min_dims=n)) for n in (1, 2))
    check("searchsorted", np.sort(x1), x2, side=side)
    check("searchsorted", x1, x2, side=side, sorter=np.argsort(x1, stable=True))


@pytest.mark.parametrize("name", ["unique_all", "unique_counts", "unique_inverse", "unique_values"])
@few
@given(data=st.data())
def test_unique(name, data):
    x = data.draw(array(ALL))
    check(name, x)
    found, expected = (
        getattr(dg, name)(dg.asarray(x)),
        getattr(array_api_strict, name)(array_api_strict.asarray(x)),
    )
    assert getattr(found, "_fields", None) == getattr(expected, "_fields", None)


# -- creation

DEFAULT = {"b": "bool", "i": "int64", "f": "float32", "c": "complex64"}
sizes = st.integers(0, 5)


@pytest.mark.parametrize("name", ["zeros", "ones", "empty"])
@few
@given(shape=sizes | st.lists(sizes, max_size=3).map(tuple), dtype=st.none() | st.sampled_from(ALL))
def test_constants(name, shape, dtype):
    out = getattr(dg, name)(shape, dtype=None if dtype is None else getattr(dg, dtype))
    assert out.dtype == (dtype or "float32")
    assert out.shape == ((shape,) if isinstance(shape, int) else shape)
    if name != "empty":
        assert bool(dg.all(out == (name == "ones")))
    like = getattr(dg, f"{name}_like")(out, dtype=dg.int8)
    assert (like.shape, like.dtype) == (out.shape, dg.int8)
    assert getattr(dg, f"{name}_like")(out).dtype == out.dtype


@few
@given(
    value=st.booleans() | st.integers(-9, 9) | st.floats(-9, 9, width=32) | st.just(1.5j),
    dtype=st.none() | st.just("complex128"),
)
def test_full(value, dtype):
    out = dg.full((2, 3), value, dtype=dtype)
    assert out.dtype == (dtype or DEFAULT[np.asarray(value).dtype.kind])
    assert bool(dg.all(out == value))
    assert dg.full_like(out, 3).dtype == out.dtype


bounds = st.integers(-20, 20) | st.floats(-20, 20, width=32).map(lambda x: round(x, 1))


@few
@given(start=bounds, stop=st.none() | bounds, step=bounds.filter(lambda x: abs(x) > 0.05))
def test_arange(start, stop, step):
    out = dg.arange(start, stop, step)
    whole = all(isinstance(each, int) for each in (start, stop, step) if each is not None)
    assert out.dtype == ("int64" if whole else "float32")
    first, end = (0, start) if stop is None else (start, stop)
    np.testing.assert_allclose(out.numpy(), np.arange(first, end, step), rtol=1e-5, atol=1e-5)


@few
@given(
    start=bounds,
    stop=bounds,
    num=st.integers(0, 9),
    endpoint=st.booleans(),
    dtype=st.sampled_from([None, "float64"]),
)
def test_linspace(start, stop, num, endpoint, dtype):
    out = dg.linspace(start, stop, num, endpoint=endpoint, dtype=dtype)
    assert out.dtype == (dtype or "float32")
    expected = np.linspace(start, stop, num, endpoint=endpoint)
    np.testing.assert_array_equal(out.numpy(), expected.astype(out.dtype))
    assert dg.linspace(0, 1j, 3).dtype == dg.complex64


@few
@given(rows=sizes, columns=st.none() | sizes, k=st.integers(-3, 3), dtype=st.sampled_from([None, *ALL]))
def test_eye(rows, columns, k, dtype):
    out = dg.eye(rows, columns, k=k, dtype=dtype)
    assert out.dtype == (dtype or "float32")
    np.testing.assert_array_equal(out.numpy(), np.eye(rows, columns, k=k))


@few
@given(x=xps.arrays(dtype=xps.scalar_dtypes(), shape=xps.array_shapes(min_dims=0)))
def test_hypothesis_makes_our_arrays(x):
    assert isinstance(x, dg.Tensor)
    np.testing.assert_array_equal(dg.asarray(x, copy=True).numpy(), x.numpy())


# -- dtypes


@pytest.mark.parametrize("target", ALL)
@few
@given(data=st.data())
def test_astype(target, data):
    x = data.draw(array(ALL))
    assume(x.dtype.kind != "c" or np.dtype(target).kind in "cb")
    x = x if x.dtype.kind in "bc" and np.abs(x).max(initial=0) < 1e30 else small(np.abs(x))
    out = dg.astype(dg.asarray(x), getattr(dg, target))
    np.testing.assert_array_equal(out.numpy(), x.astype(target))
    assert out.dtype == target
    same = dg.astype(out, out.dtype, copy=False)
    assert np.shares_memory(same.numpy(), out.numpy()) or x.size == 0
    assert not np.shares_memory(dg.astype(out, out.dtype).numpy(), out.numpy())


@pytest.mark.parametrize("first", ALL)
@pytest.mark.parametrize("second", ALL)
def test_result_type_and_promotion(first, second):
    try:
        expected = array_api_strict.result_type(
            getattr(array_api_strict, first), getattr(array_api_strict, second)
        )
    except TypeError:
        return check_mixed_kinds(first, second)
    assert dg.result_type(getattr(dg, first), getattr(dg, second)) == expected._np_dtype
    assert dg.concat([dg.ones(1, dtype=first), dg.ones(1, dtype=second)]).dtype == expected._np_dtype
    return None


def check_mixed_kinds(first, second):
    """What the standard leaves open: the floating one decides where whole numbers join."""
    kinds = [np.dtype(each) for each in (first, second)]
    expected = np.result_type(*([each for each in kinds if each.kind in "fc"] or kinds))
    assert dg.result_type(getattr(dg, first), getattr(dg, second)) == expected
    if kinds[0].kind in "fc" or kinds[1].kind in "fc":
        assert dg.concat([dg.ones(1, dtype=first), dg.ones(1, dtype=second)]).dtype == expected


def test_dtype_questions():
    assert dg.result_type(dg.float32, 1.5, 2) == dg.float32
    assert dg.result_type(dg.ones(2, dtype=dg.int8), 1) == dg.int8
    with pytest.raises(ValueError, match="at least one array or dtype"):
        dg.result_type(1.0, 2)
    assert dg.can_cast(dg.int8, dg.int16) is True
    assert dg.can_cast(dg.ones(1, dtype=dg.float64), dg.float32) is False
    assert dg.isdtype(dg.float32, "real floating") is True
    assert dg.isdtype(dg.uint8, ("bool", dg.uint8)) is True
    assert dg.isdtype(dg.complex64, "numeric")
    assert not dg.isdtype(dg.bool, "numeric")
    with pytest.raises(ValueError, match="kind must be"):
        dg.isdtype(dg.bool, "floating")


@pytest.mark.parametrize(
    "kind",
    [
        "bool",
        "signed integer",
        "unsigned integer",
        "integral",
        "real floating",
        "complex floating",
        "numeric",
    ],
)
def test_isdtype_and_dtypes_agree_with_strict(kind):
    for name in ALL:
        assert dg.isdtype(getattr(dg, name), kind) == array_api_strict.isdtype(
            getattr(array_api_strict, name), kind
        )
    ours = dg.__array_namespace_info__().dtypes(kind=kind)
    assert set(ours) == set(array_api_strict.__array_namespace_info__().dtypes(kind=kind))


@pytest.mark.parametrize("name", [*FLOATS, *COMPLEX, "float16"])
def test_finfo(name):
    found, expected = dg.finfo(getattr(dg, name)), np.finfo(name)
    for field in ("eps", "max", "min", "smallest_normal"):
        assert type(getattr(found, field)) is float
        assert getattr(found, field) == getattr(expected, field)
    assert type(found.bits) is int
    assert found.dtype == expected.dtype
    assert dg.finfo(dg.ones(1, dtype=name)) == found


@pytest.mark.parametrize("name", INTEGERS)
def test_iinfo(name):
    found, expected = dg.iinfo(getattr(dg, name)), np.iinfo(name)
    assert (found.bits, found.max, found.min, found.dtype) == (
        expected.bits,
        expected.max,
        expected.min,
        name,
    )
    assert {type(found.bits), type(found.max), type(found.min)} == {int}
