"""CIFAR-10, 60,000 small photographs in ten classes, from its binary files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from distgrad.data.dataset import TensorDataset
from distgrad.errors import DataError

__all__ = ["load_cifar10"]

_NUM_CLASSES = 10
_IMAGE_SHAPE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, green and blue plane
_IMAGES_A_FILE = 10_000
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)


def load_cifar10(folder: str | os.PathLike[str]) -> tuple[TensorDataset, TensorDataset]:
    """Read the training set and the held-out set.

    Args:
        folder: where ``data_batch_1.bin`` … ``data_batch_5.bin`` and ``test_batch.bin`` lie.

    Returns:
        ``(train, test)``; each a dataset of ``images`` float32 ``[n, 3, 32, 32]`` in [0, 1] and ``labels``
        int64 ``[n]`` in 0..9.

    Raises:
        DataError: a folder or file that is missing, truncated, or not what its name says.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    folder = Path(folder)
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing there"
        raise DataError(
            f"load_cifar10: {folder} must be the folder with the binary version's six files, found {came}; "
            "correct the path"
        )
    return _read(folder, _TRAIN), _read(folder, _TEST)


def _read(folder: Path, names: tuple[str, ...]) -> TensorDataset:
    records = np.concatenate([_read_file(folder / name) for name in names])
    images = records[:, 1:].reshape(-1, *_IMAGE_SHAPE).astype(np.float32)
    images /= 255.0
    return TensorDataset(images, records[:, 0].astype(np.int64))


def _read_file(path: Path) -> np.ndarray:
    """Records uint8 ``[10000, 3073]``."""
    expected = _IMAGES_A_FILE * _RECORD_BYTES
    try:
        with path.open("rb") as file:
            data = file.read(expected + 1)
            size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"load_cifar10: cannot read {path}: {error.strerror}; put the binary version's six files there"
        ) from None
    if len(data) != expected:
        raise DataError(
            f"load_cifar10: {path}: expected {_IMAGES_A_FILE} records of {_RECORD_BYTES} bytes, {expected} "
            f"bytes, got {size}; the file is truncated or another one, fetch it again"
        )
    records = np.frombuffer(data, dtype=np.uint8).reshape(_IMAGES_A_FILE, _RECORD_BYTES)
    wrong = np.flatnonzero(records[:, 0] >= _NUM_CLASSES)
    if len(wrong):
        raise DataError(
            f"load_cifar10: {path}: expected labels in 0..{_NUM_CLASSES - 1}, got {records[wrong[0], 0]} at "
            f"record {wrong[0]}; the file is damaged or another data set"
        )
    return records
