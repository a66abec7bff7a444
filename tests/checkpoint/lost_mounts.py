"""Lets a job lose the file system of its checkpoints at each call that changes it; exits 1 where that shows.

    python tests/checkpoint/lost_mounts.py [--each N] [--ranks N] [--error EIO] [--on-error raise] FOLDER

The job saves step 1, loses the file system in the save of step 2 (every call on the folder then fails, as
on a network file system whose server has gone), goes on for a step, gets it back and saves step 4. Each save
that fails must say so in a DataError, or a warning; step 4 and what was saved before must be whole.
"""

import argparse
import errno
import json
import os
import shutil
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from system_calls import run_lost

import distgrad as dg
from distgrad.checkpoint import CheckpointManager
from distgrad.checkpoint.layout import find_checkpoints, read_manifest
from distgrad.checkpoint.manager import _commit
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.writer import claim, unlock


def train(folder, num_ranks, on_error, said):
    """What the job does; what it says goes into a list."""

    def run(comm):
        state = {str(i): np.zeros((7, 700), np.float32) for i in range(4)}
        manager = CheckpointManager(folder, every=1, comm=comm, signals=False, on_error=on_error)
        manager.add(state=state)
        for step in (1, 2, 3, 4):
            if step in (2, 4):
                comm.barrier()
                if comm.rank == 0:
                    os.mkdir(f"{folder}.{'begin' if step == 2 else 'back'}")
                comm.barrier()
            for array in state.values():
                array.fill(step)
            try:
                manager.step()
                manager.wait()
            except dg.DataError as error:
                said.append(str(error))
        manager.close()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dg.comm.ThreadWorld(num_ranks, timeout_s=60).run(run)
    said += [str(each.message) for each in caught]


def attempt(folder, number, num_ranks, error, on_error):
    """Lose the folder at a call; which that was, and what is wrong, empty if nothing is."""
    said = folder.with_suffix(".said")
    for path in (folder, folder.with_suffix(".begin"), folder.with_suffix(".back")):
        shutil.rmtree(path, ignore_errors=True)

    def act():
        texts = []
        try:
            train(folder, num_ranks, on_error, texts)
        except BaseException:
            texts.append(traceback.format_exc())
            raise
        finally:
            said.write_text(json.dumps(texts))

    ended, name = run_lost(act, folder, number, error)
    texts = json.loads(said.read_text())
    if not ended:
        return name, f"the job failed: {texts}"
    if name is None:
        return None, ""
    why = os.strerror(error)
    if not texts or not all("checkpoint: " in text for text in texts) or why not in str(texts):
        return name, f"not said in words: {texts}"
    if on_error == "warn" and not all("training goes on" in text for text in texts):
        return name, f"not as a warning: {texts}"
    unlock(claim(folder))
    found = find_checkpoints(folder)
    values = {int(np.unique(Reader(path, read_manifest(path)).array("state.0"))[0]) for path in found}
    if {path.name for path in folder.iterdir()} - {path.name for path in found} - {".lock"}:
        return name, "leftovers"
    before = {1} if len(found) < 3 else values  # three are kept
    if found[-1].name != "step-00000004" or not before | {4} <= values or len(values) != len(found):
        return name, f"left {[path.name for path in found]} of {values}"
    return name, ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=1, help="take every Nth call")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--error", default="ESTALE")
    parser.add_argument("--on-error", default="raise")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    _commit()  # starts a process, once
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    calls, wrong, number = Counter(), [], 0
    while True:
        error = getattr(errno, options.error)
        name, why = attempt(folder / "run", number, options.ranks, error, options.on_error)
        if why:
            wrong.append(f"at call {number}, {name}: {why}")
        if name is None:
            break
        calls[name] += 1
        number += options.each
    print(json.dumps({"lost": calls.total(), "at": dict(calls), "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
