"""Damaged checkpoints: an error that names file and field, whatever was changed, and nothing else happens."""

import contextlib
import json
import random
import struct
import sys
import tracemalloc

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.checkpoint import CheckpointManager
from distgrad.checkpoint.layout import MANIFEST, read_manifest, signed
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.restoring import restore
from distgrad.errors import DataError, DistgradError

FILE = "rank0.safetensors"


def objects():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    return {"model": model, "optimizer": optim.SGD(model.parameters(), 0.1, momentum=0.9), "extra": {}}


def checkpoint(folder):
    dg.manual_seed(0)
    added = objects()
    added["model"](dg.ones((2, 3))).sum().backward()
    added["optimizer"].step()
    added["extra"].update(note="kept", table=np.arange(3.0), nested=[(1, {"a": 2.5}), None])
    with CheckpointManager(folder) as manager:
        manager.add(**added)
        return manager.save()


def rewritten(manifest, change):
    """A manifest's text with other fields, and a digest that fits."""
    found = json.loads(manifest.read_text())
    del found["digest"]
    return signed(found | change)


def take(path, added=None):
    reader = Reader(path, read_manifest(path))
    restore(reader, objects() if added is None else added, 0, True, None)
    return reader


def test_changed_bytes_are_found(tmp_path):
    path = checkpoint(tmp_path)
    file = path / FILE
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    added = objects()
    before = {name: value.numpy().copy() for name, value in added["model"].state_dict().items()}
    with pytest.raises(DataError, match=r"rank0.safetensors: the bytes of .* differ"):
        take(path, added)
    for name, value in added["model"].state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"rank0.safetensors is truncated"):
        list(Reader(path, read_manifest(path)).verify())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 99}, "newer than"),
        ({"step": -1}, "step must be"),
        ({"world_size": 2}, "ranks must be a list of 2"),
        ({"block_bytes": 1}, "block_bytes is 1, not"),
        (
            {"arrays": {"a": {"dtype": "F32", "shape": [2], "pieces": [["../x", "k", 0, 2, ["d" * 32]]]}}},
            "a piece of a lies in '../x', which is no rank's file",
        ),
        ({"arrays": {"a": {"dtype": "F32", "shape": [2], "pieces": []}}}, "pieces of a do not make up"),
        ({"arrays": {"a": {"dtype": "PICKLE", "shape": [], "pieces": []}}}, "a has the unknown dtype"),
        (
            {"arrays": {"a": {"dtype": "F32", "shape": [1 << 40], "pieces": [[FILE, "k", 0, 1 << 40, []]]}}},
            "a piece of a has 0 digests",
        ),
        (
            {
                "arrays": {
                    name: {"dtype": "F32", "shape": [1], "pieces": [[FILE, "k", 0, 1, ["d" * 32]]]}
                    for name in "ab"
                }
            },
            "two pieces lie in one place",
        ),
        ({"tree": []}, "tree must be an object"),
    ],
)
def test_a_manifest_is_checked_field_by_field(tmp_path, change, said):
    path = checkpoint(tmp_path)
    manifest = path / MANIFEST
    manifest.write_text(rewritten(manifest, change))
    with pytest.raises(DataError, match=said) as raised:
        read_manifest(path)
    assert str(manifest) in str(raised.value)


BAD = [
    None,
    -1,
    1 << 70,
    0.5,
    "../../outside",
    [],
    {},
    [[1 << 60]],
    {"$array": "gone"},
    {"list": 3},
    "9" * 5000,
]
opened: list[str] = []
watching = [False]


def _watch(event, arguments):
    if watching[0] and event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])
    elif watching[0] and event.startswith(("pickle.", "os.system", "subprocess.", "exec")):
        opened.append(event)


sys.addaudithook(_watch)  # it stays, and does nothing outside of these tests


@contextlib.contextmanager
def watched(path):
    """Nothing but the checkpoint's own files is opened, no pickle read, and little memory taken."""
    opened.clear()
    tracemalloc.start()
    watching[0] = True
    try:
        yield
    finally:
        watching[0] = False
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    strange = [each for each in opened if each not in (str(path / MANIFEST), str(path / FILE))]
    assert not strange
    assert peak < 64 << 20


def places(found, before=()):
    """The path of everything in a JSON document."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in items:
        if isinstance(key, int) and key > 8:  # of the words of a random generator
            return
        yield (*before, key)
        yield from places(value, (*before, key))


def changed(document, path, value):
    """The document with another value at a place; all beside the way there is shared."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = changed(document[path[0]], path[1:], value)
    return copy


def attempt(path, said):
    """Restore; an error must be one of ours, and name the file if it is of the file."""
    try:
        take(path)
    except DistgradError as error:  # others: it fits no longer what was added
        names_it = str(path) in str(error) or not isinstance(error, DataError)
    else:
        names_it = True
    assert names_it, said


def test_a_manifest_that_was_changed_is_found(tmp_path):
    path = checkpoint(tmp_path)
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace('"lr", 0.1', '"lr", 0.2'))
    with pytest.raises(DataError, match=r"manifest.json is damaged: its text differs from its digest"):
        read_manifest(path)


def test_any_value_in_the_manifest(tmp_path):
    path = checkpoint(tmp_path)
    whole = json.loads((path / MANIFEST).read_text())
    del whole["digest"]
    whole["arrays"] = {k: v for k, v in whole["arrays"].items() if "/" not in k or k.endswith("key")}
    found = list(places(whole))
    assert len(found) > 150
    rng = random.Random(0)
    with watched(path):
        for place in rng.sample(found, 100):
            for value in rng.sample(BAD, 2):
                (path / MANIFEST).write_text(signed(changed(whole, place, value)))
                attempt(path, (place, value))


def test_any_value_in_a_file_s_header(tmp_path):
    path = checkpoint(tmp_path)
    whole = (path / FILE).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    rng = random.Random(0)
    with watched(path):
        for place in rng.sample(list(places(header)), 40):
            for value in rng.sample(BAD, 2):
                text = json.dumps(changed(header, place, value)).encode()
                (path / FILE).write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
                attempt(path, (place, value))
        for number in (0, 1, 1 << 40, (1 << 64) - 1):
            (path / FILE).write_bytes(struct.pack("<Q", number) + whole[8:])
            with pytest.raises(DataError, match=FILE):
                take(path)


def test_any_bytes(tmp_path):
    path = checkpoint(tmp_path)
    rng = random.Random(0)
    for name in (MANIFEST, FILE):
        whole = (path / name).read_bytes()
        with watched(path):
            for _ in range(60):
                data = bytearray(whole)
                for _ in range(rng.randint(1, 8)):
                    data[rng.randrange(min(len(data), 4000))] = rng.randrange(256)
                (path / name).write_bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.3 else data)
                attempt(path, name)
        (path / name).write_bytes(whole)
    assert list(take(path).verify())


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    path = checkpoint(tmp_path / "run")
    (path / FILE).rename(tmp_path / "outside")
    (path / FILE).symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=r"rank0.safetensors.* is a link"):
        take(path)
