"""A pytest plugin for the check of a GPU: tests are written down as they end, and skipping is not passing.

``python -m pytest -p outcomes`` with this folder on the path. The exit status is 1 if a test failed, was
skipped, or did not run, and if there was none.
"""

from __future__ import annotations

from collections import Counter

import pytest
from rows import TESTS, add

_TEXT_CHARS = 2000


class Outcomes:
    """Counts and writes; with pytest-xdist in the process that the others report to."""

    def __init__(self) -> None:
        self.collected = 0
        self.counts: Counter[str] = Counter()

    def _collected(self, count: int) -> None:
        if count and not self.collected:
            self.collected = count
            add(TESTS, collected=count)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._collected(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        self._collected(len(ids))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._add(report.nodeid, "failed" if report.failed else "skipped", report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._add(report.nodeid, report.outcome, report)

    def _add(self, test: str, outcome: str, report: pytest.TestReport | pytest.CollectReport) -> None:
        self.counts[outcome] += 1
        row = {"test": test, "outcome": outcome, "seconds": round(getattr(report, "duration", 0.0), 3)}
        if outcome != "passed":
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            row["text"] = text[-_TEXT_CHARS:]
        add(TESTS, **row)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        all_passed = 0 < self.counts["passed"] == self.counts.total() >= self.collected
        if not all_passed and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure(config: pytest.Config) -> None:
    """Watch, but not in the workers of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes())
