"""Mistakes that would pass in silence: each is said once, in words, with the user's line."""

import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, tracebacks
from distgrad.autograd import functional
from distgrad.comm import ThreadWorld
from distgrad.data import DataLoader, DistributedSampler, TensorDataset
from distgrad.errors import DTypeError, ShapeError
from distgrad.parallel import DistributedDataParallel
from distgrad.parallel.replicas import batch_checksum


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nobody was warned yet, and this is the first of two ranks."""
    monkeypatch.setattr(tracebacks, "_warned", set())
    monkeypatch.setattr(functional._watch, "weight", 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")


DATA = TensorDataset(dg.ones((8, 2)))


def run(loader, epochs=1, set_epoch=False):
    for epoch in range(epochs):
        if set_epoch:
            loader.sampler.set_epoch(epoch)
        list(loader)


def step(count, scale):
    model = nn.Linear(4, 4)
    optimizer = dg.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(count):
        optimizer.zero_grad()
        if scale is not None:
            (model(dg.ones((2, 4))) * scale).sum().backward()
        optimizer.step()


def frozen(count):
    """A NaN that no parameter shows, as where a scaler leaves such steps out, and another loss in turn."""
    weight = dg.ones(4).requires_grad_()
    for _ in range(count):
        (weight.sum() * float("nan")).backward()
        (weight.sum()).backward()


def now_and_then(count):
    weight = dg.ones(4).requires_grad_()
    for number in range(count):
        (weight.sum() * (float("nan") if number % 5 == 0 else 1.0)).backward()


def dealt(**options):
    return DataLoader(DATA, 4, sampler=DistributedSampler(DATA, 2, 0, **options))


def evaluated():
    """An order in which nothing is learnt may come again, before an epoch and after it."""
    loader = dealt()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for _ in range(2):
            list(dg.train.evaluate(nn.Linear(2, 2), loader, show=False))
        list(loader)
        with dg.no_grad():
            list(loader)


MISTAKES = [
    (
        lambda: run(DataLoader(DATA, 4, shuffle=True)),
        r"gives each of 2 ranks the whole dataset; pass",
    ),
    (lambda: run(dealt(), 3), r"a second epoch in the order of the first; call sampler.set_epoch"),
    (
        lambda: step(30, float("nan")),
        r"backward: of late 10 losses or more were NaN",
    ),
    (lambda: frozen(30), r"backward: of late 10 losses or more were NaN"),
    (lambda: step(3, None), r"no parameter has a gradient, so nothing was changed; call loss.backward\(\)"),
]


@pytest.mark.parametrize(("mistake", "text"), MISTAKES)
def test_a_mistake_is_said_once_with_the_users_line(mistake, text):
    with pytest.warns(UserWarning, match=text) as caught:
        mistake()
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(("mistake", "text"), MISTAKES)
def test_the_other_ranks_say_nothing(mistake, text, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mistake()


@pytest.mark.parametrize(
    "right",
    [
        lambda: run(dealt(), 3, set_epoch=True),
        lambda: run(dealt(shuffle=False), 2),
        evaluated,
        lambda: run(DataLoader(DATA, 4), 2),
        lambda: step(30, 1.0),
        lambda: now_and_then(40),
    ],
)
def test_what_is_right_passes_without_a_word(right):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right()


@pytest.mark.parametrize("weigh_by", ["samples", "ranks"])
def test_a_rank_without_samples_is_not_told_that_its_loss_is_nan(weigh_by):
    def train(comm):
        net = nn.Linear(4, 2)
        ddp = DistributedDataParallel(net, comm, weigh_by=weigh_by)
        for _ in range(30):
            ddp(dg.ones((3 if comm.rank else 0, 4))).mean().backward()
            assert np.isfinite(net.weight.grad.numpy()).all()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ThreadWorld(2, timeout_s=30).run(train)


def test_every_rank_that_is_a_thread_counts_its_own_losses():
    def train(comm):
        for _ in range(3):
            (dg.ones(1).requires_grad_() * float("nan")).sum().backward()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ThreadWorld(5, timeout_s=30).run(train)


@pytest.mark.parametrize("data", [np.ones(2), [1.0], {"x": dg.ones(2)}, (dg.ones(2),)])
def test_batches_are_only_compared_where_all_of_them_is_seen(data):
    mask = dg.ones((2, 3))
    assert batch_checksum([mask, 3, 2.0, None, "mean", True]) == batch_checksum([mask]) != 0
    assert batch_checksum([mask, data]) == batch_checksum([data, mask]) == batch_checksum([3]) == 0


def test_one_process_shuffles_by_itself(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(DataLoader(DATA, 4, shuffle=True), 2)


def test_an_option_that_is_a_text_says_how_to_write_it():
    text = r"Adam: lr must be a number, got the text '1e-3'; write lr=float"
    with pytest.raises(DTypeError, match=text):
        dg.optim.Adam(nn.Linear(2, 2).parameters(), lr="1e-3")
    net = nn.Linear(2, 2)
    optimizer = dg.optim.Adam(net.parameters())
    optimizer.param_groups[0]["lr"] = "1e-3"  # as a schedule of the user's may set it
    net(dg.ones((2, 2))).sum().backward()
    with pytest.raises(DTypeError, match=text):
        optimizer.step()


def test_a_wrong_shape_shows_the_users_lines_and_two_of_ours():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pytest.raises(ShapeError) as caught:
        net(dg.ones((5, 7)))
    tracebacks.shorten(caught.value)
    trace, files = caught.value.__traceback__, []
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    assert [tracebacks.inside(file) for file in files] == [False, True, True]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "dg.nn.Sequential(dg.nn.Linear(4, 3), dg.nn.ReLU())(dg.ones((5, 7)))",
            "ShapeError: linear: x is [5, 7]",
        ),
        ("dg.ones((2, 3)) + dg.ones((4,))", "ShapeError: add: operands could not be broadcast"),
        ("dg.ones((2, 3))[5]", "OutOfBoundsError: getitem: index 5 is out of bounds"),
        ("dg.optim.SGD([], lr=-1.0)", "ValueError: SGD: "),
        (
            "import os; os.environ['MPI4PY_LIBMPI'] = '/nonexistent'; dg.comm.init('mpi')",
            "MissingDependencyError: comm.init: the backend 'mpi' needs mpi4py and an MPI library",
        ),
        ("dg.nn.functional.cross_entropy(dg.ones((2, 4)), dg.tensor([0, 5]))", "target holds class 5"),
    ],
)
def test_an_uncaught_error_of_ours_is_short(line, said):
    program = f"import distgrad as dg\n{line}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert done.stderr.splitlines()[1].startswith('  File "<string>", line 2'), done.stderr
    assert done.stderr.count('  File "') <= 3, done.stderr
    assert said in done.stderr


def test_a_number_in_the_environment_that_is_none_is_said_in_few_lines():
    done = subprocess.run(
        [sys.executable, "-c", "import distgrad"],
        capture_output=True, text=True, check=False, env={**os.environ, "WORLD_SIZE": "two"},
    )  # fmt: skip
    assert "WORLD_SIZE must be a whole number, got 'two'; unset or correct it" in done.stderr
    assert done.stderr.count('  File "') == 3, done.stderr


def test_ctrl_c_shows_the_users_lines_alone():
    program = """
import signal
import distgrad as dg
def interrupt(*ignored):
    signal.raise_signal(signal.SIGINT)
x = dg.ones(2).requires_grad_()
x.register_hook(interrupt)
x.sum().backward()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert re.findall(r'File "(.*)", line (\d+)', done.stderr) == [("<string>", "8"), ("<string>", "5")]
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_ctrl_c_before_the_launcher_listens_is_no_traceback(monkeypatch, capsys):
    import distgrad_command

    def main(arguments, program):
        raise KeyboardInterrupt

    monkeypatch.setattr("distgrad.launch.__main__.main", main)
    with pytest.raises(SystemExit) as ended:
        distgrad_command._launch(["script.py"], "distgrad run")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "launch: stopped by SIGINT; nothing was started\n"


USERS_OWN = '''
import distgrad as dg
from distgrad.autograd.dispatch import primitive
from distgrad.autograd.ops.shape_rules import same_shape
@primitive(math="y", source="none", shape=same_shape, dtypes="real floating-point", samples=[])
def odd(xp, x: "Array", /):
    """Fail."""
    raise ValueError("no such sample")
odd(dg.ones(2))
'''


def test_errors_of_others_and_of_the_users_own_primitives_are_whole(tmp_path):
    program = tmp_path / "program.py"  # Python has to be able to read a primitive's source
    program.write_text(USERS_OWN)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert "line 8, in odd" in done.stderr
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    trace = caught.value.__traceback__
    tracebacks.shorten(caught.value)
    assert caught.value.__traceback__ is trace


TRAINING = """
import numpy as np
import distgrad as dg
from distgrad.data import DataLoader, IterableDataset
comm = dg.comm.init({backend!r})
class Stream(IterableDataset):
    def __iter__(self):
        return iter(np.random.default_rng({seed}).standard_normal((8, 4)).astype("f"))
net = dg.nn.Linear(4, 2)
ddp = dg.parallel.DistributedDataParallel(net)
for _ in range(2):
    for x in DataLoader(Stream(), 4):
        net.zero_grad()
        ddp(x).sum().backward()
"""


@pytest.mark.parametrize("backend", ["shm", "mpi"])
@pytest.mark.parametrize(("seed", "times"), [("0", 1), ("comm.rank", 0), ("comm.rank // 2", 0)])
def test_ranks_that_all_train_on_the_same_batches_are_told_so_once(backend, seed, times, tmp_path):
    program = tmp_path / "train.py"
    program.write_text(TRAINING.format(backend=backend, seed=seed))
    command = [sys.executable, "-m", "distgrad", "run", "-n", "3", "--backend", backend, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    assert output.count("all 3 ranks may compute on the same batches") == times, output
    assert output.count(f"{program}:14: UserWarning") == times, output


UNEQUAL = """
import numpy as np
import distgrad as dg
comm = dg.comm.init({backend!r})
net = dg.nn.Linear(4, 2)
ddp = dg.parallel.DistributedDataParallel(net)
optimizer = dg.optim.SGD(net.parameters(), lr=0.1)
for number in range(3 + comm.rank):
    optimizer.zero_grad()
    ddp(dg.tensor(np.full((2, 4), comm.rank + number, "f"))).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("backend", "advice"),
    [
        (
            "shm",
            "rank 0 had ended before, with exit code 0, after 3 steps, while rank 1 waited in step 4: give",
        ),
        (
            "mpi",
            "rank 0 of the world, which ended without it; rank 1 waits at {program}:10, in step 4 of its",
        ),
    ],
)
def test_unequal_numbers_of_steps_end_with_advice_in_few_lines(backend, advice, tmp_path):
    program = tmp_path / "train.py"
    program.write_text(UNEQUAL.format(backend=backend))
    command = [sys.executable, "-m", "distgrad", "run", "-n", "2", "--backend", backend, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert advice.format(program=program) in output, output
    assert "give every rank the same number" in output
    assert f"{program}:10" in output or f'File "{program}", line 10' in output
    assert output.count("  File ") <= 3, output  # the user's line and two of the package's
    assert len(output.splitlines()) <= 15, output
