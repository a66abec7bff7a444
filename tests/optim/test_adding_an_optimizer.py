"""An optimizer is added as CONTRIBUTING.md says, to a copy of the package, and is then like any other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distgrad import optim

ROOT = Path(__file__).parents[2]
PROGRAM = """
from optim.plain_rules import PLAIN
from optim.test_values import LARGE, SMALL, check
import numpy as np
from distgrad import optim
from distgrad.backend.kernels.cuda.source import kernel_names
from distgrad.backend.kernels.table import jobs

options = {"lr": 0.03, "betas": (0.8, 0.7), "eps": 0.05, "weight_decay": 0.2, "maximize": True}
for dtype, rtol in ((np.float64, 1e-9), (np.float32, 3e-5)):
    for shapes in (SMALL, LARGE):
        check(optim.Yogi, "Yogi", options, dtype, shapes, rtol)
assert "yogi" in kernel_names("optimizer")
assert ("optimizer.yogi", "f") in jobs()
assert optim.Yogi.state_names == ("exp_avg", "exp_avg_sq")
print("added")
"""


def insert(path, before, text):
    source = path.read_text()
    assert source.count(before) == 1, (path, before)
    path.write_text(source.replace(before, f"{text}\n\n{before}"))


@pytest.fixture
def copy(tmp_path):
    """The package and the tests of optimizers, with what the text tells to write."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text[text.index("## Add an optimizer") :]
    rule, cls, plain = re.findall(r"```python\n(.*?)```", section, re.S)
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "distgrad", tmp_path / "distgrad", ignore=without)
    shutil.copytree(ROOT / "tests" / "optim", tmp_path / "tests" / "optim", ignore=without)
    package = tmp_path / "distgrad"
    insert(package / "backend" / "kernels" / "rules.py", "RULES = {", rule)
    with (package / "optim" / "adaptive.py").open("a") as file:
        file.write(f"\n\n{cls}")
    with (package / "optim" / "__init__.py").open("a") as file:
        file.write("\nfrom distgrad.optim.adaptive import Yogi\n__all__ += ['Yogi']\n")
    insert(tmp_path / "tests" / "optim" / "plain_rules.py", "PLAIN = {", plain)
    with (tmp_path / "tests" / "optim" / "plain_rules.py").open("a") as file:
        file.write("\nPLAIN['Yogi'] = yogi\n")
    return tmp_path


def run(folder):
    paths = os.pathsep.join([str(folder), str(folder / "tests")])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=os.environ | {"PYTHONPATH": paths},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def test_an_optimizer_that_is_added_as_the_text_says_is_like_any_other(copy):
    done = run(copy)
    assert done.stdout == "added\n", done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "backend/kernels/rules.py",
            "exp_avg_sq - rest2 * sign_of",
            "exp_avg_sq + rest2 * sign_of",
            "AssertionError",
        ),
        (
            "backend/kernels/rules.py",
            "    square = g * g\n",
            "    square = g**2\n",
            "`g ** 2` cannot be translated",
        ),
        ("optim/adaptive.py", '"rate": rate}\n', '"rates": rate}\n', "KeyError: 'rate'"),
    ],
)
def test_a_slip_in_it_is_found(copy, file, old, new, message):
    path = copy / "distgrad" / file
    text = path.read_text()
    assert old in text
    head, _, tail = text.rpartition(old)
    path.write_text(head + new + tail)
    done = run(copy)
    assert done.returncode
    assert message in done.stderr


OPTIONS = {"SGD": {"momentum": 0.9, "dampening": 0.3}, "Adagrad": {"lr_decay": 0.2}, "ASGD": {"t0": 1}}


@pytest.mark.parametrize(
    "name", sorted(set(optim.__all__) - {"LBFGS", "Optimizer", "lr_scheduler", "swa_utils"})
)
def test_all_that_changes_from_step_to_step_goes_through_numbers(name, monkeypatch):
    """Who records a step and plays it again gives other numbers, and need not know the rule."""
    import distgrad as dg

    rng = np.random.default_rng(0)
    cls = getattr(optim, name)
    arrays = [rng.standard_normal((6, 5)) for _ in range(2)]
    optimizer = cls([dg.Tensor(arrays[0].copy(), requires_grad=True)], **OPTIONS.get(name, {}))
    (group,) = optimizer.param_groups
    shapes = optimizer.state_shapes(group, (6, 5))

    def updated(step):
        p, state = arrays[0].copy(), {each: np.full(shape, 0.5) for each, shape in shapes.items()}
        optimizer.update(group, p, arrays[1].copy(), state, step)
        return [p, *state.values()]

    third, numbers = updated(3), optimizer.numbers(group, 3)
    assert numbers
    monkeypatch.setattr(cls, "numbers", lambda self, group, step: numbers)
    for a, b in zip(updated(50), third, strict=True):
        np.testing.assert_array_equal(a, b)
