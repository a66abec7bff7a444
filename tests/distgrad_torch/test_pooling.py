"""Fractional max pooling at given random numbers."""

import math

import distgrad.torch.nn.functional as F
import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import OptionError


def by_hand(x, shifts, window, count):
    """One channel, window by window."""
    places = []
    for n, k, out, u in zip(x.shape, window, count, shifts, strict=True):
        ratio = (n - k) / (out - 1) if out > 1 else 0.0
        places.append([*(math.floor((i + u) * ratio) - math.floor(u * ratio) for i in range(out - 1)), n - k])
    y = np.empty(count)
    for place in np.ndindex(*count):
        corner = [starts[i] for starts, i in zip(places, place, strict=True)]
        y[place] = x[tuple(slice(c, c + k) for c, k in zip(corner, window, strict=True))].max()
    return y


@pytest.mark.parametrize(
    ("shape", "window", "count"), [((9, 8), (3, 2), (4, 5)), ((5, 6, 7), (2, 3, 2), (3, 1, 4))]
)
def test_windows_are_where_the_random_numbers_put_them(shape, window, count):
    rng = np.random.default_rng(0)
    x, shifts = rng.standard_normal((2, 3, *shape)), rng.uniform(size=(2, 3, len(shape)))
    pool = F.fractional_max_pool2d if len(shape) == 2 else F.fractional_max_pool3d
    options = {"output_size": count, "_random_samples": dg.asarray(shifts)}
    y, index = pool(dg.asarray(x), window, return_indices=True, **options)
    order = slice(None, None, -1) if len(shape) == 2 else slice(None)
    for place in np.ndindex(2, 3):
        expected = by_hand(x[place], shifts[place][order], window, count)
        np.testing.assert_array_equal(y.numpy()[place], expected)
        np.testing.assert_array_equal(x[place].reshape(-1)[index.numpy()[place]], expected)
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.functional, pool.__name__)
    found = theirs(torch.tensor(x), window, count, _random_samples=torch.tensor(shifts))
    np.testing.assert_array_equal(y.numpy(), found.numpy())


def test_a_ratio_and_numbers_of_its_own():
    dg.manual_seed(0)
    x = dg.asarray(np.random.default_rng(0).standard_normal((2, 8, 8)))
    assert F.fractional_max_pool2d(x, 2, output_ratio=0.5).shape == (2, 4, 4)
    with pytest.raises(OptionError, match="give output_size or output_ratio"):
        F.fractional_max_pool2d(x, 2)
