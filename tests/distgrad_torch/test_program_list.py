"""The guide's page of public programs and the list that it was made from."""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_of_the_page_is_a_program_of_a_repository_whose_commit_stands_there():
    listed = load("program_list")
    page = (HERE.parents[1] / "docs" / "guide" / "torch-programs.md").read_text()
    table = page[page.index("<!-- programs -->") :]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(set(rows)) >= 130
    assert set(rows) <= set(listed.PROGRAMS)
    for name, commit in listed.REPOSITORIES.values():
        assert f"- {name} at {commit}\n" in page
    assert {program.split("/")[0] for program in listed.PROGRAMS} == set(listed.REPOSITORIES)
    assert set(listed.VARIABLES) <= set(listed.REPOSITORIES)


def test_a_difference_is_judged_by_the_largest_share_and_by_what_both_end_with():
    sys.path.insert(0, str(HERE))
    try:
        programs = load("programs")
    finally:
        sys.path.remove(str(HERE))
    mine = {"losses": [1.0, 2.0], "error": None}
    assert programs.gap([1.0, 2.002], [1.0, 2.0]) == pytest.approx(1e-3)
    assert programs.judged(mine, {"losses": [1.0, 2.0], "error": None}) == "2 losses, 0.0e+00 apart"
    assert programs.judged(mine, {"losses": [1.0], "error": None}).startswith("stopped after 2 of 1")
    assert "both end with IndexError" in programs.judged(
        {**mine, "error": "IndexError: a"}, {**mine, "error": "IndexError: b"}
    )
