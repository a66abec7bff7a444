"""Data sets from files, and files that are not what they should be."""

import pickle

import numpy as np
import pytest

import distgrad as dg
from distgrad.data import (
    ArrayFolder,
    DataLoader,
    TextStream,
    TokenDataset,
    TokenFile,
    Vocabulary,
    load_cifar10,
    read_text,
)
from distgrad.data.worker import WorkerInfo
from distgrad.errors import DataError, ShapeError

# -- CIFAR-10


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records = np.zeros((10_000, 3073), np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records[:, 1:] = number * 10
        records[3, 1 + 1024 + 32 + 5] = 255  # green, row 1, column 5
        records.tofile(folder / f"{name}.bin")
    return folder


def test_cifar10(cifar):
    train, test = load_cifar10(cifar)
    images, labels = train.tensors
    assert images.shape == (50_000, 3, 32, 32)
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    assert images[3, 1, 1, 5] == 1.0
    np.testing.assert_allclose(images[10_000 * np.arange(5), 0, 0, 0], np.arange(5) * 10 / 255)
    np.testing.assert_array_equal(labels, np.arange(50_000) % 10)
    assert len(test) == 10_000
    np.testing.assert_allclose(test.tensors[0][0], 50 / 255)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "expected 10000 records .* got 30729999"),
        (lambda path: path.unlink(), "cannot read .*data_batch_2.bin"),
        (
            lambda path: path.write_bytes(b"\x0b" + path.read_bytes()[1:]),
            r"labels in 0..9, got 11 at record 0",
        ),
    ],
)
def test_cifar10_damaged(cifar, damage, message):
    path = cifar / "data_batch_2.bin"
    whole = path.read_bytes()
    try:
        damage(path)
        with pytest.raises(DataError, match=message):
            load_cifar10(cifar)
    finally:
        path.write_bytes(whole)
    with pytest.raises(DataError, match="found nothing there"):
        load_cifar10(cifar / "elsewhere")


# -- tokens


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_windows_of_tokens(stride):
    tokens = np.arange(20, dtype=np.uint16)
    windows = TokenDataset(tokens, 5, stride)
    starts = range(0, 20 - 5, stride)
    assert len(windows) == len(starts)
    for (x, y), start in zip(map(windows.__getitem__, range(len(windows))), starts, strict=True):
        np.testing.assert_array_equal(x, tokens[start : start + 5])
        np.testing.assert_array_equal(y, tokens[start + 1 : start + 6])
        assert x.dtype == y.dtype == np.int64
    np.testing.assert_array_equal(windows[-1][0], windows[len(starts) - 1][0])
    with pytest.raises(IndexError, match="out of range"):
        windows[len(starts)]


@pytest.mark.parametrize("name", ["tokens.bin", "tokens.npy"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_token_file_is_mapped_here_and_in_workers(tmp_path, name, num_workers):
    tokens = np.arange(100, dtype=np.uint16) * 600
    path = tmp_path / name
    np.save(path, tokens) if name.endswith("npy") else tokens.tofile(path)
    windows = TokenFile(path, 9, stride=10)
    assert isinstance(windows.tokens, np.memmap)
    assert len(pickle.dumps(windows)) < 1000  # the path, not the tokens
    batches = list(DataLoader(windows, 4, num_workers=num_workers))
    x = np.concatenate([batch[0].numpy() for batch in batches])
    np.testing.assert_array_equal(x, tokens.reshape(10, 10)[:, :9])


def test_token_files_that_are_refused(tmp_path):
    path = tmp_path / "tokens.bin"
    with pytest.raises(DataError, match="cannot read"):
        TokenFile(path, 3)
    path.write_bytes(b"12345")
    with pytest.raises(DataError, match=r"tokens of 2 bytes \(uint16\), got 5 bytes"):
        TokenFile(path, 3)
    with pytest.raises(ShapeError, match="more than length=5"):
        TokenFile(path, 5, dtype=np.uint8)
    path.write_bytes(b"12345678")
    with pytest.raises(DataError, match="expected whole numbers, got float32"):
        TokenFile(path, 1, dtype=np.float32)
    for content in (b"\x93NUMPY\x01\x00", b"text", b""):
        (tmp_path / "tokens.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"tokens\.npy"):
            TokenFile(tmp_path / "tokens.npy", 3)
    with pytest.raises(ValueError, match="length and stride"):
        TokenDataset(np.arange(9), 3, stride=0)


# -- text

TEXT = "Grüße, 世界! 🙂 " * 50


def test_vocabulary_goes_there_and_back():
    vocabulary = Vocabulary(TEXT)
    numbers = vocabulary.encode(TEXT)
    assert numbers.dtype == np.int64
    assert sorted(set(numbers.tolist())) == list(range(len(vocabulary)))
    assert vocabulary.decode(numbers) == TEXT
    assert vocabulary.decode(vocabulary.encode("")) == ""
    with pytest.raises(DataError, match=r"'X', at place 1, is not among the 11 characters"):
        vocabulary.encode("GXß")
    with pytest.raises(DataError, match="among the 0 characters"):
        Vocabulary("").encode("a")


def windows_of(stream, **options):
    batches = DataLoader(stream, 3, **options)
    return sorted(
        tuple(row) for x, y in batches for row in np.concatenate([x.numpy(), y.numpy()], 1).tolist()
    )


@pytest.mark.parametrize("unit", ["characters", "bytes"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_give_each_window_once(tmp_path, monkeypatch, unit, num_workers):
    monkeypatch.setattr("distgrad.data.text._BLOCK_BYTES", 7)  # cuts through characters
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(TEXT, encoding="utf-8")
    assert read_text(paths) == TEXT * 2
    vocabulary = Vocabulary(TEXT) if unit == "characters" else None
    whole = vocabulary.encode(TEXT * 2) if vocabulary else np.frombuffer((TEXT * 2).encode(), np.uint8)
    expected = TokenDataset(whole, 8, stride=8)
    got = windows_of(TextStream(paths, 8, vocabulary), num_workers=num_workers)
    assert got == sorted(
        (*x.tolist(), *y.tolist()) for x, y in map(expected.__getitem__, range(len(expected)))
    )


@pytest.mark.ranks(2)
def test_ranks_share_a_stream():
    comm = dg.comm.init()
    stream = TextStream(__file__, 10)
    mine = np.array([len(list(stream))])
    everything = list(stream.iterate_whole())
    np.testing.assert_array_equal(next(iter(stream))[0], everything[comm.rank][0])
    assert comm.all_reduce(mine)[0] == len(everything)


@pytest.mark.parametrize(("size", "num_workers"), [(1, 3), (2, 2), (3, 2)])
def test_workers_of_ranks_share_a_stream(monkeypatch, size, num_workers):
    stream = TextStream(__file__, 10)
    expected = [window[0].tolist() for window in stream.iterate_whole()]
    given = []
    for stream.rank in range(size):
        stream.num_replicas = size
        for number in range(num_workers):
            info = WorkerInfo(number, num_workers, 0, stream)
            monkeypatch.setattr("distgrad.data.stream.get_worker_info", lambda info=info: info)
            given += [window[0].tolist() for window in stream]
    assert sorted(given) == sorted(expected)


def test_text_that_is_refused(tmp_path):
    path = tmp_path / "latin"
    path.write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin: expected text in utf-8, but after byte 0 invalid"):
        read_text(path)
    assert read_text(path, "latin-1") == "Grüße"
    with pytest.raises(DataError, match="No such file"):
        list(TextStream(tmp_path / "none", 3))
    with pytest.raises(ValueError, match="length must be positive"):
        TextStream(path, 0)


# -- NumPy files


def test_a_folder_of_arrays(tmp_path):
    for number in range(3):
        np.savez_compressed(tmp_path / f"{number}.npz", x=np.full(4, number), y=np.float32(number))
    (tmp_path / "notes.txt").write_text("not a sample")
    folder = ArrayFolder(tmp_path)
    assert len(folder) == 3
    (batch,) = DataLoader(folder, 3)
    np.testing.assert_array_equal(batch["x"].numpy(), [[0] * 4, [1] * 4, [2] * 4])
    assert batch["y"].dtype == np.float32
    np.save(tmp_path / "9.npy", np.arange(3.0))
    np.testing.assert_array_equal(ArrayFolder(tmp_path)[-1], [0, 1, 2])


def test_folders_and_files_that_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.npy or \.npz"):
        ArrayFolder(tmp_path)
    with pytest.raises(DataError, match="is none"):
        ArrayFolder(tmp_path / "none")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "cut.npz", x=np.arange(1000))
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:500] + bytes(100) + whole[600:])
    (tmp_path / "empty.npy").write_bytes(b"")
    folder = ArrayFolder(tmp_path)
    for index, path in enumerate(folder.paths):
        with pytest.raises(DataError, match=rf"{path.name}.* is missing, damaged, or holds Python objects"):
            folder[index]
