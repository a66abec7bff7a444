"""What is said of names and arguments that PyTorch has where distgrad has none."""

import pytest

from distgrad.names import hints
from distgrad.names.lacking import lacking, unexpected


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setitem(hints.HINTS, "module 'm'", {"cat": "write concat"})
    monkeypatch.setitem(hints.ARGUMENTS, "f", {"device_ids": "call model.to(device) before"})


def test_a_name_with_a_hint_says_what_to_write():
    with pytest.raises(AttributeError, match=r"^module 'm' has no attribute 'cat'; write concat$"):
        lacking("module 'm'")("cat")


def test_a_name_without_a_hint_is_an_ordinary_error():
    with pytest.raises(AttributeError, match=r"^module 'm' has no attribute 'gobble'$"):
        lacking("module 'm'")("gobble")


def test_an_argument_says_what_stands_for_it_or_to_leave_it_out():
    assert str(unexpected("f", "device_ids")) == (
        "f: unexpected argument 'device_ids'; call model.to(device) before"
    )
    assert str(unexpected("f", "gobble")) == "f: unexpected argument 'gobble'; leave it out"
