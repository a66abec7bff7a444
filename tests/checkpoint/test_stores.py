"""Checkpoints in object stores, as fsspec has them: in memory, and in files."""

import importlib
import itertools
import subprocess
import sys
import uuid

import numpy as np
import pytest
from click.testing import CliRunner

import distgrad as dg
from distgrad.checkpoint import CheckpointManager
from distgrad.checkpoint.layout import find_checkpoints, read_manifest
from distgrad.checkpoint.pieces import BLOCK_BYTES, Reader
from distgrad.checkpoint.places import StorePath, place_of
from distgrad.cli import main
from distgrad.errors import DataError, OptionError

pytest.importorskip("fsspec")


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    return f"memory://{uuid.uuid4()}/run" if request.param == "memory" else f"file://{tmp_path}/run"


def names(address):
    return [path.name for path in find_checkpoints(place_of(address))]


def saved(address, *steps, keep=3):
    """Checkpoints of these steps, which hold 3 MB of the step's number."""
    state = {}
    with CheckpointManager(address, keep=keep, signals=False) as manager:
        manager.add(state=state)
        for step in steps:
            state["x"] = np.full(3 * BLOCK_BYTES // 8 + 5, float(step))
            manager.finished = step
            path = manager.save()
            manager.wait()
    return path


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (5, 1)])
def test_saved_by_some_ranks_and_read_by_others(address, before, after):
    def build(comm):
        net = dg.nn.Linear(700, 500, bias=False)
        net.weight.data[...] = dg.asarray(np.arange(350_000.0, dtype=np.float32).reshape(500, 700))
        return net, CheckpointManager(address, keep=2, every=2, comm=comm, signals=False)

    def save(comm):
        net, manager = build(comm)
        with manager:
            manager.add(net=net)
            for _ in range(7):
                manager.step()
        return net.weight.tolist()

    def restore(comm):
        net, manager = build(comm)
        net.weight.data[...] = 0
        with manager:
            manager.add(net=net)
            assert manager.restore_latest() == 6
        return net.weight.tolist()

    expected = dg.comm.ThreadWorld(before, timeout_s=60).run(save)[0]
    assert names(address) == ["step-00000004", "step-00000006"]
    assert read_manifest(find_checkpoints(place_of(address))[-1]).world_size == before
    assert dg.comm.ThreadWorld(after, timeout_s=60).run(restore) == [expected] * after


@pytest.mark.parametrize("before", [None, "old"])
def test_a_text_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch, before):
    """Who reads it while it is written, as rank 0 does, finds no half of it."""
    path, seen = place_of(f"file://{tmp_path}") / "rank1.json", []
    if before is not None:
        path.write_text(before)
    put = path._files.pipe_file

    def slowly(name, data):
        for stop in (0, len(data) // 2, len(data)):
            put(name, data[:stop])
            seen.append(path.read_text() if path.is_file() else None)

    monkeypatch.setattr(path._files, "pipe_file", slowly)
    path.write_text('{"own": 1}')
    assert seen == [before] * 3
    assert path.read_text() == '{"own": 1}'
    assert [each.name for each in tmp_path.iterdir()] == ["rank1.json"]


class Killed(BaseException):
    """Ends a save where a kill would."""


CHANGES = ("mkdir", "write_text", "unlink", "open", "remove")


def watched(monkeypatch, on_change):
    """Call ``on_change`` with each change of the store's, before it is done."""
    for name in CHANGES:
        done = getattr(StorePath, name)

        def change(self, *arguments, name=name, done=done):
            if name != "open" or "w" in arguments[0]:
                on_change(name, self.name)
            return done(self, *arguments)

        monkeypatch.setattr(StorePath, name, change)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_save_that_is_killed_at_any_change_leaves_a_whole_checkpoint(address, monkeypatch):
    seen = []
    saved(address, 1, 2, keep=1)
    with monkeypatch.context() as patch:
        watched(patch, lambda name, what: seen.append((name, what)))
        saved(address, 3, keep=1)
    assert seen.index(("write_text", "manifest.json")) > max(
        number for number, (name, _) in enumerate(seen) if name in ("open", "mkdir")
    )
    assert ("unlink", "manifest.json") in seen  # of the one before, before its other objects
    for kill in range(len(seen)):
        count = itertools.count()

        def fall(name, what, count=count, kill=kill):
            if next(count) >= kill:
                raise Killed

        saved(f"{address}{kill}", 1, 2, keep=1)
        with monkeypatch.context() as patch:
            watched(patch, fall)
            with pytest.raises((Killed, DataError)):
                saved(f"{address}{kill}", 3, keep=1)
        (*_, newest) = find_checkpoints(place_of(f"{address}{kill}"))
        step = read_manifest(newest).step
        assert step in (2, 3)
        assert set(Reader(newest, read_manifest(newest)).array("state.x")) == {float(step)}
        saved(f"{address}{kill}", 4, keep=1)
        assert names(f"{address}{kill}") == ["step-00000004"]
        left = [path.name for path in place_of(f"{address}{kill}").iterdir()]
        assert left == ["step-00000004"]


def test_what_fails_after_a_save_leaves_it(address, monkeypatch):
    def fail(self, newest):
        raise OSError("the store has gone")

    monkeypatch.setattr(CheckpointManager, "_prune", fail)
    with pytest.raises(DataError, match="the store has gone"):
        saved(address, 1)
    assert names(address) == ["step-00000001"]


def test_damage_is_named(address):
    path = saved(address, 1)
    file = path / "rank0.safetensors"
    data = bytearray(file._files.cat_file(file._path))
    data[len(data) // 2] ^= 1
    file._files.pipe_file(file._path, bytes(data))
    with pytest.raises(DataError, match=r"rank0.safetensors: the bytes of state.x differ"):
        list(Reader(path, read_manifest(path)).verify())
    file._files.pipe_file(file._path, bytes(data[: len(data) // 3]))
    with pytest.raises(DataError, match=r"rank0.safetensors is truncated"):
        list(Reader(path, read_manifest(path)).verify())
    file.unlink()
    with pytest.raises(DataError, match=r"cannot read .*/rank0.safetensors: No such file"):
        list(Reader(path, read_manifest(path)).verify())
    with pytest.raises(DataError, match=r"is no checkpoint \(manifest.json: No such file"):
        read_manifest(place_of(f"{address}/none"))


def test_the_commands(address, tmp_path):
    path = saved(address, 1, 2)

    def run(*arguments):
        return CliRunner().invoke(main, ["checkpoint", *map(str, arguments)])

    assert run("ls", address).output.count("1 ranks") == 2
    assert "state.x" in run("show", path).output
    assert run("verify", address).output.count("whole") == 2
    assert "cannot be replaced in a store; name" in run("reshard", address, "--ranks", 3).output
    assert run("reshard", address, "--ranks", 3, "-o", f"{address}-3").exit_code == 0
    assert run("reshard", address, "--ranks", 2, "-o", tmp_path / "local").exit_code == 0
    for place in (f"{address}-3", str(tmp_path / "local")):
        (new,) = find_checkpoints(place_of(place))
        assert set(Reader(new, read_manifest(new)).array("state.x")) == {2.0}
    assert run("consolidate", address, tmp_path / "one.safetensors", "--only", "state").exit_code == 0
    assert set(dg.load(tmp_path / "one.safetensors")["x"].tolist()) == {2.0}


def test_ranks_that_see_other_stores_are_told(tmp_path):
    """Memory is each process's own."""
    (tmp_path / "script.py").write_text(
        "import distgrad as dg\n"
        "comm = dg.comm.init()\n"
        "manager = dg.checkpoint.CheckpointManager('memory://run', every=1)\n"
        "manager.step()\n"
    )
    command = [sys.executable, "-m", "distgrad", "run", "-n", "2", str(tmp_path / "script.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode
    assert "ranks [1] do not see memory://" in ended.stdout + ended.stderr


def test_addresses_without_a_package_are_refused_in_words(monkeypatch):
    with pytest.raises(OptionError, match="no-such is an address, and no package for it") as raised:
        CheckpointManager("nosuch://no-such")
    assert "install fsspec" in str(raised.value)

    def lacking(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", lacking)
    with pytest.raises(OptionError, match=r"No module named 'fsspec'.*; install fsspec and what it needs"):
        CheckpointManager("s3://bucket/run")
