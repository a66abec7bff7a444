"""``distgrad bench`` runs what the scripts of a checkout run, from any folder."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from distgrad.cli import main

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("step", "allreduce", "ddp", "sharded", "network")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_takes_the_options_of_the_command(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    from_script = capsys.readouterr().out
    from_command = CliRunner().invoke(main, ["bench", name, "--help"]).output
    assert from_script.startswith(f"usage: {name}.py")
    assert from_command.startswith(f"usage: distgrad bench {name}")
    assert re.findall(r"--[a-z]+", from_script) == re.findall(r"--[a-z]+", from_command)


def test_a_benchmark_starts_its_processes_in_any_folder(tmp_path):
    options = ["--workloads=tiny", "--threads=1", "--rounds=1", "--seconds=0.01", "--json=table.json"]
    command = [sys.executable, "-m", "distgrad", "bench", "step", *options, "--peers="]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())["results"]
    assert [row["name"] for row in rows] == ["distgrad", "products alone"]
    assert all(row["median_ms"] > 0 for row in rows)


def test_an_unknown_benchmark_is_named():
    done = CliRunner().invoke(main, ["bench", "speed"])
    assert done.exit_code == 2
    assert "'speed' is not one of" in done.output


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(name, tmp_path):
    done = CliRunner().invoke(main, ["bench", name, "--json", str(tmp_path / "nowhere" / "table.json")])
    assert done.exit_code == 2
    assert "no file can be written at" in done.output
