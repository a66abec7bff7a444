"""Conditions that the compiled machine compares: each change is seen, and none that is not there."""

from __future__ import annotations

import operator
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from distgrad.replay import variables, words
from distgrad.replay.variables import Identities, Watched, attributes_of, entries_of

pytest.importorskip("numba", reason="the compiled machine needs it")


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self) -> None:
        self.first, self.second = object(), None


def variable() -> tuple[Any, Callable[[Any], None]]:
    value = object()

    def change(new: Any) -> None:
        nonlocal value
        value = new

    cells: Any = change.__closure__
    assert [cell.__class__ for cell in cells] == [types.CellType]
    read = operator.attrgetter("cell_contents")
    return Watched("{}", cells[0], lambda _: read(cells[0]), ("value",)), change


def dictionary(key: Any = "a") -> tuple[Any, Callable[[Any], None]]:
    held = {key: object(), "b": None}
    return Watched("{}", held, held.get, (key, "b")), lambda new: held.__setitem__(key, new)


def absent() -> tuple[Any, Callable[[Any], None]]:
    held: dict[str, Any] = {"a": object()}
    return Watched("{}", held, held.get, ("a", "forward")), lambda new: held.__setitem__("forward", new)


def slots() -> tuple[Any, Callable[[Any], None]]:
    thing = Slotted()
    return attributes_of("it", thing, ("first", "second")), lambda new: setattr(thing, "second", new)


def whole(make: Callable[[list[Any]], Any], change: str) -> Any:
    def found() -> tuple[Any, Callable[[Any], None]]:
        held = make([object(), object()])
        return entries_of("it", held), lambda new: operator.methodcaller(
            change, *((2, new) if change == "__setitem__" and isinstance(held, dict) else (new,))
        )(held)

    return found


CASES: dict[str, Any] = {
    "a variable": variable,
    "an entry": dictionary,
    "an entry by a number": lambda: dictionary(1000),
    "an entry by a tuple, which Python compares": lambda: dictionary((1, 2)),
    "an entry that was not there": absent,
    "a slot": slots,
    "a longer list": whole(list, "append"),
    "a longer dict": whole(lambda values: dict(enumerate(values)), "__setitem__"),
    "a longer deque, which Python compares": whole(deque, "append"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("compiled", [True, False])
def test_a_change_is_seen(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(words, "load_numba", lambda: False)
    watched, change = CASES[name]()
    identities = Identities()
    others = [CASES[each]()[0] for each in CASES]  # that stay as they are, before and behind it
    for each in (*others[:4], watched, *others[4:]):
        for piece in each.pieces():
            identities.add(*piece)
    identities.end()
    assert all(identities.hold() for _ in range(3))
    change(object())
    assert not identities.hold()
    assert watched.changed() is not None


def test_what_has_no_rows_is_left_to_python() -> None:
    found = words.Words()
    own = {"a": 1, (1, 2): 2}
    assert found.take(operator.itemgetter("a", "a"), own, (1, 1))
    assert not found.take(operator.itemgetter("a", (1, 2)), own, (1, 2))
    assert not found.take(operator.attrgetter("real", "imag"), 1.5, (1.5, 0.0))
    assert not found.take(operator.itemgetter("a", "a"), own, (2, 2))  # which is not so now
    found.end()
    assert found.hold()
    own["a"] = 3
    assert not found.hold()
    assert variables.Identities().hold()
