"""How a process ended, in words."""

from __future__ import annotations

import os
import signal

__all__ = ["PREEMPTED", "exit_code", "explain", "shell_code"]

PREEMPTED = 75  #: A job that was asked to end, and has saved where it stands: EX_TEMPFAIL of sysexits.h

_REASONS = {
    signal.SIGKILL: "likely out of memory, or killed from outside",
    signal.SIGSEGV: "invalid memory access in native code",
    signal.SIGBUS: "memory that could not be had, often a full /dev/shm",
    signal.SIGABRT: "native code gave up",
    signal.SIGFPE: "invalid arithmetic in native code",
    signal.SIGILL: "an instruction that this processor lacks",
    signal.SIGXCPU: "the limit of processor time was reached",
}


def exit_code(status: int) -> int:
    """The code that a shell would show for an ``os.waitpid`` status: 128 + number for a signal."""
    return shell_code(os.waitstatus_to_exitcode(status))


def shell_code(code: int) -> int:
    """The code that a shell would show for one of ``subprocess``, which is negative for a signal."""
    return code if code >= 0 else 128 - code


def explain(code: int) -> str:
    """What an exit code means, of a signal as ``NAME: reason``; empty where that is the program's affair."""
    if code == PREEMPTED:
        return "it has saved and is not done; start it again to go on"
    try:
        number = signal.Signals(code - 128)
    except ValueError:
        return ""
    return f"{number.name}: {_REASONS[number]}" if number in _REASONS else number.name
