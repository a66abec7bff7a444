"""Folders of NumPy files, one sample a file."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

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
        DataError: no folder, or none of its files is of these kinds; on reading, a file that is damaged or
            holds pickles.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = Path(folder).absolute()
        if not folder.is_dir():
            raise DataError(f"ArrayFolder: expected a folder, {folder} is none; correct the path")
        self.paths = sorted(path for path in folder.iterdir() if path.suffix in (".npy", ".npz"))
        if not self.paths:
            raise DataError(f"ArrayFolder: {folder} holds no .npy or .npz file; correct the path")

    def __getitem__(self, index: int) -> Any:
        path = self.paths[index]
        try:
            with path.open("rb") as file:
                content = np.load(file, allow_pickle=False)
                if isinstance(content, np.ndarray):
                    return content
                return {name: content[name] for name in content.files}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"ArrayFolder: {path} is missing, damaged, or holds Python objects: {error}; write it again "
                "with np.save or np.savez"
            ) from None

    def __len__(self) -> int:
        return len(self.paths)
