"""Random chains of views, written through: values, memory and gradients are PyTorch's."""

import random

import numpy as np
import pytest

import distgrad.torch

torch = pytest.importorskip("torch")


def a_slice(rng, length):
    start = rng.randint(-length, length)
    stop = rng.choice([None, rng.randint(-length, length)])
    return slice(rng.choice([None, start]), stop, rng.choice([None, 1, 2]))


def an_index(rng, shape):
    """A basic index: whole numbers, slices, None and an ellipsis."""
    key = []
    for length in shape[: rng.randint(0, len(shape))]:
        kinds = ["slice", "slice", "none"] + ["int"] * (length > 0)
        kind = rng.choice(kinds)
        if kind == "int":
            key.append(rng.randint(-length, length - 1))
        else:
            key += [None] * (kind == "none") + [a_slice(rng, length)]
    if rng.random() < 0.3:
        key.append(...)
    return tuple(key)


def factors(rng, total):
    """A shape of so many elements."""
    if not total:
        return [0, 2]
    shape = []
    while total > 1:
        length = rng.choice([n for n in range(2, total + 1) if total % n == 0])
        shape.append(length)
        total //= length
    for _ in range(rng.randint(0, 1)):
        shape.insert(rng.randint(0, len(shape)), 1)
    return shape


def a_step(rng, shape):
    """The next view of a tensor of this shape, as its name and a function of the tensor."""
    ndim = len(shape)
    total = int(np.prod(shape))
    sizes = factors(rng, total)
    key, new_axis, offset = an_index(rng, shape), rng.randint(-ndim - 1, ndim), rng.randint(-1, 1)
    steps = [
        ("view", lambda x: x.view(sizes)),
        ("reshape", lambda x: x.reshape(sizes)),
        ("index", lambda x: x[key]),
        ("unsqueeze", lambda x: x.unsqueeze(new_axis)),
        ("the same view", lambda x: x.view(x.shape)),
        ("expand", lambda x: x.expand(1, *shape)),
        ("flatten", lambda x: x.flatten()),
        ("squeeze", lambda x: x.squeeze()),
    ]
    if ndim:
        dim, other = rng.randrange(ndim), rng.randrange(ndim)
        order = rng.sample(range(ndim), ndim)
        length = shape[dim]
        first = rng.randint(0, length)
        width = rng.randint(0, length - first)
        steps += [
            ("transpose", lambda x: x.transpose(dim, other)),
            ("permute", lambda x: x.permute(order)),
            ("narrow", lambda x: x.narrow(dim, first, width)),
            ("movedim", lambda x: x.movedim(dim, other)),
            ("squeeze of an axis", lambda x: x.squeeze(dim)),
            ("flip", lambda x: x.flip(dim)),
            ("swapaxes", lambda x: x.swapaxes(dim, other - ndim)),
        ]
        if length:
            place, parts = rng.randrange(length), rng.randint(1, 3)
            steps += [
                ("select", lambda x: x.select(dim, place)),
                ("chunk", lambda x: x.chunk(parts, dim)[-1]),
                ("split", lambda x: x.split(parts, dim)[0]),
                ("tensor_split", lambda x: x.tensor_split(parts, dim)[0]),
                ("unbind", lambda x: x.unbind(dim)[place]),
                ("unflatten", lambda x: x.unflatten(dim, (-1, 1))),
            ]
        if ndim > 1 and dim != other:
            steps += [
                ("diagonal", lambda x: x.diagonal(offset, dim, other)),
                ("mT", lambda x: x.mT),
                ("flatten of two", lambda x: x.flatten(min(dim, other), max(dim, other))),
            ]
    return rng.choice(steps)


def told(x):
    return (
        tuple(x.shape),
        x.is_contiguous(),
        [s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1] if x.numel() else None,
        x.storage_offset() if x.numel() else None,
    )


def outcome(lib, start, steps, grad):
    """What a chain gives with one of the two: the view, how it lies, the base after a write, the gradient."""
    base = lib.tensor(start)
    leaf = base
    if grad:
        leaf = base.requires_grad_()
        base = leaf * 1
    view = base
    try:
        for _, step in steps:
            view = step(view)
    except (RuntimeError, IndexError, ValueError) as error:
        return [type(error), isinstance(error, RuntimeError)]
    before = told(view)
    same_start = view.numel() > 0 and view.data_ptr() == base.data_ptr()
    try:
        view.mul_(3.0)
    except RuntimeError as error:  # PyTorch refuses to follow one of several views
        if "multiple views" in str(error):
            return None
        raise
    view[...] = view + 1
    found = [before, same_start, view.detach().numpy().copy(), base.detach().numpy().copy()]
    if grad:
        ((base * base).sum() + (view * 2).sum()).backward()
        found.append(leaf.grad.numpy().copy())
    return found


def check(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        shape = [rng.choice([1, 2, 3, 4]) for _ in range(rng.randint(0, 4))]
        if rng.random() < 0.05:
            shape = [0, *shape]
        start = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
        steps, reached = [], torch.tensor(start)
        for _ in range(rng.randint(1, 4)):
            steps.append(a_step(rng, list(reached.shape)))
            try:
                reached = steps[-1][1](reached)
            except (RuntimeError, IndexError, ValueError):
                break
        grad = rng.random() < 0.5
        theirs = outcome(torch, start, steps, grad) or outcome(torch, start, steps, grad := False)
        ours = outcome(distgrad.torch, start, steps, grad)
        chain = f"{shape}: {' '.join(name for name, _ in steps)}{' with gradients' if grad else ''}"
        if isinstance(theirs[0], type):
            assert isinstance(ours[0], type), f"{chain}: PyTorch refuses it"
            assert issubclass(ours[0], theirs[0]), f"{chain}: {ours[0]}, PyTorch {theirs[0]}"
            continue
        assert not isinstance(ours[0], type), f"{chain}: {ours[0]}"
        for place, (x, y) in enumerate(zip(ours, theirs, strict=True)):
            same = np.array_equal(x, y) if isinstance(y, np.ndarray) else x == y
            assert same, f"{chain}: {place}: {x}, PyTorch {y}"


def test_chains_of_views():
    check(0, 150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_chains_of_views(seed):
    check(seed, 2000)
