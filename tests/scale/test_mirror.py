"""A working folder that looks like another, and keeps to itself what is written there."""

import os
from pathlib import Path

import pytest

from distgrad.scale import mirror as mirror_module
from distgrad.scale.mirror import mirror


@pytest.fixture
def folder(tmp_path):
    """A folder with a file, a folder, and a large one, and a file beside it."""
    made = tmp_path / "user" / "project"
    for name in ("small/inner", "large", "study", ".hidden"):
        (made / name).mkdir(parents=True)
    for name in ("train.py", "small/inner/a.txt", "../beside.txt", ".hidden/b.txt"):
        (made / name).write_text(name)
    for number in range(30):
        (made / "large" / str(number)).write_text("")
    return made


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(mirror_module, "MOST", 20)


def test_names_lead_where_they_did_and_what_is_new_stays_there(folder, tmp_path, monkeypatch):
    made = mirror(folder, tmp_path / "place", folder / "study")
    before = sorted(str(path) for path in folder.rglob("*"))
    monkeypatch.chdir(made)
    names = ("train.py", "small/inner/a.txt", "../beside.txt", ".hidden/b.txt")
    assert [Path(name).read_text() for name in names] == list(names)
    assert sorted(os.listdir(".")) == [".hidden", "large", "small", "train.py"]
    assert len(os.listdir("large")) == 30
    assert os.path.islink("large")
    os.makedirs("small/new")
    Path("small/inner/b.txt").write_text("new")
    os.replace("small/inner/b.txt", "small/inner/a.txt")
    assert Path("small/inner/a.txt").read_text() == "new"
    assert sorted(str(path) for path in folder.rglob("*")) == before
    assert (folder / "small" / "inner" / "a.txt").read_text() == "small/inner/a.txt"


def test_a_large_folder_itself_is_looked_at_once(folder, tmp_path):
    made = mirror(folder / "large", tmp_path / "place", tmp_path / "none")
    assert not made.is_symlink()
    assert len(list(made.iterdir())) == 30
    assert (made / ".." / "train.py").read_text() == "train.py"


def test_a_folder_that_is_a_link_is_one(folder, tmp_path):
    (folder / "loop").symlink_to(folder)
    made = mirror(folder, tmp_path / "place", folder / "study")
    assert (made / "loop").is_symlink()
