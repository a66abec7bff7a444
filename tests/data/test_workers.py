"""Loaders with worker processes: same batches, same order, and no process left whatever happens."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from worker_datasets import (
    Broken,
    Counting,
    Noise,
    Structures,
    Trouble,
    Where,
    Written,
    first_of,
    write_number,
)

import distgrad as dg
from distgrad.data import DataLoader, TensorDataset
from distgrad.errors import WorkerError

pytestmark = pytest.mark.timeout(60)


def children() -> set[int]:
    """This process's children that run, or that nobody has waited for."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@pytest.fixture(autouse=True)
def no_worker_is_left():
    processes, files = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert children() <= processes
    assert len(os.listdir("/proc/self/fd")) <= files


def plain(value):
    """Batches as comparable values."""
    if isinstance(value, dg.Tensor):
        return value.dtype, value.shape, value.numpy().tolist()
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_batches_and_their_order_are_those_of_one_process(num_workers):
    order = [*range(12, 20), *range(12), 20, 21, 22]  # batches of growing and of shrinking size
    expected = [plain(batch) for batch in DataLoader(Structures(23), 4, sampler=order)]
    loader = DataLoader(Structures(23), 4, sampler=order, num_workers=num_workers, prefetch_factor=1)
    assert [plain(batch) for batch in loader] == expected
    assert len(loader) == 6


def test_batches_are_the_users_own_memory():
    x = np.arange(12.0)
    batches = [batch for (batch,) in DataLoader(TensorDataset(x), 2, num_workers=1, prefetch_factor=1)]
    batches[0] += 100.0
    np.testing.assert_array_equal(np.concatenate([b.numpy() for b in batches[1:]]), x[2:])
    np.testing.assert_array_equal(x, np.arange(12.0))


def test_workers_do_not_see_each_others_writes():
    loader = DataLoader(Written(8), 1, num_workers=2)
    assert [int(batch[0]) for batch in loader] == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("seed", [0, -7])
def test_random_numbers_depend_on_seed_epoch_and_batch_alone(seed):
    def draw(num_workers):
        dg.manual_seed(seed)
        loader = DataLoader(Noise(6), 2, num_workers=num_workers)
        return [[plain(batch) for batch in loader] for _ in range(2)]

    one, two = draw(1), draw(2)
    assert one == two
    values = [kind[2][0] for epoch in one for batch in epoch for kind in batch[1:]]
    assert len(set(values)) == len(values) == 12


def test_a_seed_that_is_set_again_gives_the_same_numbers_again():
    loader = DataLoader(Noise(2), 2, num_workers=1)

    def draw():
        return [plain(batch) for batch in loader]

    dg.manual_seed(5)
    first, second = draw(), draw()
    dg.manual_seed(5)
    assert [draw(), draw()] == [first, second]
    assert first != second


def test_persistent_workers_stay_and_others_do_not():
    for persistent in (True, False):
        loader = DataLoader(Where(4), 1, num_workers=2, persistent_workers=persistent)
        first, second = ([[int(v[0]) for v in batch] for batch in loader] for _ in range(2))
        assert [entry[1] for entry in first] == [0, 1, 0, 1]
        assert first[0][3] + 1 == first[1][3]
        assert all(entry[2] == 2 and entry[4] == 4 for entry in first)
        same = {entry[0] for entry in first} & {entry[0] for entry in second}
        assert len(same) == (2 if persistent else 0)
    assert dg.data.get_worker_info() is None


def test_two_iterations_at_once_do_not_disturb_each_other():
    loader = DataLoader(TensorDataset(np.arange(6)), 1, num_workers=1, persistent_workers=True)
    pairs = [(int(a[0]), int(b[0])) for a, b in zip(loader, loader, strict=True)]
    assert pairs == [(i, i) for i in range(6)]


def test_worker_init_fn_runs_once_a_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTGRAD_TEST_FILE", str(tmp_path / "numbers"))
    list(DataLoader(Structures(3), 1, num_workers=2, worker_init_fn=write_number, collate_fn=first_of))
    assert sorted((tmp_path / "numbers").read_text().split()) == ["0", "1"]


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_streams(num_workers):
    loader = DataLoader(Counting(11), 2, num_workers=num_workers)
    batches = [batch.numpy().tolist() for batch in loader]
    assert sorted(chain(*batches)) == list(range(11))
    if num_workers == 2:
        assert batches == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9]]
    full = DataLoader(Counting(11), 2, num_workers=num_workers, drop_last=True)
    assert all(len(batch) == 2 for batch in full)


# -- what goes wrong


@pytest.mark.parametrize("persistent", [False, True])
def test_an_exception_keeps_its_type_and_shows_the_workers_traceback(persistent):
    loader = DataLoader(Trouble(9, "key"), 2, num_workers=2, persistent_workers=persistent)
    seen = []
    with pytest.raises(KeyError, match="no such sample") as caught:
        seen.extend(loader)
    assert len(seen) == 2  # the batches before it
    text = "".join(traceback.format_exception(caught.value))
    assert "worker 0 of 2, at batch 2" in text
    assert 'raise KeyError("no such sample")' in text


@pytest.mark.parametrize("kind", ["own", "lambdas"])
def test_an_exception_that_cannot_be_carried_over(kind):
    with pytest.raises(WorkerError, match=r"at batch 5, raised\n(?s:.*)Trouble|worker_datasets"):
        list(DataLoader(Trouble(9, kind), 1, num_workers=1))


def test_a_dataset_that_cannot_be_unpickled():
    with pytest.raises(OSError, match="the file is gone"):
        list(DataLoader(Broken(3), 1, num_workers=2))
    for function in (lambda samples: samples, threading.Lock().acquire):
        with pytest.raises(
            WorkerError, match=r"cannot be sent .*pickle.*by def at the top of a file"
        ) as raised:
            list(DataLoader(Structures(3), 1, num_workers=2, collate_fn=function))
        assert isinstance(raised.value.__cause__, (AttributeError, TypeError, pickle.PicklingError))


@pytest.mark.parametrize(("kind", "message"), [("kill", "code 137 .SIGKILL"), ("exit", "code 3;")])
def test_a_worker_that_dies_is_an_error(kind, message):
    loader = DataLoader(Trouble(20, kind), 1, num_workers=2)
    seen = []
    with pytest.raises(WorkerError, match=f"worker 1 of 2, at batch 5, died with exit {message}"):
        seen.extend(loader)
    assert len(seen) == 5


def test_a_worker_killed_from_outside_is_an_error():
    loader = DataLoader(Trouble(9, "sleep"), 1, num_workers=1, persistent_workers=True)
    batches = iter(loader)
    before = children()
    next(batches)
    (worker,) = children() - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL"):
        list(batches)
    assert next(iter(loader)).item() == 0  # the next iteration has new workers


def test_a_worker_that_is_too_slow_is_an_error():
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"at batch 5, gave nothing for timeout=10 s"):
        list(DataLoader(Trouble(9, "sleep"), 1, num_workers=1, timeout=10))
    assert time.monotonic() - start < 60


def test_leaving_in_the_middle_leaves_no_worker():
    before = children()
    loader = DataLoader(TensorDataset(np.arange(100)), 1, num_workers=2, persistent_workers=True)
    for _ in loader:
        break
    assert children() == before
    batches = iter(loader)
    next(batches)
    del batches
    assert children() == before
    with pytest.raises(ZeroDivisionError):
        sum(1 / int(batch[0]) for batch in loader)
    assert children() == before


SCRIPT = """
import signal
import time
import distgrad as dg
from distgrad.data import DataLoader, Dataset

class Slow(Dataset):
    def __getitem__(self, index):
        if index == 3:
            time.sleep(100)
        return index
    def __len__(self):
        return 9

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without
    comm = dg.comm.init()
    for batch in DataLoader(Slow(), 1, num_workers=2):
        print("batch", int(batch), "of", comm.size, flush=True)

{guard}main()
"""


def start(tmp_path, guard="if __name__ == '__main__': ", sleep="time.sleep(100)"):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard).replace("time.sleep(100)", sleep))
    return subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def group_is_empty(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_no_worker(tmp_path, number):
    job = start(tmp_path)
    try:
        assert job.stdout.readline() == "batch 0 of 1\n"
        if number == signal.SIGINT:
            os.killpg(job.pid, number)  # as Ctrl-C does
        else:
            job.send_signal(number)
        assert job.wait(10) == -number
        deadline = time.monotonic() + 10
        while not group_is_empty(job.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert group_is_empty(job.pid)
        if number == signal.SIGINT:
            assert "KeyboardInterrupt" in job.stderr.read()
    finally:
        if not group_is_empty(job.pid):
            os.killpg(job.pid, signal.SIGKILL)
        job.communicate()


def test_a_dataset_of_the_script_itself(tmp_path):
    out, err = start(tmp_path, sleep="pass").communicate(timeout=50)
    assert out.splitlines() == [f"batch {i} of 1" for i in range(9)]
    assert err == ""


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    job = start(tmp_path, guard="")
    out, err = job.communicate(timeout=50)
    assert job.returncode == 1
    assert "put what the script does under `if __name__ == '__main__':`" in err
    assert out == ""


def test_options_that_serve_workers_alone_are_refused_without_them():
    for options in ({"timeout": 1}, {"prefetch_factor": 2}, {"persistent_workers": True}):
        with pytest.raises(ValueError, match="serve worker processes"):
            DataLoader([1], **options)
    for options in ({"num_workers": -1}, {"prefetch_factor": 0}, {"timeout": -1}):
        with pytest.raises(ValueError, match="expected num_workers and timeout of at least 0"):
            DataLoader([1], **{"num_workers": 1, **options})
    with pytest.raises(ValueError, match="an IterableDataset decides on the order"):
        DataLoader(Counting(3), shuffle=True)


AT_A_PROMPT = """
import sys
import numpy as np
import distgrad as dg

class Squares(dg.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.float32(index**2)

if {hidden}:
    sys.modules["cloudpickle"] = None  # as if it were not installed
loader = dg.data.DataLoader(Squares(), batch_size=2, num_workers=2, collate_fn={collate})
print(*(np.asarray(x).tolist() for x in loader))
"""


@pytest.mark.parametrize(
    ("hidden", "collate"), [(True, "None"), (True, "lambda x: x"), (False, "lambda x: np.stack(x)")]
)
def test_what_is_in_no_file_reaches_workers_or_the_error_says_how(hidden, collate):
    if not hidden:
        pytest.importorskip("cloudpickle")
    command = [sys.executable, "-c", AT_A_PROMPT.format(hidden=hidden, collate=collate)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if hidden:
        assert done.returncode == 1
        assert "WorkerError: DataLoader: the dataset or a function" in done.stderr
        assert "pip install cloudpickle" in done.stderr
    else:
        assert done.stdout == "[0.0, 1.0] [4.0, 9.0]\n", done.stderr
