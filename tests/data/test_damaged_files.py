"""Files that declare more than they hold, unpack to far more than they are, or are damaged anywhere."""

import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from distgrad.data import ArrayFolder, TokenFile, load_mnist
from distgrad.errors import DataError


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


DAMAGED = {
    "empty": b"",
    "no array": b"hello",
    "cut header": npy(np.arange(5))[:20],
    "cut elements": npy(np.arange(5))[:-1],
    "more than it declares": npy(np.arange(5)) + b"\0",
    "terabytes": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
    "beyond all memory": header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, 4), }}"),
    "negative": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
    "nested": header("(" * 5000),
    "no end of a text": header("{'descr': '''"),
    "unclosed": header("{'descr': '<f8', 'shape': (3,"),
    "no dtype": header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (3,), }"),
    "nested dtype": header("{'descr': %s, 'fortran_order': False, 'shape': (1,), }" % ("[" * 90 + "]" * 90)),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + b"x" * 8,
    "another version": b"\x93NUMPY\x09\x00" + bytes(20),
    "long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_array_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(
        DataError, match=r"ArrayFolder: .*a\.npy is missing, damaged, or holds Python objects"
    ):
        ArrayFolder(tmp_path)[0]
    with pytest.raises(DataError, match=r"TokenFile: .*a\.npy"):
        TokenFile(tmp_path / "a.npy", 2)
    (tmp_path / "a.npy").unlink()
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("good.npy", npy(np.arange(3)))
        archive.writestr("bad.npy", content)
    with pytest.raises(DataError, match=r"z\.npz, bad\.npy is missing, damaged"):
        ArrayFolder(tmp_path)[0]


def test_every_changed_byte_of_an_array_is_an_array_or_an_error(tmp_path):
    path = tmp_path / "a.npy"
    whole = npy(np.arange(6, dtype=np.int16).reshape(2, 3))
    for place in range(128):
        for bit in (1, 32):
            changed = bytearray(whole)
            changed[place] ^= bit
            path.write_bytes(changed)
            try:
                assert ArrayFolder(tmp_path)[0].nbytes == 12
            except DataError as error:
                assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "<f8", "?", "i1", [("x", "<f4"), ("y", ">i2")]], ids=str)
def test_whole_arrays_are_read_as_numpy_reads_them(tmp_path, order, dtype):
    array = np.asarray(np.ones((3, 4)).astype(dtype), order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "z.npz", first=array, second=array[:0], third=array[0, 0])
    alone, several = ArrayFolder(tmp_path)
    for found, expected in ((alone, array), (several["first"], array), (several["second"], array[:0])):
        np.testing.assert_array_equal(found, expected)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert several["third"].shape == ()
    alone[0] = alone[1]  # a sample is the reader's own


def test_an_archive_that_unpacks_to_a_thousand_times_its_size(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        zeros = np.zeros(70_000_000, np.uint8)
        archive.writestr("big.npy", npy(zeros))
        del zeros
    tracemalloc.start()
    with pytest.raises(
        DataError, match=r"z\.npz, big\.npy: \d+ bytes unpack to 70000128, more than 256 times"
    ):
        ArrayFolder(tmp_path)[0]
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def idx(magic, *shape):
    return struct.pack(f">{1 + len(shape)}i", magic, *shape)


@pytest.fixture
def digits(tmp_path):
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(2051, 2, 28, 28) + bytes(2 * 784))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(2049, 2) + bytes(2))
    return tmp_path


@pytest.mark.parametrize(("content", "message"), [
    (idx(2051, 2, 28, 28) + bytes(50_000_000), "got 1585 bytes or more; the file is longer"),
    (idx(2051, 1_000_000, 28, 28) + bytes(1000), "bytes unpack to 784000000, more than 256 times as many"),
    (idx(2051, 2, 28, 28) + bytes(100), "got 116 bytes; the file is truncated"),
    (idx(2051, 2), "expected an IDX header of 16 bytes"),
])  # fmt: skip
def test_a_packed_file_is_unpacked_no_further_than_it_declares(digits, content, message):
    (digits / "train-images-idx3-ubyte").unlink()
    (digits / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    tracemalloc.start()
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte.gz.*{message}"):
        load_mnist(digits)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_packed_file_may_be_damaged_anywhere(digits):
    path = digits / "train-images-idx3-ubyte.gz"
    whole = gzip.compress(np.random.default_rng(0).bytes(16 + 2 * 784))
    (digits / "train-images-idx3-ubyte").unlink()
    for place in range(0, len(whole), 37):
        changed = bytearray(whole)
        changed[place] ^= 255
        for content in (bytes(changed), whole[:place]):
            path.write_bytes(content)
            with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
                load_mnist(digits)
