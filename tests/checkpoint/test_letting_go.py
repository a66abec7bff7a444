"""What a manager leaves behind: locks, signals and saves under way, in forks, at Python's end."""

import gc
import multiprocessing
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.checkpoint import CheckpointManager
from distgrad.checkpoint.layout import find_checkpoints, read_manifest
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.resharding import reshard
from distgrad.errors import DataError, OptionError


def managed(folder, **options):
    manager = CheckpointManager(folder, **options)
    manager.add(state={"x": np.arange(100_000.0)})
    return manager


@pytest.fixture
def forked():
    """A process that sleeps, forked once it is asked for."""
    processes = []

    def fork():
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        processes.append(context.Process(target=lambda: (ready.set(), time.sleep(300))))
        processes[-1].start()
        assert ready.wait(60)
        return processes[-1]

    yield fork
    for process in processes:
        process.kill()
        process.join()


def test_a_fork_ends_by_its_own_signal(tmp_path, forked):
    with managed(tmp_path):
        process = forked()
        process.terminate()
        process.join(60)
        assert process.exitcode == -signal.SIGTERM


def test_a_fork_that_outlives_the_job_keeps_no_lock(tmp_path, forked):
    with managed(tmp_path):
        forked()
    managed(tmp_path).close()


def test_a_manager_that_is_dropped_lets_go_of_folder_and_signals(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    manager = managed(tmp_path)
    manager.save()
    manager._writer.wait()
    del manager
    gc.collect()
    with managed(tmp_path) as manager:
        assert manager.restore_latest() == 0
    assert signal.getsignal(signal.SIGUSR1) is before


def test_one_manager_hears_that_the_job_is_to_end(tmp_path, monkeypatch):
    """A second would end it before the first has saved, or the other way round."""
    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 30))
    first = managed(tmp_path / "a")
    with pytest.raises(OptionError, match="another manager of this process hears SIGTERM and would end"):
        managed(tmp_path / "b")
    with managed(tmp_path / "b", signals=False, every=1) as second:  # which its refusal has not locked
        signal.raise_signal(signal.SIGTERM)
        second.step()
        with pytest.raises(SystemExit):
            first.step()
    assert find_checkpoints(tmp_path / "a")
    assert find_checkpoints(tmp_path / "b")
    with managed(tmp_path / "b"):
        managed(tmp_path / "c", signals=False).close()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_closed_manager_saves_nothing(tmp_path):
    manager = managed(tmp_path, every=1)
    manager.close()
    with pytest.raises(OptionError, match="step: it is closed"):
        manager.step()
    with pytest.raises(OptionError, match="save: it is closed"):
        manager.save()
    assert not find_checkpoints(tmp_path)


@pytest.mark.parametrize("end", ["", "raise ValueError('the end')"])
def test_the_save_under_way_is_finished_as_python_ends(tmp_path, end):
    script = f"""
import numpy as np, distgrad as dg
manager = dg.checkpoint.CheckpointManager({str(tmp_path)!r}, every=1)
manager.add(state={{"x": np.ones(3_000_000)}})
manager.step()
{end}
"""
    subprocess.run([sys.executable, "-c", script], timeout=110, check=not end, capture_output=True)
    (path,) = find_checkpoints(tmp_path)
    assert list(Reader(path, read_manifest(path)).verify())


def test_what_is_restored_is_the_save_under_way(tmp_path):
    state = {}
    with CheckpointManager(tmp_path, every=1, keep=1) as manager:
        manager.add(state=state)
        for step in range(1, 6):
            state["x"] = np.full(1_000_000, float(step))
            manager.step()
            assert manager.restore_latest() == step
            assert state["x"][-1] == step
        assert manager.restore(manager.save()) == 5


def test_every_rank_says_the_cause(tmp_path):
    def run(comm):
        manager = managed(tmp_path, comm=comm, signals=False, background=False)
        if comm.rank == 1:  # as where a name is taken
            manager._make_part, manager._check_shared = (
                None,
                lambda: (
                    manager._everyones(None),
                    (manager.folder / ".step-00000000.distgrad-part" / "rank1.safetensors").touch(),
                ),
            )
        with pytest.raises(DataError) as raised:
            manager.save()
        manager.close()
        return str(raised.value)

    said = dg.comm.ThreadWorld(3, timeout_s=60).run(run)
    assert len(set(said)) == 1
    assert "rank 1 could not write its part of the last save: [Errno 17] File exists" in said[0]


def test_ranks_that_differ_are_told_as_often_as_they_save(tmp_path):
    def run(comm):
        net = dg.nn.Linear(2, 2)
        net.weight.data[...] = float(comm.rank)
        with CheckpointManager(tmp_path, comm=comm, signals=False) as manager:
            manager.add(net=net)
            for _ in range(2):
                with pytest.raises(DataError, match=r"net.weight differs between rank 0 and rank 1"):
                    manager.save()

    dg.comm.ThreadWorld(2, timeout_s=60).run(run)
    assert not find_checkpoints(tmp_path)


def test_a_checkpoint_of_more_ranks_than_files_may_be_open(tmp_path):
    with managed(tmp_path) as manager:
        path = manager.save()
    reshard(Reader(path, read_manifest(path)), 300, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        assert list(Reader(path, read_manifest(path)).verify())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("option", [{"every": 1.5}, {"keep": None}, {"keep": 0}, {"memory": "1"}])
def test_numbers_that_are_none(tmp_path, option):
    with pytest.raises(OptionError, match=f"{next(iter(option))} must be a whole number from . on, got"):
        CheckpointManager(tmp_path, **option)
    with pytest.raises(OptionError, match="the folder's name is empty"):
        CheckpointManager("")
