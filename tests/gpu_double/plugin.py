"""The ``gpu_double`` marker: tests whose bodies run in a process of their own, on CuPy over the double.

``@pytest.mark.gpu_double(ranks=1, devices=2, streams="eager", timeout=60, dies=())`` on a test, or
``pytestmark`` on a file. The tests of one file that ask for the same share a process; one that crashes or
hangs is failed, and the rest go on in a new process. Where the pinned CuPy or a compiler is missing they are
skipped, with the reason. With ``DISTGRAD_REAL_GPU`` in the environment (:mod:`real_gpus`) they run on the
GPUs that there are instead, and those that ask for more are skipped.
"""

from __future__ import annotations

import os

import pytest
from gpu_double.job import Outcome, Shape, run_tests
from gpu_double.runtime import unavailable
from gpu_double.worker import FOLDER
from real_gpus import on_real_gpus, problem

_outcomes = pytest.StashKey[Outcome]()


def pytest_configure() -> None:
    """Real GPUs that were asked for and are not there end the run: skipping would look like passing."""
    if (reason := problem()) is not None:
        raise pytest.UsageError(reason)


def _shape(item: pytest.Item) -> Shape | None:
    marker = item.get_closest_marker("gpu_double")
    return None if marker is None else Shape(**marker.kwargs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them here where they cannot run; let nothing be set up for them in this process."""
    if FOLDER in os.environ:
        return
    marked = [item for item in items if item.get_closest_marker("gpu_double") is not None]
    reason = unavailable() if marked and not on_real_gpus() else None
    for item in marked:
        item.fixturenames = []
        item.add_marker(pytest.mark.timeout(0))  # their job has its own
        if on_real_gpus():
            reason = _missing_gpus(_shape(item))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def _missing_gpus(shape: Shape) -> str | None:
    """Why a test cannot run on this host's GPUs; None if it can."""
    from distgrad import cuda

    needed, found = max(shape.ranks, shape.devices), cuda.device_count()
    return None if needed <= found else f"needs {needed} GPUs, and this host has {found}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """End as the test has ended on the double, where it runs with all others of its file and shape."""
    shape = _shape(pyfuncitem)
    if shape is None or FOLDER in os.environ:
        return None
    if _outcomes not in pyfuncitem.stash:
        _run_with_others(pyfuncitem, shape)
    outcome = pyfuncitem.stash[_outcomes]
    if outcome.kind == "skipped":
        pytest.skip(outcome.text)
    if outcome.kind == "failed":
        pytest.fail(outcome.text, pytrace=False)
    return True


def _run_with_others(first: pytest.Item, shape: Shape) -> None:
    items = {
        item.nodeid: item
        for item in first.session.items
        if item.path == first.path and _shape(item) == shape and _outcomes not in item.stash
    }
    if shape.dies:
        items = {first.nodeid: first}
    config = first.config
    options = [f"--rootdir={config.rootpath}"]
    if config.inipath is not None:
        options.append(f"--config-file={config.inipath}")
    for nodeid, outcome in run_tests(list(items), shape, config.rootpath, options).items():
        items[nodeid].stash[_outcomes] = outcome
