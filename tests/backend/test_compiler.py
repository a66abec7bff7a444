"""A Numba that does not load, being older than its NumPy, leaves the computation to NumPy and says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPUTE = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import distgrad as dg
    from distgrad.comm import meeting
    model = dg.nn.Sequential(dg.nn.Linear(64, 64), dg.nn.GELU(), dg.nn.LayerNorm(64))
    optimizer = dg.optim.AdamW(model.parameters(), lr=0.1)
    dg.manual_seed(0)
    x, target = dg.randn(64, 64), dg.randint(0, 64, (64,))
    for _ in range(2):
        optimizer.zero_grad()
        loss = dg.nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
    compiled = meeting._load_compiled()
print(json.dumps([loss.item(), compiled is None, [str(w.message) for w in caught]]))
"""


def compute(folder, numba):
    """Train with a package ``numba`` of that text in front; what the program prints."""
    (folder / "numba").mkdir()
    (folder / "numba" / "__init__.py").write_text(numba)
    env = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", COMPUTE], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "refusal", ['ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.5.")', 'OSError("no libLLVM")']
)
def test_a_numba_that_refuses_is_warned_of_once_and_numpy_computes(refusal, tmp_path):
    loss, no_compiled_collectives, warned = compute(tmp_path, f"raise {refusal}\n")
    assert 0 < loss < 10
    assert no_compiled_collectives
    (message,) = warned
    assert refusal.split('"')[1] in message
    assert message.startswith("kernels: Numba is installed but does not load")
    assert "install versions of numba and numpy that fit" in message
