"""What the guide's table of faults says of checkpoints is what is said."""

import errno
import os
import re
import threading
from pathlib import Path

import failures_guide
import numpy as np
import pytest
from worker_datasets import Counting

import distgrad as dg
from distgrad.checkpoint import CheckpointManager

TABLE = failures_guide.quotations("Checkpoints")


def said(function, *arguments, folder=None, **options):
    """The error that a call raises, with the folder as the guide names it."""
    with pytest.raises(dg.DistgradError) as raised:
        function(*arguments, **options)
    text = f"{type(raised.value).__name__}: {raised.value}"
    return text if folder is None else text.replace(str(folder), "RUN")


def check(fault, text):
    """One of the quotations of a fault is what was said."""
    assert any(re.search(failures_guide.pattern(each), text) for each in TABLE[fault]), (TABLE[fault], text)


def managed(folder, **options):
    manager = CheckpointManager(folder, signals=False, **options)
    manager.add(model=dg.nn.Linear(3, 2))
    return manager


def fails(number):
    def look(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return look


def test_every_fault_has_a_row_and_something_that_is_said():
    assert len(TABLE) >= 14
    assert all(any("Error: " in each for each in quoted) for quoted in TABLE.values())
    here = Path(__file__).read_text()
    assert not [fault for fault in TABLE if f'"{fault}"' not in here]  # each is held below


def test_folders(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails(errno.EROFS))
        text = said(managed, tmp_path / "run", folder=tmp_path / "run")
        check("a folder that cannot be made or written", text)
    manager = managed(tmp_path / "run")
    check("two jobs, one folder", said(managed, tmp_path / "run", folder=tmp_path / "run"))
    manager.finished = 300
    manager.save()
    manager.wait()
    manager.finished = 1
    text = said(manager.save, folder=tmp_path / "run")
    check("a job that starts anew where an older one was further", text)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fails(errno.ESTALE))
        text = said(manager.restore_latest, folder=tmp_path / "run")
        check("a network file system that is lost", text)
    manager.finished = 301
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails(errno.ESTALE))
        manager.save()
        check("a network file system that is lost", said(manager.wait))
        patch.setattr(os, "fsync", fails(errno.ENOSPC))
        manager.save()
        check("a full disk in a save", said(manager.wait))
    manager.close()
    text = said(CheckpointManager, "nothing://bucket/run").replace("nothing:", "s3:")
    check("an address in place of a folder", text)


def test_a_store_that_does_not_answer(monkeypatch):
    """Of one in memory; tests/checkpoint/test_network_stores.py has a server that has gone."""
    memory = pytest.importorskip("fsspec.implementations.memory")

    def gone(*arguments, **options):
        raise ConnectionError('Could not connect to the endpoint URL: "http://127.0.0.1:9/bucket"')

    monkeypatch.setattr(memory.MemoryFileSystem, "ls", gone)
    text = said(managed, "memory://bucket/run").replace("memory:///", "s3://")
    check("a store that does not answer", text)


def test_two_managers_that_hear_signals(tmp_path):
    with CheckpointManager(tmp_path / "a"):
        check("a second manager in a process", said(CheckpointManager, tmp_path / "b"))


@pytest.mark.parametrize(
    ("fault", "damage"),
    [
        ("a byte of a file has changed", lambda path: flip(path / "rank0.safetensors", -1)),
        ("a byte of the manifest has changed", lambda path: flip(path / "manifest.json", -3)),
        ("a file is truncated, missing, a link", lambda path: cut(path / "rank0.safetensors")),
        ("a file is truncated, missing, a link", lambda path: (path / "rank0.safetensors").unlink()),
        ("a file is truncated, missing, a link", lambda path: link(path / "rank0.safetensors")),
    ],
)
def test_files(tmp_path, fault, damage):
    folder = tmp_path / "run"
    with managed(folder) as manager:
        path = manager.save()
        manager.wait()
        damage(path)
        check(fault, said(manager.restore_latest, folder=folder))


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def cut(path):
    os.truncate(path, path.stat().st_size - 8)


def link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def test_ranks(tmp_path, monkeypatch):
    local, see = threading.local(), Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: getattr(local, "rank", 0) != 1 and see(path))

    def run(comm, fault):
        local.rank = comm.rank if fault.startswith("a rank") else 0
        with CheckpointManager(tmp_path / fault, comm=comm, signals=False) as manager:
            model = dg.nn.Linear(3, 2)
            model.weight.data[...] = np.float32(comm.rank if fault.startswith("ranks") else 0)
            model.bias.data[...] = 0
            manager.add(model=model)
            check(fault, said(manager.save, folder=tmp_path / fault))

    for fault in ("a rank that does not see the folder", "ranks whose parameters differ"):
        dg.comm.ThreadWorld(2, timeout_s=60).run(run, fault)


def test_a_stream_of_other_ranks():
    loader = dg.data.DataLoader(Counting(9), 2)
    loader._stream.dealt_to = 2
    next(iter(loader))
    state = loader.state_dict()
    other = dg.data.DataLoader(Counting(9), 2)
    other._stream.dealt_to = 3
    check("a stream that deals itself out, on other ranks", said(other.load_state_dict, state))
