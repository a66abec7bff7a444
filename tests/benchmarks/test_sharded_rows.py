"""The benchmark of sharding weighs what it says, and knows a stage that keeps too much."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sharded(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("sharded", FOLDER / "sharded.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sharded"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(150)
def test_a_stage_is_weighed_beside_its_formula(sharded, monkeypatch):
    monkeypatch.setitem(sharded.MODELS, "small", (65, 8, 4, 4, 256))  # 3.2 million parameters
    monkeypatch.setattr(sharded, "STEPS", 2)
    row = sharded.weigh("small", "parameters", 2)
    assert 0.5 < row["bytes"] / row["formula"] < 1.6  # its interpreter's own share is large yet
    monkeypatch.setitem(sharded.FORMULAS, "parameters", lambda n: 1.0)
    assert not sharded.weigh("small", "parameters", 2)["holds"]
