"""What every test has: several ranks inside one pytest command, and no world or thread left after a test."""

import os
import re
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator

import pytest
from ranks_plugin import (  # noqa: F401  (pytest finds hooks by their names here)
    pytest_collection_modifyitems,
    pytest_collectreport,
    pytest_configure,
    pytest_pyfunc_call,
    pytest_runtest_logreport,
)

from distgrad.autograd import functional
from distgrad.comm import finalize

pytest_plugins = ["gpu_double.plugin"]

# With it pytest shows the whole of what differs, which takes minutes where that is the bits of parameters.
os.environ.pop("CI", None)

# A shell starts what runs behind it deaf to Ctrl-C, and so would be what tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test's world ends with the test, and so do its threads; it begins with no losses behind it."""
    before = set(threading.enumerate())
    functional._watch.weight = 0  # what other tests' losses were is no concern of this one's
    yield
    finalize()
    left = [
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith(("distgrad", "rank "))
    ]
    assert not left, f"threads outlive the test: {left}"


#: A test of the equality with PyTorch, and the class that it compares.
COMPARED = re.compile(r"tests/(nn|optim)/\w+\.py::test_\w*equals?_\w*pytorchs?\w*\[(?:\d+-)?([A-Z]\w*)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many classes were compared with PyTorch's, and in how many tests."""
    classes: defaultdict[str, set[str]] = defaultdict(set)
    tests = 0
    for report in terminalreporter.getreports("passed"):
        found = COMPARED.search(report.nodeid) if report.when == "call" else None
        if found:
            room, name = found.groups()
            kind = "losses" if name.endswith("Loss") else "modules" if room == "nn" else "optimizers"
            classes["schedulers" if "test_schedulers" in report.nodeid else kind].add(name)
            tests += 1
    if tests:
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in sorted(classes.items()))
        terminalreporter.section("equality with PyTorch")
        terminalreporter.write_line(f"{counts} compared in {tests} tests")
