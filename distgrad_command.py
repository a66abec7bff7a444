"""The ``distgrad`` command, which loads the engine only for what needs it.

It stands beside the package because anything inside it would load the engine first: the launcher starts ranks
and watches them, and what they compute with is theirs to load.
"""

import importlib.util
import re
import signal
import sys
from typing import NoReturn

__all__ = ["main", "start"]


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] != ["run"]:
        from distgrad.cli import main as command

        command()
        return
    spec = importlib.util.find_spec("distgrad")
    if spec is None:
        raise ModuleNotFoundError("distgrad: the package is not beside its command; install it again")
    sys.modules["distgrad"] = importlib.util.module_from_spec(spec)  # a package with its path, never executed
    _launch(sys.argv[2:], "distgrad run")


def start(original: list[str], arguments: list[str]) -> None:
    """Run the launcher if ``python -m`` was asked for it; called before the engine is loaded.

    Args:
        original: the words of the command line, ``sys.orig_argv``.
        arguments: those after the module.
    """
    module = re.sub(r"^-[A-Za-z]*m", "", original[-1 - len(arguments)])  # in ``-mdistgrad`` they are one word
    if module == "distgrad" and arguments[:1] == ["run"]:
        _launch(arguments[1:], "python -m distgrad run")
    if module in ("distgrad.launch", "distgrad.launch.__main__"):
        _launch(arguments, "python -m distgrad.launch")


def _launch(arguments: list[str], program: str) -> NoReturn:
    try:
        from distgrad.launch.__main__ import main as launch

        sys.exit(launch(arguments, program))
    except KeyboardInterrupt:  # before it listens to signals itself
        print("launch: stopped by SIGINT; nothing was started", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
