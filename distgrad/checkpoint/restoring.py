"""Taking over a checkpoint: what objects are to take is chosen, then read, and only then given to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distgrad.checkpoint.collect import choose_parts, give_back, own_state, restore_random_state
from distgrad.checkpoint.pieces import Reader, Stored
from distgrad.errors import DataError, StateDictError

__all__ = ["restore"]


def restore(
    reader: Reader, objects: Mapping[str, Any], rank: int, strict: bool, only: Iterable[str] | None
) -> None:
    """Let objects go on from a checkpoint; nothing is changed before all of it is read and found whole.

    A rank reads what it is to have and no more.

    Args:
        reader: of the checkpoint.
        objects: by name.
        rank: whose own state comes back.
        strict: whether modules' names must be exactly the saved ones, and every object be in it.
        only: names of objects, or of parts of a module (``model.encoder``); None: all, and random generators.

    Raises:
        DataError: it is damaged.
        StateDictError: it does not fit the objects.
    """
    manifest = reader.manifest
    own = manifest.ranks[rank] if rank < manifest.world_size else {}
    trees: dict[str, Any] = {}
    for name in objects if only is None else only:
        owner, _, inside = name.partition(".")
        if owner not in objects or owner not in manifest.tree:
            if strict or only is not None:
                raise StateDictError(
                    f"checkpoint: {reader.folder} holds {sorted(manifest.tree)}, and added were "
                    f"{sorted(objects)}: {name!r} is not in both; restore with only=[…] what is"
                )
            continue
        trees[name] = _inside(manifest.tree[owner], inside, name) if inside else manifest.tree[owner]
    alone = {name: own[name] for name in trees if name in own}
    if only is None and "$random" in manifest.ranks[0]:
        alone["$random"] = own.get("$random", manifest.ranks[0]["$random"])
    arrays = reader.stored([*trees.values(), *alone.values()])
    for name, tree in trees.items():
        choose_parts(objects[name.partition(".")[0]], _dict(reader, reader.planned(tree, arrays)))
    reader.read(arrays.values())
    states = {name: _state(reader, tree, arrays) for name, tree in trees.items()}
    lefts = {name: _state(reader, tree, arrays) for name, tree in alone.items()}
    for name, state in states.items():
        owner, _, inside = name.partition(".")
        each = objects[owner]
        if not inside:
            state |= lefts[name] if name in lefts else own_state(each)
        give_back(owner, each, state, strict and not inside)
    if "$random" in lefts:
        try:
            restore_random_state(lefts["$random"], "$random" not in own)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"checkpoint: {reader.folder}: its random state is damaged: {error!r}") from None


def _inside(tree: Any, prefix: str, name: str) -> Any:
    """Of a module's tree what stands under a dotted name.

    Raises:
        StateDictError: nothing does.
    """
    ((kind, items),) = tree.items()
    chosen = [item for item in items if f"{item[0]}.".startswith(f"{prefix}.")]
    if not chosen:
        raise StateDictError(
            f"checkpoint: it holds nothing under {name!r}; look with distgrad checkpoint show"
        )
    return {kind: chosen}


def _state(reader: Reader, tree: Any, arrays: Mapping[str, Stored]) -> dict[str, Any]:
    return _dict(reader, reader.decoded(tree, arrays))


def _dict(reader: Reader, state: Any) -> dict[str, Any]:
    if not isinstance(state, dict):
        kind = type(state).__name__
        raise DataError(f"checkpoint: {reader.folder}: the manifest's tree is damaged: a state is a {kind}")
    return state
