"""Arrays that are parts of one, and those that are not."""

import numpy as np
import pytest

from distgrad.backend.neighbours import as_one, evenly_apart

WHOLE = np.arange(120.0).reshape(4, 5, 6)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_parts_of_an_array_are_one(axis):
    found = as_one([WHOLE.take(0, axis)], axis)
    assert found is None  # a lone one is a part of nothing
    parts = list(np.moveaxis(WHOLE, axis, 0))
    found = as_one(parts, axis)
    np.testing.assert_array_equal(found, WHOLE)
    assert np.shares_memory(found, WHOLE)


@pytest.mark.parametrize(
    ("parts", "count", "step"),
    [
        ([WHOLE[0], WHOLE[1], WHOLE[3]], 2, 240),
        ([WHOLE[0], WHOLE[2], WHOLE[3]], 2, 480),
        ([WHOLE[2], WHOLE[1], WHOLE[0]], 1, 0),
        ([WHOLE[0], WHOLE[0]], 1, 0),
        ([WHOLE[0], WHOLE[1].copy()], 1, 0),
        ([WHOLE[0], WHOLE[1][:, ::-1]], 1, 0),
        ([WHOLE[0], WHOLE[1][:4]], 1, 0),
        ([WHOLE[0], WHOLE[1].view(np.int64)], 1, 0),
    ],
)
def test_others_are_not(parts, count, step):
    assert evenly_apart(parts) == (count, step)
    assert as_one(parts, 0) is None
