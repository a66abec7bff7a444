"""The files of weights in a folder: one, or several with an index of what is where."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.checkpoint.files import load, save
from distgrad.errors import DataError, OptionError

__all__ = ["read_weights", "write_text", "write_weights"]

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_weights(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """The arrays by name, a file at a time.

    Args:
        folder: has ``model.safetensors``, or ``model.safetensors.index.json`` and the files that it names.

    Raises:
        DataError: neither is there, a file is missing or damaged, or lacks what the index says it has.
    """
    if (folder / WHOLE).is_file():
        yield _arrays(folder / WHOLE)
    elif (folder / INDEX).is_file():
        for name, keys in _read_index(folder / INDEX).items():
            arrays = _arrays(folder / name)
            lacking = sorted(keys - arrays.keys())
            if lacking:
                raise DataError(f"hub.load: {folder / name} lacks {lacking[0]}, which {INDEX} says it has")
            yield {key: arrays[key] for key in keys}
    else:
        raise DataError(_nothing_safe(folder))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    found = load(path)
    return {name: getattr(value, "_data", value) for name, value in found.items()}


def _read_index(path: Path) -> dict[str, set[str]]:
    """What each file has."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files: dict[str, set[str]] = {}
        for key, name in places.items():
            if Path(name).name != name:  # a file elsewhere is none of this model's
                raise DataError(f"hub.load: {path} names {name!r}, which is no file beside it")
            files.setdefault(name, set()).add(key)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"hub.load: {path} does not say which file has what: {error!r}") from None
    return files


def _nothing_safe(folder: Path) -> str:
    """Why there is nothing to read."""
    pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
    if pickles:
        return (
            f"hub.load: {folder} has its weights as a pickle ({pickles[0]}), which can run any program as it "
            "is read; have transformers write them as safetensors (model.save_pretrained(folder))"
        )
    return f"hub.load: expected {WHOLE} or {INDEX} in {folder}, found neither"


def write_weights(arrays: dict[str, np.ndarray], folder: Path, max_file_bytes: int) -> None:
    """Write the arrays as one file, or as several with an index; files of an earlier model go.

    Args:
        arrays: name to array.
        folder: receives the files.
        max_file_bytes: a file has no more, unless one array alone has.
    """
    if type(max_file_bytes) is not int or max_file_bytes < 1:
        raise OptionError(f"hub.save: max_file_bytes must be a count of bytes from 1, got {max_file_bytes!r}")
    groups: list[dict[str, Any]] = [{}]
    room = max_file_bytes
    for name, array in arrays.items():
        if groups[-1] and array.nbytes > room:
            groups.append({})
            room = max_file_bytes
        groups[-1][name] = array
        room -= array.nbytes
    total = len(groups)
    names = [f"model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]
    files = dict(zip(names if total > 1 else [WHOLE], groups, strict=True))
    for file, group in files.items():
        save(group, folder / file, metadata={"format": "pt"})  # which says whose layout it is
    if total > 1:
        num_bytes = sum(array.nbytes for array in arrays.values())
        places = {name: file for file, group in files.items() for name in group}
        index = {"metadata": {"total_size": num_bytes}, "weight_map": places}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
    _remove_others(folder, {*files, INDEX} if total > 1 else {WHOLE})


def _remove_others(folder: Path, kept: set[str]) -> None:
    for path in (folder / WHOLE, folder / INDEX, *folder.glob("model-*-of-*.safetensors")):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, which replaces an old one only once it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
