"""Examples in docstrings, which the reference shows, run as they stand."""

import ast
import functools
import importlib.util
import inspect
import linecache
import re
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path

import pytest
from hub import folders

import distgrad as dg

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(?<!:)::\n\n((?: +\S.*\n|\n)+)")
_OWNERS = ast.Module | ast.ClassDef | ast.FunctionDef
#: Files whose blocks are lines of a shell, messages or drawings.
OTHER = ("distgrad/errors.py", "distgrad/scale/bench/")

#: What an example may take as there, since whoever reads its page has it.
PRELUDE = """
import argparse
import numpy as np
import distgrad as dg
from distgrad import nn, script
from distgrad.autograd.dispatch import composite, primitive
from distgrad.autograd.ops.shape_rules import same_shape
from distgrad.autograd.primitive import Sample
from distgrad.backend.kernels.elementwise import elementwise
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel
from typing import Any

def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def train():
    own = dg.optim.SGD(ddp.parameters(), lr=1e-3)
    for _ in range(16):
        own.zero_grad()
        criterion(ddp(x), y).backward()
        own.step()

comm = dg.comm.init()
model = build_model()
ddp = DistributedDataParallel(build_model(), {options})
optimizer = dg.optim.SGD(model.parameters(), lr=1e-3)
loader = dg.data.DataLoader(dg.data.TensorDataset(dg.rand(64, 1, 28, 28), dg.randint(0, 10, (64,))), 32)
x, y = next(iter(loader))
criterion = loss_function = F.cross_entropy
step, epochs, lr, loss = 3, 2, 1e-3, dg.asarray(0.5)
accuracy, metrics = dg.train.Accuracy(), dg.train.Metrics(loss=dg.train.Mean())
metrics["loss"].update(dg.rand(3))
gradients, parameters, mine = np.ones(8), np.ones(8), slice(0, 8)
"""
#: What is this machine's and new here, in the place of what an example says.
HERE = {'"cuda"': '"cpu"', "{4: 2, 16: comm.size}": "{16: comm.size}", "softplus": "softplus_again"}


def blocks():
    """Every example: its file, the name of what it belongs to, and its lines."""
    for path in sorted((ROOT / "distgrad").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            text = (ast.get_docstring(node) or "") if isinstance(node, _OWNERS) else ""
            for found in _BLOCK.finditer(f"{text}\n"):
                yield place, getattr(node, "name", ""), inspect.cleandoc(f"\n{found[1]}")


def run(place, text):
    """Run an example in an empty folder, with what its reader has."""
    if place.endswith("cluster.py"):
        tomllib.loads(text)
        return
    if "dg.hub" in text:
        if importlib.util.find_spec("tokenizers") is None:
            return
        folders.make(Path("all-MiniLM-L6-v2"), "bert")
        Path("all-MiniLM-L6-v2/vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ntext\nanother\n")
    for there, here in HERE.items():
        text = text.replace(there, here)
    names = {"__name__": "docstring"}
    exec(PRELUDE.replace("{options}", "exact=True, shards=2" if "ddp.shards" in text else ""), names)
    if "ddp.stats()" in text:
        names["train"]()
    file = Path("example.py").resolve()
    file.write_text(text)  # some read their own source
    linecache.checkcache()
    exec(compile(text, str(file), "exec"), names)


def run_all():
    """Every example in one interpreter, since some register operations; those that fail, with why."""
    failed = []
    for place, name, text in blocks():
        if not place.startswith(OTHER):
            try:
                run(place, text)
            except Exception:
                failed.append(f"{place} {name}\n{text}\n{traceback.format_exc(limit=-2)}")
    return failed


def test_names_in_examples_are_there():
    """What runs in every run of the tests, where the others take some seconds."""
    found = {
        name for _, _, text in blocks() for name in re.findall(r"\bdg\.[a-z_0-9]+(?:\.[A-Za-z_]+)?", text)
    }
    assert len(found) > 20
    for name in found:
        functools.reduce(getattr, name.split(".")[1:], dg)


@pytest.mark.slow
@pytest.mark.timeout(330)
def test_examples_run(tmp_path):
    command = [sys.executable, __file__]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_an_example_that_does_not_run_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttributeError, match="Acuracy"):
        run("distgrad/train/evaluation.py", "dg.train.Acuracy()")


if __name__ == "__main__":
    wrong = run_all()
    print("\n\n".join(wrong))
    sys.exit(bool(wrong))
