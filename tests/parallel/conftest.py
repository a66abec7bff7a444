"""Pages of small networks are given back too, so that a block shows that is read when it is not there."""

from collections.abc import Iterator

import pytest

import distgrad as dg
from distgrad.backend import memory


@pytest.fixture(autouse=True)
def no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stays of what is given back."""
    monkeypatch.setattr(memory, "RESERVE_BYTES", 0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Ranks that are threads share the cores."""
    before = dg.get_num_threads()
    dg.set_num_threads(1)
    yield
    dg.set_num_threads(before)
