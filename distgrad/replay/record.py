"""A recorded step, and the look that compares two: they must be the same calls on the same memory."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from distgrad.errors import CaptureError
from distgrad.replay.calls import Call
from distgrad.replay.places import Place, Storage, owner
from distgrad.replay.recorder import Recorder
from distgrad.replay.traced import plain

__all__ = ["Record", "check_alike"]


class Record:
    """What a recorder heard, with every place in its storage.

    Args:
        recorder: that has listened to a whole step.
        outputs: the places of the results.
        inputs: those of the arguments.

    Attributes:
        calls: of the step.
        outputs: as given.
        given: what arguments lie in.
        storages: in the order in which the step met them.
        written: those that it writes.
        digests: of storages from before the step, or from out of sight, that it only reads.

    Raises:
        CaptureError: the step changes an argument, of which a replay has a copy.
    """

    def __init__(self, recorder: Recorder, outputs: list[Place], inputs: Sequence[Place] = ()) -> None:
        self.calls, self.outputs = recorder.calls, outputs
        for place in recorder.places:
            place.storage = place.storage.joined()
        self.storages: list[Storage] = []
        self.written: set[Storage] = set()
        for call in self.calls:
            for place in (*call.reads, *call.writes):
                self._meet(place)
            self.written |= {place.storage for place in call.writes if not place.is_empty}
        for place in outputs:
            self._meet(place)
        self.given = {place.storage for place in inputs if not place.is_empty}
        self._check_given()
        fixed = [each for each in self.storages if not each.is_born and each not in self.written]
        self.digests = {each.number: each.digest() for each in fixed}

    def _check_given(self) -> None:
        for call in self.calls:
            if any(not place.is_empty and place.storage in self.given for place in call.writes):
                raise CaptureError(
                    f"capture: the step changes an argument in place, by {call.name} at {call.where()}; a "
                    "replay computes on a copy: change a copy (x.clone()) and return it"
                )

    def _meet(self, place: Place) -> None:
        if not place.is_empty and place.storage.number < 0:
            place.storage.number = len(self.storages)
            self.storages.append(place.storage)

    def settle(self, recorder: Recorder) -> None:
        """Let go of what the step made; of that gradients alone may outlive it.

        Args:
            recorder: that heard it.

        Raises:
            CaptureError: the step has kept something else that it made.
        """
        born = [each for each in self.storages if each.is_born]
        for each in born:
            each.owners = []
        recorder.forget()
        gc.collect(1)  # what the step made is young
        if _kept(born, recorder):
            gc.collect()
        kept = _kept(born, recorder)
        for each in born:
            each.owners = each.living()
            if each in kept:
                maker = next(call for call in self.calls if call.touches(each))
                raise CaptureError(
                    f"capture: the step keeps a tensor of {each.nbytes} bytes beyond its end, made by "
                    f"{maker.name} at {maker.where()}; return it from the step, or write it into a tensor "
                    "that is there before with copy_(): a replay makes no new tensors"
                )


def _kept(born: Sequence[Storage], recorder: Recorder) -> list[Storage]:
    """What is alive and no leaf's gradient."""
    leaves = recorder.living_leaves()
    gradients = {id(owner(plain(leaf.grad._data))) for leaf in leaves if leaf.grad is not None}
    found = []
    for storage in born:
        owners = set(map(id, storage.living()))
        if owners and not gradients & owners:
            found.append(storage)
    return found


def check_alike(first: Record, second: Record) -> None:
    """The first two looks.

    Raises:
        CaptureError: with the user's line where the records part, and what to write instead.
    """
    for place, (a, b) in enumerate(zip(first.calls, second.calls, strict=False)):
        if a.describe() != b.describe():
            raise CaptureError(_difference(place, a, b))
    if len(first.calls) != len(second.calls):
        longer = max(first.calls, second.calls, key=len)
        extra = longer[min(len(first.calls), len(second.calls))]
        raise CaptureError(
            f"capture: one call of the step computes {len(first.calls)} things and the next "
            f"{len(second.calls)}, from {extra.name} at {extra.where()} on; what a step computes must not "
            "depend on numbers or on what Python counts"
        )
    for old, new in zip(first.storages, second.storages, strict=True):
        if old.is_born != new.is_born:
            raise CaptureError("capture: a step makes an array that the next one finds; call it once before")
        if old.is_born or (old.start, old.stop) == (new.start, new.stop):
            continue
        if old.number not in first.digests or first.digests[old.number] != second.digests.get(new.number):
            call = next(each for each in second.calls if each.touches(new))
            raise CaptureError(
                f"capture: {call.name} at {call.where()} reads an array of {new.nbytes} bytes that is "
                "another one each time and was made out of sight; pass it to the step as an argument, "
                "compute it with distgrad's functions, or keep it in one tensor that is changed in place "
                "with copy_()"
            )


def _difference(place: int, a: Call, b: Call) -> str:
    if a.kind == "guard" and b.kind == "guard" and a.name == b.name and a.value != b.value:
        return (
            f"capture: the step looks at a number at {b.where()}, which was {a.value!r} and then "
            f"{b.value!r}; return the tensor from the step and look at it outside (.item(), float, if), or "
            "choose by dg.where, which needs no look"
        )
    if a.name == b.name and a.kind == b.kind:
        return (
            f"capture: call {place} of the step, {b.name} at {b.where()}, is given other numbers or shapes "
            f"each time ({a!r}, then {b!r}); pass what changes as a tensor argument of the step, or change "
            "it outside"
        )
    return (
        f"capture: call {place} of the step is {a.name} at {a.where()}, and then {b.name} at {b.where()}; "
        "what a step computes must not depend on numbers or on what Python counts"
    )
