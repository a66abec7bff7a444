"""Every kernel says which of its arrays it changes: held against its source, and against calls of it."""

import ast
import importlib
import inspect
import textwrap

import numpy as np
import pytest
from kernel_cases import Watched

from distgrad.backend.kernels import cache

MODULES = sorted(path.stem for path in cache._SOURCES.glob("*.py") if path.stem != "service")


def kernels():
    """The kernels that are written out, by module and name."""
    for name in MODULES:
        module = importlib.import_module(f"distgrad.backend.kernels.{name}")
        for each, value in vars(module).items():
            if (
                hasattr(value, "entry")
                and hasattr(value, "py_func")
                and value.py_func.__module__ == module.__name__
            ):
                yield f"{name}.{each}", value


def stored(function):
    """The parameters of which a function's own lines change elements, and of which it hands parts on."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    changed, handed = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed |= {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Call | ast.Subscript) or getattr(node, "attr", "") == "ctypes":
            handed |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return changed, handed


def wrong(function, writes):
    """What a kernel's list lacks, and what stands in it without a reason."""
    parameters = set(inspect.signature(function).parameters)
    changed, handed = stored(function)
    return (changed & parameters) - set(writes), set(writes) - parameters | (set(writes) - changed - handed)


def test_kernels_say_what_their_lines_change():
    found = dict(kernels())
    assert len(found) > 50
    assert {name: wrong(each.py_func, each.entry.writes) for name, each in found.items()} == dict.fromkeys(
        found, (set(), set())
    )


def test_a_wrong_list_is_found():
    def fill(x, y, z):
        for i in range(x.size):
            y[i] = x[i]

    assert wrong(fill, ["y"]) == (set(), set())
    assert wrong(fill, []) == ({"y"}, set())
    assert wrong(fill, ["y", "z"]) == (set(), {"z"})


def test_a_call_that_changes_something_else_is_found():
    watched = Watched(next(each for name, each in kernels() if name == "activation._relu_gradient"))
    g, y, out = (np.full(5, value, np.float32) for value in (1.0, 2.0, 0.0))
    watched(g, y, out)
    watched.writes = ("g",)
    out[:] = 0
    with pytest.raises(AssertionError, match="out"):
        watched(g, y, out)
