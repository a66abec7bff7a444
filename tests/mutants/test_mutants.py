"""The planted faults are tried by ``make mutants``; here, that they can be, and that a miss is said."""

import datetime

import mutation
import pytest
from mutants import run

MISSED = mutation.Mutant(
    "nothing", "a docstring", "data/sampler.py",
    "The base of every sampler:", "The basis of every sampler:",
    "tests/data/test_sampler.py -k outside_the_world",
)  # fmt: skip


@pytest.mark.parametrize("mutant", run.mutants(), ids=lambda mutant: mutant.what)
def test_a_fault_s_text_stands_once_in_the_package(mutant):
    assert mutation.problem(mutant) == ""
    assert mutant.old != mutant.new


def test_there_are_sixty_faults_in_six_rooms_and_others_are_drawn_every_day():
    assert len(run.mutants()) >= 60
    assert all(len(run.mutants([room])) >= 10 for room in run.ROOMS)
    days = [datetime.date(2026, 1, day) for day in range(1, 29)]
    draws = [run.drawn(12, day) for day in days]
    assert all(len(set(draw)) == 12 for draw in draws)
    assert len({mutant.what for draw in draws for mutant in draw}) > 55


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"check": "tests/data/test_sampler.py -k no_such_test"}, "no test was chosen"),
        ({}, "all of its tests passed"),
        ({"old": "no such text"}, "data/sampler.py holds this 0 times"),
    ],
)
def test_a_miss_is_said(change, said):
    why = run.attempt(mutation.Mutant(**{**vars(MISSED), **change}))
    assert why.startswith(said)
