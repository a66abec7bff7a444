"""Versions: of a checkout from Git's tags, as setuptools-scm has them; of what was built, from its note."""

import os
import re
import subprocess
import sys

import pytest
from checkouts import ROOT, needs_checkout, needs_git
from click.testing import CliRunner

import distgrad as dg
from distgrad.cli import main
from distgrad.version import UNKNOWN, describe, find_version

pytestmark = needs_git
AUTHOR = (
    "-c",
    "user.name=a",
    "-c",
    "user.email=a@b",
    "-c",
    "commit.gpgsign=false",
    "-c",
    "tag.gpgsign=false",
)


def git(folder, *arguments):
    subprocess.run(["git", "-C", folder, *AUTHOR, *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def checkout(tmp_path):
    """A repository of one commit, with the package's folder and no tag."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "distgrad").mkdir()
    (tmp_path / "distgrad" / "a.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    return tmp_path


STATES = {
    "no tag": ([], r"0\.1\.dev1\+g[0-9a-f]{9}"),
    "tag": (["tag v1.2.0"], r"1\.2\.0"),
    "annotated tag without a v": (["tag -a -m x 1.2.0"], r"1\.2\.0"),
    "candidate": (["tag v2.0.0rc1", "commit --allow-empty -m x"], r"2\.0\.0rc2\.dev1\+g[0-9a-f]{9}"),
    "after": (["tag v1.2.9"] + ["commit --allow-empty -m x"] * 2, r"1\.2\.10\.dev2\+g[0-9a-f]{9}"),
    "a tag of another kind": (["tag v1.0", "commit --allow-empty -m x", "tag nightly"], r"1\.1\.dev1\+.*"),
    "changed": (["tag v1.2.0", None], r"1\.2\.1\.dev0\+g[0-9a-f]{9}\.d\d{8}"),
    "changed without a tag": ([None], r"0\.1\.dev1\+g[0-9a-f]{9}\.d\d{8}"),
}


@pytest.mark.parametrize("state", STATES)
def test_a_checkout_has_the_version_that_would_be_built(checkout, state):
    steps, expected = STATES[state]
    for step in steps:
        if step is None:
            (checkout / "distgrad" / "a.py").write_text("x = 1\n")
        else:
            git(checkout, *step.split())
    found = find_version(checkout / "distgrad")
    assert re.fullmatch(expected, found), found
    scm = pytest.importorskip("setuptools_scm", reason="setuptools-scm, which builds, is missing")
    assert found == scm.get_version(root=str(checkout), fallback_version="0.0")


@needs_checkout
def test_this_checkout():
    assert dg.__version__ == find_version() == describe(ROOT)
    assert CliRunner().invoke(main, ["--version"]).output == f"distgrad, version {dg.__version__}\n"


def test_without_git_the_note_of_the_build_counts(checkout, monkeypatch):
    package = checkout / "distgrad"
    monkeypatch.setenv("PATH", "")
    assert find_version(package) == UNKNOWN
    (package / "version.txt").write_text("3.1.4\n")
    assert find_version(package) == "3.1.4"


def test_an_installed_package_asks_no_git_of_the_project_that_it_lies_in(checkout):
    git(checkout, "tag", "v9.9.9")
    package = checkout / "lib" / "distgrad"
    package.mkdir(parents=True)
    assert find_version(package) == UNKNOWN
    (package / "version.txt").write_text("3.1.4\n")
    assert find_version(package) == "3.1.4"


def test_the_repository_of_a_hook_is_not_taken_for_the_checkout(checkout, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    git(checkout, "tag", "v1.2.0")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert find_version(checkout / "distgrad") == "1.2.0"


def test_importing_asks_nobody():
    code = "import sys, distgrad; print('distgrad.version' in sys.modules, '__version__' in dir(distgrad))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, env=dict(os.environ)
    )
    assert done.stdout.split() == ["False", "True"]
