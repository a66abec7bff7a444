"""Rung 8's script: without a GPU it ends at once, it takes no double for one, and keeps what it finds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_double.runtime import unavailable

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "gpu"
SCRIPT = HERE / "device.sh"
EVERYWHERE = ROOT / "tests" / "gpu_double" / "everywhere"
GRACE_S = 5  # after a stage's limit


def start(tmp_path, *options, **variables):
    """The script's end, and the rows of figures that it leaves."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DISTGRAD_REAL_GPU")}
    env = {**kept, "PYTHON": sys.executable, "OUT": str(tmp_path / "out"), **variables}
    done = subprocess.run(
        [SCRIPT, *options], env=env, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    return done, rows(tmp_path / "out" / "figures.jsonl")


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def stages(found):
    return {row["name"]: row["result"] for row in found if row["figure"] == "stage"}


def needs_the_double():
    if (reason := unavailable()) is not None:
        pytest.skip(reason)


def test_without_a_gpu_it_ends_at_once_and_says_why(tmp_path):
    done, found = start(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "\ngpu-check: device 'cuda': " in done.stdout
    assert stages(found) == {"facts": "failed (1)"}
    assert "# No GPU was found" in (tmp_path / "out" / "summary.md").read_text()
    assert "gpu-check: device 'cuda': " in (tmp_path / "out" / "log.txt").read_text()


def test_the_double_is_no_gpu(tmp_path):
    needs_the_double()
    done, found = start(tmp_path, PYTHONPATH=str(EVERYWHERE), CUPY_ACCELERATORS="")
    assert done.returncode == 1
    assert "gpu-check: the double of a GPU is no GPU" in done.stdout
    assert stages(found) == {"facts": "failed (1)"}


FAKE_PYTHON = """#!/bin/bash
case "$*" in
  *facts.py) exit 0 ;;
  *device_count*) echo 1 ;;
  *find_spec*) exit 0 ;;
  *smoke.py) echo begun; echo '{"test": "a", "outcome": "passed"}' >>"$OUT/tests.jsonl"; sleep 60 ;;
  *summary.py*) exec "$REAL_PYTHON" "$@" ;;
  *figures.py*) exit 3 ;;
esac
"""
FAKE_TIMEOUT = """#!/bin/bash
exec /usr/bin/timeout --signal=INT --kill-after=0.2 0.5 "${@:4}"
"""


def fakes(folder):
    """A python3 that hangs in one stage and fails in another, and limits of half a second."""
    folder.mkdir()
    for name, text in (("python3", FAKE_PYTHON), ("timeout", FAKE_TIMEOUT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": str(folder / "python3"),
        "REAL_PYTHON": sys.executable,
    }


def test_a_stage_that_hangs_is_cut_off_and_the_next_begins(tmp_path):
    done, found = start(tmp_path, **fakes(tmp_path / "bin"))
    ended = stages(found)
    assert ended["smoke"] == "cut off"
    assert ended["tests, one GPU"] == "passed"
    assert ended["tests, several GPUs"] == "not run: one GPU"
    assert ended["figures of distgrad"] == "failed (3)"
    assert done.returncode == 1
    assert "begun" in (tmp_path / "out" / "log.txt").read_text()
    assert "| smoke | cut off |" in (tmp_path / "out" / "summary.md").read_text()


def test_the_limits_are_below_520_seconds_together():
    text = SCRIPT.read_text()
    one, several = map(int, reversed(re.search(r"limit=(\d+); else limit=(\d+)", text).groups()))
    found = dict(re.findall(r'stage "?([\w, $]+?)"? (\d+|"\$limit") \d+ ', text))
    assert {"facts", "smoke", "tests, one GPU", "tests, several GPUs", "$tool", "cold starts"} <= set(found)
    fixed = {name: int(limit) for name, limit in found.items() if limit.isdigit()}
    fixed["racecheck"] = fixed["$tool"]
    only_several = {name for name in fixed if "several" in name}
    alone = sum(limit for name, limit in fixed.items() if name not in only_several)
    grace = GRACE_S * (len(fixed) + 1)
    assert f"--kill-after={GRACE_S} " in text
    assert alone + one + grace - GRACE_S * len(only_several) < 520
    assert sum(fixed.values()) + several + grace < 520


PLANTED = """
import pytest
def test_that_passes(): pass
{}
"""


@pytest.mark.parametrize(
    ("more", "status", "counts"),
    [
        ("", 0, {"passed": 1}),
        ("def test_that_skips(): pytest.skip('no cuFFT')", 1, {"passed": 1, "skipped": 1}),
        ("def test_that_fails(): assert 0", 1, {"passed": 1, "failed": 1}),
        ("@pytest.mark.skip(reason='one GPU')\ndef test_marked(): pass", 1, {"passed": 1, "skipped": 1}),
        ("import nowhere", 2, {"failed": 1}),
    ],
)
def test_what_is_skipped_has_not_passed(more, status, counts, tmp_path):
    test = tmp_path / "test_planted.py"
    test.write_text(PLANTED.format(more))
    env = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "outcomes", "-c", os.devnull, f"--rootdir={tmp_path}", test],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    ended = [row["outcome"] for row in rows(tmp_path / "out" / "tests.jsonl") if "outcome" in row]
    assert {each: ended.count(each) for each in ended} == counts


@pytest.mark.parametrize(
    ("asked", "words"), [("1", "expected a GPU, found none"), ("yes", "expected 1 or rehearsal")]
)
def test_gpus_that_were_asked_for_in_vain_end_the_run(asked, words):
    env = {**os.environ, "DISTGRAD_REAL_GPU": asked, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_real_gpu.py"],
        env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"DISTGRAD_REAL_GPU: {words}" in done.stderr or f"DISTGRAD_REAL_GPU=1: {words}" in done.stderr


def test_the_summary_puts_the_libraries_side_by_side(tmp_path):
    found = [
        {"figure": "device", "rehearsal": True, "gpus": ["a double of a GPU"]},
        {"figure": "stage", "name": "facts", "result": "passed", "seconds": 2, "limit": 30},
        {"figure": "step", "library": "distgrad", "name": "mlp", "ms": 2.0, "host_ms": 1.5},
        {"figure": "step", "library": "torch", "name": "mlp", "ms": 1.0, "host_ms": 0.5},
        {"figure": "launches", "library": "distgrad", "name": "mlp", "launches": 31},
        {"figure": "product", "library": "torch", "name": "TF32", "ms": 1.0, "tflops": 400.0},
        {"figure": "bandwidth", "library": "distgrad", "name": "copy, float32", "gb_per_s": 4000.0},
        {"figure": "bandwidth", "library": "distgrad", "name": "gelu, float32", "gb_per_s": 1000.0},
        {"figure": "NCCL", "library": "distgrad", "name": "one rank", "error": "CommError: no NCCL"},
    ]
    (tmp_path / "figures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found) + '{"cut o')
    tests = [
        {"collected": 5},
        {"test": "a", "outcome": "passed"},
        {"test": "b[1]", "outcome": "failed", "text": "E x"},
    ]
    (tmp_path / "tests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tests))
    env = {**os.environ, "PYTHONPATH": f"{HERE}"}
    command = [sys.executable, HERE / "summary.py", tmp_path]
    text = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "nothing below was seen on a GPU" in text
    assert "Tests: 1 passed, 1 failed, 0 skipped, 3 not reached, of 5." in text
    assert "- failed, 1 of `b`: E x" in text
    assert "| distgrad, ms | torch, ms | distgrad, host ms | torch, host ms | distgrad, launches |" in text
    assert "| mlp | 2 | 1 | 1.5 | 0.5 | 31 |" in text
    assert "| product, TF32 | 400 |" in text
    assert "| gelu, float32 | 1,000 | 0.25 |" in text
    assert "- distgrad, NCCL, one rank: CommError: no NCCL" in text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_rehearsed_on_the_double(tmp_path):
    needs_the_double()
    done, found = start(tmp_path, "--rehearsal", "-k", "gelu or (test_steps and mlp)")
    ended = stages(found)
    assert done.returncode == 0, done.stdout
    assert {ended[name] for name in ("facts", "smoke", "tests, one GPU", "figures of distgrad")} == {"passed"}
    assert "nothing below was seen on a GPU" in done.stdout
    measured = {row["figure"] for row in found if row.get("library") == "distgrad" and "error" not in row}
    assert {"step", "product", "stacked product", "bandwidth", "memory", "NCCL", "cold start"} <= measured
    assert [row["name"] for row in found if row.get("error") and row["figure"] != "launches"] == []


@pytest.mark.slow
def test_the_measurement_of_pytorch_runs_on_a_cpu(tmp_path):
    pytest.importorskip("torch", reason="PyTorch, which is measured, is not installed")
    paths = [ROOT, ROOT / "tests", HERE]
    env = {**os.environ, "OUT": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [
        sys.executable,
        HERE / "figures.py",
        "torch",
        "--device",
        "cpu",
        "--small",
        "--seconds",
        "0.01",
    ]
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, timeout=100, check=True)
    found = rows(tmp_path / "figures.jsonl")
    assert [row["figure"] for row in found if "error" in row] == ["launches"]
    assert {"step", "product", "bandwidth", "memory"} <= {row["figure"] for row in found}
