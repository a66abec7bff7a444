"""The guide's pages for those who come from elsewhere: every name and argument on their lines is there."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import distgrad as dg
import distgrad.horovod as hvd
from distgrad import nn, optim, train
from distgrad.autograd.tensor import Tensor
from distgrad.checkpoint import CheckpointManager
from distgrad.comm.base import Communicator
from distgrad.data import DataLoader, DistributedSampler
from distgrad.launch import arguments, others
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel

GUIDE = Path(__file__).parents[1] / "docs" / "guide"
PAGES = {
    "from-chainermn": 40,
    "from-deepspeed": 35,
    "from-lightning": 50,
}  # and how many lines of code are tried
#: What the words of a line stand for.
KNOWN = {
    "dg": dg, "nn": nn, "F": F, "train": train, "comm": Communicator, "model": DistributedDataParallel,
    "optimizer": optim.Optimizer, "loss": Tensor, "net": nn.Module, "manager": CheckpointManager,
    "loader": DataLoader, "sampler": DistributedSampler, "logger": train.CSVLogger,
    "stopping": train.EarlyStopping, "x": Tensor,
}  # fmt: skip
ROOMS = (
    dg,
    dg.data,
    train,
    dg.checkpoint,
    dg.parallel,
    dg.optim,
    dg.optim.lr_scheduler,
    dg.amp,
    Communicator,
)


def cells(page):
    """Of each row of a table, the last cell, without its heads."""
    rows = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [row[-1] for row in rows if row[-1].strip() != "distgrad"]


def spans(page):
    return [code for cell in cells(page) for code in re.findall(r"`([^`]+)`", cell)]


def find(name):
    """What a bare name is, wherever it is public."""
    return next((getattr(room, name) for room in ROOMS if hasattr(room, name)), None)


def value_of(node):
    """What a name or a chain of attributes is; None where nothing is known of it. What is missing raises."""
    if isinstance(node, ast.Name):
        return KNOWN.get(node.id) or find(node.id)
    if isinstance(node, ast.Attribute):
        held = value_of(node.value)
        if held is None:
            return None
        found = getattr(held, node.attr, None)
        if found is None and node.attr not in {**getattr(held, "__annotations__", {})}:
            assert f"self.{node.attr}" in inspect.getsource(held), ast.unparse(node)
        return found
    return None


def try_line(code):
    """Look up all that a line names; False where it is none of Python's."""
    try:
        body = f"{code.rstrip(':')}: pass" if re.match(r"(with|for|if) [^:]*:?$", code) else code
        tree = ast.parse(body.replace("(...)", "()").replace(", ...)", ")"))
    except SyntaxError:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            value_of(node)
        elif isinstance(node, ast.Call) and (called := value_of(node.func)) is not None and callable(called):
            taken = inspect.signature(called).parameters
            free = any(each.kind is each.VAR_KEYWORD for each in taken.values())
            for keyword in node.keywords:
                assert free or keyword.arg in taken, code
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.col_offset == 0:
            name = node.targets[0].id
            assert name in KNOWN or is_argument(name), code
    return True


def is_argument(name):
    """Whether something of training takes an argument of that name."""
    takers = (DistributedDataParallel, DataLoader, optim.AdamW, DistributedSampler)
    return any(name in inspect.signature(each).parameters for each in takers)


def options():
    """All that ``distgrad run`` understands, its own options and those of others."""
    source = inspect.getsource(arguments) + inspect.getsource(others)
    return set(re.findall(r"--[a-z][a-z-]+", source))


@pytest.mark.parametrize("name", PAGES)
def test_every_line_names_what_is_there(name):
    found = spans((GUIDE / f"{name}.md").read_text())
    tried = [code for code in found if not code.startswith(("distgrad ", "--")) and try_line(code)]
    assert len(tried) >= PAGES[name], sorted(set(found) - set(tried))
    given = {option for code in found for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", code)}
    others_own = {"--only", "--trace"}
    assert given - others_own <= options()


def test_horovods_names_are_there():
    names = {code for code in spans((GUIDE / "horovod.md").read_text()) if code.isidentifier()}
    taken = inspect.signature(hvd.DistributedOptimizer).parameters
    rooms = (hvd, hvd.elastic, hvd.Compression)
    missing = {name for name in names if name not in taken and not any(hasattr(room, name) for room in rooms)}
    ours = inspect.getsource(hvd.optimizer)  # what the optimizer that is made can do
    assert {name for name in missing if f"def {name}(" not in ours} == {"_", "_async", "grouped_"}
    assert len(names) > 40


@pytest.mark.parametrize(
    "line",
    [
        "dg.optim.Adamw(model)",
        "model.clip_norm_(1.0)",
        "shard_block=3",
        "train.EarlyStopping(patient=3)",
        "comm.sizes",
    ],
)
def test_a_planted_fault_is_found(line):
    with pytest.raises(AssertionError):
        try_line(line)
