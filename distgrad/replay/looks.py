"""The third look: one eager step and one replay from the same state must leave the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.errors import CaptureError
from distgrad.replay.agreement import Ranks
from distgrad.replay.arguments import Arguments, Results
from distgrad.replay.places import Place
from distgrad.replay.ranks import settle
from distgrad.replay.tape import GuardError, Tape
from distgrad.replay.undo import Saved, remembered

__all__ = ["DifferenceError", "check_replay"]


class DifferenceError(CaptureError):
    """A replay and an eager step differ; the state is the one before the step."""


def _digest(x: np.ndarray) -> bytes:
    """What tells an array's bytes from others, without a copy that stays."""
    return hashlib.blake2b(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data, digest_size=16).digest()


def _lies_in(x: np.ndarray, views: list[np.ndarray]) -> bool:
    """Whether an array is part of what is kept anyway."""
    start, stop = Place(x).bounds()
    spans = [Place(view).bounds() for view in views]
    return any(low <= start and stop <= high for low, high in spans)


def _gradients(tape: Tape) -> list[bytes | None]:
    leaves = tape.conditions.leaves
    return [None if leaf.grad is None else _digest(leaf.grad._data) for leaf in leaves]


def _results(value: Any) -> list[bytes]:
    return [_digest(x) for x in Results(value, lambda _: True).arrays]


def check_replay(
    tape: Tape, arguments: Arguments, step: Callable[..., Any], ranks: Ranks | None
) -> tuple[Any, list[np.ndarray] | None]:
    """Compute a step eagerly and by its tape, from the same state.

    Collective: among ``ranks``; blocks: then.

    Returns:
        What the step returned where Python was told something else, which is computed eagerly once more, and
        the arrays of the tape's results; of the two the one that there is.

    Raises:
        DifferenceError: on any rank; the state is the one before the step then, on all of them.
    """
    stay = [each.view() for each in tape.outliving if not each.is_born]
    before = Saved(stay)
    before.take()
    put_back, leaves = remembered(tape.effects), tape.conditions.leaves
    gradients = [leaf.grad for leaf in leaves]
    kept = [None if g is None or _lies_in(g._data, stay) else g._data.copy() for g in gradients]
    result = step(*arguments.args, **arguments.kwargs)
    settle(tape.effects)
    eager = _results(result)
    after = [_digest(view) for view in stay]
    eager_gradients = _gradients(tape)
    del result

    def restore() -> None:
        before.put_back()
        put_back()
        for leaf, g, copy in zip(leaves, gradients, kept, strict=True):
            leaf.grad = g
            if copy is not None:
                np.copyto(g._data, copy)

    restore()
    tape.block[:] = 0xFF
    value: Any = None
    arrays: list[np.ndarray] | None = None
    try:
        arrays = tape.run(arguments.arrays)
        settle(tape.effects)
    except GuardError:
        restore()
        value = step(*arguments.args, **arguments.kwargs)
    problem = None if arrays is None else _difference(tape, stay, after, eager, eager_gradients, arrays)
    if ranks is not None:
        problem = ranks.first_problem(problem)
    if problem is None:
        return value, arrays
    restore()
    raise DifferenceError(
        f"capture: a replay {problem}; something is computed, drawn or communicated out of sight of the "
        "capture, or depends on what Python counts. The state is that before this step; leave that part out "
        "of the captured step"
    )


def _difference(
    tape: Tape,
    stay: list[np.ndarray],
    after: list[bytes],
    eager: list[bytes],
    gradients: list[bytes | None],
    arrays: list[np.ndarray],
) -> str | None:
    for view, digest in zip(stay, after, strict=True):
        if _digest(view) != digest:
            storage = next(s for s in tape.outliving if s.start == view.__array_interface__["data"][0])
            users = [call for call in tape.calls if call.touches(storage)]
            return (
                f"leaves other numbers than an eager step in memory of {view.nbytes} bytes, last touched by "
                f"{users[-1].name} at {users[-1].where()}"
            )
    if _gradients(tape) != gradients:
        return "leaves other gradients than an eager step"
    replayed = _results(tape.results.build(arrays))
    if len(eager) != len(replayed):
        return "returns another number of tensors than an eager step"
    for number, (x, y) in enumerate(zip(replayed, eager, strict=True)):
        if x != y:
            return f"returns other numbers than an eager step, as result {number}"
    return None
