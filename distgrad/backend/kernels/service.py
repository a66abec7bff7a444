"""The process that compiles kernels beside a job: reads ``kernel<tab>dtype`` lines, the latest first.

Run by its path; "rare" has it compile also what models seldom need. It ends when it has had nothing to do for
a moment, or when who started it has ended; whatever it cannot compile is left to whoever calls it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import sys
import threading
import time
from pathlib import Path

_IDLE_S = 3.0
_LOOK_S = 0.5
_TURN_S = 0.02


class _Work:
    """What is to be done, and whether anybody will send more."""

    def __init__(self) -> None:
        self.stack: list[tuple[str, str]] = []
        self.parent = os.getppid()

    def listen(self) -> None:
        """Take lines in until the other end of the pipe is gone, and end this process then."""
        rest = b""
        while os.getppid() == self.parent:
            if not select.select([0], [], [], _LOOK_S)[0]:
                continue
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            self.stack += [
                (name, char) for name, _, char in (line.decode().partition("\t") for line in lines)
            ]
        os._exit(0)


def _load_package() -> None:
    """Make the package's lower floors importable without running its ``__init__``, which loads the engine."""
    root = Path(__file__).parents[3]
    sys.path[0] = str(root)
    spec = importlib.util.spec_from_file_location(
        "distgrad", root / "distgrad" / "__init__.py", submodule_search_locations=[str(root / "distgrad")]
    )
    if spec is not None:
        sys.modules["distgrad"] = importlib.util.module_from_spec(spec)


def main() -> None:
    """Compile until there is nothing left."""
    work, rare = _Work(), sys.argv[1:] == ["rare"]
    threading.Thread(target=work.listen, daemon=True).start()
    _load_package()
    from distgrad.backend.kernels import cache
    from distgrad.backend.kernels.entries import compile_one

    cache.State.announce = None  # whoever waits for it has said so
    idle_s = time.monotonic()
    while time.monotonic() - idle_s < _IDLE_S:
        if not work.stack:
            time.sleep(_TURN_S)
            continue
        with contextlib.suppress(Exception):
            compile_one(*work.stack.pop(), rare)
        idle_s = time.monotonic()


if __name__ == "__main__":
    main()
