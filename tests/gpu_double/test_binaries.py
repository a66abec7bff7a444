"""Rung 4: kernels compiled ahead are what a first step runs, and none of distgrad's is compiled by it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_double.runtime import unavailable

ROOT = Path(__file__).parents[2]
EVERYWHERE = Path(__file__).parent / "everywhere"
STEP = """
import hashlib, json
from gpu_double.runtime import installed
from cupy.cuda import compiler
compile, compiled = compiler._compile_module_with_cache, []
def count(source, *args, **options):
    compiled.append(source)
    return compile(source, *args, **options)
compiler._compile_module_with_cache = count
import distgrad as dg
dg.manual_seed(0)
with dg.device("cuda"):
    net = dg.nn.Sequential(dg.nn.Linear(6, 8), dg.nn.LayerNorm(8), dg.nn.GELU(), dg.nn.Linear(8, 4))
    net.to("cuda")
    x, y = dg.rand(5, 6), dg.zeros(5, dtype=dg.int64)
optimizer = dg.optim.AdamW(net.parameters())
dg.nn.functional.cross_entropy(net(x), y).backward()
optimizer.step()
bits = b"".join(p.detach().cpu().numpy().tobytes() for p in net.parameters())
print(json.dumps({
    "compiled": sum(source.startswith("#define STORAGE") for source in compiled),
    "loaded": installed().calls["moduleLoad"],
    "bits": hashlib.sha256(bits).hexdigest(),
}))
"""


@pytest.fixture(autouse=True)
def needs_the_double():
    if (reason := unavailable()) is not None:
        pytest.skip(reason)


def python(folder, *arguments):
    """A Python on the double, with its kernels in a folder."""
    path = os.pathsep.join(map(str, (EVERYWHERE, ROOT, ROOT / "tests")))
    env = {**os.environ, "PYTHONPATH": path, "DISTGRAD_CACHE": str(folder), "CUPY_ACCELERATORS": ""}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def step(folder):
    return json.loads(python(folder, "-c", STEP).splitlines()[-1])


def warm(folder, *levels):
    options = [text for level in levels for text in ("--level", level)]
    return python(folder, "-m", "distgrad", "warm", "--device", "cuda", *options)


@pytest.mark.timeout(300)
def test_a_step_compiles_nothing_of_distgrad_s_where_that_was_done_ahead(tmp_path):
    assert f"GPUs of sm_90 lie in {tmp_path}, 60 sources compiled" in warm(tmp_path, "sm_90")
    found = step(tmp_path)
    assert found["compiled"] == 0
    assert found["loaded"] >= 5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_missing_or_damaged_is_compiled_and_bits_are_the_same(tmp_path):
    cold = step(tmp_path / "empty")
    assert cold["compiled"] >= 5
    assert cold["loaded"] == 0
    folder = tmp_path / "warm"
    assert f"GPUs of sm_80 and sm_90 lie in {folder}, 120 sources compiled" in warm(folder, "sm_80", "sm_90")
    assert "GPUs of sm_90 lie in" in (again := warm(folder, "sm_90"))
    assert ", 0 sources compiled" in again
    found = step(folder)
    assert found["compiled"] == 0
    assert found["loaded"] >= 5
    assert found["bits"] == cold["bits"]
    files = list(folder.glob("cuda-*/*.cubin"))
    assert len(files) == 120
    (damaged,) = folder.glob("cuda-*/linear-f.sm_90.*.cubin")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (other,) = folder.glob("cuda-*/norm-f.sm_90.*.cubin")
    other.unlink()
    assert step(folder) == {**found, "compiled": 2, "loaded": found["loaded"] - 2}
