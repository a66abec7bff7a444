"""The examples with ``--device cuda``, on the released CuPy over the double of a GPU."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.gpu_double(devices=1, timeout=300)


def module(folder, name):
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def some_digits(*_):
    """Two data sets of easy digits: a bright row says which it is."""
    labels = np.arange(64) % 10
    images = np.zeros((64, 1, 28, 28), np.float32)
    images[np.arange(64), 0, 2 * labels + 4] = 1.0
    both = dg.data.TensorDataset(images, labels)
    return both, both


@pytest.fixture(autouse=True)
def own_world():
    yield
    dg.comm.finalize()


def run(monkeypatch, capsys, name, options, **replaced):
    example = module("examples", name)
    for attribute, value in replaced.items():
        monkeypatch.setattr(example, attribute, value)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--device", "cuda", *options.split()])
    status = example.main()
    return status, capsys.readouterr().out


def test_mnist(monkeypatch, capsys):
    options = "--epochs 6 --batch-size 32 --target-accuracy 0.5"
    status, out = run(monkeypatch, capsys, "mnist", options, load_mnist=some_digits)
    assert status == 0, out
    assert "samples/s on 1 ranks" in out


def test_resnet(monkeypatch, capsys):
    options = "--epochs 1 --steps 2 --width 4 --batch-size 16"
    _, out = run(monkeypatch, capsys, "resnet", options, load_mnist=some_digits)
    assert "held-out accuracy" in out


def test_vae(monkeypatch, capsys):
    options = "--epochs 1 --width 16 --latent 3 --batch-size 32"
    _, out = run(monkeypatch, capsys, "vae", options, load_mnist=some_digits)
    assert "nats a held-out image" in out


def test_lstm(monkeypatch, capsys):
    hours = np.sin(np.arange(400) / 12).astype(np.float32)
    options = "--epochs 1 --length 12 --width 4 --batch-size 64"
    _, out = run(monkeypatch, capsys, "lstm", options, load_temperatures=lambda: hours)
    assert "held-out error" in out


def test_gpt(monkeypatch, capsys):
    options = "--steps 10 --width 32 --layers 1 --length 16 --batch-size 4 --sample 3"
    monkeypatch.setattr("pydoc_data.topics.topics", {"a": "The quick brown fox. " * 60})
    _, out = run(monkeypatch, capsys, "gpt", options)
    assert "held-out text: " in out


def test_heat_surrogate(monkeypatch, capsys):
    pytest.importorskip("mpi4py.MPI", reason="the example needs an MPI library")
    options = "--cells 32 --runs 2 --epochs 2"
    _, out = run(monkeypatch, capsys, "heat_surrogate", options)
    assert "solver steps in 5 of the network" in out


def test_port_distgrad(monkeypatch, capsys):
    x = np.random.default_rng(0).standard_normal((32, 13)).astype(np.float32)
    wines = dg.asarray(x), dg.asarray((x[:, 0] > 0).astype(np.int64))
    _, out = run(monkeypatch, capsys, "port_distgrad", "", load_wine=lambda: wines)
    assert "of 32 wines right" in out
