"""Tensors without axes are weak in these tests, as wherever distgrad.torch is imported, and nowhere else."""

from collections.abc import Iterator

import pytest

import distgrad.torch  # noqa: F401  (before the tests' own import, which would leave them weak)
from distgrad.autograd.casting import set_weak_scalars

set_weak_scalars(False)


@pytest.fixture(autouse=True)
def weak_scalars() -> Iterator[None]:
    set_weak_scalars(True)
    yield
    set_weak_scalars(False)
