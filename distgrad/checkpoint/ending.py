"""When a job is to end before its work is done: by a signal, or as its time is over; all ranks agree."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad.comm.base import Communicator
from distgrad.errors import OptionError

__all__ = ["Ending", "refuse_second"]

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Ending:
    """Learns that this rank is to end, and lets all ranks end after the same step.

    Args:
        comm: the ranks; None: this process alone.
        signals: whether SIGTERM and SIGUSR1 ask for the end. Asked again, the process does what it would have
            done without.
        end_s: when the job's time is over, in seconds since 1970; None: never.
        margin_s: seconds before, at which the end begins.
    """

    def __init__(
        self, comm: Communicator | None, signals: bool, end_s: float | None, margin_s: float
    ) -> None:
        self._comm = comm
        self._end_s, self._margin_s = end_s, margin_s
        self._number: int | None = None
        self._process, self._is_over = os.getpid(), False
        self._flag: Any = None
        self._work: Any = None
        self._before: dict[int, Any] = {}
        self.why: str | None = None
        if signals and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}

    def _ask(self, number: int, frame: Any) -> None:
        in_a_fork = os.getpid() != self._process  # where nobody looks
        if self._number is not None or self._is_over or in_a_fork:
            self._obey(number)
            return
        self._number, self.why = number, signal.Signals(number).name

    def _obey(self, number: int) -> None:
        signal.signal(number, _standing(number, self._before.get(number)))
        os.kill(os.getpid(), number)

    def abandon(self) -> None:
        """Let signals do from now on what they would have done without; in any thread."""
        self._is_over = True

    def agreed(self) -> bool:
        """Whether any rank was asked to end, as all ranks knew it a step ago.

        Collective: yes; blocks: for what was sent a step ago.
        """
        if self.why is None and self._end_s is not None and time.time() > self._end_s - self._margin_s:
            self.why = "the time limit is near"
        if self._comm is None or self._comm.size == 1:
            return self.why is not None
        agreed = self._settled()
        self._flag = np.array([self.why is not None], np.int32)
        self._work = self._comm.host.all_reduce(self._flag, "max", async_op=True)
        return agreed

    def _settled(self) -> bool:
        """What the ranks agreed on a step ago."""
        if self._work is None:
            return False
        self._work.wait()
        self._work = None
        return bool(self._flag[0])

    def close(self, obeyed: bool, failed: bool = False) -> None:
        """Give the signals back to whom they belonged; one that nobody has obeyed comes again.

        Args:
            obeyed: whether the job ends as it was asked to.
            failed: whether it ends by an exception, so that other ranks may answer no more.
        """
        if not failed:
            self._settled()
        number, self._number = self._number, None
        self.abandon()
        for each, handler in self._before.items():
            if signal.getsignal(each) == self._ask:  # else another has it, and gives it back to this one
                signal.signal(each, _standing(each, handler))
        if number is not None and not obeyed:
            os.kill(os.getpid(), number)


def refuse_second(let_go: Callable[[], None]) -> None:
    """Refuse a second one in a process, of which the first would end it before the other has saved.

    Args:
        let_go: called before that.

    Raises:
        OptionError: another one hears the signals already.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # where none hears any
    for number in _SIGNALS:
        other = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(other, Ending) and not other._is_over and other._process == os.getpid():
            let_go()
            raise OptionError(
                f"CheckpointManager: another manager of this process hears {signal.Signals(number).name} "
                "and would end the job before this one has saved; add everything to that one, close it "
                "first, or pass signals=False"
            )


def _standing(number: int, handler: Any) -> Any:
    """A signal's handler, past those of jobs that are over."""
    while isinstance(owner := getattr(handler, "__self__", None), Ending) and owner._is_over:
        handler = owner._before.get(number)
    return handler or signal.SIG_DFL
