"""Rung 6: each fault of the list is planted into a copy of the package, and the test that it names fails."""

import mutation
import pytest
from gpu_double.mutants import MUTANTS
from gpu_double.runtime import unavailable


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_fault_s_text_stands_once_in_the_package(mutant):
    assert mutation.problem(mutant) == ""


@pytest.fixture
def needs_the_double():
    if (reason := unavailable()) is not None:
        pytest.skip(reason)


@pytest.fixture
def copy(tmp_path, needs_the_double):
    """The package in a folder of its own."""
    return mutation.copy_package(tmp_path)


def test_the_tests_pass_on_a_copy_as_it_is(copy):
    status, printed = mutation.run_check([MUTANTS[0].check], copy)
    assert status == 0, printed
    assert "1 passed" in printed


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.what, marks=() if mutant.every_run else pytest.mark.slow)
        for mutant in MUTANTS
    ],
)
def test_mutant_is_caught(mutant, copy):
    mutation.plant(mutant, copy)
    status, printed = mutation.run_check([mutant.check], copy)
    assert status == mutation.FAILED, f"{mutant.check} did not notice:\n{printed}"
    assert "1 failed" in printed, printed
