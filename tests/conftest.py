"""What every test has: several ranks inside one pytest command, and no world or thread left after a test."""

import threading
from collections.abc import Iterator

import pytest
from ranks_plugin import (  # noqa: F401  (pytest finds hooks by their names here)
    pytest_collection_modifyitems,
    pytest_collectreport,
    pytest_configure,
    pytest_pyfunc_call,
    pytest_runtest_logreport,
)

from distgrad.comm import finalize

pytest_plugins = ["gpu_double.plugin"]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test's world ends with the test, and so do the threads of its ranks and communicators."""
    before = set(threading.enumerate())
    yield
    finalize()
    left = [
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith(("distgrad", "rank "))
    ]
    assert not left, f"threads outlive the test: {left}"
