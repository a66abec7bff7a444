"""The example of a host in C: it calls MPI_Init, embeds the interpreter, and some of its ranks train."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from ranks_plugin import run_ranks

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "mpi_host.c"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The compiled host."""
    compiler = Path(sys.executable).with_name("mpicc")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    for needed in (compiler, headers, shutil.which("cc") or "cc"):
        if not Path(needed).exists():
            pytest.skip(f"a program in C cannot be built here without {needed}")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("this Python has no shared library to embed")
    built = tmp_path_factory.mktemp("host") / "mpi_host"
    folder = sysconfig.get_config_var("LIBDIR")
    version = sysconfig.get_config_var("LDVERSION")
    done = subprocess.run(
        [str(compiler), "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(built), f"-I{headers.parent}",
         f"-L{folder}", f"-Wl,-rpath,{folder}", f"-lpython{version}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return built


def run(program: Path, ranks: int, examples: Path = SOURCE.parent) -> tuple[int | None, str]:
    path = os.pathsep.join([str(examples), *filter(None, sys.path), str(ROOT)])
    job = run_ranks(ranks, [str(program)], timeout=60, env={"PYTHONPATH": path})
    return job.returncode, job.output


def test_ranks_of_a_program_in_c_train_while_rank_0_does_not(program):
    code, output = run(program, 4)
    assert code == 0, output
    losses = re.findall(r"rank \d of 3 trained, loss (\d\.\d+)", output)
    assert len(losses) == 3, output
    assert len(set(losses)) == 1
    assert f"loss after training: {losses[0]}" in output
    assert float(losses[0]) < 0.05  # 0.5 before


def test_an_error_in_python_ends_the_program_in_c(program, tmp_path):
    (tmp_path / "mpi_host.py").write_text("def train(handle): raise ValueError('odd')")
    code, output = run(program, 3, tmp_path)
    assert code not in (0, None)
    assert "ValueError: odd" in output
    assert "loss after training" not in output


def test_the_host_is_short():
    code = re.sub(r"/\*.*?\*/", "", SOURCE.read_text(), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 32
