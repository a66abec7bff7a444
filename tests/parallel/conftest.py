"""Pages of small networks are given back too, so that a block shows that is read when it is not there."""

import pytest

from distgrad.backend import memory


@pytest.fixture(autouse=True)
def no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stays of what is given back."""
    monkeypatch.setattr(memory, "RESERVE_BYTES", 0)
