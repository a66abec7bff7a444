"""What is said of names and arguments that PyTorch has where distgrad has none."""

import pytest

from distgrad.names.lacking import lacking, unexpected


def test_a_name_with_a_hint_says_what_to_write():
    with pytest.raises(AttributeError, match=r"^module 'm' has no attribute 'cat'; write concat$"):
        lacking("module 'm'", {"cat": "write concat"})("cat")


def test_a_name_without_a_hint_is_an_ordinary_error():
    with pytest.raises(AttributeError, match=r"^module 'm' has no attribute 'gobble'$"):
        lacking("module 'm'", {"cat": "write concat"})("gobble")


def test_an_argument_says_what_stands_for_it_or_to_leave_it_out():
    hints = {"device_ids": "call model.to(device) before"}
    assert str(unexpected("f", "device_ids", hints)) == (
        "f: unexpected argument 'device_ids'; call model.to(device) before"
    )
    assert str(unexpected("f", "gobble", hints)) == "f: unexpected argument 'gobble'; leave it out"
