"""Run rungs of the ladder of docs/gpu.md: how many checks each made, how they ended, and in what time.

    python tests/gpu_double/ladder.py            # rungs 4 to 7: CuPy, NCCL and lazy streams on the doubles
    python tests/gpu_double/ladder.py 0 1 2 3    # or those that are named

Nothing here needs a GPU. The exit status is 0 if every test passed, and something was tested on every rung:
where CuPy, NCCL or a compiler is missing their tests are skipped, and the rung has not been climbed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


@dataclass(frozen=True)
class Step:
    """A part of a rung.

    Attributes:
        rung: its number.
        what: in a word.
        tests: files and folders.
        chosen: pytest's ``-m``; empty runs the slow ones too.
    """

    rung: int
    what: str
    tests: tuple[str, ...]
    chosen: str = ""

    @property
    def command(self) -> list[str]:
        """Of pytest."""
        return ["-m", self.chosen, *self.tests]


STEPS = (
    Step(
        0,
        "NumPy",
        tuple(f"tests/{folder}" for folder in ("autograd", "nn", "optim", "comm", "parallel")),
        "not slow",
    ),
    Step(1, "names", ("tests/gpu/test_names.py",)),
    Step(
        2,
        "fake device",
        tuple(f"tests/gpu/test_{name}.py" for name in ("fake_device", "fake_ddp", "pinned")),
    ),
    Step(3, "compilers", ("tests/backend/test_cuda_sources.py",)),
    Step(
        4,
        "the double",
        tuple(
            f"tests/gpu_double/test_{name}.py"
            for name in (
                "kernels",
                "memory",
                "operations",
                "products",
                "biases",
                "stacks",
                "cudnn",
                "tracing",
                "binaries",
            )
        ),
    ),
    Step(4, "kernels", ("tests/backend/test_cuda_kernels.py",)),
    Step(4, "training", ("tests/gpu/test_released_cupy.py",)),
    Step(4, "launches", ("tests/gpu/test_launches.py",)),
    Step(4, "programs", ("tests/gpu/test_examples_on_cupy.py", "tests/gpu/test_benchmarks_on_cupy.py")),
    Step(5, "NCCL", ("tests/gpu_double/test_nccl.py", "tests/gpu_double/test_communicator.py")),
    Step(5, "hosts", ("tests/gpu_double/test_between_hosts.py",)),
    Step(
        5,
        "training",
        tuple(f"tests/gpu_double/test_{name}.py" for name in ("ddp", "sharded", "offload", "inside_mpi")),
    ),
    Step(6, "orders", tuple(f"tests/gpu_double/test_{name}.py" for name in ("streams", "orders", "graphed"))),
    Step(6, "planted faults", ("tests/gpu_double/test_mutants.py",)),
    Step(7, "NCCL itself", ("tests/comm/test_libnccl.py",)),
    Step(7, "cuDNN itself", ("tests/gpu/test_cudnn_plans.py",)),
)


@dataclass(frozen=True)
class Result:
    """How a step ended.

    Attributes:
        counts: tests by outcome.
        seconds: on the clock.
        printed: by pytest.
        status: pytest's exit status.
    """

    counts: Counter[str]
    seconds: float
    printed: str
    status: int

    @property
    def passed(self) -> bool:
        """Whether there were tests, and all that ran passed."""
        return self.status == 0 and self.counts["passed"] > 0


def climb(step: Step, options: Sequence[str] = ()) -> Result:
    """Run a step's tests in a process of their own, with further options of pytest's."""
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, *step.command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    last = done.stdout.strip().rsplit("\n", 1)[-1]
    counts = Counter({outcome.rstrip("s"): int(number) for number, outcome in _COUNTS.findall(last)})
    return Result(counts, time.monotonic() - start_s, done.stdout, done.returncode)


def main(arguments: list[str] | None = None, steps: tuple[Step, ...] = STEPS) -> int:
    """Run the rungs and print a line for each step; 1 if one was not climbed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("rungs", type=int, nargs="*", default=[4, 5, 6, 7], metavar="RUNG", help="0 to 7")
    chosen = parser.parse_args(arguments).rungs
    if unknown := set(chosen) - {step.rung for step in steps}:
        parser.error(f"there are no tests of rung {', '.join(map(str, sorted(unknown)))}")
    print(f"{'rung':<24}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}", flush=True)
    all_passed, total_s = True, 0.0
    for step in steps:
        if step.rung not in chosen:
            continue
        result = climb(step)
        total_s += result.seconds
        all_passed &= result.passed
        counts, name = result.counts, f"{step.rung} {step.what}"
        failed = counts["failed"] + counts["error"]
        print(
            f"{name:<24}{counts['passed']:>8}{failed:>8}{counts['skipped']:>9}{result.seconds:>9.0f}"
            + ("" if result.passed else "  NOT CLIMBED"),
            flush=True,
        )
        if not result.passed:
            print(result.printed, flush=True)
    print(f"{'together':<24}{total_s:>34.0f}")
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())
