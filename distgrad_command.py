"""The ``distgrad`` command, which loads the engine only for what needs it.

It stands beside the package because anything inside it would load the engine first: the launcher starts ranks
and watches them, and what they compute with is theirs to load.
"""

import importlib.util
import sys

__all__ = ["main"]


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
    from distgrad.launch.__main__ import main as launch

    sys.exit(launch(sys.argv[2:], program="distgrad run"))


if __name__ == "__main__":
    main()
