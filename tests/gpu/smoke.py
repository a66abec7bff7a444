"""The first minute on a GPU, without pytest: whole training steps beside the CPU's, NCCL with one rank."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

import device_programs as programs
from contracts import device as contract
from rows import say

CHECKS: dict[str, Callable[[], None]] = {
    "host and device do not mix": contract.mixing_is_refused,
    **{f"three steps of {name} are the CPU's": partial(contract.steps, name) for name in programs.STEPS},
    "steps over NCCL with one rank": contract.data_parallel_steps_over_nccl,
    "a step does not wait": contract.a_step_waits_for_nothing,
}


def main() -> int:
    """Run all of them; 1 if one failed."""
    failed = 0
    for name, check in CHECKS.items():
        start_s = time.monotonic()
        try:
            check()
        except Exception as error:
            failed = 1
            traceback.print_exc()
            result = f"{type(error).__name__}: {str(error).strip()[:300]}"
        else:
            result = "passed"
        say(figure="smoke", name=name, result=result, seconds=round(time.monotonic() - start_s, 2))
    return failed


if __name__ == "__main__":
    sys.exit(main())
