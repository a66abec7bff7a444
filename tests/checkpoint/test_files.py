"""Saved state comes back; a file that is not whole never passes for one."""

import enum
import json
import os
import pickle
import struct
import subprocess
import sys
import time
from collections import Counter, OrderedDict, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

import distgrad as dg
from distgrad.checkpoint import load, save
from distgrad.checkpoint.files import _digest
from distgrad.errors import DataError, DTypeError


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif hasattr(a, "dtype"):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert isinstance(a, np.generic) == isinstance(b, np.generic)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    else:
        assert a == b
        assert type(a) is type(b)


def test_nested_state_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    state = {
        "model": {"0.weight": dg.Tensor(rng.standard_normal((3, 4))), "0.bias": np.zeros((0, 2), np.float16)},
        "optimizer": {
            "state": {0: {"step": 3, "m": np.float32(2.5)}},
            "param_groups": [{"betas": (0.9, 0.999)}],
        },
        "epoch": 7,
        "note": None,
        "flags": [True, "x", 1.5],
        "turned": rng.standard_normal((4, 5)).T,
        "a": {"b": np.arange(3)},
        "narrow": dg.tensor([1.5, -2.0]).astype(dg.bfloat16),
        "a.b": np.arange(4, dtype=np.uint8),
    }
    save(state, tmp_path / "state", {"author": "me"})
    same(state, load(tmp_path / "state"))
    assert os.listdir(tmp_path) == ["state"]


class Point(NamedTuple):
    x: int
    y: int


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


def test_kinds_of_dict_and_scalar_come_back_as_they_were(tmp_path):
    state = {
        "counter": Counter([3, 7, 7]),
        "ordered": OrderedDict(b=1, a=[OrderedDict()]),
        "scalars": (np.float32(0.5), np.float64(2.5), np.int64(3), np.bool_(True), np.uint8(7)),
        True: 1,
        2: "two",
    }
    save(state, tmp_path / "f")
    found = load(tmp_path / "f")
    assert found == state
    assert [type(value) for value in found.values()] == [type(value) for value in state.values()]
    assert [type(value) for value in found["scalars"]] == [type(value) for value in state["scalars"]]
    assert found["counter"][5] == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Point(1, 2), r"is a Point; .*come back as a plain tuple: pass tuple\(...\)"),
        (Level.HIGH, r"is a Level; .*plain int: pass int\(...\)"),
        (Text("a"), r"is a Text; .*plain str"),
        (defaultdict(list), r"is a defaultdict; .*plain dict: pass dict\(...\)"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), r"is a MaskedArray; .*pass numpy.asarray\(...\)"),
        (np.rec.array([(1, 2.0)], dtype="i4,f4"), "is a recarray"),
        (np.array(["a"]), "is <U1, which the format does not hold"),
        (np.str_("a"), "is <U1, which the format does not hold"),
        (1j, "is a complex"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_come_back_as_something_else_is_refused(tmp_path, value, message):
    with pytest.raises(DTypeError, match=rf"save: a\.1 {message}"):
        save({"a": [0, value]}, tmp_path / "f")
    assert os.listdir(tmp_path) == []
    if isinstance(value, int | str):
        with pytest.raises(DTypeError, match="save: a key of a is "):
            save({"a": {value: 1}}, tmp_path / "f")


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">u8", ">f2"])
def test_arrays_of_the_other_byte_order(tmp_path, dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    save(
        {"rows": array, "columns": array.T, "scalar": array[1, 2], "tensor": dg.asarray(array)},
        tmp_path / "f",
    )
    found = load(tmp_path / "f")
    np.testing.assert_array_equal(found["rows"].numpy(), array)
    np.testing.assert_array_equal(found["columns"].numpy(), array.T)
    assert found["scalar"] == 5
    assert {np.asarray(each).dtype for each in found.values()} == {np.dtype(dtype[1:])}


def test_a_key_that_the_format_uses(tmp_path):
    state = {"__metadata__": np.arange(3.0), "a": {"__metadata__": np.arange(2)}}
    save(state, tmp_path / "f")
    same(state, load(tmp_path / "f"))
    save(np.arange(3.0), tmp_path / "f")
    save({"__metadata__": {"__metadata__": 1}}, tmp_path / "f")
    assert load(tmp_path / "f") == {"__metadata__": {"__metadata__": 1}}


def test_a_mapped_file_is_an_array(tmp_path):
    mapped = np.memmap(tmp_path / "m", np.float32, "w+", shape=(3,))
    mapped[:] = 2.0
    save({"x": mapped}, tmp_path / "f")
    np.testing.assert_array_equal(load(tmp_path / "f")["x"].numpy(), 2.0)


def test_a_modules_state_dict_is_readable_by_others_and_theirs_by_us(tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    state = {"weight": dg.ones((2, 3)), "bias": dg.zeros(2)}
    save(state, tmp_path / "ours")
    theirs = numpy_files.load_file(tmp_path / "ours")
    assert {name: array.shape for name, array in theirs.items()} == {"weight": (2, 3), "bias": (2,)}
    numpy_files.save_file(theirs, tmp_path / "theirs")
    same(state, load(tmp_path / "theirs"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    save({"x": 1}, tmp_path / "f")
    with pytest.raises(DTypeError, match=r"save: y\.0 is a set"):
        save({"y": [{1, 2}]}, tmp_path / "f")
    assert load(tmp_path / "f") == {"x": 1}
    assert os.listdir(tmp_path) == ["f"]
    with pytest.raises(DTypeError, match="complex128"):
        save({"z": np.zeros(2, complex)}, tmp_path / "f")
    with pytest.raises(FileNotFoundError, match="missing for f; make it first"):
        save({"x": 1}, tmp_path / "missing" / "f")
    assert os.listdir(tmp_path) == ["f"]


def test_whoever_reads_the_old_file_reads_it_whole(tmp_path):
    path = tmp_path / "state"
    dg.save({"x": np.zeros(5)}, path)
    before = path.read_bytes()
    with path.open("rb") as file:
        dg.save({"x": np.ones(50)}, path)
        assert file.read() == before
    assert dg.load(path)["x"].shape == (50,)


def test_what_a_killed_process_left_goes_with_the_next_save(tmp_path):
    program = "import sys, numpy, distgrad as dg; dg.save({'x': numpy.ones(1 << 26)}, sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "first")])
    while not any(tmp_path.glob(".first.*/*")):  # half a gibibyte takes a while
        assert process.poll() is None
        time.sleep(0.001)
    save({"x": 1}, tmp_path / "second")
    assert len(os.listdir(tmp_path)) == 2  # what is being written stays
    process.kill()
    process.wait()
    assert len(os.listdir(tmp_path)) == 2
    save({"x": 2}, tmp_path / "second")
    assert os.listdir(tmp_path) == ["second"]


def test_saves_side_by_side_leave_each_others_files(tmp_path):
    def save_often(name):
        for count in range(40):
            save({"x": np.full(1000, count)}, tmp_path / name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save_often, "abcd"))
    assert sorted(os.listdir(tmp_path)) == list("abcd")
    assert all(load(tmp_path / name)["x"][0] == 39 for name in "abcd")


def test_every_truncation_is_an_error_that_names_the_file(tmp_path):
    save({"x": np.arange(5.0), "y": 3}, tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut"):
            load(tmp_path / "cut")


def test_every_changed_byte_is_an_error(tmp_path):
    save({"x": np.arange(5.0), "y": 3}, tmp_path / "f", {"author": "me"})
    whole = (tmp_path / "f").read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(len(whole)):
        for bit in (1, 4):
            changed = bytearray(whole)
            changed[place] ^= bit
            (tmp_path / "f").write_bytes(changed)
            with pytest.raises(
                DataError, match="changed after it was written" if place >= header else str(tmp_path)
            ):
                load(tmp_path / "f")


def test_a_tree_that_does_not_fit_is_an_error(tmp_path):
    save({"x": np.arange(5.0)}, tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    notes = header["__metadata__"]
    notes["distgrad.tree"] = '{"$array": "gone"}'
    del notes["distgrad.sha256"]
    notes["distgrad.sha256"] = _digest({"x": np.arange(5.0)}, notes)
    text = json.dumps(header).encode()
    (tmp_path / "f").write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + size :])
    with pytest.raises(DataError, match="does not describe its arrays"):
        load(tmp_path / "f")


def test_foreign_files_and_pickles(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none: No such file"):
        load(tmp_path / "none")
    (tmp_path / "text").write_text("hello world")
    with pytest.raises(DataError, match=r"text to be a safetensors file, got 11 bytes"):
        load(tmp_path / "text")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(DataError, match="pickle; pass allow_pickle=True"):
        load(tmp_path / "pickle")
    assert load(tmp_path / "pickle", allow_pickle=True) == {"x": 1}
    np.savez(tmp_path / "zip.npz", x=np.zeros(2))
    with pytest.raises(DataError, match="zip archive"):
        load(tmp_path / "zip.npz")


@pytest.mark.parametrize("argument", ["map_location", "weights_only", "mmap"])
def test_arguments_of_pytorch_that_are_not_needed(tmp_path, argument):
    with pytest.raises(TypeError, match=f"load: unexpected argument '{argument}'; "):
        dg.load(tmp_path / "any", **{argument: True})


def test_metadata_must_leave_our_names_alone(tmp_path):
    with pytest.raises(ValueError, match=r"distgrad\.tree"):
        save({}, tmp_path / "f", {"distgrad.tree": "x"})


def test_a_shape_comes_back_as_the_tuple_that_it_is(tmp_path):
    x = dg.ones((2, 3))
    dg.save({"shape": x.shape, "x": x}, tmp_path / "file")
    found = dg.load(tmp_path / "file")["shape"]
    assert (type(found), found) == (tuple, (2, 3))
