"""Checkpoints of a running job: what they hold, what survives whom, who reads them."""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.checkpoint import CheckpointManager
from distgrad.checkpoint.layout import find_checkpoints, read_manifest, share
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.writer import tidy
from distgrad.errors import DataError, OptionError, StateDictError
from distgrad.parallel import DistributedDataParallel


def build(seed=0, comm=None, shard=None):
    dg.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 40), nn.BatchNorm1d(40), nn.Dropout(0.2), nn.Linear(40, 3))
    model = net if comm is None else DistributedDataParallel(net, comm, shard=shard)
    return model, optim.AdamW(model.parameters(), lr=0.01)


def train(model, optimizer, step, rank=0):
    rng = np.random.default_rng([step, rank])
    x, y = rng.standard_normal((4, 5)).astype(np.float32), rng.integers(0, 3, 4)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(dg.asarray(x)), dg.asarray(y)).backward()
    optimizer.step()


def bits(model):
    return hashlib.sha256(
        b"".join(x.detach().numpy().tobytes() for x in model.state_dict().values())
    ).hexdigest()


def managed(folder, seed=0, **options):
    model, optimizer = build(seed)
    manager = CheckpointManager(folder, **{"signals": False} | options)
    manager.add(model=model, optimizer=optimizer)
    return model, optimizer, manager


def run_to(stop, model, optimizer, manager, start=0):
    for step in range(start, stop):
        train(model, optimizer, step)
        manager.step()


def test_training_goes_on_with_the_bits_of_a_run_that_never_stopped(tmp_path):
    model, optimizer, manager = managed(tmp_path / "a", every=4)
    schedule = optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    extra = {"note": "kept", "table": np.arange(3.0)}
    manager.add(schedule=schedule, extra=extra)
    assert manager.restore_latest() is None
    ours, draws = [], []
    for step in range(10):
        train(model, optimizer, step)
        schedule.step()
        extra["last"] = step
        manager.step()
        ours.append(bits(model))
        draws.append((random.random(), np.random.rand(), dg.rand(2).tolist()))  # noqa: NPY002
    manager.close()

    model, optimizer, manager = managed(tmp_path / "a", seed=9, every=100)
    schedule, extra = optim.lr_scheduler.StepLR(optimizer, 3, 0.5), {}
    manager.add(schedule=schedule, extra=extra)
    with manager:
        start = manager.restore_latest()
        assert (start, manager.finished, extra["last"], extra["note"]) == (8, 8, 7, "kept")
        np.testing.assert_array_equal(extra["table"], np.arange(3.0))
        assert type(extra["table"]) is np.ndarray
        draws_of_step_7 = (random.random(), np.random.rand(), dg.rand(2).tolist())  # noqa: NPY002
        assert draws_of_step_7 == draws[7]
        for step in range(start, 10):
            train(model, optimizer, step)
            schedule.step()
            (random.random(), np.random.rand(), dg.rand(2))  # noqa: NPY002
            assert bits(model) == ours[step]


def test_the_newest_and_the_best_are_kept(tmp_path):
    _, _, manager = managed(tmp_path, keep=2, best="min")
    for step, metric in enumerate([3.0, 1.0, float("nan"), 2.0, 5.0, 4.0], 1):
        manager.finished = step
        manager.save(metric)
    manager.close()
    assert [path.name for path in find_checkpoints(tmp_path)] == [f"step-{n:08d}" for n in (2, 5, 6)]
    assert manager.best_checkpoints()[0].name == "step-00000002"
    assert not list(tmp_path.glob(".step*"))


def test_a_step_saved_twice_is_the_later_one(tmp_path):
    model, optimizer, manager = managed(tmp_path)
    manager.save()
    train(model, optimizer, 0)
    manager.save()
    after = bits(model)
    manager.close()
    model, _, manager = managed(tmp_path, seed=3)
    manager.restore_latest()
    manager.close()
    assert bits(model) == after


class Killed(BaseException):
    """Ends a save where a kill would."""


def crash_points(monkeypatch, count):
    """Let the ``count``-th call that changes the disk, and all later ones, raise."""
    calls = [0]

    def wrapped(function):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] >= count:
                raise Killed
            return function(*args, **kwargs)

        return call

    for owner, name in [
        (os, "fsync"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "unlink"),
        (shutil, "rmtree"),
    ]:
        monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))
    monkeypatch.setattr(Path, "mkdir", wrapped(Path.mkdir))
    said = threading.excepthook  # the writing thread ends as the process would: at once, and silently
    monkeypatch.setattr(threading, "excepthook", lambda args: args.exc_type is Killed or said(args))


def test_a_kill_at_any_write_leaves_the_old_checkpoint_or_the_new(tmp_path):
    model, optimizer, manager = managed(tmp_path, keep=1, background=False)
    run_to(1, model, optimizer, manager)
    manager.save()
    saved = {1: bits(model)}
    run_to(2, model, optimizer, manager, 1)
    saved[2] = bits(model)
    seen, count = set(), 0
    while True:
        count += 1
        with pytest.MonkeyPatch.context() as patch:
            crash_points(patch, count)
            manager.finished = 2
            with contextlib.suppress(Killed, DataError):
                manager.save()
            manager._writer.take_error()
            manager._writer.why = None
        other, _ = build(7)
        newest = find_checkpoints(tmp_path)[-1]
        tree = Reader(newest, read_manifest(newest))
        assert len(list(tree.verify())) > 5
        step = read_manifest(newest).step
        seen.add(step)
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(newest, tmp_path / "copy" / newest.name)
        fresh = CheckpointManager(tmp_path / "copy")
        fresh.add(model=other)
        fresh.restore(newest, only=["model"])
        fresh.close()
        assert bits(other) == saved[step]
        shutil.rmtree(tmp_path / "copy")
        if step == 2:
            break
    manager.close()
    assert count > 8
    assert seen == {1, 2}


def test_a_step_that_is_saved_again_is_there_whatever_is_killed_when(tmp_path, monkeypatch):
    model, optimizer, manager = managed(tmp_path, background=False)
    manager.save()
    train(model, optimizer, 0)
    for count in range(1, 30):
        with monkeypatch.context() as patch:
            crash_points(patch, count)
            with contextlib.suppress(Killed, DataError):
                manager.save()
        manager._writer.take_error()
        manager._writer.why = None
        tidy(tmp_path)  # what the next job does first
        (found,) = find_checkpoints(tmp_path)
        assert list(Reader(found, read_manifest(found)).verify())
    manager.close()


def test_what_an_older_run_has_left_is_not_gone_back_behind(tmp_path):
    model, optimizer, manager = managed(tmp_path, keep=1, every=10)
    manager.finished = 300
    manager.save()
    manager.close()
    model, optimizer, manager = managed(tmp_path, keep=1, every=1)
    train(model, optimizer, 0)
    with pytest.raises(DataError, match="step-00000300 is of a run that was further than step 1"):
        manager.step()
    manager.close()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-00000300"]


def test_a_last_save_that_failed_is_said(tmp_path, monkeypatch, capfd):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    model, optimizer, manager = managed(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        manager.save()
        with pytest.raises(DataError, match="No space left"):
            manager.close()
        assert not list((tmp_path / "a").glob(".step*"))  # its room is given back
        model, optimizer, manager = managed(tmp_path / "b", time_limit_s=30, margin_s=31, on_error="warn")
        train(model, optimizer, 0)
        with pytest.raises(SystemExit) as ended, pytest.warns(UserWarning, match="No space left"):
            manager.step()
    assert ended.value.code == 1
    assert "nothing could be saved at step 1" in capfd.readouterr().err


def test_a_folder_that_goes_away_is_warned_of(tmp_path):
    model, optimizer, manager = managed(tmp_path / "run", every=1, on_error="warn")
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(UserWarning, match="cannot be made.*training goes on"):
        run_to(1, model, optimizer, manager)
    manager.close()


def test_ranks_that_differ_are_told_apart(tmp_path):
    def run(comm):
        model = nn.Linear(3, 2)
        with dg.no_grad():
            model.weight.fill_(comm.rank)
        manager = CheckpointManager(tmp_path, comm=comm)
        manager.add(model=model)
        with pytest.raises(DataError, match=r"model.weight differs between rank 0 and rank 1"):
            manager.save()
        manager.close()

    dg.comm.ThreadWorld(2, timeout_s=30).run(run)


def test_where_each_rank_stands_is_its_own(tmp_path):
    def save(comm):
        manager = CheckpointManager(tmp_path, comm=comm)
        manager.add(place={"rank": comm.rank})
        manager.save(np.float32(2.0))
        manager.close()

    def load(comm):
        place = {}
        manager = CheckpointManager(tmp_path / "other", comm=comm)
        manager.add(place=place)
        manager.restore(tmp_path / "step-00000000")
        manager.close()
        return place["rank"]

    dg.comm.ThreadWorld(2, timeout_s=30).run(save)
    assert dg.comm.ThreadWorld(3, timeout_s=30).run(load) == [0, 1, 0]


def test_what_a_hook_remembers_starts_anew_on_further_ranks(tmp_path):
    def run(comm, save):
        model, optimizer = build(1, comm)
        model.use_hook(dg.parallel.TopK(0.5))
        train(model, optimizer, 0, comm.rank)
        manager = CheckpointManager(tmp_path / f"{comm.size}", comm=comm)
        manager.add(model=model, optimizer=optimizer)
        if save:
            manager.save()
        else:
            manager.restore(tmp_path / "2" / "step-00000000")
        manager.close()
        return bits(model.module)

    saved = dg.comm.ThreadWorld(2, timeout_s=30).run(lambda comm: run(comm, True))[0]
    assert dg.comm.ThreadWorld(3, timeout_s=30).run(lambda comm: run(comm, False)) == [saved] * 3


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path, monkeypatch):
    model, optimizer, manager = managed(tmp_path, every=1)
    run_to(1, model, optimizer, manager)
    manager.wait()
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        train(model, optimizer, 1)
        manager.step()
        with pytest.raises(DataError, match="No space left on device"):
            manager.wait()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-00000001"]
    run_to(3, model, optimizer, manager, 2)
    manager.close()
    assert find_checkpoints(tmp_path)[-1].name == "step-00000003"


def test_training_goes_on_without_a_disk_if_the_user_says_so(tmp_path, monkeypatch):
    model, optimizer, manager = managed(tmp_path, every=1, on_error="warn")
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        run_to(1, model, optimizer, manager)
        with pytest.warns(UserWarning, match="No space left.*training goes on"):
            manager.wait()
    run_to(2, model, optimizer, manager, 1)
    manager.close()
    assert find_checkpoints(tmp_path)[-1].name == "step-00000002"


def test_two_jobs_do_not_use_one_folder(tmp_path):
    with CheckpointManager(tmp_path), pytest.raises(DataError, match="another job uses"):
        CheckpointManager(tmp_path)
    CheckpointManager(tmp_path).close()


@pytest.mark.parametrize(
    ("options", "error"),
    [({"keep": 0}, OptionError), ({"every": -1}, OptionError), ({"best": "most"}, OptionError)],
)
def test_wrong_options_are_refused(tmp_path, options, error):
    with pytest.raises(error):
        CheckpointManager(tmp_path, **options)


def test_what_has_no_state_is_refused(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(OptionError, match="'number' is a int"):
            manager.add(number=3)
        manager.add(extra={})
        with pytest.raises(OptionError, match="added before"):
            manager.add(extra={})


def test_what_does_not_fit_is_said(tmp_path):
    _, _, manager = managed(tmp_path)
    path = manager.save()
    manager.close()
    with CheckpointManager(tmp_path) as manager:
        manager.add(model=nn.Linear(2, 2), other={})
        with pytest.raises(StateDictError, match="'other' is not in both"):
            manager.restore(path)
        with pytest.raises(StateDictError, match="does not fit Linear"):
            manager.restore(path, only=["model"])


# -- ranks


def test_shares_are_equal_and_meet():
    sizes = [4, 40_000, 0, 12, 999_996, 8]
    for num_ranks in (1, 2, 3, 5, 7):
        parts = [share(sizes, rank, num_ranks) for rank in range(num_ranks)]
        for place, size in enumerate(sizes):
            edges = [part[place] for part in parts if part[place][1] > part[place][0]]
            assert [0, *(stop for _, stop in edges)] == [*(start for start, _ in edges), size]
        totals = [sum(stop - start for start, stop in part) for part in parts]
        assert max(totals) - min(totals) <= 64 * len(sizes)


@pytest.mark.parametrize("shard", [None, "optimizer"])
def test_what_some_ranks_saved_others_read(tmp_path, shard):
    def save(comm):
        model, optimizer = build(1, comm, shard)
        manager = CheckpointManager(tmp_path / f"{comm.size}", comm=comm)
        manager.add(model=model, optimizer=optimizer, places={"of": comm.size})
        for step in range(2):
            train(model, optimizer, step, comm.rank)
            manager.step()
        manager.save()
        state = optimizer.state_dict()
        manager.close()
        return bits(model), state

    def load(comm, size):
        model, optimizer = build(5, comm, shard)
        manager = CheckpointManager(tmp_path / f"reader{size}of{comm.size}", comm=comm)
        places = {}
        manager.add(model=model, optimizer=optimizer, places=places)
        assert manager.restore(tmp_path / f"{size}" / "step-00000002") == 2
        assert places == {"of": size}
        state = optimizer.state_dict()
        manager.close()
        return bits(model), state

    for size in (1, 2, 3, 5):
        saved, state = dg.comm.ThreadWorld(size, timeout_s=60).run(save)[0]
        files = sorted((tmp_path / f"{size}" / "step-00000002").glob("*.safetensors"))
        assert len(files) == size
        largest = max(file.stat().st_size for file in files)
        assert largest < 8000 + 1.3 * sum(file.stat().st_size for file in files) / size
        for readers in (1, 2, 3):
            for loaded, found in dg.comm.ThreadWorld(readers, timeout_s=60).run(
                lambda comm, size=size: load(comm, size)
            ):
                assert loaded == saved
                for number, entry in state["state"].items():
                    for name, value in entry.items():
                        np.testing.assert_array_equal(
                            np.asarray(found["state"][number][name]), np.asarray(value)
                        )


SCRIPT = Path(__file__).with_name("resumed_training.py")


def launch(folder, ranks, *extra):
    command = [
        sys.executable,
        "-m",
        "distgrad",
        "run",
        "-n",
        str(ranks),
        str(SCRIPT),
        str(folder),
        *map(str, extra),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_job_that_is_killed_goes_on_with_the_same_bits(tmp_path):
    whole = launch(tmp_path / "whole", 2)
    assert whole.returncode == 0, whole.stderr
    for number in (signal.SIGKILL, signal.SIGTERM):
        folder = tmp_path / number.name
        ended = launch(folder, 2, 13, int(number))
        if number == signal.SIGTERM:  # it saves at once, on all ranks at the same step
            assert ended.returncode == 75
            assert "checkpoint: saved at step 1" in ended.stderr
            assert "it has saved and is not done" in ended.stderr
        else:
            assert ended.returncode == 137
        again = launch(folder, 2)
        assert again.returncode == 0, again.stderr
        assert again.stdout.split()[-1] == whole.stdout.split()[-1]
        assert int(again.stdout.split()[-2]) >= 5


def test_restarts_go_on_where_the_job_stood(tmp_path):
    command = [
        sys.executable,
        "-m",
        "distgrad",
        "run",
        "-n",
        "2",
        "--max-restarts",
        "2",
        str(SCRIPT),
        str(tmp_path),
        "13",
        "9",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "attempt 1" in ended.stdout
    assert "launch: restart 1 of 2 now" in ended.stderr


def test_a_launcher_that_is_asked_to_end_ends_as_its_ranks_do(tmp_path):
    command = [sys.executable, "-m", "distgrad", "run", "-n", "2", str(SCRIPT), str(tmp_path), "13", "-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stdout.readline().endswith("waits\n")
        job.terminate()
        stderr = job.communicate(timeout=60)[1]
    assert job.returncode == 75, stderr
    assert find_checkpoints(tmp_path)[-1].name == "step-00000014"


@pytest.mark.parametrize("told", ["by the user", "by Slurm"])
def test_the_time_limit_ends_the_job_in_time(tmp_path, told, monkeypatch):
    limit_s = 30 if told == "by the user" else None
    if limit_s is None:
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 30))
    model, optimizer, manager = managed(tmp_path, time_limit_s=limit_s, margin_s=31, signals=True)
    train(model, optimizer, 0)
    with pytest.raises(SystemExit) as ended:
        manager.step()
    assert ended.value.code == 75
    assert find_checkpoints(tmp_path)[-1].name == "step-00000001"
