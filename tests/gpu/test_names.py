"""Rung 1: every function and keyword that formulas ask of their array module is CuPy's or the backend's own.

The calls are read from the syntax tree, so that a path that no sample takes counts too. CuPy is imported, but
no GPU is needed.
"""

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from real_gpus import num_real_gpus

import distgrad as dg
from distgrad.autograd.later import read_all
from distgrad.backend.array_module import ArrayModule, complete

SOURCE = Path(dg.__file__).parent
NAMESPACE_NAMES = {"xp"}


class Use(NamedTuple):
    """One call or mention of an array module's function.

    Args:
        name: dotted, less ``xp.``.
        positional: number of arguments by place; None for a mention, or where a star spreads some.
        keywords: names of the arguments by keyword.
        place: file and line.
    """

    name: str
    positional: int | None
    keywords: tuple[str, ...]
    place: str


def uses(text: str, file: str) -> Iterator[Use]:
    """What a source asks of ``xp``."""
    tree = ast.parse(text)
    seen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function, arguments = node.func, node.args
            if isinstance(function, ast.Name) and function.id == "in_float32":  # it calls its first argument
                function, *arguments = arguments
            if name := dotted(function):
                seen |= {id(part) for part in ast.walk(function)}
                spread = any(isinstance(arg, ast.Starred) for arg in arguments)
                keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
                yield Use(name, None if spread else len(arguments), keywords, f"{file}:{node.lineno}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in seen and (name := dotted(node)):
            seen |= {id(part) for part in ast.walk(node)}
            yield Use(name, None, (), f"{file}:{node.lineno}")


def dotted(node: ast.AST) -> str | None:
    """``linalg.qr`` of ``xp.linalg.qr``; None for what does not hang off an array module."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if parts and isinstance(node, ast.Name) and node.id in NAMESPACE_NAMES:
        return ".".join(reversed(parts))
    return None


def every_use() -> list[Use]:
    """Of the whole package."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        found += uses(path.read_text(), str(path.relative_to(SOURCE.parent)))
    return found


def signature_of(function: Any) -> inspect.Signature | None:
    """A function's signature; None where it cannot be known (CuPy's ufuncs take ufuncs' keywords)."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def problem(use: Use, module: ArrayModule, ufuncs: tuple[type, ...]) -> str | None:
    """Why an array module cannot serve a use; None if it can."""
    function: Any = module
    for part in use.name.split("."):
        try:
            function = getattr(function, part)
        except AttributeError:
            return f"{use.place}: {module.__name__} has no {use.name}"
    if isinstance(function, ufuncs):
        unknown = set(use.keywords) - {"out", "dtype", "casting"}
        return f"{use.place}: {use.name} takes no {sorted(unknown)}" if unknown else None
    signature = signature_of(function) if use.positional is not None else None
    if signature is None:
        return None
    try:
        signature.bind_partial(*[None] * use.positional, **dict.fromkeys(use.keywords))
    except TypeError as error:
        return f"{use.place}: {use.name}: {error}"
    return None


@pytest.fixture(scope="module")
def cupy_module() -> ArrayModule:
    """The CuPy backend's array module, made without a GPU."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip('CuPy is not installed; rung 1 needs it: pip install "distgrad[cuda13]"')
    from distgrad.backend.cupy import make_array_module

    read_all()  # operations that are read when first asked for bring formulas of their own
    return complete(make_array_module())


@pytest.fixture(scope="module")
def ufuncs(cupy_module) -> tuple[type, ...]:
    return (type(cupy_module.add), np.ufunc)


def test_cupy_has_every_function_and_keyword_that_formulas_ask_for(cupy_module, ufuncs):
    found = every_use()
    assert len(found) > 700
    assert {"sum", "add_at", "linalg.qr", "fft.irfftn", "as_strided"} <= {use.name for use in found}
    wrong = [each for use in found if (each := problem(use, cupy_module, ufuncs))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(xp, x): return xp.vanish(x)", "cupy has no vanish"),
        ("def f(xp, x): return xp.linalg.vanish(x)", "cupy has no linalg.vanish"),
        ("def f(xp, x): return xp.insert(x, 0, 1)", "cupy has no insert"),
        ("def f(xp, x): return map(xp.block, x)", "cupy has no block"),
        ("def f(xp, x): return xp.all(x, where=x > 0)", "where"),
        ("def f(xp, x): return xp.argsort(x, order='a')", "order"),
        ("def f(xp, x): return in_float32(xp.mean, x, where=x > 0)", "where"),
        ("def f(xp, x): return xp.exp(x, where=x > 0)", "takes no ['where']"),
        ("def f(xp, x): return xp.linalg.cholesky(x, 1, 2, 3)", "too many positional"),
    ],
)
def test_a_planted_name_or_keyword_is_caught(cupy_module, ufuncs, text, message):
    (use,) = uses(text, "planted.py")
    assert message in problem(use, cupy_module, ufuncs)


def test_what_cupy_has_passes(cupy_module, ufuncs):
    text = "def f(xp, x): return xp.sum(xp.exp(x, out=x), axis=0, keepdims=True) + xp.linalg.inv(x)"
    assert [problem(use, cupy_module, ufuncs) for use in uses(text, "planted.py")] == [None] * 3


def test_importing_the_package_loads_no_cupy_and_asking_for_a_gpu_names_the_way():
    if num_real_gpus():
        pytest.skip("there is a GPU here: nothing is missing")
    with pytest.raises(dg.DeviceError, match=r'pip install "distgrad\[cuda13\]"'):
        dg.zeros(3, device="cuda")
    with pytest.raises(dg.DeviceError, match=r"\[cuda12\]"):
        dg.nn.Linear(2, 2).to("cuda:0")
    assert dg.cuda.device_count() == 0
