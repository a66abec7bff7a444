"""``distgrad template``: the job scripts that lie in the package, where a user finds them."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from distgrad.cli import main

TEMPLATES = Path(__file__).parents[1] / "launch" / "templates"
NAMES = {
    "slurm": "slurm_cpu.sbatch", "slurm-gpu": "slurm_gpu.sbatch", "pbs": "pbs.sh",
    "kubernetes": "kubernetes_mpijob.yaml", "ssh": "ssh.sh",
}  # fmt: skip


@pytest.mark.parametrize(("system", "file"), NAMES.items())
def test_a_template_is_printed_as_it_lies_in_the_package(system, file):
    done = CliRunner().invoke(main, ["template", system])
    assert (done.exit_code, done.output) == (0, (TEMPLATES / file).read_text())


def test_every_template_has_a_name():
    assert sorted(NAMES.values()) == sorted(path.name for path in TEMPLATES.iterdir())


def test_a_file_is_written_and_none_overwritten(tmp_path):
    path = tmp_path / "job.sbatch"
    for code in (0, 1):
        done = CliRunner().invoke(main, ["template", "slurm", "-o", str(path)])
        assert done.exit_code == code
        assert path.read_text() == (TEMPLATES / "slurm_cpu.sbatch").read_text()
    assert "name a new file" in done.output


def test_an_unknown_system_is_refused_with_the_names_that_there_are():
    done = CliRunner().invoke(main, ["template", "lsf"])
    assert done.exit_code == 2
    assert "'kubernetes'" in done.output
