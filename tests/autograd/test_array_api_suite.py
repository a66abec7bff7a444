"""What the public suite array-api-tests demands and the other files do not: keys, copies, bounds, errors."""

import inspect
import math

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from hypothesis.extra.array_api import make_strategies_namespace

import distgrad as dg

xps = make_strategies_namespace(dg, api_version="2024.12")
few = settings(max_examples=100, deadline=None)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SHAPES = xps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
REAL = [*INTEGERS, "float32", "float64"]
same = np.testing.assert_array_equal


@few
@given(data=st.data())
def test_slices_and_new_axes(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), SHAPES))
    key = data.draw(xps.indices(x.shape, allow_newaxis=True))
    found, expected = x[key], x.numpy()[key]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    same(found.numpy(), expected)


@few
@given(data=st.data())
def test_assigning_arrays_and_numbers(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), SHAPES))
    key = data.draw(xps.indices(x.shape))
    shape = x.numpy()[key].shape
    value = data.draw(xps.arrays(x.dtype, shape) | xps.from_dtype(x.dtype))
    changed, expected = dg.asarray(x, copy=True), x.numpy().copy()
    changed[key] = value
    expected[key] = value.numpy() if isinstance(value, dg.Tensor) else value
    assert (changed.dtype, changed.shape) == (x.dtype, x.shape)
    same(changed.numpy(), expected)


@few
@given(data=st.data())
def test_masks_whose_sides_are_zero_take_nothing(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), SHAPES))
    sides = data.draw(st.lists(st.booleans(), min_size=x.ndim, max_size=x.ndim))
    shape = tuple(n if kept else 0 for n, kept in zip(x.shape, sides, strict=True))
    key = data.draw(xps.arrays(dg.bool, shape))
    found = x[key]
    assert found.dtype == x.dtype
    if shape == ():
        assert found.shape == ((1,) if bool(key) else (0,))
    else:
        assert found.shape == (int(key.numpy().sum()),)


@few
@given(data=st.data())
def test_assigning_a_number_through_a_mask(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), SHAPES))
    key = data.draw(xps.arrays(dg.bool, x.shape))
    value = data.draw(xps.from_dtype(x.dtype) | xps.arrays(x.dtype, ()))
    changed, expected = dg.asarray(x, copy=True), x.numpy().copy()
    changed[key] = value
    expected[key.numpy()] = value.numpy() if isinstance(value, dg.Tensor) else value
    same(changed.numpy(), expected)


@pytest.mark.parametrize("dtype", ["bool", *REAL])
def test_numbers_of_python(dtype):
    x = dg.asarray(1, dtype=dtype)
    assert type(bool(x)) is bool
    assert (type(int(x)), type(float(x)), type(complex(x))) == (int, float, complex)
    if dtype in INTEGERS:
        assert type(x.__index__()) is int
        assert [10, 20][x] == 20


@few
@given(data=st.data())
def test_a_copy_is_a_copy(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), xps.array_shapes(max_dims=2, max_side=3)))
    before = x.numpy().copy()
    copied, shared = dg.asarray(x, copy=True), dg.asarray(x, copy=False)
    perhaps = dg.asarray(x, dtype=x.dtype)
    key = data.draw(xps.indices(x.shape, max_dims=0))
    x[key] = data.draw(xps.from_dtype(x.dtype))
    same(copied.numpy(), before)
    same(shared.numpy(), x.numpy())
    assert perhaps.dtype == x.dtype


def test_numbers_of_several_kinds_in_lists():
    for numbers, dtype in (([True, 2], "int64"), ([1, 2.5], "float32"), ([1.5, 2j], "complex64")):
        assert dg.asarray([numbers, numbers]).dtype == dtype
        same(dg.asarray([numbers, numbers]).numpy(), np.asarray([numbers, numbers]).astype(dtype))
    assert dg.asarray([True, False]).dtype == "bool"
    assert dg.asarray([2**63], dtype=dg.uint64).tolist() == [2**63]
    assert dg.asarray([1, True], dtype=dg.float32).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", REAL)
def test_ranges_at_the_ends_of_their_dtype(dtype):
    if dtype in INTEGERS:
        low, high = dg.iinfo(dtype).min, dg.iinfo(dtype).max
        for start, stop, step in ((high - 5, high, 2), (low, low + 5, 1), (low + 7, low, -3)):
            if step > 0 or dtype.startswith("i"):
                assert dg.arange(start, stop, step, dtype=dtype).tolist() == list(range(start, stop, step))
        assert dg.full((2,), high, dtype=dtype).tolist() == [high] * 2
    else:
        assert dg.arange(-(2**60), 2**60, 2**59, dtype=dtype).tolist() == [
            -(2.0**60),
            -(2.0**59),
            0.0,
            2.0**59,
        ]
    assert dg.arange(3, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("k", [-(2**70), -(2**40), -3, 3, 2**40, 2**70])
def test_a_diagonal_far_outside(k):
    for rows, columns in ((0, 3), (2, 3), (3, None)):
        expected = np.eye(rows, columns, k=max(-9, min(9, k)), dtype=np.int8)
        same(dg.eye(rows, columns, k=k, dtype=dg.int8).numpy(), expected)


@few
@given(
    start=st.floats(-(2.0**99), 2.0**99, width=32),
    stop=st.floats(-(2.0**99), 2.0**99, width=32),
    num=st.integers(1, 9),
    dtype=st.sampled_from([None, "float32", "float64"]),
)
def test_evenly_spaced_numbers_start_and_end_where_they_must(start, stop, num, dtype):
    dtype = dtype and getattr(dg, dtype)
    out = dg.linspace(start, stop, num, dtype=dtype)
    assert out[0] == start
    assert num == 1 or out[-1] == stop
    same(
        dg.linspace(start, stop, num, endpoint=False).numpy(), dg.linspace(start, stop, num + 1)[:-1].numpy()
    )


@few
@given(data=st.data())
def test_clip_with_bounds_of_larger_shapes(data):
    dtype = data.draw(st.sampled_from(REAL))
    shapes = data.draw(npst.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3)).input_shapes
    x = data.draw(xps.arrays(dtype, shapes[0]))
    low = data.draw(st.none() | st.integers(0, 3) | xps.arrays(dtype, shapes[1], elements={"max_value": 3}))
    high = data.draw(st.none() | st.integers(4, 9) | xps.arrays(dtype, shapes[2], elements={"min_value": 4}))
    out = dg.clip(x, low, high)
    plain = [each.numpy() if isinstance(each, dg.Tensor) else each for each in (low, high)]
    expected = x.numpy() if low is None and high is None else np.clip(x.numpy(), *plain)
    assert (out.dtype, out.shape) == (x.dtype, expected.shape)
    same(out.numpy(), expected)


@few
@given(data=st.data())
def test_axes_that_are_none(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), SHAPES))
    axis = data.draw(st.integers(-2 * (x.ndim + 1), 2 * x.ndim))
    if -x.ndim - 1 <= axis <= x.ndim:
        same(dg.expand_dims(x, axis=axis).numpy(), np.expand_dims(x.numpy(), axis))
    else:
        with pytest.raises(IndexError):
            dg.expand_dims(x, axis=axis)
    for each in range(x.ndim):
        if x.shape[each] == 1:
            same(dg.squeeze(x, axis=each).numpy(), np.squeeze(x.numpy(), each))
        else:
            with pytest.raises(ValueError, match="squeeze"):
                dg.squeeze(x, axis=each)


@few
@given(data=st.data())
def test_counts_of_every_dtype(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), SHAPES))
    axis = data.draw(st.none() | xps.valid_tuple_axes(x.ndim, min_size=1) if x.ndim else st.none())
    keepdims = data.draw(st.booleans())
    found = dg.count_nonzero(x, axis=axis, keepdims=keepdims)
    assert found.dtype == dg.int64
    same(found.numpy(), np.count_nonzero(x.numpy(), axis=axis, keepdims=keepdims))


# fmt: off
REFUSED = [
    lambda: dg.nonzero(dg.asarray(1)),
    lambda: dg.vecdot(dg.ones((2, 1)), dg.ones((2, 3))),
    lambda: dg.vecdot(dg.ones((3, 2)), dg.ones((1, 2)), axis=-2),
    lambda: dg.linalg.cross(dg.ones((2, 3)), dg.ones((2, 1))),
    lambda: dg.linalg.cross(dg.ones((3, 2)), dg.ones((3, 2))),
    lambda: dg.matmul(dg.asarray(1.0), dg.ones(2)),
    lambda: dg.matmul(dg.ones(2), dg.ones(3)),
    lambda: dg.matmul(dg.ones(3), dg.ones((2, 3))),
    lambda: dg.matmul(dg.ones((2, 3)), dg.ones(2)),
    lambda: dg.matmul(dg.ones((2, 3)), dg.ones((1, 3))),
]
# fmt: on


@pytest.mark.parametrize("call", REFUSED)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(dg.ShapeError):
        call()


@few
@given(data=st.data())
def test_stacks_are_computed_one_by_one(data):
    """Products of whole numbers, where every bit is known."""
    x = data.draw(xps.arrays("int64", (2, 1, 3, 3), elements={"min_value": -99, "max_value": 99}))
    y = data.draw(xps.arrays("int64", (2, 3, 3), elements={"min_value": -99, "max_value": 99}))
    for f in (dg.matmul, dg.vecdot, dg.linalg.cross):
        found = f(x, y)
        for i in range(2):
            for j in range(2):
                same(found[i, j].numpy(), f(x[i, 0], y[j]).numpy())
    offset = data.draw(st.integers(-4, 4))
    assert dg.linalg.trace(x, offset=offset).tolist() == np.trace(x.numpy(), offset, -2, -1).tolist()
    same(dg.linalg.diagonal(x, offset=offset).numpy(), np.diagonal(x.numpy(), offset, -2, -1))


@few
@given(data=st.data())
def test_moving_without_an_axis_and_along_several(data):
    x = data.draw(xps.arrays(xps.scalar_dtypes(), SHAPES))
    repeats = data.draw(st.integers(0, 4))
    same(dg.repeat(x, repeats).numpy(), np.repeat(x.numpy(), repeats))
    same(dg.roll(x, repeats - 2).numpy(), np.roll(x.numpy(), repeats - 2))
    repetitions = data.draw(st.lists(st.integers(0, 3), max_size=x.ndim + 1).map(tuple))
    same(dg.tile(x, repetitions).numpy(), np.tile(x.numpy(), repetitions))
    if x.ndim:
        axes = data.draw(xps.valid_tuple_axes(x.ndim, min_size=1))
        same(dg.flip(x, axis=axes).numpy(), np.flip(x.numpy(), axes))
        targets = data.draw(st.permutations(range(x.ndim)))[: len(axes)]
        same(dg.moveaxis(x, axes, tuple(targets)).numpy(), np.moveaxis(x.numpy(), axes, targets))
        shifts = tuple(range(1, len(axes) + 1))
        same(dg.roll(x, shifts, axis=axes).numpy(), np.roll(x.numpy(), shifts, axes))
        axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
        for part, expected in zip(dg.unstack(x, axis=axis), np.moveaxis(x.numpy(), axis, 0), strict=True):
            same(part.numpy(), expected)


@few
@given(data=st.data())
def test_equal_elements_keep_their_order(data):
    x = data.draw(xps.arrays("int8", xps.array_shapes(max_dims=2), elements={"min_value": 0, "max_value": 2}))
    found = dg.argsort(x, descending=True, axis=-1, stable=True)
    same(found.numpy(), np.argsort(-x.numpy(), axis=-1, kind="stable"))


@few
@given(data=st.data())
def test_deviations_with_any_correction(data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    x = data.draw(xps.arrays(dtype, xps.array_shapes(max_dims=3, max_side=4), elements={"allow_nan": False}))
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1))
    correction = data.draw(st.integers(0, 3) | st.floats(0, 3))
    for name in ("std", "var"):
        found = getattr(dg, name)(x, axis=axis, correction=correction, keepdims=True)
        assert (found.dtype, found.shape) == (dtype, np.sum(x.numpy(), axis=axis, keepdims=True).shape)


def test_a_constant_is_a_float_and_an_array_of_it_has_the_default_dtype():
    for name in ("e", "pi", "inf", "nan"):
        assert isinstance(getattr(dg, name), float)
        assert dg.asarray(getattr(dg, name)).dtype == dg.float32
    assert math.isnan(float(dg.asarray(dg.nan)))


def test_signatures_of_inspection_and_of_to_device():
    info = dg.__array_namespace_info__()
    for name in ("capabilities", "default_device", "default_dtypes", "devices", "dtypes"):
        ours, standard = (
            {each.name: (each.kind, each.default) for each in inspect.signature(f).parameters.values()}
            for f in (
                getattr(info, name),
                getattr(array_api_strict.__array_namespace_info__(), name),
            )
        )
        assert ours == standard
    device, stream = inspect.signature(dg.ones(1).to_device).parameters.values()
    assert (device.kind, stream.kind) == (device.POSITIONAL_ONLY, stream.KEYWORD_ONLY)
    assert stream.default is None


def test_joining_promotes_and_takes_sides_of_any_length():
    x, y = dg.ones((2, 1), dtype=dg.int8), dg.ones((2, 3), dtype=dg.int64)
    for joined, shape in (
        (dg.concat([x, y], axis=-1), (2, 4)),
        (dg.concat([x, y, dg.ones((0,), dtype=dg.int8)], axis=None), (8,)),
        (dg.stack([y, y.astype(dg.int8)], axis=1), (2, 2, 3)),
        (dg.concat([dg.ones((2, 0), dtype=dg.uint8), x], axis=1), (2, 1)),
    ):
        assert (joined.shape, int(dg.sum(joined))) == (shape, int(np.prod(shape)))
    assert dg.concat([x, y], axis=1).dtype == dg.int64
    assert dg.stack([x, x.astype(dg.uint8)]).dtype == dg.int16
