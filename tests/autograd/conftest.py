"""Counts what the generated tests check, and prints it when pytest ends."""

from collections import Counter

import pytest

pytest.register_assert_rewrite("primitive_checks")

CHECKED: Counter[str] = Counter()


@pytest.fixture(scope="session")
def checked() -> Counter[str]:
    """How often each kind of check has passed."""
    return CHECKED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts."""
    if CHECKED:
        terminalreporter.section("checks generated from the registry")
        for kind, number in CHECKED.items():
            terminalreporter.write_line(f"{number:6} {kind}")
