"""Decompositions are compared by what another library's choice of signs leaves alone."""

import device_checks as checks
import numpy as np
import pytest

from distgrad.autograd.samples import sample_cases
from distgrad.backend.device import CPU

CASES = [
    case for case in sample_cases() if case.record.name in checks.GAUGE_FREE and "empty" not in str(case)
]


def signed(name, parts, signs):
    """The same decomposition with other signs."""
    if name == "eigh":
        return parts[0], parts[1] * signs
    if name == "svd":
        u, s, vh = parts
        return u * signs[: u.shape[-1]], s, vh * signs[: vh.shape[-2], None]
    q, r = parts
    return q * signs[: q.shape[-1]], r * signs[: q.shape[-1], None]


def wrong(name, parts):
    """Vectors in another order than their values, or signs that differ between the factors."""
    first, second, *_ = parts
    if name == "eigh":
        return first, second[..., ::-1]
    if name == "svd":
        return (first * np.where(np.arange(first.shape[-1]), 1, -1), *parts[1:])
    return -first, second


def with_library(monkeypatch, case, change):
    """Result and gradients of both orders with what NumPy's decomposition gives changed."""
    name = case.record.name
    original = getattr(np.linalg, name)
    monkeypatch.setattr(np.linalg, name, lambda *args, **kwargs: change(name, original(*args, **kwargs)))
    try:
        return checks.Placed(case, CPU).gradients(order=2)
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_other_signs_are_the_same_decomposition(case, monkeypatch):
    expected = checks.Placed(case, CPU).gradients(order=2)
    signs = np.array([-1.0, 1.0, -1.0, -1.0, 1.0])
    raw = []

    def flip(name, parts):
        width = parts[0].shape[-1] if name != "eigh" else parts[1].shape[-1]
        raw.append(signed(name, parts, signs[:width]))
        return raw[-1]

    found = with_library(monkeypatch, case, flip)
    assert raw
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_another_decomposition_is_seen(case, monkeypatch):
    expected = checks.Placed(case, CPU).gradients(order=2)
    found = with_library(monkeypatch, case, wrong)
    assert any(
        not np.allclose(ours, theirs, rtol=1e-7, atol=1e-8)
        for ours, theirs in zip(found, expected, strict=True)
    )
