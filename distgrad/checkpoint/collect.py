"""What there is to save: what all ranks of a job have alike, and what each has alone.

Parameters and moments are the same on every rank, or spread over them in pieces; each rank writes an equal
share. Of running statistics and the like rank 0's count, as in training. Random generators, and what a hook
remembers in arrays, are each rank's own.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from distgrad.autograd.parts import Part, local_views
from distgrad.backend.rng import default_generator
from distgrad.checkpoint.layout import share
from distgrad.checkpoint.pieces import Slice, Stored
from distgrad.checkpoint.tree import encode
from distgrad.errors import DistgradError, StateDictError

__all__ = [
    "Collected",
    "choose_parts",
    "collect",
    "give_back",
    "own_state",
    "random_state",
    "restore_random_state",
]

_EXTRA = "_extra_state"


class Collected(NamedTuple):
    """What a rank contributes to a checkpoint.

    Attributes:
        tree: of what all ranks have alike.
        own: the tree of what this rank has alone.
        entries: dtype and shape of every array that this rank knows, by name.
        slices: what this rank writes.
        equal: the arrays that are to be the same on every rank, by name.
    """

    tree: dict[str, Any]
    own: dict[str, Any]
    entries: dict[str, tuple[np.dtype, tuple[int, ...]]]
    slices: list[Slice]
    equal: dict[str, np.ndarray]


def collect(objects: Mapping[str, Any], rank: int, num_ranks: int) -> Collected:
    """The state of objects with ``state_dict()``, and of dicts, as one rank saves it, where it lies.

    Collective: no, unless a ``state_dict()`` of the user's is; blocks: no.
    """
    tree: dict[str, Any] = {}
    own: dict[str, Any] = {}
    alike: dict[str, Any] = {}
    mine: dict[str, Any] = {}
    equal: set[str] = set()
    for name, each in objects.items():
        state, left = _state_of(each)
        before = set(alike)
        tree[name] = encode(state, name, alike, keep_arrays=True, parts=True)
        new = set(alike) - before
        if not new:  # where a loader stands, say: each rank's too
            left = state | left
        mine.update({place: alike.pop(place) for place in new if isinstance(alike[place], Part)})
        equal |= _equal_names(name, each, new & set(alike))
        if left:
            own[name] = encode(left, f"rank{rank}/{name}", mine, keep_arrays=True)
    own["$random"] = encode(random_state(), f"rank{rank}/$random", mine, keep_arrays=True)
    entries = {
        name: (array.data.dtype if isinstance(array, Part) else array.dtype, tuple(array.shape))
        for name, array in (alike | mine).items()
    }
    divided = {name: array for name, array in alike.items() if name in equal}
    ranges = share([array.nbytes for array in divided.values()], rank, num_ranks)
    slices = []
    for (name, array), (start, stop) in zip(divided.items(), ranges, strict=True):
        first, last = start // array.itemsize, stop // array.itemsize
        slices.append(Slice(name, first, array.reshape(-1)[first:last]))
    if rank == 0:
        slices += [Slice(name, 0, array.reshape(-1)) for name, array in alike.items() if name not in equal]
    for name, array in mine.items():
        if isinstance(array, Part) and array.is_replica:
            continue
        start, data = (array.start, array.data) if isinstance(array, Part) else (0, array.reshape(-1))
        slices.append(Slice(name, start, data))
    return Collected(tree, own, entries, [part for part in slices if part.data.size], divided)


def _equal_names(name: str, each: Any, arrays: set[str]) -> set[str]:
    """Those of an object's arrays that are the same on every rank by design: parameters and their state.

    Of others (running statistics, a dict of the user's) rank 0's count.
    """
    if hasattr(each, "param_groups"):
        return arrays
    if hasattr(each, "named_parameters"):
        return arrays & {f"{name}.{parameter}" for parameter, _ in each.named_parameters()}
    return set()


def _state_of(each: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An object's state, and beside it what a rank has alone: what a hook remembers in arrays."""
    if isinstance(each, dict):
        return dict(each), {}
    with local_views():
        state = dict(each.state_dict())
    extra = [
        key for key in state if isinstance(key, str) and key.endswith(_EXTRA) and _has_arrays(state[key])
    ]
    return state, {key: state.pop(key) for key in extra}


def own_state(each: Any) -> dict[str, Any]:
    """What a rank has alone where no rank of its number has saved any: what it has now."""
    return {} if isinstance(each, dict) else _state_of(each)[1]


def _has_arrays(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_arrays, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_arrays, value))
    return hasattr(value, "dtype") and hasattr(value, "shape")


def choose_parts(each: Any, state: dict[str, Any]) -> None:
    """Of what is spread over the ranks, let only this rank's be read.

    Args:
        each: the object that is to take the state.
        state: of :class:`~distgrad.checkpoint.pieces.Stored` arrays.
    """
    if hasattr(each, "local_parts"):
        try:
            parts = list(each.local_parts(state))
        except (KeyError, TypeError, AttributeError, StateDictError):
            return  # it does not fit, which loading says
        for stored, start, stop in parts:
            stored.range = start, stop
    elif not isinstance(each, dict):
        for key, part in _state_of(each)[0].items():
            stored = state.get(key)
            if isinstance(part, Part) and isinstance(stored, Stored) and stored.shape == part.shape:
                stored.range = part.start, part.start + part.data.size


def give_back(name: str, each: Any, state: dict[str, Any], strict: bool) -> None:
    """Let an object go on from a state that :func:`collect` took of one like it.

    Raises:
        StateDictError: one that does not fit.
    """
    if isinstance(each, dict):
        each.clear()
        each.update(state)
        return
    options = {"strict": strict} if "strict" in inspect.signature(each.load_state_dict).parameters else {}
    try:
        each.load_state_dict(state, **options)
    except DistgradError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise StateDictError(
            f"checkpoint: the state of {name!r} does not fit a {type(each).__name__}: {error!r}; restore "
            "with only=[…] to leave it out"
        ) from error


def random_state() -> dict[str, Any]:
    """Where the random generators stand: distgrad's, NumPy's and Python's."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return {"distgrad": default_generator.get_state(), "numpy": numpy_state, "python": random.getstate()}


def restore_random_state(state: dict[str, Any], of_rank0: bool = False) -> None:
    """Let the random generators go on from a state that :func:`random_state` took.

    Args:
        state: what it took.
        of_rank0: there is none of this rank's, and this is rank 0's: what began as rank 0's did, by the same
            seed, goes on as it does, so that ranks which are to draw alike do; all else stays as it is.
    """
    if of_rank0:
        here, there = default_generator.get_state(), state["distgrad"]
        if (here["seed"], here["stream"]) == (there["seed"], there["stream"]):
            default_generator.set_state(there)
        return
    default_generator.set_state(state["distgrad"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
