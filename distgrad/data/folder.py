"""Folders of NumPy files, one sample a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distgrad.data.arrays import read_arrays
from distgrad.data.dataset import Dataset
from distgrad.errors import DataError

__all__ = ["ArrayFolder"]


class ArrayFolder(Dataset):
    """The ``.npy`` and ``.npz`` files of a folder, in the order of their names, read when they are asked for.

    A sample is the array of a ``.npy`` file, and a dict of the arrays of a ``.npz`` file by name. Arrays of
    Python objects, which are pickles, are refused.

    Args:
        folder: where the files lie.

    Attributes:
        paths: the files.

    Raises:
        DataError: no folder, or none of its files is of these kinds; on reading, a file that is damaged,
            holds pickles, or unpacks to hundreds of times its size.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = Path(folder).absolute()
        if not folder.is_dir():
            raise DataError(f"ArrayFolder: expected a folder, {folder} is none; correct the path")
        self.paths = sorted(path for path in folder.iterdir() if path.suffix in (".npy", ".npz"))
        if not self.paths:
            raise DataError(f"ArrayFolder: {folder} holds no .npy or .npz file; correct the path")

    def __getitem__(self, index: int) -> Any:
        return read_arrays(self.paths[index], "ArrayFolder")

    def __len__(self) -> int:
        return len(self.paths)
