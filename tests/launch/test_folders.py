"""Log files in a folder that another user may write to: a link of theirs leads nothing of ours elsewhere."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from distgrad.launch.folders import create_files

from distgrad.launch import folders

SOMEBODY = 54321


@pytest.fixture
def link_of_another(monkeypatch) -> Callable[[Path, Path], None]:
    """Make a link that is another user's; who may not give files away becomes that other user."""

    def make(path: Path, target: Path) -> None:
        path.symlink_to(target)
        if os.geteuid() == 0:
            os.lchown(path, SOMEBODY, SOMEBODY)
        else:
            monkeypatch.setattr(folders.os, "geteuid", lambda: SOMEBODY)

    return make


def write(folder: Path) -> None:
    for file in create_files(folder, ["rank0.txt", "rank1.txt"]):
        file.write(b"new")
        file.close()


def test_missing_folders_are_made_and_files_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (Path("a/b"), tmp_path / "a" / "b", tmp_path / "c" / ".." / "a" / "b"):
        write(folder)
        assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["rank0.txt", "rank1.txt"]
        assert (tmp_path / "a" / "b" / "rank1.txt").read_text() == "new"
        (tmp_path / "a" / "b" / "rank1.txt").write_text("longer than new")


def test_own_links_are_followed(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "absolute").symlink_to(tmp_path / "scratch")
    (tmp_path / "relative").symlink_to("scratch/../scratch")
    write(tmp_path / "absolute" / "one")
    write(tmp_path / "relative" / "two")
    assert (tmp_path / "scratch" / "one" / "rank0.txt").read_text() == "new"
    assert (tmp_path / "scratch" / "two" / "rank0.txt").read_text() == "new"


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_file_that_is_a_link_is_replaced_and_its_target_left(tmp_path, make):
    (tmp_path / "diary").write_text("mine")
    (tmp_path / "logs").mkdir()
    make(tmp_path / "diary", tmp_path / "logs" / "rank0.txt")
    write(tmp_path / "logs")
    assert (tmp_path / "diary").read_text() == "mine"
    assert (tmp_path / "logs" / "rank0.txt").read_text() == "new"
    assert not (tmp_path / "logs" / "rank0.txt").is_symlink()


@pytest.mark.parametrize("inner", ["", "deeper/logs"])
def test_another_users_link_is_not_followed(tmp_path, link_of_another, inner):
    (tmp_path / "home").mkdir()
    link_of_another(tmp_path / "logs", tmp_path / "home")
    with pytest.raises(PermissionError, match=r"a link to .*home on the way is of user \d+, not yours"):
        write(tmp_path / "logs" / inner)
    assert list((tmp_path / "home").iterdir()) == []


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        write(tmp_path / "a")


def test_a_file_where_a_folder_is_due(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "logs"):
        with pytest.raises(NotADirectoryError):
            write(folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_no_descriptor_is_left(tmp_path, link_of_another):
    link_of_another(tmp_path / "logs", tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PermissionError):
        write(tmp_path / "logs")
    write(tmp_path / "own")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_launcher_says_so_and_starts_nothing(run, tmp_path, link_of_another):
    if os.geteuid() != 0:
        pytest.skip("only root can give a link to another user")
    link_of_another(tmp_path / "logs", tmp_path)
    ended = run("-n 1 --log-dir logs", "print('ran')")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("launch: ")
    assert "is of user 54321, not yours" in ended.stderr
