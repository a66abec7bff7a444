"""Files of others: floats of 8 and 4 bits, nested headers, damaged pickles, states that hold themselves."""

import json
import pickle
import struct

import numpy as np
import pytest

import distgrad as dg
from distgrad.checkpoint import load, save
from distgrad.checkpoint.files import _digest
from distgrad.errors import DataError, DTypeError


def write(path, tensors, notes=None):
    """A safetensors file of ``(dtype, shape, bytes)`` by name."""
    header, data = {"__metadata__": notes} if notes else {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


NARROW = [  # kind, bytes, and the numbers that they are, worked out by hand
    ("F8_E4M3", [0x38, 0xC0, 0x01, 0x7E], [1.0, -2.0, 2.0**-9, 448.0]),
    ("F8_E5M2", [0x3C, 0xC0, 0x01, 0x7B], [1.0, -2.0, 2.0**-16, 57344.0]),
    ("F8_E8M0", [127, 128, 0, 254], [1.0, 2.0, 2.0**-127, 2.0**127]),
    ("F4", [0x21, 0xF7], [0.5, 1.0, 6.0, -6.0]),
]


@pytest.mark.parametrize(("kind", "content", "expected"), NARROW, ids=[kind for kind, *_ in NARROW])
def test_floats_below_16_bits_are_read_beside_others(tmp_path, kind, content, expected):
    pytest.importorskip("ml_dtypes", reason="floats of 8 bits need ml_dtypes")
    path = tmp_path / "f"
    ones = np.ones(3, "f").tobytes()
    write(path, {"a": ("F32", [3], ones), "scales": (kind, [2, 2], bytes(content)), "b": ("F32", [3], ones)})
    found = load(path)
    np.testing.assert_array_equal(found["scales"].astype(dg.float32).numpy().reshape(-1), expected)
    assert found["scales"].shape == (2, 2)
    np.testing.assert_array_equal(found["b"].numpy(), 1)


def test_floats_that_numpy_cannot_hold_are_named(tmp_path):
    write(tmp_path / "f", {"layer.scale": ("F6_E2M3", [4], bytes(3))})
    with pytest.raises(DataError, match=r"f: layer\.scale is F6_E2M3, of which NumPy has no arrays"):
        load(tmp_path / "f")


def test_a_nested_tree_is_an_error(tmp_path):
    for tree in ("[" * 100_000, '{"list": [' * 50_000 + "1" + "]}" * 50_000):
        notes = {"distgrad.tree": tree}
        notes["distgrad.sha256"] = _digest({}, notes)
        write(tmp_path / "f", {}, notes)
        with pytest.raises(DataError, match="does not describe its arrays"):
            load(tmp_path / "f")


def test_a_nested_header_is_an_error(tmp_path):
    text = b'{"a":' + b"[" * 100_000
    (tmp_path / "f").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(DataError, match="truncated or no safetensors file"):
        load(tmp_path / "f")


@pytest.mark.parametrize("length", [0, 1, 100, 1 << 40, (1 << 64) - 1])
def test_a_header_of_any_declared_length(tmp_path, length):
    (tmp_path / "f").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(DataError, match=r"f \(10 bytes\) is truncated"):
        load(tmp_path / "f")


@pytest.mark.parametrize("shape", [[1 << 62, 4], [1 << 40]], ids=str)
def test_a_shape_of_any_declared_size(tmp_path, shape):
    write(tmp_path / "f", {"x": ("F32", shape, bytes(8))})
    with pytest.raises(DataError, match="truncated or no safetensors file"):
        load(tmp_path / "f")


@pytest.mark.parametrize("content", [
    b"\x80\x04", b"\x80\x04cnowhere\nnothing\n.", b"\x80\x04cos\nnothing\n.", b"\x80\xff.",
    pickle.dumps(list(range(1000)))[:-10], b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60),
], ids=range(6))  # fmt: skip
def test_a_damaged_pickle_is_an_error(tmp_path, content):
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(DataError, match=r"the pickle .*p cannot be read"):
        load(tmp_path / "p", allow_pickle=True)


def test_a_state_that_holds_itself_is_refused(tmp_path):
    state = {"x": 1}
    state["self"] = [state]
    with pytest.raises(DTypeError, match="holds itself, or is nested too deeply"):
        save(state, tmp_path / "f")
    assert not list(tmp_path.iterdir())
