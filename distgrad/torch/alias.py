"""Programs unchanged: ``import torch`` answered by ``distgrad.torch`` in a process and those that it starts.

The folder ``front`` stands first in the path of modules, and in ``PYTHONPATH`` for the workers of loaders and
``multiprocessing``; its ``torch.py`` puts ``distgrad.torch`` in its own place, and the finder here does so
for the submodules. Other processes know nothing of it. ``torchvision`` and ``horovod`` are answered likewise.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from distgrad.autograd.tensor import Tensor, show_as
from distgrad.data.loader import need_no_guard
from distgrad.errors import OptionError
from distgrad.names.absent import way_around
from distgrad.nn.parameter import Parameter

__all__ = ["FRONT", "NoProgramError", "answer_for", "environment", "run"]

#: The folder that stands first in the path.
FRONT = str(Path(__file__).with_name("front"))

#: What answers for which package, and for its submodules but for those that stand here themselves.
_ANSWERS = {
    "torch": "distgrad.torch",
    "torchvision": "distgrad.torch.vision",
    "horovod": "distgrad.horovod",
    "horovod.torch": "distgrad.horovod",
}


def _answer(name: str) -> str:
    """The name of our module for a submodule of one of those packages."""
    asked = max((each for each in _ANSWERS if f"{name}.".startswith(f"{each}.")), key=len)
    return _ANSWERS[asked] + name[len(asked) :]


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Variables of a process in which ``import torch`` is to be answered, and in those that it starts."""
    paths = [
        FRONT,
        *(each for each in variables.get("PYTHONPATH", "").split(os.pathsep) if each and each != FRONT),
    ]
    return {**variables, "PYTHONPATH": os.pathsep.join(paths)}


def answer_for(package: str) -> None:
    """Let ``package`` and its submodules be ours in this process."""
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    sys.modules[package] = importlib.import_module(_ANSWERS[package])
    if package == "torch":
        show_as(Tensor, "torch")
        show_as(Parameter, "torch.nn.parameter")


class NoProgramError(OptionError):
    """There is nothing to run."""


class _Finder(MetaPathFinder):
    """Finds ``torch.nn`` where ``distgrad.torch.nn`` is."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if not rest or package not in _ANSWERS:
            return None
        if getattr(sys.modules.get(package), "__name__", "") != _ANSWERS[package]:
            return None  # a package of that name that is not ours
        return importlib.util.spec_from_loader(fullname, _Loader(_answer(fullname)))


class _Loader(Loader):
    """Puts a module of ours in the place of the one that was asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        asked = module.__name__
        try:
            sys.modules[asked] = importlib.import_module(self._name)
        except ModuleNotFoundError as error:
            if error.name is None or not self._name.startswith(error.name):
                raise
            rest = asked.partition(".")[2]
            hint = way_around(rest) or way_around(rest.split(".")[0])
            raise ModuleNotFoundError(
                f"distgrad has no {asked}" + (f"; {hint}" if hint else ""), name=asked
            ) from None


def run(arguments: list[str]) -> None:
    """Run a program: ``train.py ARGS``, or ``-m module ARGS``.

    Raises:
        NoProgramError: no program, or one that is not there.
    """
    if not arguments or arguments == ["-m"]:
        raise NoProgramError(
            "python -m distgrad.torch: expected a program, as in: train.py ARGS, or -m module ARGS"
        )
    need_no_guard()
    os.environ.update(environment(dict(os.environ)))
    sys.path[:] = [FRONT, *(each for each in sys.path if each != FRONT)]
    for name in [each for each in sys.modules if each.partition(".")[0] in _ANSWERS]:
        del sys.modules[name]
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path.insert(1, os.getcwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    program = Path(arguments[0])
    if not program.exists():
        raise NoProgramError(f"python -m distgrad.torch: no file {str(program)!r}")
    sys.argv[:] = arguments
    sys.path.insert(1, str(program.resolve().parent))
    _run_file(program)


def _run_file(program: Path) -> None:
    """The program as Python itself would run it, so that what it starts finds its main module."""
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(program), __builtins__=__builtins__, __spec__=None)
    sys.modules["__main__"] = main
    exec(compile(program.read_bytes(), str(program), "exec"), main.__dict__)
