"""What the system allows a process to have."""

from __future__ import annotations

import resource

__all__ = ["allow_files"]


def allow_files(number: int) -> int | None:
    """Let this process open ``number`` files at once; None if it may, else how many the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= number:
        return None
    if hard != resource.RLIM_INFINITY and hard < number:
        return hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    return None
