"""Disks that are full, folders that cannot be written, and none."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distgrad.checkpoint import CheckpointManager, pieces, places
from distgrad.checkpoint.layout import find_checkpoints, read_manifest
from distgrad.checkpoint.pieces import Reader
from distgrad.errors import DataError, OptionError

FULL = """
import sys, warnings
import numpy as np
import distgrad as dg

folder, ranks, on_error = sys.argv[1], int(sys.argv[2]), sys.argv[3]
state = {"x": np.full(300_000, 1.0, np.float32)}

def run(comm):
    manager = dg.checkpoint.CheckpointManager(folder, keep=1, comm=comm, every=1, on_error=on_error)
    manager.add(state=state)
    manager.step()
    manager.wait()
    state["x"] = np.full(3_000_000, 2.0, np.float32)  # more than the disk has
    try:
        manager.step()
        manager.wait()
        print("no error" if comm.rank == 0 else "", flush=True)
    except dg.errors.DataError as error:
        print(error if comm.rank == 0 else "", flush=True)
    state["x"] = np.full(300_000, 3.0, np.float32)
    manager.step()
    manager.wait()
    manager.close()

dg.comm.ThreadWorld(ranks, timeout_s=60).run(run)
"""


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_disk_of_four_megabytes(tmp_path, ranks, on_error):
    """It fills up in the middle of a save; the room comes back, and the next save is whole."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no file system of one's own can be mounted here")
    folder, kept = tmp_path / "disk", tmp_path / "kept"
    folder.mkdir()
    (tmp_path / "full.py").write_text(FULL)
    shell = (
        f"mount -t tmpfs -o size=4m none {folder} && "
        f"{sys.executable} {tmp_path / 'full.py'} {folder} {ranks} {on_error} && cp -r {folder} {kept}"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell],
        capture_output=True, text=True, timeout=110, check=False, env=environment,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    if on_error == "raise":
        assert "No space left on device" in ended.stdout
    else:
        assert "no error" in ended.stdout
        assert "training goes on" in ended.stderr
    (path,) = find_checkpoints(kept)
    assert path.name == "step-00000003"
    assert set(Reader(path, read_manifest(path)).array("state.x")) == {3.0}
    assert not list(kept.glob(".step*"))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be made or written: (Not a directory|File exists)"):
        CheckpointManager(tmp_path / "file")
    with pytest.raises(DataError, match="cannot be made or written: Not a directory"):
        CheckpointManager(tmp_path / "file" / "run")


def test_a_folder_that_is_read_only():
    """Also for who may write everywhere: /proc takes no files."""
    with pytest.raises(DataError, match=r"/proc/self/run cannot be made or written: "):
        CheckpointManager("/proc/self/run")


def test_without_a_folder_nothing_is_saved():
    with CheckpointManager(None, every=1) as manager:
        manager.add(state={})
        assert manager.restore_latest() is None
        manager.step()
        assert manager.finished == 1
        with pytest.raises(OptionError, match="there is no folder"):
            manager.save()


@pytest.mark.parametrize("chunk", [1000, 1 << 20])
def test_a_long_file_goes_to_the_disk_while_it_is_written(tmp_path, monkeypatch, chunk):
    """The kernel is told of every byte once, but for what fsync finds; it holds what was written."""
    asked = []
    monkeypatch.setattr(places, "_BEGIN_BYTES", 3 * chunk)
    monkeypatch.setattr(places, "_sync_file_range", lambda file, *those: asked.append(those[:2]))
    data = np.random.default_rng(0).bytes(10 * chunk + 7)
    with places.created(tmp_path / "file") as file:
        for start in range(0, len(data), chunk):
            file.write(memoryview(data)[start : start + chunk])
    assert (tmp_path / "file").read_bytes() == data
    assert asked == [(0, 3 * chunk), (3 * chunk, 3 * chunk), (6 * chunk, 3 * chunk)]


def test_an_error_of_one_of_several_readers_ends_all():
    """What is read is taken from first to last, and nothing more once something has failed."""
    began = []

    def run(number):
        began.append(number)
        if number == 20:
            raise DataError("no luck")

    pieces._run_all(began.append, [1 << 20] * 50, 4)
    assert sorted(began) == list(range(50))
    began.clear()
    with pytest.raises(DataError, match="no luck"):
        pieces._run_all(run, [1 << 20] * 5000, 4)
    assert len(began) < 5000
