"""Random indices, read and written: values, gradients and shared memory are PyTorch's."""

import random

import numpy as np
import pytest

import distgrad.torch

torch = pytest.importorskip("torch")


def places(rng, length, shape):
    """An array of places along an axis of that length, which has one at least."""
    return np.array([rng.randint(-length, length - 1) for _ in range(int(np.prod(shape)))], np.int64).reshape(
        shape
    )


def an_index(rng, shape):
    """Whole numbers, slices, None, an ellipsis, masks of any rank, arrays of places, lists."""
    key, rest = [], list(shape)
    common = rng.choice([[2], [3], [2, 1], [0], []])  # what arrays of places broadcast to
    if rng.random() < 0.3:
        key.append(...)
        rest = rest[rng.randint(0, len(rest)) :]
    if key and rest:
        rest = rest[-rng.randint(1, len(rest)) :]
    while rest and rng.random() < 0.8:
        length = rest[0]
        kind = rng.choice(
            ["int", "slice", "slice", "none", "mask", "places", "places", "list", "number", "true"]
        )
        if kind in ("int", "places", "list", "number") and not length:
            kind = "slice"
        if kind == "none":
            key.append(None)
            continue
        if kind == "true":
            key.append(rng.random() < 0.7)
            continue
        if kind == "mask":
            rank = rng.randint(1, len(rest))
            mask = np.array([rng.random() < 0.5 for _ in range(int(np.prod(rest[:rank])))], bool)
            key.append(mask.reshape(rest[:rank]))
            rest = rest[rank:]
            continue
        rest = rest[1:]
        if kind == "int":
            key.append(rng.randint(-length, length - 1))
        elif kind == "number":
            key.append(places(rng, length, []))
        elif kind == "list":
            key.append([rng.randint(-length, length - 1) for _ in range(common[-1] if common else 1)])
        elif kind == "places":
            key.append(places(rng, length, common))
        else:
            start, stop = (rng.choice([None, rng.randint(-length - 1, length + 1)]) for _ in range(2))
            key.append(slice(start, stop, rng.choice([None, 1, 2])))
    return tuple(key)


def in_library(lib, key):
    return tuple(lib.tensor(part) if isinstance(part, np.ndarray) else part for part in key)


def read(lib, start, key, grad):
    """The elements, whether they lie in the tensor's memory, and the gradient."""
    x = lib.tensor(start, requires_grad=grad)
    y = x[key]
    found = [y.detach().numpy().copy()]
    if grad:
        (y * lib.arange(1.0, 1.0 + y.numel()).double().reshape(y.shape)).sum().backward()
        return [*found, x.grad.numpy()]
    y.fill_(-1.0)
    return [*found, x.numpy()]


def written(lib, start, key, value, grad):
    """The tensor after a write, and the gradients of what was there and of what was written."""
    x = lib.tensor(start, requires_grad=grad)
    y = x * 1
    v = lib.tensor(value, requires_grad=grad) if isinstance(value, np.ndarray) else value
    y[key] = v
    found = [y.detach().numpy().copy()]
    if grad:
        (y * y).sum().backward()
        found.append(x.grad.numpy())
        if isinstance(value, np.ndarray):
            found.append(np.zeros_like(value) if v.grad is None else v.grad.numpy())
    return found


def outcome(function, lib, start, key, *rest):
    try:
        return function(lib, start, in_library(lib, key), *rest)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        return error


def twice(key):
    """Whether a place may be written twice, where the last value is not determined."""
    return any(isinstance(part, np.ndarray) and part.dtype != bool for part in key) or any(
        isinstance(part, list) for part in key
    )


def compare(theirs, ours, what):
    if isinstance(theirs, Exception):
        kind = next(each for each in type(theirs).__mro__ if each.__module__ == "builtins")
        assert isinstance(ours, kind), f"{what}: {ours!r}, PyTorch {theirs!r}"
        return
    assert not isinstance(ours, Exception), f"{what}: {ours!r}"
    for place, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        assert np.array_equal(x, y), f"{what}: {place}: {x}, PyTorch {y}"


def check(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        shape = [rng.choice([1, 2, 3, 4]) for _ in range(rng.randint(0, 4))]
        if rng.random() < 0.05:
            shape = [*shape, 0]
        start = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
        key, grad = an_index(rng, shape), rng.random() < 0.5
        what = f"{shape}[{key}]{' with gradients' if grad else ''}"
        read_ones = [outcome(read, lib, start, key, grad) for lib in (torch, distgrad.torch)]
        compare(*read_ones, what)
        if isinstance(read_ones[0], Exception):
            continue
        chosen = list(read_ones[0][0].shape)
        sizes = [1 if rng.random() < 0.3 else n for n in chosen[rng.randint(0, len(chosen)) :]]
        value = np.arange(50.0, 50.0 + np.prod(sizes)).reshape(sizes)
        if twice(key) or rng.random() < 0.3:
            value = 7.0
        results = [outcome(written, lib, start, key, value, grad) for lib in (torch, distgrad.torch)]
        compare(*results, f"{what} = {value}")


def test_indices():
    check(0, 200)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_indices(seed):
    check(seed, 3000)
