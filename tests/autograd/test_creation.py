"""What makes tensors: values where NumPy's rounding would show, and arguments that are refused."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, OptionError, ShapeError

SHAPES = [
    (-1, ShapeError),
    ((2, -1), ShapeError),
    ((2.5,), DTypeError),
    ("ab", DTypeError),
    (None, DTypeError),
]
MAKERS = {"zeros": (), "ones": (), "empty": (), "full": (1,)}


@pytest.mark.parametrize(("shape", "error"), SHAPES)
@pytest.mark.parametrize("name", MAKERS)
def test_a_shape_that_is_none_is_refused(name, shape, error):
    with pytest.raises(
        error, match=f"{name}: expected a whole number of at least 0, or a tuple of them"
    ) as caught:
        getattr(dg, name)(shape, *MAKERS[name])
    assert f"got {shape!r} (" in str(caught.value)


# fmt: off
CALLS = [
    (lambda: dg.full((2,), "a"), DTypeError, "full: expected a number, got 'a'"),
    (lambda: dg.full((2,), None, dtype=dg.float32), DTypeError, "full: expected a number, got None"),
    (lambda: dg.full((2,), [1, 2]), ShapeError, r"full: expected one number, got an array of shape \[2\]"),
    (lambda: dg.full((2,), dg.inf, dtype=dg.int8), OptionError, "full: inf does not fit int8; pass another"),
    (lambda: dg.full((2,), dg.nan, dtype=dg.uint8), OptionError, "full: nan does not fit uint8"),
    (lambda: dg.full((2,), 2**70), OptionError, f"full: {2**70} does not fit int64"),
    (lambda: dg.full((2,), 300, dtype=dg.int8), OptionError, "full: 300 does not fit int8"),
    (lambda: dg.full((2,), 1j, dtype=dg.float32), OptionError, "full: 1j does not fit float32"),
    (lambda: dg.full_like(dg.ones(2, dtype=dg.int8), 1e9), OptionError, "full: .* does not fit int8"),
    (lambda: dg.eye("a"), DTypeError, r"eye: expected whole numbers as n_rows.* got \('a', None\)"),
    (lambda: dg.eye(2.5), DTypeError, "eye: expected whole numbers"),
    (lambda: dg.eye(2, -3), ShapeError, "eye: expected whole numbers .* of at least 0"),
    (lambda: dg.eye(2, k=1.5), DTypeError, "eye: expected whole numbers"),
    (lambda: dg.arange("a"), DTypeError, "arange: expected numbers as start, stop and step"),
    (lambda: dg.arange(None), OptionError, "arange: expected a number as start"),
    (lambda: dg.arange(0, 5, 0), OptionError, "arange: expected .* a step other than 0"),
    (lambda: dg.arange(dg.nan), ShapeError, "arange: expected numbers"),
    (lambda: dg.linspace(0, 1, -1), ShapeError, "linspace: expected .* whole one of at least 0 as num"),
    (lambda: dg.linspace(0, 1, 2.5), DTypeError, "linspace: expected numbers"),
]
# fmt: on


@pytest.mark.parametrize(("call", "error", "message"), CALLS)
def test_arguments_that_make_no_array_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_steps_of_a_range_do_not_add_up_their_rounding():
    expected = np.arange(-1000, 1000, 0.1)
    np.testing.assert_array_equal(dg.arange(-1000, 1000, 0.1).numpy(), expected.astype(np.float32))
    np.testing.assert_array_equal(
        dg.arange(0, 3, 0.1, dtype=dg.float16).numpy(), np.arange(0, 3, 0.1).astype("e")
    )
    assert dg.arange(5, dtype=dg.float64).dtype == dg.float64
