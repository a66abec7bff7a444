"""The ladder's command: what it runs is there, the page names it, and a rung that does not hold is seen."""

import shlex
from pathlib import Path

import pytest
from gpu_double import ladder
from gpu_double.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
#: What stands on none: this, and what is for a real GPU.
ITS_CHECK = ("gpu/test_real_gpu", "gpu/test_device", "gpu/test_gauge_free")
OTHERS = {f"tests/{name}.py" for name in ("gpu_double/test_ladder", *ITS_CHECK)}


def test_every_test_of_the_gpu_path_stands_on_one_rung():
    named = [test for step in ladder.STEPS for test in step.tests]
    assert all((ROOT / test).exists() for test in named)
    files = [
        str(path.relative_to(ROOT))
        for folder in ("gpu", "gpu_double")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
    ]
    assert {*files} == OTHERS | {
        test for test in named if test.startswith(("tests/gpu/", "tests/gpu_double/"))
    }
    assert len(named) == len(set(named))


def test_the_page_names_every_command():
    page = (ROOT / "docs" / "gpu.md").read_text()
    for step in ladder.STEPS:
        chosen = f" -m {shlex.quote(step.chosen)}" if step.chosen else ""
        assert f"`pytest {' '.join(step.tests)}{chosen}`" in page, step
    for rung in {step.rung for step in ladder.STEPS}:
        assert f"\n| {rung}" in page


def test_the_page_lists_every_planted_fault():
    page = (ROOT / "docs" / "gpu.md").read_text()
    for mutant in MUTANTS:
        check = mutant.check.rsplit("/", 1)[1].replace(".py", "")
        assert f"\n| {mutant.kind} | {mutant.what} | `{mutant.file}` | `{check}` |\n" in page, mutant.what
    assert page.count("::test_") == len(MUTANTS)
    assert f"{len(MUTANTS)} faults" in page
    assert f"tries {sum(mutant.every_run for mutant in MUTANTS)} of them" in page


@pytest.mark.parametrize(
    ("body", "passes", "line"),
    [
        ("assert True", True, "4 planted                      1       0        0"),
        ("assert False", False, "4 planted                      0       1        0"),
        ("import pytest; pytest.skip('no CuPy')", False, "4 planted                      0       0        1"),
    ],
)
def test_a_rung_holds_if_tests_ran_and_passed(body, passes, line, tmp_path, capsys):
    test = tmp_path / "test_planted.py"
    test.write_text(f"def test_it():\n    {body}\n")
    steps = (ladder.Step(4, "planted", (str(test),)), ladder.Step(5, "none", ("nowhere.py",)))
    assert ladder.main(["4"], steps) == (0 if passes else 1)
    printed = capsys.readouterr().out
    assert line in printed
    assert ("NOT CLIMBED" in printed) is not passes


def test_a_rung_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        ladder.main(["9"])
    assert "no tests of rung 9" in capsys.readouterr().err
