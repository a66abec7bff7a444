"""The guide's code runs as it stands there, and shows what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import distgrad as dg

GUIDE = Path(__file__).parents[1] / "docs" / "guide"
#: With code too; that of docs/gpu.md needs a GPU.
OTHERS = ("../array-api.md",)
PAGES = sorted(path.name for path in GUIDE.glob("*.md") if "```python" in path.read_text()) + [*OTHERS]
SHOWN = re.compile(r"^(\S.*?)  # => (.*)$", flags=re.MULTILINE)


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def check(block, names):
    """Run a block, and compare each expression that is shown with what it gives at its place."""
    place = 0
    for shown in SHOWN.finditer(block):
        exec(block[place : shown.start()], names)
        assert repr(eval(shown[1], names)) == shown[2], shown[1]
        place = shown.end()
    exec(block[place:], names)


def run_page(page):
    dg.manual_seed(0)
    names = {"__name__": "guide"}
    for block in blocks((GUIDE / page).read_text()):
        check(block, names)


@pytest.mark.parametrize("page", PAGES)
def test_page(page):
    # An interpreter of its own: a page may register operations, which the others' tests would find.
    command = [sys.executable, __file__, page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_pages_that_there_are_to_be():
    expected = (
        "accumulation",
        "checkpoints",
        "communicators",
        "debugging",
        "first-cluster-job",
        "first-steps",
        "from-chainermn",
        "from-deepspeed",
        "from-lightning",
        "from-numpy",
        "from-pytorch",
        "hooks",
        "local-sgd",
        "mixed-precision",
        "numerics",
        "one-gradient",
        "reproducibility",
        "same-bits",
        "speed",
        "writing-a-module",
        "writing-a-primitive",
    )
    assert {f"{name}.md" for name in expected} <= set(PAGES)
    readme = (GUIDE.parents[1] / "README.md").read_text()
    assert all(f"docs/guide/{path.name}" in readme for path in GUIDE.glob("*.md"))


def test_links_lead_somewhere():
    for path in GUIDE.glob("*.md"):
        prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", prose):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_whole_project_has_the_lines_that_are_claimed():
    page = (GUIDE / "metrics.md").read_text()
    claim = re.search(r"```\n\nThose are (\d+) lines", page)
    project = blocks(page[: claim.end()])[-1]
    assert len([line for line in project.splitlines() if line.strip()]) == int(claim[1]) <= 25


def test_a_wrong_claim_is_found():
    check("x = 2\nx + 1  # => 3\nx = 5\nx  # => 5\n", {})
    with pytest.raises(AssertionError, match=r"x \+ 1"):
        check("x = 2\nx + 1  # => 4\n", {})


if __name__ == "__main__":
    run_page(sys.argv[1])
