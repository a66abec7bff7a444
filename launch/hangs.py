"""When a job stands still, and whose doing it is: a judgement over what the ranks tell every second.

A rank that waits in a collective is no fault; the fault lies with those that it waits for. So the judgement
begins when some rank has waited for ``--hang-after`` seconds, or when no rank waits and none computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EXIT_CODE", "Finding", "Track", "join", "judge", "meanwhile", "merge_stacks", "where"]

EXIT_CODE = 3
SETTLE_S = 5.0  # what has just changed may be about to change again
SILENCE_S = 5.0  # beats that did not come within this time point to the network or the host
_RECENT_S = 2.5  # two beats
_BUSY_SHARE = 0.02  # of a core; a process that sleeps or waits for a lock uses less
_MOVED_BYTES_S = 1 << 14  # read and written; a line now and then that says "waiting" is less
_PATIENCE = 3.0  # a rank that computes may take this many times its own longest time between two calls
_LIBRARY = re.compile(r"/lib/python3|/distgrad/|^<frozen |/launch/(entry|rank|rank_script)\.py\b|^\?")
_OUR_OWN = re.compile(r'^  File ".*/launch/(?:entry|rank|rank_script)\.py", line .*\n?', re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\d+|\?+) in (.*)$', re.MULTILINE)


@dataclass
class Track:
    """What is known of one rank's progress; times in seconds of one clock.

    Attributes:
        rank: the rank.
        host: its host.
        heard_s: when it last told anything.
        sequence: how many calls it has begun and ended; 0 before ``dg.comm.init()``.
        number: of its last call; -1 for a call that has none.
        waiting: whether that call lasts.
        call, group, place: the last call, the group's name and the caller's line, as text.
        step: how many steps of training its optimizer has made.
        compiling: whether it compiles kernels, or waits for another process of its host that does.
        changed_s: when ``sequence`` last changed.
        active_s: when it was last seen to use the processor, or to read or write.
        longest_s: the longest that it has computed between two calls.
        state: of its process, as ps(1) shows it.
        heeds: whether it catches SIGUSR1, by which it can be asked to save and end.
        code: its exit code; None while it runs.
        line: where its Python is, once its stacks are known.
    """

    rank: int
    host: str
    heard_s: float
    sequence: int = 0
    number: int = -1
    waiting: bool = False
    call: str = ""
    group: str = ""
    place: str = ""
    step: int = 0
    compiling: bool = False
    changed_s: float = field(default=0.0)
    active_s: float = field(default=0.0)
    longest_s: float = 0.0
    state: str = "R"
    heeds: bool = False
    code: int | None = None
    line: str = ""
    _cpu_s: float = 0.0
    _io_bytes: int = 0

    def take(self, beat: dict[str, Any], now_s: float) -> None:
        """Take in what the rank has told."""
        elapsed_s = max(now_s - self.heard_s, 1e-3)
        is_busy = beat["cpu_s"] - self._cpu_s > _BUSY_SHARE * elapsed_s
        moved_bytes = abs(beat["io_bytes"] - self._io_bytes)  # a child that ends takes its own along
        if is_busy or moved_bytes > _MOVED_BYTES_S * elapsed_s or not self.active_s:
            self.active_s = now_s
        if beat["sequence"] != self.sequence or not self.changed_s:
            if self.sequence and not self.waiting:
                self.longest_s = max(self.longest_s, now_s - self.changed_s)
            self.changed_s = now_s
        self.heard_s, self.state, self.heeds = now_s, beat["state"], beat["heeds"]
        self._cpu_s, self._io_bytes = beat["cpu_s"], beat["io_bytes"]
        self.sequence, self.number, self.waiting = beat["sequence"], beat["number"], beat["waiting"]
        self.step, self.compiling = beat["step"], beat["compiling"]
        if beat["text"]:
            self.call, self.group, self.place = beat["text"].split("\n")

    @property
    def stopped(self) -> bool:
        """Whether its process was stopped by a signal or a debugger."""
        return self.state in ("T", "t")

    @property
    def name(self) -> str:
        """The last call with its number, its group and the user's line, and the step after which it came."""
        number = f"#{self.number} " if self.number >= 0 else ""
        group = f", group '{self.group}'," if self.group not in ("", "world") else ""
        place = "" if _LIBRARY.search(self.place) else f" at {self.place}"
        step = f", after step {self.step}" if self.step else ""
        return f"{number}{self.call}{group}{place}{step}"


@dataclass(frozen=True)
class Finding:
    """A judgement.

    Attributes:
        kind: cut off, never arrived, different collective, stalled or slow.
        ranks: those it lies with.
        text: the sentence.
    """

    kind: str
    ranks: tuple[int, ...]
    text: str


def judge(tracks: Sequence[Track], now_s: float, hang_after_s: float) -> Finding | None:
    """Who keeps the job from going on, if anyone does.

    Args:
        tracks: all ranks of the job.
        now_s: the present time.
        hang_after_s: how long a rank may wait.
    """
    running = [track for track in tracks if track.code is None]
    waiting = [track for track in running if track.waiting]
    longest_s = max((now_s - track.changed_s for track in waiting), default=0.0)
    silence_s = min(SILENCE_S, hang_after_s) if longest_s >= hang_after_s else hang_after_s
    silent = [track for track in running if now_s - track.heard_s > silence_s]
    if silent:
        return _cut_off(silent, now_s)
    absent = [track for track in running if not track.waiting]
    if any(track.compiling and not track.stopped for track in absent):
        return None  # it has said so, and comes when that is done
    if waiting and not absent:
        return _all_wait(tracks, waiting, now_s, hang_after_s)
    if longest_s >= hang_after_s:
        return _never_arrived(absent, waiting, now_s, hang_after_s)
    if running and not waiting and all(track.changed_s for track in running):  # of all something is known
        idle_s = min(now_s - max(track.changed_s, track.active_s) for track in running)
        if idle_s >= hang_after_s:
            text = f"no rank has called a collective or used the processor for {idle_s:.0f} s"
            return Finding("never arrived", _ranks(running), f"{text}: {_accused(running, now_s)}")
    return None


def _cut_off(silent: Sequence[Track], now_s: float) -> Finding:
    hosts = sorted({track.host for track in silent})
    silence_s = min(now_s - track.heard_s for track in silent)
    text = f"{join(hosts)} no longer answer{'s' * (len(hosts) == 1)}, last heard of {silence_s:.0f} s ago; "
    text += f"{_name_ranks(silent)} ran there, last {join(sorted({_doing(track) for track in silent}))}"
    return Finding("cut off", _ranks(silent), f"{text}. Look at the network and at the host")


def _all_wait(
    tracks: Sequence[Track], waiting: Sequence[Track], now_s: float, hang_after_s: float
) -> Finding | None:
    """Every rank that still runs waits: for one that has ended, in different calls, or for the network."""
    newest_s = min(now_s - track.changed_s for track in waiting)
    longest_s = max(now_s - track.changed_s for track in waiting)
    if newest_s < min(SETTLE_S, hang_after_s):
        return None
    ended = [track for track in tracks if track.code is not None]
    if longest_s < hang_after_s:  # it may be about to be over, unless somebody is sure not to come
        ended = [track for track in ended if any(_is_missing(track, other) for other in waiting)]
    if ended:
        parts = [f"rank {track.rank} ended with exit code {track.code} {_doing(track)}" for track in ended]
        text = f"{join(parts)}; {_describe_waiting(waiting, now_s)}"
        return Finding("never arrived", _ranks(ended), text)
    if longest_s < hang_after_s:
        return None
    if len({(track.group, track.number, track.call) for track in waiting}) > 1:
        calls = [f"{_name_ranks(part)} in {part[0].name}" for part in _alike(waiting)]
        text = f"the ranks wait in different calls for {longest_s:.0f} s: {'; '.join(calls)}. "
        text += "Every rank must issue the same calls in the same order"
        return Finding("different collective", _ranks(waiting), text)
    if newest_s < hang_after_s:
        return None
    text = f"every rank has called {waiting[0].name}, {newest_s:.0f} s ago, and it does not complete"
    if len({track.host for track in waiting}) > 1:
        text += ". Look at the network between the hosts"
    return Finding("stalled", _ranks(waiting), text)


def _is_missing(ended: Track, waiting: Track) -> bool:
    """Whether a rank has ended without a call of the world in which another one waits."""
    if not ended.sequence:
        return True
    return ended.group == waiting.group == "world" and 0 <= ended.number < waiting.number


def _never_arrived(
    absent: Sequence[Track], waiting: Sequence[Track], now_s: float, hang_after_s: float
) -> Finding:
    busy = [track for track in absent if now_s - track.active_s < _RECENT_S]
    patient = [track for track in busy if now_s - track.changed_s < _PATIENCE * track.longest_s]
    waits = _describe_waiting(waiting, now_s)
    if len(patient) == len(absent):
        parts = [
            f"rank {track.rank} has computed for {now_s - track.changed_s:.0f} s since {track.name}, "
            f"{(now_s - track.changed_s) / track.longest_s:.1f} times its longest before"
            for track in absent
        ]
        return Finding("slow", _ranks(absent), f"{'; '.join(parts)}; {waits}")
    accused = [track for track in absent if track not in patient]
    return Finding("never arrived", _ranks(accused), f"{_accused(accused, now_s)}; {waits}")


def _accused(tracks: Iterable[Track], now_s: float) -> str:
    parts = []
    for track in tracks:
        since = f"after {track.name}" if track.sequence else "before dg.comm.init()"
        line = f", its Python is at {track.line}" if track.line else ""
        parts.append(f"rank {track.rank} on {track.host} {_condition(track, now_s)} {since}{line}")
    return "; ".join(parts)


def _condition(track: Track, now_s: float) -> str:
    if track.stopped:
        return "is stopped (SIGSTOP, or a debugger)"
    if track.state == "D":
        return "waits for a disk or device"
    return "computes" if now_s - track.active_s < _RECENT_S else "stands still"


def _doing(track: Track) -> str:
    if not track.sequence:
        return "before dg.comm.init()"
    return f"{'in' if track.waiting else 'after'} {track.name}"


def _describe_waiting(waiting: Sequence[Track], now_s: float) -> str:
    parts = []
    for part in _alike(waiting):
        wait_s = max(now_s - track.changed_s for track in part)
        verb = "waits" if len(part) == 1 else "wait"
        parts.append(f"{_name_ranks(part)} {verb} for {wait_s:.0f} s in {part[0].name}")
    return "; ".join(parts)


def _alike(tracks: Iterable[Track]) -> list[list[Track]]:
    """The ranks in parts that do the same in the same place."""
    parts: dict[str, list[Track]] = {}
    for track in tracks:
        parts.setdefault(_doing(track), []).append(track)
    return list(parts.values())


def meanwhile(tracks: Iterable[Track]) -> str:
    """What ranks were doing when they were last heard of; empty if no rank has joined a world."""
    known = [track for track in tracks if track.sequence]
    return "; ".join(f"{_name_ranks(part)} {_doing(part[0])}" for part in _alike(known))


def counted(number: int, noun: str) -> str:
    """How many of something there are, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_over(track: Track) -> bool:
    """Whether a rank has left the others and will soon have ended."""
    return not track.waiting and track.name.startswith("finalize()")


def ended_before(done: Sequence[Track], late: Track) -> str:
    """The end of the sentence on a rank that waited for others which had ended, with what to do about it."""
    text = f"; rank {join(_ranks(done))} had ended before, with exit code 0"
    steps = min(track.step for track in done)
    if not 0 < steps <= late.step:
        return text
    return (
        f"{text}, after {counted(steps, 'step')}, while rank {late.rank} waited in step {late.step + 1}: "
        "give every rank the same number of batches, as DistributedSampler does"
    )


def where(stacks: str) -> str:
    """The innermost line of the user's own code on the main thread, out of what faulthandler wrote."""
    main_thread = stacks.rstrip().rpartition("hread 0x")[2]  # the main thread is the last
    frames = _FRAME.findall(main_thread)
    own = [frame for frame in frames if not _LIBRARY.search(frame[0])] or frames
    return f"{own[0][0]}:{own[0][1]} in {own[0][2]}" if own else ""


def merge_stacks(stacks: dict[int, str]) -> str:
    """The stacks of all ranks, equal ones together."""
    parts: dict[str, list[int]] = {}
    for rank, text in sorted(stacks.items()):
        plain = _OUR_OWN.sub("", re.sub(r"hread 0x[0-9a-f]+", "hread", text)).strip()
        parts.setdefault(plain or "no answer", []).append(rank)
    return "\n".join(
        f"Stacks of rank{'s' * (len(ranks) > 1)} {join(ranks)}:\n{text}" for text, ranks in parts.items()
    )


def join(items: Sequence[object]) -> str:
    """``1, 2 and 3``."""
    words = list(map(str, items))
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _ranks(tracks: Iterable[Track]) -> tuple[int, ...]:
    return tuple(track.rank for track in tracks)


def _name_ranks(tracks: Sequence[Track]) -> str:
    return f"rank{'s' * (len(tracks) > 1)} {join(_ranks(tracks))}"
