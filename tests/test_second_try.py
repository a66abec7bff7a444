"""A test that passes only at the second try is listed, and fails the next run once it was listed twice."""

import json

import pytest
import second_try

FLAKY = """
import pathlib

def test_flaky():
    mark = pathlib.Path(__file__).with_name("tried")
    if not mark.exists():
        mark.touch()
        raise AssertionError("the first try")
    mark.unlink()

def test_sound():
    pass
"""


@pytest.fixture
def once(tmp_path, capfd):
    """A function that runs the test file once: the exit status and what was printed."""
    (tmp_path / "test_some.py").write_text(FLAKY)

    def run(*arguments):
        chosen = arguments or ("-q", "-p", "no:randomly", "--rootdir", str(tmp_path), str(tmp_path))
        return second_try.main(tmp_path / "cache", chosen), capfd.readouterr().out

    return run


def test_a_test_is_listed_and_then_fails_the_run(once, tmp_path):
    for _ in range(second_try.TIMES):
        status, printed = once()
        assert status == 0
        assert "passed only at the second try: 1\n  test_some.py::test_flaky" in printed
    record = json.loads((tmp_path / "cache/second-try.json").read_text())
    assert [each["tests"] for each in record] == [["test_some.py::test_flaky"]] * 2
    (tmp_path / "test_some.py").write_text("def test_sound(): pass")
    status, printed = once()
    assert status == 1
    assert "test_flaky passed only at the second try in 2 of the last 2 runs: mend it" in printed
    assert once("--forget", "test_some.py::test_flaky") == (0, "")
    status, printed = once()
    assert (status, "second try" in printed) == (0, False)


def test_a_listing_is_forgotten_after_ten_runs(once, tmp_path):
    runs = [{"at": "", "tests": ["test_some.py::test_flaky"]}] * 2
    second_try.write(tmp_path / "cache/second-try.json", runs + [{"at": "", "tests": []}] * 9)
    (tmp_path / "test_some.py").write_text("def test_sound(): pass")
    assert once()[0] == 0


def test_what_fails_twice_fails_and_is_not_listed(once, tmp_path):
    (tmp_path / "test_some.py").write_text("def test_wrong(): assert not 1")
    status, printed = once()
    assert status == 1
    assert "passed only" not in printed


def test_what_could_not_be_collected_is_not_tried_again(once, tmp_path):
    (tmp_path / "test_some.py").write_text("import no_such_module")
    status, printed = once()
    assert status > second_try.FAILED
    assert "once more" not in printed
