"""The benchmark of sharding weighs what it says, and knows a stage that keeps too much."""

import pytest

from distgrad.scale.bench import sharded


@pytest.mark.timeout(150)
def test_a_stage_is_weighed_beside_its_formula(monkeypatch):
    monkeypatch.setitem(sharded.MODELS, "small", (65, 8, 4, 4, 256))  # 3.2 million parameters
    monkeypatch.setattr(sharded, "STEPS", 2)
    row = sharded.weigh("small", "parameters", 2)
    assert 0.5 < row["bytes"] / row["formula"] < 1.6  # its interpreter's own share is large yet
    monkeypatch.setitem(sharded.FORMULAS, "parameters", lambda n: 1.0)
    assert not sharded.weigh("small", "parameters", 2)["holds"]
