"""Every optimizer beside a plain recomputation, and faults planted in each of them, which that finds."""

import ast
import importlib
import inspect
import linecache
import types

import numpy as np
import pytest
from optim.plain_rules import PLAIN

import distgrad as dg
from distgrad import optim
from distgrad.backend.kernels import elementwise, rules
from distgrad.backend.kernels.translate import array_form

#: Options under which every term of a rule has its part.
CASES = [
    ("SGD", {"lr": 0.1, "weight_decay": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    ("Adam", {"lr": 0.03, "betas": (0.8, 0.9), "eps": 0.05, "weight_decay": 0.2, "maximize": True}),
    ("Adam", {"lr": 0.03, "betas": (0.8, 0.6), "eps": 0.05, "amsgrad": True}),
    ("Adam", {"lr": 0.03, "weight_decay": 0.3, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 0.03, "betas": (0.8, 0.9), "eps": 0.05, "maximize": True}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.8, "eps": 0.05, "weight_decay": 0.2, "maximize": True}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.8, "momentum": 0.7, "centered": True, "weight_decay": 0.2}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.3, "eps": 0.05}),
    ("Adagrad", {"lr": 0.1, "weight_decay": 0.2, "maximize": True}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 0.05, "weight_decay": 0.2, "maximize": True}),
    ("Adamax", {"lr": 0.05, "betas": (0.8, 0.9), "eps": 0.05, "weight_decay": 0.2, "maximize": True}),
    ("NAdam", {"lr": 0.05, "betas": (0.8, 0.9), "eps": 0.05, "weight_decay": 0.2, "momentum_decay": 0.1}),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.2, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {"lr": 0.05, "betas": (0.8, 0.9), "eps": 0.05, "weight_decay": 0.2, "maximize": True}),
    ("RAdam", {"lr": 0.05, "betas": (0.8, 0.6), "weight_decay": 0.2, "decoupled_weight_decay": True}),
    ("Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.05, 0.2), "maximize": True}),
    ("ASGD", {"lr": 0.1, "lambd": 0.2, "alpha": 0.5, "t0": 2, "weight_decay": 0.1, "maximize": True}),
    ("Lion", {"lr": 0.02, "betas": (0.7, 0.9), "weight_decay": 0.2, "maximize": True}),
    ("LAMB", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.05, "weight_decay": 0.2, "maximize": True}),
    ("LARS", {"lr": 2.0, "momentum": 0.8, "weight_decay": 0.2, "trust_coefficient": 0.05, "eps": 0.3}),
    ("LARS", {"lr": 2.0, "trust_coefficient": 0.05, "maximize": True}),
    ("Adafactor", {"lr": 0.8, "beta2_decay": -0.5, "eps": (1e-3, 0.5), "d": 0.6, "weight_decay": 0.2}),
    ("Adafactor", {"lr": 0.1, "eps": (1.5, 1e-3), "maximize": True}),
    ("Muon", {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.8, "ns_steps": 3}),
    ("Muon", {"lr": 0.1, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"}),
    ("Muon", {"lr": 0.1, "ns_coefficients": (2, -1.5, 0.5), "eps": 9.0}),
    ("Muon", {"lr": 0.1, "adjust_lr_fn": "spectral_unclamped"}),
    ("SparseAdam", {"lr": 0.03, "betas": (0.8, 0.9), "eps": 0.05, "maximize": True}),
]  # fmt: skip
IDS = [f"{name}-{'-'.join(options)}" for name, options in CASES]
SMALL = [(3, 4), (5,), (), (4, 3), (2, 3, 4)]
LARGE = [(1200,), (40, 60)]  # of a size at which the compiled kernels run
NUM_STEPS = 6


def check(rule, name, options, dtype=np.float64, shapes=SMALL, rtol=1e-9):
    """Raise AssertionError unless the optimizer does what the plain rule does."""
    if name == "Muon":
        shapes = [shape for shape in shapes if len(shape) == 2]
    rng = np.random.default_rng(7)
    before = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    grads = [[rng.standard_normal(shape).astype(dtype) for _ in range(NUM_STEPS)] for shape in shapes]
    params = [dg.Tensor(each.copy(), requires_grad=True) for each in before]
    optimizer = rule(params, **options)
    for step in range(NUM_STEPS):
        for p, given in zip(params, grads, strict=True):
            p.grad = None if step == 2 and p is params[0] else dg.Tensor(given[step].copy())
        optimizer.step()
    for p, value, given in zip(params, before, grads, strict=True):
        taken = [g.astype(np.float64) for step, g in enumerate(given) if step != 2 or p is not params[0]]
        expected = PLAIN[name](value.astype(np.float64), taken, options)
        found = p.detach().numpy()
        if name == "ASGD":
            found = np.stack([found, optimizer.state[p]["ax"].numpy()], axis=-1)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize(
    ("dtype", "shapes", "rtol"),
    [
        (np.float64, SMALL, 1e-9),
        (np.float64, LARGE, 1e-9),
        (np.float32, SMALL, 3e-5),
        (np.float32, LARGE, 3e-5),
    ],
    ids=["float64", "float64-compiled", "float32", "float32-compiled"],
)
def test_a_rule_equals_its_plain_recomputation(name, options, dtype, shapes, rtol):
    if dtype == np.float32 and name == "Adafactor" and options["eps"][0] is None:
        options = {**options, "eps": (np.finfo(np.float32).eps, options["eps"][1])}
    check(getattr(optim, name), name, options, dtype, shapes, rtol)


def test_every_optimizer_has_a_case():
    rules = {name for name in optim.__all__ if inspect.isclass(getattr(optim, name))}
    assert rules - {"Optimizer", "FlatBuffer", "LBFGS"} == {name for name, _ in CASES} == PLAIN.keys()


# -- LBFGS


def plain_lbfgs(p, curvature, centre, num_steps, lr, history_size):
    """Steps on a quadratic with the inverse Hessian as a matrix, made anew from the pairs at every step."""
    pairs, last = [], None
    for step in range(num_steps):
        g = curvature @ (p - centre)
        h = np.eye(len(p))
        if last is not None:
            pairs = [*pairs, (p - last[0], g - last[1])][-history_size:]
            s, y = pairs[-1]
            h *= (s @ y) / (y @ y)
        for s, y in pairs:
            turn = np.eye(len(p)) - np.outer(s, y) / (s @ y)
            h = turn @ h @ turn.T + np.outer(s, s) / (s @ y)
        last = p, g
        p = p - lr * (min(1.0, 1.0 / abs(g).sum()) if step == 0 else 1.0) * h @ g
    return p


def check_lbfgs(rule, maximize):
    rng = np.random.default_rng(2)
    root = rng.standard_normal((6, 6))
    curvature, centre, start = root @ root.T + np.eye(6), rng.standard_normal(6), rng.standard_normal(6)
    a, b = (dg.Tensor(part.copy(), requires_grad=True) for part in (start[:2].reshape(2, 1), start[2:]))
    sign = -1.0 if maximize else 1.0
    optimizer = rule([a, b], lr=0.4, max_iter=3, history_size=2, max_eval=9, maximize=maximize)

    def closure():
        optimizer.zero_grad()
        away = dg.concat([a.reshape(2), b]) - dg.Tensor(centre)
        loss = sign * 0.5 * (away @ (dg.Tensor(curvature) @ away))
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    expected = plain_lbfgs(start, curvature, centre, 6, 0.4, 2)
    found = np.concatenate([a.detach().numpy().ravel(), b.detach().numpy()])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("maximize", [False, True])
def test_lbfgs_equals_its_plain_recomputation(maximize):
    check_lbfgs(optim.LBFGS, maximize)


# -- planted faults: each operator of what computes a step turned into another, one at a time

_SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
_SWAPS |= {ast.USub: ast.UAdd, ast.Lt: ast.Gt, ast.Gt: ast.Lt}
#: Modules, and of each the functions that compute; None stands for all of them.
_COMPUTING = {
    "rules": None,
    "sgd": {"numbers"},
    "adam": {"numbers", "descent"},
    "adaptive": {"numbers", "begin", "_momentum", "mu"},
    "matrix": {"numbers", "update", "_orthogonalized", "_norm", "_at_least"},
    "sparse": {"numbers", "update"},
    "lbfgs": {"_direction", "_move", "_gradient", "_sign"},
}
#: Faults that change nothing: a matrix or its transpose, of which Muon takes the one with fewer rows.
_HARMLESS = {"matrix._orthogonalized: x.shape[0] > x.shape[1] -> x.shape[0] < x.shape[1]"}


def operators(function):
    """The places of operators in a function's tree: node, field, and the swapped operator."""
    for node in ast.walk(function):
        for field in ("op", "ops"):
            found = getattr(node, field, None)
            swap = _SWAPS.get(type(found[0] if isinstance(found, list) else found))
            if swap is not None:
                yield node, field, [swap()] if isinstance(found, list) else swap()


def module_of(name):
    """Where the functions of a name in ``_COMPUTING`` stand."""
    return rules if name == "rules" else importlib.import_module(f"distgrad.optim.{name}")


def executed(name, tree):
    """A module of its own from a tree, with its source where it is looked for."""
    module, file = types.ModuleType(module_of(name).__name__), f"<{name} with a fault>"
    linecache.cache[file] = (1, None, ast.unparse(tree).splitlines(keepends=True), file)
    elementwise._definitions.cache_clear()
    exec(compile(ast.unparse(tree), file, "exec"), module.__dict__)
    return module


def planted(name):
    """For each fault in a module: what it is, and the module with it; first of all the module without any."""
    tree = ast.parse(inspect.getsource(module_of(name)))
    yield "none", executed(name, tree)
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        if _COMPUTING[name] is not None and function.name not in _COMPUTING[name]:
            continue
        for node, field, swapped in list(operators(function)):
            original, before = getattr(node, field), ast.unparse(node)
            setattr(node, field, swapped)
            yield f"{name}.{function.name}: {before} -> {ast.unparse(node)}", executed(name, tree)
            setattr(node, field, original)


def is_caught(module, names):
    """Whether a case of these optimizers fails, with the module's own classes."""
    try:
        for name, options in CASES:
            if name in names:
                check(getattr(module, name, None) or getattr(optim, name), name, options)
        if "LBFGS" in names:
            check_lbfgs(module.LBFGS, maximize=True)
    except Exception:
        return True
    return False


def missed(name):
    """The faults in a module that no case finds; for those in ``rules`` their optimizers are run."""
    if name != "rules":
        names = set(module_of(name).__all__)
        return {what for what, module in planted(name) if not is_caught(module, names)}
    found = set()
    for what, module in planted(name):
        function = what.removeprefix("rules.").partition(":")[0]
        rule = rules.RULES.get(function, rules.RULES["rmsprop"])  # which begins with what is inlined
        makers = {each for each in PLAIN if getattr(optim, each).rule is rule}
        with pytest.MonkeyPatch.context() as patch:
            for each in makers:
                formula = array_form(module.RULES[getattr(optim, each).rule.name])
                patch.setattr(getattr(optim, each), "_fused", staticmethod(formula))
            if not is_caught(module, makers):
                found.add(what)
    return found


@pytest.mark.parametrize("name", _COMPUTING)
def test_planted_faults_are_found(name):
    faults = {what for what, _ in planted(name)}
    assert len(faults) > (2 if name == "sgd" else 10)  # whose numbers are its options, mostly
    assert missed(name) == {"none", *_HARMLESS & faults}
