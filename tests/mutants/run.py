"""Plant faults into copies of the package, run the tests that must find each, and print who did not.

``python tests/mutants/run.py [--drawn N] [ROOM ...]``: all faults of all rooms or some, or N of them drawn by
the date. Each is tried on a copy; the status is 1 if one was not caught.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it
import mutation
from mutation import Mutant

ROOMS = ("optim", "parallel", "comm", "checkpoint", "data", "launch")
NONE_CHOSEN = 5  # pytest's exit status where no test ran
SKIPPED = "skipped, as its tests are here"


def mutants(rooms: Sequence[str] = ROOMS) -> list[Mutant]:
    """The faults of some rooms."""
    return [each for room in rooms for each in importlib.import_module(f"mutants.{room}").MUTANTS]


def drawn(count: int, day: datetime.date) -> list[Mutant]:
    """As many faults as ``count``, others every day."""
    return random.Random(day.isoformat()).sample(mutants(), count)


def attempt(mutant: Mutant) -> str:
    """Plant a fault and run its tests; why it was not caught, empty if it was."""
    if why := mutation.problem(mutant):
        return why
    with tempfile.TemporaryDirectory() as folder:
        copy = mutation.copy_package(Path(folder))
        mutation.plant(mutant, copy)
        try:
            status, printed = mutation.run_check(["-m", "not slow", *shlex.split(mutant.check)], copy)
        except subprocess.TimeoutExpired:
            return "its tests did not end"
    if status == mutation.FAILED:
        return ""
    if " skipped" in printed and " passed" not in printed:
        return SKIPPED
    return {0: "all of its tests passed", NONE_CHOSEN: "no test was chosen"}.get(status, printed[-2000:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the faults, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--drawn", type=int, metavar="N", help="N of all, drawn by the date")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="tried at a time")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose description holds it")
    parser.add_argument("rooms", nargs="*", default=ROOMS, metavar="ROOM", help=", ".join(ROOMS))
    options = parser.parse_args(arguments)
    if options.drawn:
        chosen = drawn(options.drawn, datetime.date.today())
    else:
        chosen = [each for each in mutants(options.rooms) if options.only in each.what]
    missed = 0

    def timed(mutant: Mutant) -> tuple[str, float]:
        began_s = time.monotonic()
        return attempt(mutant), time.monotonic() - began_s

    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, (why, seconds) in zip(chosen, pool.map(timed, chosen), strict=True):
            missed += why not in ("", SKIPPED)
            state = why or "caught" if why in ("", SKIPPED) else f"NOT CAUGHT: {why}\n    by {mutant.check}"
            print(f"{mutant.file:30} {mutant.what}: {state} ({seconds:.0f} s)", flush=True)
    print(f"mutants: {missed} of {len(chosen)} not caught")
    return int(missed > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main())
