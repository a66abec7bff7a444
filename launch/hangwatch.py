"""The watch over a running job that tells when it stands still, and ends it for that."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from . import hangs
from .job import Options, Rank, Verdict
from .logs import Console
from .loop import Loop
from .rank import BEAT_S

__all__ = ["HangWatch"]

Answers = Callable[[dict[int, str]], None]


class HangWatch:
    """Judges every second what the ranks have told.

    Args:
        loop: what calls it.
        ranks: of the job.
        options: what the job may take.
        console: where findings go.
        is_over: whether the job ends already.
        note: called with the verdict that is to end the job.
        stop: called once the ranks are to end for it.
        ask_stacks: asks the ranks for their Python stacks, and calls what it is given with them.
    """

    def __init__(
        self,
        loop: Loop,
        ranks: Sequence[Rank],
        options: Options,
        console: Console,
        *,
        is_over: Callable[[], bool],
        note: Callable[[Verdict], None],
        stop: Callable[[], None],
        ask_stacks: Callable[[Answers], None],
    ) -> None:
        self._loop, self._ranks, self._options, self._console = loop, ranks, options, console
        self._is_over, self._note, self._stop, self._ask_stacks = is_over, note, stop, ask_stacks
        self._reported: list[int] = []  # where the ranks stood when a hang was reported last
        self._noted = False  # whether the job ends for what was found here
        self._began_s = time.monotonic()

    def look(self) -> None:
        """Judge what the ranks have told; before the job ends for it, look at stacks, and judge again."""
        if self._is_over():
            return
        now_s = self._loop.clock.now_s()
        tracks = [replace(rank.track) for rank in self._ranks]
        finding = hangs.judge(tracks, now_s, self._options.hang_after_s)
        if finding is None or self._standing() == self._reported:
            self._loop.at(BEAT_S, self.look)
        elif finding.kind == "slow":
            self._report(finding)
        else:
            if any(track.stopped for track in tracks) and not self._options.hang_report_only:
                self._end_for(finding)  # to show its stack, it must go on
            standing = self._standing()
            self._ask_stacks(lambda stacks: self._judge(tracks, now_s, standing, stacks))

    def _standing(self) -> list[int]:
        """Where all ranks stand: it changes when any of them goes on."""
        return [rank.track.sequence for rank in self._ranks]

    def _judge(
        self, tracks: list[hangs.Track], now_s: float, standing: list[int], stacks: dict[int, str]
    ) -> None:
        """Say what was found, unless it has just passed; end the job for it, if that is wanted."""
        for track in tracks:
            track.line = hangs.where(stacks.get(track.rank, ""))
        finding = hangs.judge(tracks, now_s, self._options.hang_after_s)
        if self._is_over() and not self._noted:
            return
        if finding is None or (self._standing() != standing and not self._noted):
            self._loop.at(BEAT_S, self.look)
            return
        self._console.say(hangs.merge_stacks(stacks))
        if self._options.hang_report_only:
            self._report(finding)
        else:
            self._end_for(finding)
            self._stop()

    def _end_for(self, finding: hangs.Finding) -> None:
        self._noted = True
        text = (
            f"launch: {finding.kind}: {finding.text}\n"
            f"Ended after {time.monotonic() - self._began_s:.1f} s, the limit being --hang-after "
            f"{self._options.hang_after_s:g} s. The stacks of the running ranks stand above"
        )
        hosts = {self._ranks[rank].spec.host for rank in finding.ranks}
        self._note(Verdict(hangs.EXIT_CODE, text, hosts=tuple(sorted(hosts))))

    def _report(self, finding: hangs.Finding) -> None:
        self._reported = self._standing()
        self._console.say(f"launch: {finding.kind}: {finding.text}; going on")
        self._loop.at(BEAT_S, self.look)
