"""Interpreters are found by what they are, not by what they are called."""

import sys

import matrix


def test_this_interpreter_is_found_and_a_liar_is_not(tmp_path, monkeypatch):
    minor = sys.version_info.minor
    liar = tmp_path / f"python3.{minor + 1}"
    liar.symlink_to(sys.executable)
    (tmp_path / f"python3.{minor}").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert matrix.find(minor) == tmp_path / f"python3.{minor}"
    assert matrix.find(minor + 1) is None


def test_every_test_of_the_part_is_there():
    assert [name for name in matrix.PART if not (matrix.ROOT / name).exists()] == []
