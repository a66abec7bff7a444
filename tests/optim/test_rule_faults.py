"""Faults planted in the compiled rules, each of which the comparison with the plain formula finds."""

import ast
import importlib
import inspect
import re
import types

import numpy as np
import pytest
from optim.test_values import operators

from distgrad.optim import adam, rules, sgd

pytest.importorskip("numba", reason="the compiled rules need Numba")

FORMULAS = {"adam": adam._update, "sgd": sgd._update}
NAMES = {
    "optimizer": ["adam", "sgd"],
    "rules": [
        "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam", "rprop", "asgd", "lion", "lars",
        "lamb_direction",
    ],
}  # fmt: skip


def formula_of(name):
    return FORMULAS.get(name) or getattr(rules, name).__wrapped__


def arguments_of(name):
    """Arrays by name, with and without those that may be missing, and numbers, for each call to compare."""
    formula = formula_of(name)
    given = [
        each for each in inspect.signature(formula).parameters if each not in ("xp", "numbers", "nesterov")
    ]
    count = len(re.search(r"([\w, ]+) = numbers", inspect.getsource(formula))[1].split(","))
    rng = np.random.default_rng(0)
    arrays = {each: rng.standard_normal(60) for each in given}
    for each in set(given) & {"v", "u", "s", "d", "top", "size"}:  # squares and sizes
        arrays[each] = abs(arrays[each])
    if "m" in given and name == "rmsprop":
        arrays["m"] *= 0.01  # so that the variance stays above 0
    if "before" in given:
        arrays["before"][::3] = 0.0  # as after a turn
    numbers = np.linspace(0.3, 0.95, count)
    numbers[0] = -1.0
    without_decay = np.array([1.0, 0.0, *numbers[2:-1], 0.0])
    optional = {"rmsprop": ["m", "b"], "adam": ["top"], "sgd": ["b"]}.get(name, [])
    for chosen in (numbers, without_decay):
        yield arrays, tuple(chosen)
        for missing in optional:
            yield {**arrays, missing: None}, tuple(chosen)


def call(function, before, arrays, numbers, *rest):
    """What a call returns and leaves in its arrays."""
    taken = [None if each is None else each.copy() for each in arrays.values()]
    with np.errstate(all="ignore"):
        result = function(*before, *taken, numbers, *rest)
    return [result, *(each for each in taken if each is not None)]


def differs(name, function):
    """Whether a compiled rule gives something else than the formula somewhere."""
    for arrays, numbers in arguments_of(name):
        for rest in ((True,), (False,)) if name == "sgd" else ((),):
            try:
                found = call(function, (), arrays, numbers, *rest)
            except Exception:
                return True
            for a, b in zip(found, call(formula_of(name), (np,), arrays, numbers, *rest), strict=True):
                if not np.allclose(a, b, rtol=1e-12, atol=1e-14, equal_nan=True):
                    return True
    return False


def run_plainly(kernel, arrays, numbers, *options):
    """As the kernels' own, without parts; the first array is returned."""
    kernel(*arrays, *numbers, *options)
    return arrays[0]


def executed(tree):
    module = types.ModuleType("rules with a fault")
    exec(compile(tree, "<rules with a fault>", "exec"), module.__dict__)
    return module


def planted(name):
    """For each fault: what it is, in which function, and the module with it; none in the first."""
    source = inspect.getsource(importlib.import_module(f"distgrad.backend.kernels.{name}"))
    tree = ast.parse(re.sub(r"^@kernel\(.*\)\n", "", source, flags=re.M))  # the same in Python
    yield "none", "", executed(tree)
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
        if function.name == "run_rule":
            continue
        for node, field, swapped in list(operators(function)):
            original, before = getattr(node, field), ast.unparse(node)
            setattr(node, field, swapped)
            yield f"{function.name}: {before} -> {ast.unparse(node)}", function.name, executed(tree)
            setattr(node, field, original)


@pytest.mark.parametrize("name", NAMES)
def test_faults_in_compiled_rules_are_found(name):
    missed, count = [], 0
    for what, function, module in planted(name):
        count += 1
        module.run_rule = run_plainly
        names = [each for each in NAMES[name] if function.removeprefix("_").startswith(each)] or NAMES[name]
        if not any(differs(each, getattr(module, each)) for each in names):
            missed.append(what)
    assert missed == ["none"]
    assert count > 25
