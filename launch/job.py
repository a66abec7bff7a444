"""A job as the supervisor sees it: what it may take, its ranks, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from . import hangs
from .plan import RankSpec

__all__ = ["SIGNAL_GRACE_S", "TIMEOUT_CODE", "Options", "Rank", "Verdict", "timed_out"]

TIMEOUT_CODE = 124  # as of timeout(1)
SIGNAL_GRACE_S = 10.0  # time to write a checkpoint


@dataclass(frozen=True)
class Options:
    """What a job may take, and what becomes of it then.

    Attributes:
        timeout_s: seconds for the whole job; None for any time.
        hang_after_s: seconds that a rank may wait for another; infinite for any time.
        hang_report_only: say what stands still, and go on.
        bind: give each rank processor cores of its own.
        address: the address of this machine that the ranks call.
        grace_s: seconds between a signal from outside and SIGKILL.
        time_limit_s: seconds for the whole job, the last ``grace_s`` of which are for a last save.
    """

    timeout_s: float | None = None
    hang_after_s: float = 60.0
    hang_report_only: bool = False
    bind: bool = False
    address: str = "127.0.0.1"
    grace_s: float = SIGNAL_GRACE_S
    time_limit_s: float | None = None


@dataclass
class Rank:
    """A rank as the supervisor sees it.

    Attributes:
        spec: its place.
        track: its progress.
        abort_code: what it gave to MPI_Abort, if its standard error shows that it called it.
        output_bytes: how much it has written, to standard output and error.
        taken_bytes: how much of that it was told to be disposed of.
    """

    spec: RankSpec
    track: hangs.Track
    abort_code: int | None = None
    output_bytes: list[int] = field(default_factory=lambda: [0, 0])
    taken_bytes: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(frozen=True)
class Verdict:
    """Why the job ended.

    Attributes:
        code: the exit code.
        text: the sentence.
        traceback: of the exception, if there was one.
        others: ranks that were stopped because of it.
        final: whether it is the end that somebody has asked for, and no failure.
        hosts: on which it lies; none if that is not known.
    """

    code: int
    text: str
    traceback: str = ""
    others: tuple[hangs.Track, ...] = ()
    final: bool = False
    hosts: tuple[str, ...] = ()


def timed_out(ranks: Sequence[Rank], limit: str) -> Verdict:
    """Of a job whose time was over; ``limit`` is the option that said so, with its value."""
    running = ", ".join(str(rank.spec.rank) for rank in ranks if rank.track.code is None)
    done = ", ".join(str(rank.spec.rank) for rank in ranks if rank.track.code is not None)
    text = f"launch: stopped after {limit}; still running: rank {running}"
    text += f"; ended before: rank {done}" if done else ""
    return Verdict(TIMEOUT_CODE, f"{text}. The stacks of the running ranks stand above", final=True)
