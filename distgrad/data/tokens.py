"""Windows of a long sequence of tokens, in memory or in a file that is mapped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distgrad.data.arrays import read_header
from distgrad.data.dataset import Dataset
from distgrad.errors import DataError, ShapeError

__all__ = ["TokenDataset", "TokenFile"]


class TokenDataset(Dataset):
    """Windows to predict next tokens: sample i is ``(t[k : k+length], t[k+1 : k+1+length])``, k = stride·i.

    Args:
        tokens: whole numbers ``[n]``.
        length: tokens a window.
        stride: from one window to the next (1: windows overlap; ``length``: every token is predicted once).

    Raises:
        ShapeError: tokens with other than one axis, or too few for one window.
        ValueError: a length or stride that is not positive.
    """

    def __init__(self, tokens: Any, length: int, stride: int = 1) -> None:
        if length < 1 or stride < 1:
            raise ValueError(
                f"{type(self).__name__}: length and stride must be positive, got {length} and {stride}"
            )
        if len(tokens.shape) != 1 or tokens.shape[0] <= length:
            raise ShapeError(
                f"{type(self).__name__}: expected one axis of more than length={length} tokens, got shape "
                f"{tuple(tokens.shape)}; shorten the windows or give more text"
            )
        self.tokens = tokens
        self.length = length
        self.stride = stride

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"{type(self).__name__}: index {index} is out of range for {len(self)} windows")
        start = place * self.stride
        window = np.asarray(self.tokens[start : start + self.length + 1], dtype=np.int64)
        return window[:-1], window[1:]

    def __len__(self) -> int:
        return (int(self.tokens.shape[0]) - self.length - 1) // self.stride + 1


class TokenFile(TokenDataset):
    """Windows of a file of tokens, of which only the parts in use are in memory.

    The file is a one-axis ``.npy`` or, under any other name, the bare numbers one after another. A worker
    process opens it anew.

    Args:
        path: the file.
        length: tokens a window.
        stride: from one window to the next.
        dtype: of the bare numbers, in the machine's byte order; a ``.npy`` file says its own.

    Raises:
        DataError: a file that is missing, empty, not of whole numbers, or not of whole tokens.
        ShapeError: too few tokens for one window.
    """

    def __init__(
        self, path: str | os.PathLike[str], length: int, stride: int = 1, dtype: Any = np.uint16
    ) -> None:
        self.path = Path(path).absolute()
        self.dtype = np.dtype(dtype)
        super().__init__(_map(self.path, self.dtype), length, stride)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "tokens"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.tokens = _map(self.path, self.dtype)


def _map(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                shape, columns_first, kind = read_header(file, path.stat().st_size)
                order: Literal["F", "C"] = "F" if columns_first else "C"
                tokens = np.memmap(path, kind, "r", file.tell(), shape, order)
        else:
            size = path.stat().st_size
            if size == 0 or size % dtype.itemsize:
                raise DataError(
                    f"TokenFile: {path}: expected tokens of {dtype.itemsize} bytes ({dtype}), got {size} "
                    "bytes; the file is truncated, or dtype is another"
                )
            tokens = np.memmap(path, dtype=dtype, mode="r")
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"TokenFile: cannot read {path}: {error}") from None
    except Exception as error:  # a damaged header is parsed as Python, which fails in its own ways
        raise DataError(f"TokenFile: {path} is no whole .npy file: {error or type(error).__name__}") from None
    if tokens.dtype.kind not in "iu":
        raise DataError(f"TokenFile: {path}: expected whole numbers, got {tokens.dtype}; convert the file")
    return tokens
