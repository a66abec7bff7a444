"""What a starter runs for the ranks of a host: ``python entry.py WHICH script.py ARGS...``, as rank.py says.

Python compiles the file that it is told to run anew each time, which took a fifth of a rank's start. So that
file is this one, and the rest comes from compiled code, under a package name of its own: ``distgrad`` is
not imported, and no module of the script's is hidden.
"""

import importlib
import os
import sys
import types


def _load() -> types.ModuleType:
    package = types.ModuleType("distgrad_rank")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.rank")


if __name__ == "__main__":
    _load().main(sys.argv[1:])
