"""What each array of a model is called in transformers' files, and how it lies there.

A model lists a :class:`Key` for each of its arrays, with ``*`` for the number of a layer. The same list reads
files and writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Key", "both", "expand", "gather", "scatter"]


@dataclass(frozen=True)
class Key:
    """One array of a file.

    Args:
        theirs: its name in the file.
        ours: the names in the module; several for layers that the file has joined along their outputs.
        transposed: whether the file has inputs along axis 0, where a module has outputs.
        part: "body", which every file has and names with its prefix; "pooler", which some have; "head", which
            belongs to one task.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    part: str = "body"


def both(theirs: str, *ours: str, transposed: bool = False, part: str = "body") -> list[Key]:
    """The weight and the bias of a layer."""
    return [
        Key(
            f"{theirs}.{kind}",
            tuple(f"{name}.{kind}" for name in ours),
            transposed and kind == "weight",
            part,
        )
        for kind in ("weight", "bias")
    ]


def expand(keys: list[Key], num_layers: int) -> Iterator[Key]:
    """The keys, those with ``*`` once for each layer."""
    for key in keys:
        if "*" not in key.theirs:
            yield key
            continue
        for layer in map(str, range(num_layers)):
            ours = tuple(name.replace("*", layer) for name in key.ours)
            yield replace(key, theirs=key.theirs.replace("*", layer), ours=ours)


def plain_names(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays of a file without the body's prefix, and with the names that norms have today."""
    old = re.compile(r"(LayerNorm)\.(gamma|beta)$")
    today = {"gamma": "weight", "beta": "bias"}
    return {
        old.sub(lambda found: f"{found[1]}.{today[found[2]]}", name.removeprefix(prefix)): array
        for name, array in arrays.items()
    }


def scatter(key: Key, array: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    """The module's arrays out of the file's.

    Args:
        key: which.
        array: the file's.
        lengths: of the module's arrays along axis 0.
    """
    whole = array.T if key.transposed else array
    return np.split(whole, np.cumsum(lengths)[:-1]) if len(lengths) > 1 else [whole]


def gather(key: Key, find: Callable[[str], np.ndarray]) -> np.ndarray:
    """The file's array out of the module's; ``find`` gives one by name."""
    parts = [find(name) for name in key.ours]
    whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return np.ascontiguousarray(whole.T) if key.transposed else whole
