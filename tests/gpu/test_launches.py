"""Rung 4, launches: what a training step starts on a GPU, counted on a null one, has a bar."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_double.runtime import unavailable

COUNT = Path(__file__).parent / "launches.py"

#: Kernels, cuBLAS's products, copies and fills of a step, at most; to be lowered with what is saved.
BARS = {
    "tiny": 18,
    "mlp": 18,
    "cnn": 35,
    "gpt": 150,
    "gptm": 220,  # 214 once every step's arrays lie where the last step's did
    "resnet20": 298,
    "lstm": 89,
    "embedding": 28,
}


@pytest.fixture(scope="module")
def counted():
    """The rows of ``launches.py`` by workload."""
    if (reason := unavailable()) is not None:
        pytest.skip(reason)
    done = subprocess.run([sys.executable, COUNT], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return {row["workload"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("workload", BARS)
def test_a_step_starts_no_more_than_its_bar(workload, counted):
    row = counted[workload]
    assert row["total"] <= BARS[workload], row


@pytest.mark.parametrize("workload", BARS)
def test_a_step_waits_for_nothing(workload, counted):
    assert counted[workload]["waits"] == 0


def test_all_is_counted(counted):
    """The sum, and in it the products that the model has: forward, and two backward but for the input's."""
    for row in counted.values():
        assert row["total"] == sum(row["most"].values()) + row["copies"] + row["fills"]
    assert counted["mlp"]["products"] == 3 + 3 + 2
    assert counted["mlp"]["most"]["kernel adam"] == 1
