"""Tests marked ``gpu`` need a real one, or the double that they name: else they are skipped, and say so."""

import pytest
from real_gpus import gpus_are_there

import distgrad as dg


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them, with the reason, where CuPy finds no GPU."""
    marked = [
        item
        for item in items
        if item.get_closest_marker("gpu") is not None and item.get_closest_marker("gpu_double") is None
    ]
    if not marked or gpus_are_there():
        return
    try:
        dg.device("cuda")
    except dg.DeviceError as error:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"needs a real GPU: {error}"))
