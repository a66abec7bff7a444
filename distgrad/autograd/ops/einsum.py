"""Einstein summation, as a chain of matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.primitive import Reject, Sample
from distgrad.errors import ShapeError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

#: An operand and the label of each of its axes: a letter, or a negative number for an axis of an ellipsis.
Labels = tuple[str | int, ...]
Term = tuple[Array, Labels]


@composite(
    math="y[output] = Σ over the other labels of Π operands[labels]",
    samples=[
        Sample(("ij,jk->ik", (3, 4), (4, 2)), note="matrix product"),
        Sample(("bij,bjk", (2, 3, 4), (2, 4, 2)), note="implicit output"),
        Sample(("ii->i", (3, 3)), note="diagonal"),
        Sample(("ii", (3, 3)), note="trace"),
        Sample(("iji,jk->ki", (2, 3, 2), (3, 4)), note="diagonal inside a product"),
        Sample(("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)), note="ellipses that broadcast"),
        Sample(("...i->...", (2, 3, 4))),
        Sample(("ij,kl", (2, 3), (4, 2)), note="outer product"),
        Sample(("i,i,i->", (3,), (3,), (3,)), note="three operands"),
        Sample(("ab,bc,cd,de->ae", (2, 3), (3, 4), (4, 2), (2, 5)), note="a chain"),
        Sample(("ab,bc,cd->ad", (2, 3), (3, 4), (4, 2)), {"optimize": False}),
        Sample(("ij,jk->ik", (3, 1), (4, 2)), note="an axis of length 1 broadcasts"),
        Sample(("ij,jk->ik", (0, 4), (4, 2)), note="empty"),
        Sample(("ij,jk->ik", (3, 0), (0, 2)), note="a sum of nothing"),
        Sample((",ij->ji", (), (2, 3)), note="a scalar"),
        Sample(((3, 4), [0, 1], (4, 2), [1, 2], [0, 2]), note="labels as lists"),
    ],
    rejects=[
        Reject(("ij,jk->ik", (3, 4), (3, 2)), ShapeError, "label j has length 4 and 3"),
        Reject(("ij->ik", (3, 4)), ShapeError, "output label k"),
        Reject(("ij,jk", (3, 4)), ShapeError, "2 terms but 1 operand"),
        Reject(("ijk", (3, 4)), ShapeError, "names 3 axes"),
        Reject(("i$", (3, 4)), ShapeError, "'$' is no label"),
    ],
)
def einsum(xp: Any, *operands: Any, optimize: Any = True) -> Array:
    """Sum of products over labelled axes, with NumPy's subscripts.

    Args:
        *operands: the subscripts, ``"ij,jk->ik"``, then the arrays; or each array followed by a list of
            whole numbers that label its axes, and a last list for the output. A label that is used twice
            within a term takes the diagonal. ``...`` stands for axes that broadcast. Without an output
            it holds the labels used once, in alphabetical order.
        optimize: how to order the products of more than two arrays: True or ``"greedy"``, ``"optimal"``,
            a path as ``np.einsum_path`` returns it, or False for left to right.

    Raises:
        ShapeError: subscripts that do not fit the arrays.
    """
    subscripts, arrays = _subscripts(operands)
    inputs, _, output = subscripts.replace(" ", "").partition("->")
    texts = inputs.split(",")
    if len(texts) != len(arrays):
        raise ShapeError(f"einsum: {subscripts!r} has {len(texts)} terms but {len(arrays)} operand(s) came")
    terms = [(x, _parse(text, len(x.shape))) for text, x in zip(texts, arrays, strict=True)]
    sizes = _sizes(terms)
    kept = _output_labels(output if "->" in subscripts else None, [labels for _, labels in terms])
    for label in kept:
        if label not in sizes:
            raise ShapeError(f"einsum: output label {label} stands in no operand of {subscripts!r}")
    terms = [_diagonal(xp, *_without_broadcast(xp, *term, sizes)) for term in terms]
    for places in _path(terms, kept, sizes, optimize):
        chosen = [terms[place] for place in places]
        terms = [term for place, term in enumerate(terms) if place not in places]
        needed = {*kept, *(label for _, labels in terms for label in labels)}
        while len(chosen) > 1:
            later = {*needed, *(label for _, labels in chosen[2:] for label in labels)}
            chosen[:2] = [_product(xp, chosen[0], chosen[1], later)]
        terms += chosen
    x, labels = _summed(xp, *terms[0], set(kept))
    return xp.permute_dims(x, tuple(labels.index(label) for label in kept))


def _subscripts(operands: Sequence[Any]) -> tuple[str, list[Array]]:
    """Subscripts as text, and the arrays, from either form of the arguments."""
    if operands and isinstance(operands[0], str):
        return operands[0], list(operands[1:])
    arrays, lists = list(operands[0:-1:2]), list(operands[1::2])
    output = [operands[-1]] if len(operands) % 2 else []
    texts = ["".join("..." if i is Ellipsis else _LETTERS[i] for i in each) for each in lists + output]
    return ",".join(texts[: len(arrays)]) + ("->" + texts[-1] if output else ""), arrays


def _parse(text: str, ndim: int) -> Labels:
    """One term's labels; an ellipsis becomes −n … −1, as many as there are axes left."""
    before, dots, after = text.partition("...")
    for letter in before + after:
        if letter not in _LETTERS:
            raise ShapeError(f"einsum: {letter!r} is no label; use letters, ',', '->' and '...'")
    rest = ndim - len(before) - len(after)
    if rest < 0 or (rest and not dots):
        raise ShapeError(f"einsum: {text!r} names {len(before) + len(after)} axes of an array with {ndim}")
    return (*before, *range(-rest, 0), *after)


def _output_labels(text: str | None, terms: list[Labels]) -> Labels:
    """The output's labels; without a text those of the ellipsis, then letters used once, in order."""
    every = [label for labels in terms for label in labels]
    dots = sorted({label for label in every if isinstance(label, int)})
    if text is None:
        letters = [label for label in every if isinstance(label, str)]
        return (*dots, *sorted(label for label in letters if letters.count(label) == 1))
    labels = _parse(text, len(text.replace("...", "")) + (len(dots) if "..." in text else 0))
    if len(set(labels)) != len(labels):
        raise ShapeError(f"einsum: the output {text!r} names a label twice")
    return labels


def _sizes(terms: list[Term]) -> dict[str | int, int]:
    """The length that each label stands for; a length of 1 gives way to any other."""
    sizes: dict[str | int, int] = {}
    for x, labels in terms:
        for label, length in zip(labels, x.shape, strict=True):
            known = sizes.get(label, 1)
            if known != length and 1 not in (known, length):
                raise ShapeError(f"einsum: label {label} has length {known} and {length}")
            sizes[label] = length if known == 1 else known
    return sizes


def _without_broadcast(xp: Any, x: Array, labels: Labels, sizes: dict[str | int, int]) -> Term:
    """Drop axes of length 1 whose label is longer elsewhere."""
    kept = [(label, n) for label, n in zip(labels, x.shape, strict=True) if n == sizes[label]]
    if len(kept) == len(labels):
        return x, labels
    return xp.reshape(x, tuple(n for _, n in kept)), tuple(label for label, _ in kept)


def _diagonal(xp: Any, x: Array, labels: Labels) -> Term:
    """Bring each label that stands twice to one axis."""
    while len(set(labels)) != len(labels):
        label = next(label for label in labels if labels.count(label) > 1)
        places = [i for i, each in enumerate(labels) if each == label]
        others = [i for i in range(len(labels)) if i not in places]
        index = xp.arange(x.shape[places[0]])
        x = xp.permute_dims(x, (*places, *others))[(index,) * len(places)]
        labels = (label, *(labels[i] for i in others))
    return x, labels


def _path(terms: list[Term], kept: Labels, sizes: dict[str | int, int], optimize: Any) -> list[Any]:
    """Which operands to multiply, step after step; products go to the end of the list."""
    count = len(terms)
    if count <= 2 or optimize is False:
        return [tuple(range(count))] if count > 1 else []
    if not isinstance(optimize, bool | str):
        return [step for step in optimize if not isinstance(step, str)]
    letters = dict(zip(sizes, _LETTERS, strict=False))
    texts = ["".join(letters[label] for label in labels) for _, labels in terms]
    subscripts = ",".join(texts) + "->" + "".join(letters[label] for label in kept)
    stand_ins = [np.broadcast_to(np.float32(0), x.shape) for x, _ in terms]
    path, _ = np.einsum_path(subscripts, *stand_ins, optimize="greedy" if optimize is True else optimize)
    return list(path[1:])


def _summed(xp: Any, x: Array, labels: Labels, needed: set[Any]) -> Term:
    """Sum over the axes whose label nothing else needs."""
    surplus = tuple(i for i, label in enumerate(labels) if label not in needed)
    if not surplus:
        return x, labels
    return xp.sum(x, axis=surplus), tuple(label for label in labels if label in needed)


def _product(xp: Any, left: Term, right: Term, needed: set[Any]) -> Term:
    """Two operands as a stack of matrix products, [both, left, summed] times [both, summed, right]."""
    x1, labels1 = _summed(xp, *left, {*needed, *right[1]})
    x2, labels2 = _summed(xp, *right, {*needed, *left[1]})
    sizes = dict(zip(labels1 + labels2, x1.shape + x2.shape, strict=True))
    shared = [label for label in labels1 if label in labels2]
    batch = [label for label in shared if label in needed]
    inner = [label for label in shared if label not in needed]
    rows = [label for label in labels1 if label not in labels2]
    columns = [label for label in labels2 if label not in labels1]

    def matrices(x: Array, labels: Labels, first: list[Any], second: list[Any]) -> Array:
        order = [*batch, *first, *second]
        x = xp.permute_dims(x, tuple(labels.index(label) for label in order))
        shape = (math.prod(sizes[label] for label in group) for group in (first, second))
        return xp.reshape(x, (*(sizes[label] for label in batch), *shape))

    product = xp.matmul(matrices(x1, labels1, rows, inner), matrices(x2, labels2, inner, columns))
    labels = (*batch, *rows, *columns)
    return xp.reshape(product, tuple(sizes[label] for label in labels)), labels
