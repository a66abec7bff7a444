"""What ``distgrad checkpoint`` does with checkpoints on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from distgrad.checkpoint.files import save
from distgrad.checkpoint.layout import Manifest, find_checkpoints, read_manifest
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.places import Place
from distgrad.checkpoint.resharding import reshard
from distgrad.checkpoint.writer import claim, unlock
from distgrad.errors import DataError, OptionError

__all__ = ["consolidate", "listed", "resharded", "shown", "verified"]


def _found(path: Place) -> list[tuple[Place, Manifest]]:
    """The checkpoint at a path, or all those in the folder, each with its manifest."""
    folders = find_checkpoints(path) or [path]
    return [(folder, read_manifest(folder)) for folder in folders]


def _size(nbytes: int) -> str:
    value, units = float(nbytes), iter(("B", "KB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.3g} {unit}"


def listed(path: Place) -> Iterator[str]:
    """A line a checkpoint: name, bytes, ranks, time and metric.

    Raises:
        DataError: there is none, or a damaged one.
    """
    for folder, manifest in _found(path):
        metric = manifest.notes.get("metric")
        line = f"{folder.name}  {_size(manifest.nbytes):>8}  {manifest.world_size} ranks"
        yield f"{line}  {manifest.notes.get('time', '')}" + ("" if metric is None else f"  metric {metric:g}")


def shown(path: Place) -> Iterator[str]:
    """What the newest checkpoint at a path holds, array by array.

    Raises:
        DataError: as :func:`listed`.
    """
    folder, manifest = _found(path)[-1]
    yield f"{folder}: step {manifest.step}, {_size(manifest.nbytes)}, written by {manifest.world_size} ranks"
    yield from (f"  {key}: {json.dumps(value)}" for key, value in manifest.notes.items())
    for name, entry in manifest.arrays.items():
        yield f"{name}  {entry.dtype}{list(entry.shape)}  {len(entry.pieces)} pieces"


def verified(path: Place) -> Iterator[str]:
    """A line a checkpoint, once the digests of all its arrays agree.

    Raises:
        DataError: the first array that is damaged or missing.
    """
    for folder, manifest in _found(path):
        count = sum(1 for _ in Reader(folder, manifest).verify())
        yield f"{folder.name}: {count} arrays, {_size(manifest.nbytes)}: whole"


def resharded(path: Place, num_ranks: int, output: Place | None) -> Iterator[str]:
    """Write the newest checkpoint at a path anew as ``num_ranks`` ranks would have; a line when it is done.

    Args:
        path: a checkpoint, or the folder that holds some.
        num_ranks: how many files.
        output: the folder that is to hold the new one; None puts it in the place of the old one.

    Raises:
        DataError: a damaged checkpoint, or a folder that a job uses or that cannot be written.
        OptionError: no ranks, or a store's checkpoint in its own place.
    """
    if num_ranks < 1:
        raise OptionError(f"checkpoint: the number of ranks must be 1 or more, got {num_ranks}")
    folder, manifest = _found(path)[-1]
    root = folder.absolute().parent if output is None else output
    lock = claim(root)
    try:
        done = reshard(Reader(folder, manifest), num_ranks, root)
    except OSError as error:
        raise DataError(f"checkpoint: {root} cannot be written: {error.strerror}") from None
    finally:
        unlock(lock)
    yield f"{done}: {_size(manifest.nbytes)} of {manifest.world_size} ranks, now of {num_ranks}"


def consolidate(path: Place, output: Path, only: str | None = None) -> None:
    """Write one object's state, or all of it, of the newest checkpoint to one safetensors file.

    Args:
        path: a checkpoint, or the folder that holds some.
        output: a new file. Of one object the arrays have its own names, as other programs expect.
        only: the object; None means everything.

    Raises:
        DataError: a damaged checkpoint.
        OptionError: an object that it does not hold, or a file that exists.
    """
    folder, manifest = _found(path)[-1]
    if only is not None and only not in manifest.tree:
        raise OptionError(f"checkpoint: {folder} holds {sorted(manifest.tree)}, not {only!r}")
    if output.exists():
        raise OptionError(f"checkpoint: {output} exists; name a new file")
    if not output.parent.is_dir():
        raise DataError(f"checkpoint: there is no folder {output.parent}; make it first")
    reader = Reader(folder, manifest)
    names = manifest.tree if only is None else [only]
    state = {name: reader.decoded(manifest.tree[name]) for name in names}
    save(state if only is None else state[only], output)
