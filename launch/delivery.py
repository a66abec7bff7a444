"""The end of a job's output: whoever reads it may take longer than the job took."""

from __future__ import annotations

import math

from .job import TIMEOUT_CODE, Verdict
from .logs import Console
from .loop import STOPPING, Loop

__all__ = ["deliver"]


def deliver(console: Console, limit_s: float) -> Verdict | None:
    """Wait until all that ended ranks wrote is written.

    Args:
        console: what writes it.
        limit_s: how long to wait for a reader that pauses.

    Returns:
        None if all is written, else why not.
    """
    verdict: Verdict | None = None

    def end(found: Verdict | None) -> None:
        nonlocal verdict
        verdict, loop.over = found, True

    def look() -> None:
        console.settle()
        if console.idle:
            end(console.verdict() if console.failures else None)

    def give_up(code: int, why: str) -> None:
        text = f"launch: {why}, when every rank had ended and nobody read what they wrote"
        end(Verdict(code, text, final=True))

    with Loop() as loop, loop.catching(STOPPING):
        console.tell = lambda: loop.post(look)
        loop.post(look)
        if limit_s < math.inf:
            loop.at(limit_s, lambda: give_up(TIMEOUT_CODE, "the time was over"))
        loop.run(lambda number: give_up(128 + number, f"stopped by {number.name}"))
    return verdict
