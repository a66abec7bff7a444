"""Rows that have become worse are found, whichever way a number is better; so are rows that have gone."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compare.py"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BEFORE = [
    {"name": "add", "ratio": 1.0, "distgrad_us": 2.0},
    {"name": "gelu", "torch_ratio": 3.0, "kernel_ms": 0.5},
]


@pytest.fixture
def run(compare, tmp_path, capsys):
    def run(change, *options):
        now = json.loads(json.dumps(BEFORE))
        change(now)
        for name, rows in (("before", BEFORE), ("now", {"rows": now})):
            (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        status = compare.main([str(tmp_path / "before.json"), str(tmp_path / "now.json"), *options])
        return status, capsys.readouterr().out

    return run


def test_equal_rows_pass(run):
    status, printed = run(lambda rows: None)
    assert (status, printed) == (0, "compare: 2 numbers, 0 worse by more than 1.25 times\n")


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda rows: rows[0].update(ratio=1.3), (), "worse:  add, ratio 1 -> 1.3"),
        (lambda rows: rows[1].update(torch_ratio=2.0), (), "worse:  gelu, torch_ratio 3 -> 2"),
        (lambda rows: rows[0].update(distgrad_us=4.0), ("--times",), "worse:  add, distgrad_us 2 -> 4"),
        (lambda rows: rows.pop(), (), "gone:   gelu"),
    ],
)
def test_what_is_worse_is_said(run, change, options, said):
    status, printed = run(change, *options)
    assert status == 1
    assert said in printed


def test_times_and_what_is_better_fail_nothing(run):
    status, printed = run(lambda rows: rows[0].update(ratio=0.5, distgrad_us=9.0))
    assert status == 0
    assert "better: add, ratio 1 -> 0.5" in printed


def test_the_last_release_s_files_can_be_compared(compare, capsys):
    files = sorted(compare.RELEASE.glob("*.json"))
    assert files
    for file in files:
        assert compare.main([file.stem, str(file)]) == 0
