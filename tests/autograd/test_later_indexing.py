"""Arrays rearranged, indexed and counted, computed anew element by element."""

import itertools
import math

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.dispatch import operations

X = np.random.default_rng(0).standard_normal((3, 4))
INDEX = np.array([[2, 0, 2, 1], [0, 0, 1, 2]])
SOURCE = np.random.default_rng(1).standard_normal((2, 4))


def same(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13, atol=1e-13)


def test_diagonals_and_blocks():
    found = operations.diag_embed(X, 1).numpy()
    for row, square in zip(X, found, strict=True):
        np.testing.assert_array_equal(square, np.diag(row, 1))
    np.testing.assert_array_equal(
        operations.diag_embed(X, 0, 0, 1).numpy(), operations.diag_embed(X).numpy().transpose(1, 2, 0)
    )
    expected = X.copy()
    expected[np.arange(3), np.arange(1, 4)] = 7.0
    same(operations.diagonal_scatter(X, np.full(3, 7.0), 1), expected)
    blocks = np.zeros((5, 5))
    blocks[:3, :4], blocks[3:, 4:] = X, 1.0
    same(operations.block_diag(X, np.ones((2, 1))), blocks)


@pytest.mark.parametrize("repeated", [False, True])
def test_choices(repeated):
    choose = itertools.combinations_with_replacement if repeated else itertools.combinations
    same(operations.combinations(X[0], 3, repeated), list(choose(X[0], 3)))
    same(operations.cartesian_prod(X[0], X[1], X[2]), list(itertools.product(*X)))


def test_windows_and_strides():
    same(operations.unfold_axis(X, 1, 2, 2), np.stack([X[:, :2], X[:, 2:]], axis=1))
    strided = np.lib.stride_tricks.as_strided(X.reshape(-1)[1:], (2, 3), (8 * 3, 8 * 1))
    same(operations.take_strided(X, (2, 3), (3, 1), 1), strided)
    expected = X.copy().reshape(-1)
    expected[[1, 4]] = [5.0, 6.0]
    same(operations.put_strided(X, np.array([5.0, 6.0]), (2,), (3,), 1), expected.reshape(3, 4))


def test_parts_replaced():
    expected = X.copy()
    expected[:, 2] = 0.0
    same(operations.select_scatter(X, np.zeros(3), 1, -2), expected)
    expected = X.copy()
    expected[:, 1::2] = 0.0
    same(operations.slice_scatter(X, np.zeros((3, 2)), 1, 1, None, 2), expected)
    expected = X.copy()
    expected[[2, 0]] = SOURCE
    same(operations.index_copy(X, 0, np.array([2, 0]), SOURCE), expected)
    expected[[2, 0]] = 1.5
    same(operations.index_fill(X, 0, np.array([2, 0]), 1.5), expected)
    expected = X.copy().reshape(-1)
    expected[[1, -1]] = [8.0, 9.0]
    same(operations.put(X, np.array([1, -1]), np.array([8.0, 9.0])), expected.reshape(3, 4))
    expected = X.copy()
    expected[X > 0] = np.arange(np.count_nonzero(X > 0))
    same(operations.masked_scatter(X, X > 0, np.arange(12.0)), expected)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", ["sum", "prod", "mean", "amax", "amin"])
def test_everything_that_an_index_sends_to_one_place(kind, own):
    reduce = {"sum": sum, "prod": math.prod, "mean": np.mean, "amax": max, "amin": min}[kind]
    for whole in (False, True):
        x, source = ((10 * each).astype(int) if whole else each for each in (X, SOURCE))
        expected = x.copy()
        for i, j in np.ndindex(3, 4):
            sent = [source[n, j] for n in range(2) if INDEX[n, j] == i]
            if sent:
                value = reduce([*([x[i, j]] if own else []), *sent])
                expected[i, j] = math.floor(value) if whole else value
        same(operations.scatter_reduce(x, 0, INDEX, source, kind, include_self=own), expected)
        if kind != "sum":
            rows = INDEX[0, :2]
            spread = np.broadcast_to(rows[:, None], (2, 4))
            by_rows = operations.scatter_reduce(x, 0, spread, source, kind, include_self=own)
            same(operations.index_reduce(x, 0, rows, source, kind, include_self=own), by_rows.numpy())


def test_long_runs_of_one_index_are_combined_whole():
    rng = np.random.default_rng(2)
    index, source = rng.integers(0, 7, 1000), rng.uniform(0.9, 1.1, 1000)
    products = [math.prod(source[index == i]) for i in range(7)]
    same(operations.scatter_reduce(np.ones(7), 0, index, source, "prod"), products)
    largest = [source[index == i].max() for i in range(7)]
    same(operations.scatter_reduce(np.zeros(7), 0, index, source, "amax"), largest)


def test_a_product_with_zeros_has_its_gradient():
    x = dg.tensor([2.0, 3.0], requires_grad=True, dtype=dg.float64)
    source = dg.tensor([0.0, 4.0, 0.0, 0.0], requires_grad=True, dtype=dg.float64)
    y = operations.scatter_reduce(x, 0, np.array([0, 0, 1, 1]), source, "prod")
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]
    assert source.grad.tolist() == [8.0, 0.0, 0.0, 0.0]


def test_statistics():
    same(dg.cov(X), np.cov(X))
    weights = {"fweights": np.array([1, 2, 3, 1]), "aweights": np.array([0.5, 1.0, 0.2, 0.3])}
    same(dg.cov(X, correction=0, **weights), np.cov(X, ddof=0, **weights))
    same(dg.cov(X, **weights), np.cov(X, **weights))
    same(dg.corrcoef(X), np.corrcoef(X))
    values, index = operations.kthvalue(X, 2, 0)
    same(values, np.sort(X, axis=0)[1])
    same(index, np.argsort(X, axis=0)[1])
    numbers = np.random.default_rng(3).integers(0, 4, (5, 40))
    values, index = operations.mode(numbers)
    for row, value, place in zip(numbers, values.tolist(), index.tolist(), strict=True):
        counts = np.bincount(row)
        assert value == counts.argmax()
        assert place == np.flatnonzero(row == value)[-1]


def test_log_sums_and_distances():
    same(operations.logcumsumexp(X, 1), np.logaddexp.accumulate(X, axis=1))
    same(operations.logcumsumexp(np.array([-1000.0, 1000.0, 0.0]), 0), [-1000.0, 1000.0, 1000.0])
    for p in (1.0, 2.0, 3.5, math.inf):
        same(operations.dist(X, X[0], p), np.linalg.norm((X - X[0]).reshape(-1), ord=p))
        pairs = [np.linalg.norm(a - b, ord=p) for a, b in itertools.combinations(X, 2)]
        same(operations.pdist(X, p), pairs)
    found = operations.renorm(X, 2.0, 0, 1.0).numpy()
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(found, X / np.maximum(lengths, 1.0), rtol=1e-6)
