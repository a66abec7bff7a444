"""How many checks of the communicators' contract each backend passes, by its number of ranks.

::

    python tests/contracts/count.py                                  # sizes 1, 2, 3, 5 and 8
    python tests/contracts/count.py --backends shm mpi --sizes 2

Every cell is one job, run here and now; ``+ n skipped`` are checks that lack a package to compare with. The
exit status tells whether all passed; what failed is printed below the table.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from contracts.communicator import run_all
from ranks_plugin import run_ranks

from distgrad.comm import ThreadWorld, init
from distgrad.comm.single import SingleCommunicator

BACKENDS = ("single", "threads", "shm", "mpi")
SIZES = (1, 2, 3, 5, 8)
LIMIT_S = 200.0


def run(backend: str, size: int) -> tuple[str, str]:
    """What stands in a cell, and what to say about a failure."""
    if backend == "single" and size > 1:
        return "-", ""
    if backend in ("shm", "mpi"):
        job = run_ranks(size, [sys.executable, __file__, "--rank", backend], LIMIT_S, backend=backend)
        counts = {line for line in job.output.splitlines() if line.startswith("passed: ")}
        if job.returncode == 0 and len(counts) == 1:
            return counts.pop().removeprefix("passed: "), ""
        return "failed", f"{backend}, {size} ranks: {job.output}"
    try:
        if backend == "single":
            with SingleCommunicator() as comm:
                return describe(run_all(comm)), ""
        return describe(ThreadWorld(size, timeout_s=60).run(run_all)[0]), ""
    except BaseException:
        return "failed", f"{backend}, {size} ranks: {traceback.format_exc()}"


def describe(ran: dict[str, bool]) -> str:
    """The number of checks that ran."""
    skipped = len(ran) - sum(ran.values())
    return f"{sum(ran.values())}" + (f" + {skipped} skipped" if skipped else "")


def be_a_rank(backend: str) -> None:
    """Run the checks and print their number."""
    comm = init(backend, timeout_s=60)
    print(f"passed: {describe(run_all(comm))}\n", end="", flush=True)  # one write: ranks share a pipe


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of ranks")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank is not None:
        be_a_rank(options.rank)
        return 0
    print(f"{'ranks':12}" + "".join(f"{size:>16}" for size in options.sizes), flush=True)
    failures = []
    for backend in options.backends:
        print(f"{backend:12}", end="", flush=True)
        for size in options.sizes:
            cell, failure = run(backend, size)
            failures += [failure] if failure else []
            print(f"{cell:>16}", end="", flush=True)
        print(flush=True)
    print("\n".join(failures), end="")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
