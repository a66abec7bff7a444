"""Connectionist temporal classification: the likelihood of a label sequence over all its alignments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distgrad.autograd.dispatch import Array, composite
from distgrad.autograd.primitive import Reject, Sample
from distgrad.backend.device import at_hand
from distgrad.errors import DTypeError, ShapeError

_TARGETS = np.array([[1, 2, 2], [3, 0, 0]])
_GIVEN = {"targets": _TARGETS, "input_lengths": np.array([6, 4]), "target_lengths": np.array([3, 1])}


def _check(log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array) -> None:
    shape = list(log_probs.shape)
    if len(shape) != 3 or len(targets.shape) != 2 or targets.shape[0] != shape[1]:
        raise ShapeError(
            f"ctc_loss: log_probs is {shape}, targets {list(targets.shape)}; expected [T, N, C] and [N, S]"
        )
    if targets.dtype.kind not in "iu":
        raise DTypeError(f"ctc_loss: targets must hold class numbers (integers), got {targets.dtype}")
    limits = (
        ("input_lengths", input_lengths, 1, shape[0]),
        ("target_lengths", target_lengths, 0, targets.shape[1]),
    )
    for name, lengths, least, most in limits:
        if tuple(lengths.shape) != (shape[1],):
            raise ShapeError(f"ctc_loss: {name} is {list(lengths.shape)}, expected [{shape[1]}]")
        if at_hand(lengths) and lengths.size and (int(lengths.min()) < least or int(lengths.max()) > most):
            raise ShapeError(f"ctc_loss: {name} must lie in {least} ... {most}, got {lengths.tolist()}")


def _with_blanks(xp: Any, targets: Array, blank: int) -> Array:
    """A blank before each label and at the end, ``[N, 2 S + 1]``."""
    count, length = targets.shape
    blanks = targets * 0 + blank
    pairs = xp.reshape(xp.stack([blanks, targets], axis=-1), (count, 2 * length))
    return xp.concat([pairs, xp.full((count, 1), blank, dtype=targets.dtype)], axis=1)


def _shifted(xp: Any, x: Array, places: int) -> Array:
    return xp.pad_constant(x, pad_width=((0, 0), (places, -places)), value=-math.inf)


@composite(
    math="y[n] = -log Σ_a Π_t e^log_probs[t, n, a[t]], a any alignment of targets[n]",
    source="Graves et al., ICML 2006",
    dtypes="real floating-point",
    samples=[
        Sample(((6, 2, 4),), _GIVEN),
        Sample(((6, 2, 4),), {**_GIVEN, "blank": 3, "targets": np.array([[0, 1, 1], [2, 2, 2]])}),
        Sample(((6, 2, 4),), {**_GIVEN, "target_lengths": np.array([0, 2])}, note="no labels"),
        Sample(
            ((2, 2, 4),),
            {**_GIVEN, "input_lengths": np.array([2, 2]), "zero_infinity": True},
            note="too short for its labels",
        ),
    ],
    rejects=[
        Reject(((6, 4),), ShapeError, "expected [T, N, C]", _GIVEN),
        Reject(((5, 2, 4),), ShapeError, "input_lengths must lie in 1 ... 5", _GIVEN),
        Reject(((6, 2, 4),), DTypeError, "class numbers", {**_GIVEN, "targets": _TARGETS * 1.0}),
    ],
)
def ctc_loss(
    xp: Any,
    log_probs: Array,
    /,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Array:
    """Negative log-likelihood of label sequences of unknown alignment.

    Args:
        log_probs: logarithms of the classes' probabilities, ``[T, N, C]``.
        targets: class numbers ``[N, S]``; those past a sequence's length are any classes.
        input_lengths: time steps of each sequence, ``[N]``, at least 1.
        target_lengths: labels of each sequence, ``[N]``.
        blank: the class that stands for no label.
        zero_infinity: 0 instead of ∞ where a sequence is too short for its labels.

    Returns:
        ``[N]``.
    """
    _check(log_probs, targets, input_lengths, target_lengths)
    steps, count = log_probs.shape[:2]
    labels = _with_blanks(xp, targets, blank)
    places = labels.shape[1]
    emitted = xp.gather_elements(log_probs, xp.broadcast_to(labels, (steps, count, places)), axis=2)
    # a label may follow another directly, without a blank between, if the two differ
    differs = xp.concat([labels[:, :2] != labels[:, :2], labels[:, 2:] != labels[:, :-2]], axis=1)[:, :places]
    skips = xp.where(differs, xp.zeros((), dtype=log_probs.dtype), -math.inf)
    alpha = xp.where(xp.arange(places) < 2, emitted[0], -math.inf)
    lengths = xp.expand_dims(input_lengths, axis=1)
    for step in range(1, steps):
        ways = [alpha, _shifted(xp, alpha, 1)]
        if places > 2:
            ways.append(_shifted(xp, alpha, 2) + skips)
        following = xp.logsumexp(xp.stack(ways), axis=0) + emitted[step]
        alpha = xp.where(step < lengths, following, alpha)
    last = 2 * xp.expand_dims(target_lengths, axis=1)
    on_label = xp.gather_elements(alpha, xp.maximum(last - 1, 0), axis=1)
    ends = [xp.gather_elements(alpha, last, axis=1), xp.where(last > 0, on_label, -math.inf)]
    y = -xp.logsumexp(xp.concat(ends, axis=1), axis=1)
    return xp.where(xp.isfinite(y), y, 0.0) if zero_infinity else y
