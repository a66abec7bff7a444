"""The order of a tape's calls: what Python looks at comes first where it can, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence

from distgrad.errors import CaptureError
from distgrad.replay.calls import Call
from distgrad.replay.places import Place, Storage

__all__ = ["check_guards", "guards_first"]

_PURE = ("ufunc", "function", "fill", "change", "kernel", "whole", "guard")


def _storages(places: Sequence[Place]) -> set[Storage]:
    return {place.storage for place in places if not place.is_empty}


def guards_first(calls: Sequence[Call]) -> list[Call]:
    """The calls, with guards and what they hang on in front, where no other call has a part in that."""
    first: dict[int, Call] = {}
    for number, call in enumerate(calls):
        if call.kind == "guard":
            first |= _needed(calls, number) or {}
    moved = [call for number, call in enumerate(calls) if number in first]
    return moved + [call for number, call in enumerate(calls) if number not in first]


def _needed(calls: Sequence[Call], number: int) -> dict[int, Call] | None:
    """A guard and all calls that it hangs on; None where these must stay among the others."""
    found, touched = {number: calls[number]}, _storages(calls[number].reads)
    written = _storages(calls[number].writes)
    for before in range(number - 1, -1, -1):
        call = calls[before]
        writes = _storages(call.writes)
        if writes & touched:
            found[before] = call
            touched |= writes | _storages(call.reads)
            written |= writes
        elif written & _storages(call.reads):
            return None  # which would read what is not there yet, or not any more
    is_pure = all(_is_pure(each) for each in found.values())
    return found if is_pure and all(storage.is_born for storage in written) else None


def _is_pure(call: Call) -> bool:
    is_always = call.group is None and call.condition is None
    return call.kind in _PURE and is_always and not call.is_collective


def check_guards(calls: Sequence[Call]) -> None:
    """Refuse a look at a number behind a collective: where it comes out otherwise the ranks would part.

    Raises:
        CaptureError: with the user's line.
    """
    collective = None
    for call in calls:
        if call.kind == "guard" and collective is not None:
            raise CaptureError(
                f"capture: the step looks at a number at {call.where()}, behind {collective.name} at "
                f"{collective.where()}, where the ranks could not go back to an eager step together; look at "
                "it before, or outside the captured step"
            )
        collective = call if call.is_collective else collective
