"""Threads that run compiled kernels side by side, in loops of their own that never ask for the interpreter.

A part of the work is a list of calls, each the address of a compiled function and its arguments. Whoever has
work writes parts to memory that a member watches, does the first one and waits for the others. Members and
who waits for them spin for a while, then sleep until they are woken: by a futex, or where there is none by a
byte in a pipe.

Where others want the cores too, parts wait for a core and cost more than they save. Who asks keeps an
account: the processor's time that one thread would have taken for all parts, less the time by the clock that
they took. Once it is overdrawn the pool is quiet for a while, nobody spins, and whoever has work does all of
it; that time doubles as long as nothing is saved at its end. A thread that loses its core while it spins
sleeps at once.

The scheme is that of OpenMP's runtimes; numba's threading layers were no choice, as one is not safe in forks
and the other takes 120 µs to wake a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import _dispatcher
from numba.core import types

from distgrad.backend.kernels.calls import CALL_WORDS, Form, flatten, make_form, perform
from distgrad.backend.kernels.native import call_c, get, load, pause, put, store
from distgrad.backend.kernels.support import jit, kernel

__all__ = ["HandOver", "Pool"]

_LINE = 16  # int64 words that two threads must not share: two cache lines, which are fetched together
_LOOKS = 32  # at a word before the clock is asked, which takes 20 ns
_LOST_NS = 300_000  # between two looks at the clock: the core was another's
_MOST_NS = 10_000  # that a hand-over to a thread that spins is believed to cost: the core was busy
_QUIET_NS, _MOST_QUIET_NS = 20_000_000, 1_000_000_000  # without parts: at first, and after many such times
_MOST_SAVED_NS = 10_000_000  # that the account holds, so that it is overdrawn soon
_SAMPLE = 8  # while it is half full one in so many calls is counted, for as many: the clock may take 2 µs
_FUTEX_WAIT, _FUTEX_WAKE = 128, 129  # of this process alone
_FUTEX = {"x86_64": 202, "aarch64": 98}  # the system call's number
_MONOTONIC, _BUSY = int(time.CLOCK_MONOTONIC), int(time.CLOCK_THREAD_CPUTIME_ID)
_NUMBER_FORM = struct.Struct("q")

# Places in the pool's memory: one line for all, then four and room for a call a member; number 0 is who asks.
_SYSTEM_CALL, _NUMBER, _CLOCK, _READ, _WRITE, _SPIN, _QUIET, _QUIET_FOR, _SAVED, _CALLS, _CLEAR, _TEST = (
    range(12)
)
_POSTED, _PART, _COUNT, _NEEDED = range(4)  # written by who asks
_DONE, _FAILED, _FLAGS = (_LINE + i for i in range(3))  # written by the member
_ASLEEP, _READ_END, _WRITE_END = (2 * _LINE + i for i in range(3))
_TIME = 3 * _LINE
_WORDS = 4 * _LINE
_MEMBER = _WORDS + CALL_WORDS + _LINE
_MEMBER -= _MEMBER % _LINE


@jit
def _now(pool: int, member: int, clock: int) -> int:
    """Nanoseconds of a clock: the one that never jumps, or this thread's time of a processor."""
    place = member + 8 * _TIME
    call_c(get(pool + 8 * _CLOCK), clock, place, 0, 0)
    return load(place) * 1_000_000_000 + load(place + 8)


@jit
def _wake(pool: int, sleeper: int, address: int) -> None:
    """Wake a member that sleeps until the word at ``address`` changes, as it has."""
    if load(sleeper + 8 * _ASLEEP) == 0:
        return
    system_call = get(pool + 8 * _SYSTEM_CALL)
    if system_call:
        call_c(system_call, get(pool + 8 * _NUMBER), address, _FUTEX_WAKE, 1)
    else:
        call_c(get(pool + 8 * _WRITE), get(sleeper + 8 * _WRITE_END), sleeper + 8 * _TIME, 1, 0)


@jit
def _sleep(pool: int, member: int, address: int, before: int) -> None:
    """Sleep until the word at ``address`` is not ``before`` any longer."""
    store(member + 8 * _ASLEEP, 1)
    system_call = get(pool + 8 * _SYSTEM_CALL)
    while load(address) == before:
        if system_call:
            call_c(system_call, get(pool + 8 * _NUMBER), address, _FUTEX_WAIT, before)
        else:
            call_c(get(pool + 8 * _READ), get(member + 8 * _READ_END), member + 8 * _WORDS, 1, 0)
    store(member + 8 * _ASLEEP, 0)


@jit
def _settle(pool: int, saved: int, now: int) -> None:
    """Add to the account what parts have saved; overdrawn, the pool is quiet from now on."""
    before = get(pool + 8 * _SAVED)
    after = min(before + saved, _MOST_SAVED_NS)
    quiet_for = get(pool + 8 * _QUIET_FOR)
    if after > _MOST_SAVED_NS // 2:
        quiet_for = _QUIET_NS
    if after < 0:
        put(pool + 8 * _QUIET, now + quiet_for)
        quiet_for, after = min(2 * quiet_for, _MOST_QUIET_NS), 0
    put(pool + 8 * _SAVED, after)
    put(pool + 8 * _QUIET_FOR, quiet_for)


@jit
def _await(pool: int, member: int, address: int, before: int, limit: int) -> None:
    """Return once the word at ``address`` is not ``before`` any longer; spin for ``limit`` ns at most."""
    if load(address) != before:
        return
    start = _now(pool, member, _MONOTONIC)
    last = start
    while last - start < limit:
        for _ in range(_LOOKS):
            if load(address) != before:
                return
            pause()
        now = _now(pool, member, _MONOTONIC)
        if now - last > _LOST_NS:
            break
        last = now
    _sleep(pool, member, address, before)


@jit
def _do(pool: int, member: int, part: int) -> None:
    """Make the calls of a part."""
    words = member + 8 * _WORDS
    failed = 0
    test = get(pool + 8 * _TEST)
    if test:
        call_c(get(pool + 8 * _CLEAR), 0xFF, 0, 0, 0)
    at = part + 8
    for _ in range(get(part)):
        status = perform(at, words)
        at += 16 + 8 * get(get(at + 8))
        if status == -1 or status > 0:
            failed = 1
    put(member + 8 * _FAILED, failed)
    if test:
        put(member + 8 * _FLAGS, call_c(test, 0xFF, 0, 0, 0) & 0xFF)


@jit
def _wake_next(pool: int, number: int, count: int) -> None:
    """Wake the two members whom a member wakes, so that many are awake soon."""
    for child in range(2 * number + 1, min(2 * number + 3, count)):
        sleeper = pool + 8 * (_LINE + child * _MEMBER)
        _wake(pool, sleeper, sleeper)


@kernel("i i", dtypes="d", writes="")
def _work(pool: int, number: int) -> None:
    """What a member does: parts, until one is none."""
    member = pool + 8 * (_LINE + number * _MEMBER)
    seen = 0
    while True:
        _await(pool, member, member, seen, load(pool + 8 * _SPIN))
        seen = load(member)
        part, count = get(member + 8 * _PART), get(member + 8 * _COUNT)
        _wake_next(pool, number, count)
        if part:
            _do(pool, member, part)
        store(member + 8 * _DONE, seen)
        if load(member + 8 * _NEEDED):
            asks = pool + 8 * _LINE
            _wake(pool, asks, member + 8 * _DONE)
        if not part:
            return


@kernel("i i i", dtypes="d", writes="")
def _ask(pool: int, parts: int, count: int) -> int:
    """Have ``count`` parts done, whose addresses lie at ``parts``.

    Returns:
        Floating-point exceptions in the low eight bits; above them whether a call has failed.
    """
    asks = pool + 8 * _LINE
    for number in range(1, count):
        member = pool + 8 * (_LINE + number * _MEMBER)
        put(member + 8 * _PART, get(parts + 8 * number))
        put(member + 8 * _COUNT, count)
        put(member + 8 * _NEEDED, 0)
        store(member, load(member) + 1)
    _wake_next(pool, 0, count)
    start = _now(pool, asks, _MONOTONIC)
    calls = get(pool + 8 * _CALLS) + 1
    put(pool + 8 * _CALLS, calls)
    counts = calls % _SAMPLE == 0 or get(pool + 8 * _SAVED) < _MOST_SAVED_NS // 2
    busy_start = _now(pool, asks, _BUSY) if counts else 0
    if get(parts):
        _do(pool, asks, get(parts))
    busy = _now(pool, asks, _BUSY) - busy_start if counts else 0
    limit = min(_LOST_NS + _now(pool, asks, _MONOTONIC) - start, get(pool + 8 * _SPIN))
    flags, failed = get(asks + 8 * _FLAGS), get(asks + 8 * _FAILED)
    for number in range(1, count):
        member = pool + 8 * (_LINE + number * _MEMBER)
        posted, done = load(member), member + 8 * _DONE
        if load(done) != posted:
            store(member + 8 * _NEEDED, 1)
            _await(pool, asks, done, posted - 1, limit)
        flags |= get(member + 8 * _FLAGS)
        failed |= get(member + 8 * _FAILED)
    if counts:
        now = _now(pool, asks, _MONOTONIC)
        weight = _SAMPLE if get(pool + 8 * _SAVED) >= _MOST_SAVED_NS // 2 else 1
        _settle(pool, weight * (count * busy - (now - start)), now)
    return flags | (failed << 8)


class HandOver(NamedTuple):
    """What it costs to have parts done, as measured when the pool was made.

    Args:
        awake_ns: while members spin.
        asleep_ns: where one has to be woken.
    """

    awake_ns: float
    asleep_ns: float


def _address(name: str) -> int:
    """Where a function of the C library lies; 0 where it has none."""
    for library in (None, "libm.so.6"):
        with contextlib.suppress(OSError, AttributeError):
            return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value or 0
    return 0


class Pool:
    """Threads of this process that do parts of the work of whoever asks; one may ask at a time.

    Args:
        threads: how many compute, with the one that asks.
        spin_ns: how long one spins before it sleeps.
        futex: whether the kernel's futex wakes; else pipes do.
    """

    def __init__(self, threads: int, spin_ns: int, futex: bool = True) -> None:
        self.threads = threads
        self._memory = np.zeros(_LINE * 2 + threads * _MEMBER, np.int64)
        skipped = -self._memory.ctypes.data % (8 * _LINE) // 8
        self._words = self._memory[skipped:]
        self._base = int(self._words.ctypes.data)
        self._buffer = bytearray()
        self._grow(1 << 12)
        self._forms: dict[tuple[Any, bytes], Form] = {}
        self._pipes: list[int] = []
        number = _FUTEX.get(platform.machine(), 0) if sys.platform == "linux" and futex else 0
        for place, name in ((_CLOCK, "clock_gettime"), (_READ, "read"), (_WRITE, "write")):
            self._words[place] = _address(name)
        if number:
            self._words[_SYSTEM_CALL], self._words[_NUMBER] = _address("syscall"), number
        else:
            self._open_pipes()
        clear, test = _address("feclearexcept"), _address("fetestexcept")
        self._words[_CLEAR], self._words[_TEST] = (clear, test) if clear and test else (0, 0)
        _work.compile((types.int64, types.int64))
        self.members = [
            threading.Thread(target=_work, args=(self._base, i), name="kernel part", daemon=True)
            for i in range(1, threads)
        ]
        for member in self.members:
            member.start()
        self.hand_over = self._measure(spin_ns)

    def _open_pipes(self) -> None:
        for number in range(self.threads):
            ends = os.pipe()
            self._pipes += ends
            first = _LINE + number * _MEMBER
            self._words[first + _READ_END], self._words[first + _WRITE_END] = ends

    def _measure(self, spin_ns: int) -> HandOver:
        """Hand over nothing to do, to members that sleep and to such that spin."""
        costs = []
        for limit, count in ((0, 9), (max(spin_ns, 50_000), 33)):
            self._words[_SPIN] = limit
            took = []
            for _ in range(count):
                start = time.perf_counter_ns()
                self.run([[]] * self.threads)
                took.append(time.perf_counter_ns() - start)
            costs.append(min(took))
        self._words[_SPIN], self._words[_QUIET], self._words[_QUIET_FOR] = spin_ns, 0, _QUIET_NS
        self._words[_SAVED] = _MOST_SAVED_NS // 4
        awake = min(costs[1], _MOST_NS)
        return HandOver(awake, max(awake, min(costs[0], 20 * _MOST_NS)))

    def run(self, parts: Sequence[Sequence[Sequence[Any]]]) -> tuple[int, bool]:
        """Make calls, those of a part in turn, the parts side by side.

        Args:
            parts: at most as many as threads, each a list of ``(kernel, argument, …)``.

        Returns:
            The floating-point exceptions that products may have raised, and whether a call has failed.
        """
        places, at = [], 8 * self.threads
        for calls in parts:
            places.append(at)
            at = self._write(calls, at)
        struct.pack_into(f"{len(parts)}q", self._buffer, 0, *[self._buffer_at + place for place in places])
        result = _ask(self._base, self._buffer_at, len(parts))
        return result & 0xFF, result > 0xFF

    def is_quiet(self) -> bool:
        """Whether others want the cores, so that whoever has work had better do it alone."""
        return bool(self._words[_QUIET] > time.monotonic_ns())

    def _write(self, calls: Sequence[Sequence[Any]], at: int) -> int:
        """Write a part down from byte ``at`` on; returns where it ends."""
        forms = [self._find(function, arguments) for function, *arguments in calls]
        end = at + 8 + sum([form.size for form in forms])
        if end > len(self._buffer):
            self._grow(end)
        buffer = self._buffer
        _NUMBER_FORM.pack_into(buffer, at, len(calls))
        at += 8
        for form, (_, *arguments) in zip(forms, calls, strict=True):
            values = [id(x) if array else x for x, array in zip(arguments, form.arrays, strict=True)]
            form.pack(buffer, at, *form.head, *(values if form.flat else flatten(values)))
            at += form.size
        return at

    def _grow(self, size: int) -> None:
        self._buffer = self._buffer + bytes(2 * size)
        self._buffer_at = int(np.frombuffer(self._buffer, np.uint8).ctypes.data)

    def _find(self, function: Any, arguments: list[Any]) -> Form:
        function = function.entry.function  # whoever records calls puts his own in a kernel's place
        key = function, _dispatcher.compute_fingerprint(tuple(arguments))
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = make_form(function, arguments)
        return form

    def dismiss(self) -> None:
        """End all threads, after what they have begun."""
        nothing = np.zeros(self.threads, np.int64)
        _ask(self._base, nothing.ctypes.data, self.threads)
        for member in self.members:
            member.join()
        self.close()

    def close(self) -> None:
        """Close the pipes; in a fork, which has no other part of the pool."""
        for end in self._pipes:
            os.close(end)
        self._pipes = []
