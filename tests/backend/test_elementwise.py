"""Functions of one element: all forms of optimizers' rules and activations, refusals, planted faults."""

import importlib
import itertools
import linecache
import math
import re
import shutil
import subprocess

import numpy as np
import pytest

from distgrad.backend.kernels import activation_rules, elementwise, translate
from distgrad.backend.kernels.cuda import source
from distgrad.backend.kernels.rules import RULES
from distgrad.errors import DefinitionError

SIZE = 40
ALL = RULES | activation_rules.RULES
CALLS = [
    (name, missing)
    for name, rule in RULES.items()
    for count in range(len(rule.optional) + 1)
    for missing in itertools.combinations(rule.optional, count)
]
EVERY = [*CALLS, *((name, ()) for name in activation_rules.RULES)]


def arguments_of(rule, missing=()):
    """Arrays, of which some are None, and numbers: all different, then such as take the other branches."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(SIZE) for name in rule.arrays}
    for name in rule.arrays[2:]:
        if re.search("sq|sum|square|inf|size|delta", name):
            arrays[name] = abs(arrays[name])
    if "prev" in arrays:
        arrays["prev"][::3] = 0.0
    if "grad_avg" in arrays:
        arrays["grad_avg"] *= 0.01  # so that the variance stays above 0
    first = dict(zip(rule.numbers, np.linspace(0.3, 0.95, len(rule.numbers)).tolist(), strict=True))
    second = first | dict.fromkeys(rule.factors, 1.0)
    second |= dict.fromkeys(first.keys() & {"decay", "nesterov", "trust"}, 0.0)
    third = second | {"sign": -1.0}
    for numbers in (first | {"sign": -1.0}, second, third):
        given = [None if name in missing else arrays[name].copy() for name in rule.arrays]
        yield given, [numbers[name] for name in rule.numbers]


def by_elements(rule, arrays, numbers):
    """The function itself, called for every element."""
    wanted = [x if x is None else x.copy() for x in arrays]
    for i in range(SIZE):
        with np.errstate(all="ignore"):
            one = [None if x is None else x[i] for x in arrays[: rule.function.__code__.co_argcount]]
            values = rule.function(*one, **dict(zip(rule.numbers, numbers, strict=True)))
        values = values if isinstance(values, tuple) else (values,)
        for name, value in zip(rule.writes, values, strict=True):
            if value is not None:
                wanted[rule.arrays.index(name)][i] = value
    return wanted


def by_array_form(rule, arrays, numbers):
    given = [x if x is None else x.copy() for x in arrays]
    assert translate.array_form(rule)(np, *given, numbers) is given[0]
    return given


def by_loop_form(rule, arrays, numbers):
    given = [x if x is None else x.copy() for x in arrays]
    loop = translate.loop_form(rule, rule.missing(arrays), {"math": math, "exp": elementwise.exp})
    loop(*(x for x in given if x is not None), *map(np.float64, numbers))
    return given


def differs(form, calls=EVERY):
    """The rules of which a form gives other bits somewhere than the function does."""
    found = set()
    for name, missing in calls:
        for arrays, numbers in arguments_of(ALL[name], missing):
            try:
                with np.errstate(all="ignore"):
                    got = form(ALL[name], arrays, numbers)
            except Exception:
                found.add(name)
                continue
            for a, b in zip(got, by_elements(ALL[name], arrays, numbers), strict=True):
                if b is not None and not np.array_equal(a, b, equal_nan=True):
                    found.add(name)
    return found


@pytest.mark.parametrize(("form", "calls"), [(by_array_form, CALLS), (by_loop_form, EVERY)])
def test_a_form_gives_the_bits_of_the_function(form, calls):
    assert differs(form, calls) == set()


@pytest.mark.parametrize("char", "fd")
def test_compiled_activations_give_an_element_the_same_bits_at_every_offset_and_length(char):
    pytest.importorskip("numba")
    module = importlib.import_module("distgrad.backend.kernels.activation")
    kernels = [each for each in vars(module).values() if hasattr(each, "entry")]
    for kernel in [each for each in kernels if char in each.entry.dtypes]:
        given = [x.astype(char) for x in np.random.default_rng(1).standard_normal((3, 360))]
        given = given[: len(kernel.entry.signature.split())]
        kernel(*given)
        for start, stop in ((1, 18), (7, 360), (3, 4), (5, 5)):
            part = [*(x[start:stop].copy() for x in given[:-1]), np.zeros(stop - start, char)]
            kernel(*part)
            np.testing.assert_array_equal(part[-1], given[-1][start:stop], kernel.entry.function.__name__)


@pytest.mark.parametrize(("name", "missing"), CALLS, ids=str)
@pytest.mark.parametrize("char", "fd")
def test_compiled_loops_give_the_bits_of_the_formula_at_every_offset_and_length(name, missing, char):
    pytest.importorskip("numba")
    compiled = getattr(importlib.import_module("distgrad.backend.kernels.optimizer"), name)
    for arrays, numbers in arguments_of(RULES[name], missing):
        given = [None if x is None else np.tile(x, 9).astype(char) for x in arrays]
        with np.errstate(all="ignore"):
            wanted = by_array_form(RULES[name], given, numbers)
        for start, stop in ((0, 360), (1, 18), (7, 360), (3, 4), (5, 5)):
            part = [None if x is None else x[start:stop].copy() for x in given]
            assert compiled(*part, numbers) is part[0]
            for a, b in zip(part, wanted, strict=True):
                if a is not None:
                    np.testing.assert_array_equal(a, b[start:stop])


# -- CUDA C, compiled for the host

PRELUDE = """
#include <math.h>
typedef double T; typedef double A; typedef long long i64;
#define KERNEL extern "C" void
#define __device__
#define FOR_EACH(i, n) for (i64 i = 0; i < n; i++)
inline A widen(T x) { return x; }
inline A get(const T* x, i64 i, A otherwise) { return x ? x[i] : otherwise; }
inline void store(T* to, A x) { *to = x; }
template <class F> void map(i64 n, const T* x, T* y, F f) { FOR_EACH(i, n) y[i] = f(x[i]); }
template <class F> void map(i64 n, const T* g, const T* x, T* y, F f) { FOR_EACH(i, n) y[i] = f(g[i], x[i]); }
"""


@pytest.fixture(scope="module")
def by_cuda_form(tmp_path_factory):
    """A form that compiles the sources anew where they differ from before."""
    import ctypes

    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: no CUDA source is run on the host")
    folder, libraries = tmp_path_factory.mktemp("cuda"), {}
    helpers = re.findall(
        r"^__device__ inline A (?:larger|smaller|sign_of)\(.*", source._text("numbers.cuh"), re.M
    )

    def library(text):
        if text not in libraries:
            path = folder / f"{len(libraries)}.so"
            command = [
                "g++",
                "-O1",
                "-ffp-contract=off",
                "-shared",
                "-fPIC",
                "-x",
                "c++",
                "-",
                "-o",
                str(path),
            ]
            subprocess.run(command, input=text, text=True, check=True, timeout=100, capture_output=True)
            libraries[text] = ctypes.CDLL(str(path))
        return libraries[text]

    def form(rule, arrays, numbers):
        text = "\n".join([PRELUDE, *helpers, *map(translate.cuda_source, ALL.values())])
        given = [x if x is None else x.copy() for x in arrays]
        values = [SIZE, *(x if x is None else x.ctypes.data_as(ctypes.c_void_p) for x in given)]
        for name, number in zip(rule.numbers, numbers, strict=True):
            values += [ctypes.c_double(number), *([None] if name in rule.measured else [])]
        values[0] = ctypes.c_longlong(SIZE)
        values += [None] if rule.numbers else []  # they do not lie in memory
        getattr(library(text), rule.name)(*values)
        return given

    return form


def test_cuda_c_gives_the_bits_of_the_function(by_cuda_form):
    assert differs(by_cuda_form) == set()


# -- faults planted in the translation

FAULTS = {
    "_INFIX": {"add": "-", "subtract": "+", "multiply": "/", "divide": "*", "less": ">", "greater": "<",
               "not_equal": "=="},
    "_LOOP": {"where": "({2} if {0} else {1})", "negative": "({0})", "sqrt": "({0})", "exp": "({0})",
              "abs": "({0})", "sign": "({one})", "minimum": "({0})",
              "maximum": "({0} if {0} <= {1} else {1})"},
    "_CUDA": {"where": "({0} ? {2} : {1})", "negative": "({0})", "sqrt": "({0})", "exp": "({0})",
              "abs": "({0})", "sign": "((A)1)", "maximum": "smaller({0}, {1})", "minimum": "({0})"},
}  # fmt: skip


@pytest.mark.parametrize(("table", "op"), [(table, op) for table, faults in FAULTS.items() for op in faults])
def test_a_fault_in_the_translation_is_found(table, op, monkeypatch, request):
    monkeypatch.setitem(getattr(translate, table), op, FAULTS[table][op])
    if table != "_CUDA":
        assert differs(by_loop_form)
    if table == "_INFIX":
        assert differs(by_array_form)
    if table != "_LOOP":
        assert differs(request.getfixturevalue("by_cuda_form"))


def test_the_tables_of_faults_are_complete():
    used = {node.op for rule in ALL.values() for each in rule.body for node in walk(each.value)}
    assert used - {"name", "constant"} == {op for faults in FAULTS.values() for op in faults}
    assert (
        translate._LOOP.keys() == translate._CUDA.keys() == FAULTS["_LOOP"].keys() == FAULTS["_CUDA"].keys()
    )


def walk(node):
    yield node
    for arg in node.args:
        yield from walk(arg)


# -- what is refused


def read(text):
    """The function ``f`` of a source, read as one of one element."""
    file = f"<test {hash(text)}>"
    linecache.cache[file] = (1, None, text.splitlines(keepends=True), file)
    space = vars(elementwise).copy()
    exec(compile(text, file, "exec"), space)
    return elementwise.elementwise(space["f"])


HEAD = "def f(p, g, m: float | None, *, lr: Factor, mu, found: Measured):\n"
REFUSED = [
    ("    p = p - lr * mu * g\n    return p", 2, r"`lr \* mu` combines numbers"),
    ("    p = p ** 2\n    return p", 2, r"`p \*\* 2` cannot be translated"),
    ("    p = math.log(p)\n    return p", 2, "cannot be translated"),
    ("    p = exec(p)\n    return p", 2, "calls what cannot be translated"),
    ("    for i in p:\n        pass\n    return p", 2, "`for i in p:` cannot be translated"),
    ("    p += g\n    return p", 2, "`p \\+= g` cannot be translated"),
    ("    p = p if g else m\n    return p", 2, "m has no value here"),
    ("    p = p if g else g\n    return p", 2, "`g` is no comparison"),
    ("    p = p + (g > 0)\n    return p", 2, "computes with a truth"),
    ("    p = p * m\n    return p", 2, "m has no value here"),
    (
        "    if m is not None:\n        x = m\n    p = p * x\n    return p",
        2,
        r"\['x'\] have no value where m is",
    ),
    ("    if p is not None:\n        p = g\n    return p", 2, "does not ask whether an array is there"),
    (
        "    old = p\n    p = p * g\n    p = p - old\n    return p",
        2,
        "old would stand for p, which is assigned",
    ),
    ("    lr = p * g\n    return p", 2, "lr is a number"),
    ("    m = p * g\n    return m", 2, "m may be missing: assign below"),
    ("    x = lr\n    return p", 2, "x is the same for all elements"),
    ("    n = p * g\n    return p", 2, "n cannot be a name"),
    ("    p = p * g", 2, "expected `return` with the arrays that change"),
    ("    p = p * g\n    return p, g", 3, "expected names of arrays that were assigned to"),
    ("    p = p * g\n    return p * 2", 3, "expected names of arrays that were assigned to"),
    ("    p = p - lr * g\n    return p", 1, r"\['found', 'mu'\] are never read"),
    ("    p = maximum(p)\n    return p", 2, "calls what cannot be translated"),
    ("    return p * g", 2, "expected names of arrays that were assigned to"),
]


@pytest.mark.parametrize(("body", "line", "message"), REFUSED, ids=[body for body, _, _ in REFUSED])
def test_what_cannot_be_translated_is_refused_with_its_line_and_what_is_allowed(body, line, message):
    with pytest.raises(DefinitionError, match=message) as caught:
        read(HEAD + body)
    assert f">:{line}: f: " in str(caught.value)
    assert "allowed are assignments to names" in str(caught.value)


def test_an_expression_that_is_returned_is_a_further_array():
    rule = read("HALF = 0.5\ndef f(g, y):\n    e = HALF * y\n    return g * e if y > 0 else g")
    assert (rule.arrays, rule.writes) == (("g", "y", "out"), ("out",))
    for arrays, numbers in arguments_of(rule):
        wanted = by_elements(rule, arrays, numbers)
        for form in (by_array_form, by_loop_form):
            for ours, theirs in zip(form(rule, arrays, numbers), wanted, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(DefinitionError, match=r"\['out'\] cannot be parameters' names"):
        read("def f(p, out):\n    return p * out")
    for body in ("p, p", "math.log(p)"):
        with pytest.raises(DefinitionError, match="cannot be translated"):
            read(f"def f(p):\n    return {body}")


def test_what_is_read_is_what_was_written():
    rule = read(
        HEAD
        + "    p = p - lr * (mu * g) + found * p\n    if m is not None:\n        m = m + p\n    return p, m"
    )
    assert (rule.arrays, rule.optional, rule.numbers) == (("p", "g", "m"), ("m",), ("lr", "mu", "found"))
    assert (rule.measured, rule.factors, rule.writes) == (("found",), ("lr",), ("p", "m"))
    assert rule.missing([1, 2, None]) == ("m",)
    with pytest.raises(DefinitionError, match=r"\['n'\] cannot be parameters' names"):
        read("def f(p, n):\n    p = p * n\n    return p")


def test_an_array_that_is_written_only_where_another_one_is_stays_else_as_it_is():
    rule = read(
        "def f(p, g, last, m: float | None, *, lr):\n    p = p - lr * g\n    if m is not None:\n"
        "        m = m + g\n        last = g\n    return p, last, m"
    )
    for missing in ((), ("m",)):
        for arrays, numbers in arguments_of(rule, missing):
            wanted = by_elements(rule, arrays, numbers)
            for form in (by_array_form, by_loop_form):
                for ours, theirs in zip(form(rule, arrays, numbers), wanted, strict=True):
                    assert np.array_equal(ours, theirs), (form, missing)
    assert "T last = " not in translate.cuda_source(rule)
    assert "A last = widen(last_[i]);" in translate.cuda_source(rule)
