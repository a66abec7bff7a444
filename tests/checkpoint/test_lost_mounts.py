"""A file system that is lost in the middle of a save: said in words, and training goes on once it is back."""

import errno
import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import distgrad as dg
from distgrad.checkpoint import CheckpointManager

CAN_TRACE = sys.platform == "linux" and platform.machine() == "x86_64"
traced = pytest.mark.skipif(not CAN_TRACE, reason="calls are told apart on Linux on x86-64 only")


def lose_at_each(folder, *arguments):
    command = [sys.executable, str(Path(__file__).with_name("lost_mounts.py")), *arguments, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert ended.stdout, ended.stderr
    found = json.loads(ended.stdout)
    assert ended.returncode == 0, found["wrong"]
    return found


@traced
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("ranks", "how"), [("1", "raise"), ("2", "warn")])
def test_a_file_system_that_is_lost_at_some_calls(tmp_path, ranks, how):
    found = lose_at_each(tmp_path, "--each", "17", "--ranks", ranks, "--on-error", how)
    assert found["lost"] >= 3


@traced
@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("error", ["ESTALE", "EIO"])
@pytest.mark.parametrize(("ranks", "how"), [("1", "raise"), ("1", "warn"), ("3", "raise"), ("3", "warn")])
def test_a_file_system_that_is_lost_at_every_call(tmp_path, ranks, how, error):
    found = lose_at_each(tmp_path, "--ranks", ranks, "--on-error", how, "--error", error)
    assert {"mkdir", "openat", "write", "fsync", "rename", "unlink"} <= found["at"].keys()


@pytest.mark.parametrize("lost", [{0}, {1}, {0, 1, 2}])
def test_ranks_that_cannot_look_into_the_folder(monkeypatch, tmp_path, lost):
    """Every rank says why, also where one alone cannot; none waits for it."""

    local, gone = threading.local(), set()

    def failing(look):
        def looks(path, *arguments):
            if getattr(local, "rank", None) in gone:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return look(path, *arguments)

        return looks

    def run(comm):
        local.rank = comm.rank
        manager = CheckpointManager(tmp_path, comm=comm, signals=False)
        manager.add(state={"x": 1})
        manager.save()
        manager.wait()
        comm.barrier()
        gone.update(lost)
        comm.barrier()
        for call in (manager.restore_latest, manager.save)[0 not in lost :]:
            with pytest.raises(dg.DataError, match=r"cannot be .*: .*Stale file handle"):
                call()
        comm.barrier()
        gone.clear()
        comm.barrier()
        assert manager.restore_latest() == 0
        manager.close()

    for name in ("iterdir", "is_dir"):
        monkeypatch.setattr(Path, name, failing(getattr(Path, name)))
    dg.comm.ThreadWorld(3, timeout_s=60).run(run)
