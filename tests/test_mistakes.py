"""Mistakes that would pass in silence: each is said once, in words, with the user's line."""

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, tracebacks
from distgrad.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset
from distgrad.errors import DTypeError, ShapeError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nobody was warned yet, and this is the first of two ranks."""
    monkeypatch.setattr(tracebacks, "_warned", set())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")


class Alike(IterableDataset):
    def __iter__(self):
        return iter(np.ones((4, 2)))


class Parts(IterableDataset):
    rank = 1

    def __iter__(self):
        return iter(np.ones((4, 2))[self.rank :])


DATA = TensorDataset(dg.ones((8, 2)))


def run(loader, epochs=1, set_epoch=False):
    for epoch in range(epochs):
        if set_epoch:
            loader.sampler.set_epoch(epoch)
        list(loader)


def step(count, scale):
    model = nn.Linear(4, 4)
    optimizer = dg.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(count):
        optimizer.zero_grad()
        if scale is not None:
            (model(dg.ones((2, 4))) * scale).sum().backward()
        optimizer.step()


def dealt(**options):
    return DataLoader(DATA, 4, sampler=DistributedSampler(DATA, 2, 0, **options))


MISTAKES = [
    (
        lambda: run(DataLoader(DATA, 4, shuffle=True)),
        r"gives each of 2 ranks the whole dataset; pass",
    ),
    (lambda: run(DataLoader(Alike(), 2)), r"Alike asks nobody for its rank, so that all 2 ranks"),
    (lambda: run(dealt(), 3), r"a second epoch in the order of the first; call sampler.set_epoch"),
    (lambda: step(30, float("nan")), r"parameters are NaN after 10 steps"),
    (lambda: step(3, None), r"no parameter has a gradient, so nothing was changed; call loss.backward\(\)"),
]


@pytest.mark.parametrize(("mistake", "text"), MISTAKES)
def test_a_mistake_is_said_once_with_the_users_line(mistake, text):
    with pytest.warns(UserWarning, match=text) as caught:
        mistake()
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(("mistake", "text"), MISTAKES)
def test_the_other_ranks_say_nothing(mistake, text, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mistake()


@pytest.mark.parametrize(
    "right",
    [
        lambda: run(dealt(), 3, set_epoch=True),
        lambda: run(dealt(shuffle=False), 2),
        lambda: run(DataLoader(DATA, 4), 2),
        lambda: run(DataLoader(Parts(), 2)),
        lambda: step(30, 1.0),
    ],
)
def test_what_is_right_passes_without_a_word(right):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right()


def test_one_process_shuffles_by_itself(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(DataLoader(DATA, 4, shuffle=True), 2)


def test_an_option_that_is_a_text_says_how_to_write_it():
    with pytest.raises(DTypeError, match=r"Adam: lr must be a number, got the text '1e-3'; write lr=float"):
        dg.optim.Adam(nn.Linear(2, 2).parameters(), lr="1e-3")


def test_a_wrong_shape_shows_the_users_lines_and_two_of_ours():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pytest.raises(ShapeError) as caught:
        net(dg.ones((5, 7)))
    tracebacks.shorten(caught.value)
    trace, files = caught.value.__traceback__, []
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    assert [tracebacks.inside(file) for file in files] == [False, True, True]


def test_an_uncaught_error_of_ours_is_short_and_others_are_whole():
    program = textwrap.dedent("""
        import distgrad as dg
        net = dg.nn.Sequential(dg.nn.Linear(4, 3), dg.nn.ReLU())
        net(dg.ones((5, 7)))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count('  File "') == 3
    assert "ShapeError: linear: x is [5, 7]" in done.stderr
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    trace = caught.value.__traceback__
    tracebacks.shorten(caught.value)
    assert caught.value.__traceback__ is trace
