"""Every hint, and every error's advice, names what there is; no hint is given for what is here already."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.names.absent import ABSENT
from distgrad.names.hints import ARGUMENTS, HINTS, POSITIONAL, STANDARD_WORDS, WORDS

ROOT = Path(__file__).parents[2]
OWNERS = {
    "module 'distgrad'": dg,
    "'Tensor' object": dg.Tensor,
    "module 'distgrad.nn'": dg.nn,
    "module 'distgrad.comm'": dg.comm,
}
FUNCTIONS = {
    "load": dg.load,
    "DataLoader": dg.data.DataLoader,
    "DistributedDataParallel": dg.parallel.DistributedDataParallel,
    "Optimizer": dg.optim.Optimizer,
}


def roots():
    """What the names at the start of a hint's code stand for."""
    return {
        "dg": dg,
        "x": dg.ones((2, 3)),
        "np": np,
        "nn": dg.nn,
        "comm": dg.comm.init(),
        "model": dg.nn.Linear(1, 1),
        "torch": importlib.import_module("distgrad.torch"),
    }


def misses(text, known):
    """The dotted names of a text that lead nowhere, each with all its parts."""
    wrong = []
    for name in re.findall(r"(?<![\w./\[])[a-z]+(?:\.[A-Za-z_]\w*)+", text):
        found, *parts = name.split(".")
        if found not in known:
            continue
        found = known[found]
        for part in parts:
            try:
                found = getattr(found, part)
            except AttributeError:
                wrong.append(name)
                break
    return wrong


def texts():
    """Every hint with where it is given."""
    tables = {**HINTS, **ARGUMENTS, "torch": ABSENT, "by position": POSITIONAL}
    return [(f"{where}: {name}", hint) for where, table in tables.items() for name, hint in table.items()]


def test_every_hint_leads_somewhere():
    known = roots()
    wrong = {where: found for where, hint in texts() if (found := misses(hint, known))}
    assert wrong == {}
    assert len(texts()) > 150


def test_every_subclass_that_a_hint_names_is_there():
    for name, hint in HINTS["module 'distgrad.nn'"].items():
        for each in re.findall(r"\b[A-Z]\w+", hint.partition(": ")[0]):
            assert hasattr(dg.nn, each), name


def advice():
    """The texts of all errors that the package raises, with their places."""
    for path in sorted([*(ROOT / "distgrad").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                for text in ast.walk(node.exc):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        yield f"{path.relative_to(ROOT)}:{text.lineno}", text.value


def test_every_error_names_what_there_is():
    known = {"dg": dg, "nn": dg.nn}
    found = dict(advice())
    # A name that goes on in what is put in afterwards ends in a dot, and is not looked for.
    wrong = {place: names for place, text in found.items() if (names := misses(text, known))}
    assert wrong == {}
    assert sum("dg." in text for text in found.values()) > 10


@pytest.mark.parametrize(
    "text", ["write dg.vision", "x.no_such_method(y)", "comm.gobble()", "write nn.init.gobble_(x)"]
)
def test_a_hint_that_leads_nowhere_is_found(text):
    assert misses(text, roots())


@pytest.mark.parametrize("where", HINTS)
def test_no_hint_is_given_for_a_name_that_is_here(where):
    owner = OWNERS[where]
    assert [name for name in HINTS[where] if hasattr(owner, name)] == []


@pytest.mark.parametrize("where", ARGUMENTS)
def test_no_hint_is_given_for_an_argument_that_is_taken(where):
    takes = inspect.signature(FUNCTIONS[where]).parameters
    assert set(takes) & set(ARGUMENTS[where]) == set()


def test_words_of_the_standard_are_those_of_its_functions():
    takes = {
        name
        for function in vars(dg).values()
        if callable(function) and hasattr(function, "record")
        for name in inspect.signature(function).parameters
    }
    others = {"a_min", "a_max", "split_size"}  # NumPy's, and what PyTorch's method calls the function's
    assert set(STANDARD_WORDS.values()) | (WORDS.keys() - others) <= takes


def test_hints_are_for_names_that_pytorch_has():
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    owners = {
        "module 'distgrad'": (torch, torch.Tensor, np),
        "'Tensor' object": (torch.Tensor,),
        "module 'distgrad.nn'": (torch.nn,),
        "module 'distgrad.comm'": (torch.distributed,),
    }
    for where, theirs in owners.items():
        assert [name for name in HINTS[where] if not any(hasattr(each, name) for each in theirs)] == []
