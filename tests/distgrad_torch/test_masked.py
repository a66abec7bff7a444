"""``torch.masked`` against plain NumPy over the elements that are kept."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError
from distgrad.torch import masked

X = np.random.default_rng(0).standard_normal((3, 5))
MASK = np.array([[True, False, True, True, False], [False, True, True, False, False], [True] * 5])


def rows():
    return [row[kept] for row, kept in zip(X, MASK, strict=True)]


REDUCTIONS = {
    "sum": np.sum, "prod": np.prod, "amax": np.max, "amin": np.min, "mean": np.mean,
    "logsumexp": lambda row: math.log(np.exp(row).sum()),
    "median": lambda row: np.sort(row)[(len(row) - 1) // 2],
    "norm": np.linalg.norm,
    "var": lambda row: row.var(ddof=1),
    "std": lambda row: row.std(ddof=1),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_sees_what_is_kept(name):
    found = getattr(masked, name)(dg.asarray(X), dim=1, mask=dg.asarray(MASK))
    np.testing.assert_allclose(found.numpy(), [REDUCTIONS[name](row) for row in rows()], rtol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin", "normalize", "cumsum", "cumprod"])
def test_what_keeps_the_shape_sees_what_is_kept(name):
    whole = {
        "softmax": lambda row: np.exp(row) / np.exp(row).sum(),
        "log_softmax": lambda row: row - np.log(np.exp(row).sum()),
        "softmin": lambda row: np.exp(-row) / np.exp(-row).sum(),
        "normalize": lambda row: row / np.linalg.norm(row),
        "cumsum": np.cumsum,
        "cumprod": np.cumprod,
    }[name]
    arguments = (2.0, 1) if name == "normalize" else (1,)
    found = getattr(masked, name)(dg.asarray(X), *arguments, mask=dg.asarray(MASK)).numpy()
    for row, kept, expected in zip(found, MASK, rows(), strict=True):
        np.testing.assert_allclose(row[kept], whole(expected), rtol=1e-12)


def test_two_masks_and_bad_ones():
    x, mask = dg.asarray(X), dg.asarray(MASK)
    found = masked.logaddexp(x, x, input_mask=mask).numpy()
    np.testing.assert_allclose(found, np.where(MASK, X + math.log(2.0), X))
    assert masked.sum(x, dim=1, mask=dg.asarray(MASK[0])).shape == (3,)
    assert math.isnan(masked.mean(x[0], mask=dg.zeros(5, dtype=dg.bool)).item())
    with pytest.raises(DTypeError, match="masked: mask must be bool, got float64"):
        masked.sum(x, mask=x)
    with pytest.raises(ShapeError, match="masked: mask is"):
        masked.sum(x[0], mask=mask)
