"""Whether a job that has failed is started anew, and when."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .job import Verdict

__all__ = ["RestartPolicy"]

#: Before a restart after an attempt without a step, but for the first; each twice the one before.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_USAGE_CODE = 2  # of programs that do not understand their arguments
#: Exceptions that stand for a mistake in the script, which the next attempt would make again.
_MISTAKES = (
    "SyntaxError", "IndentationError", "TabError", "ImportError", "ModuleNotFoundError", "NameError",
    "distgrad.errors.OptionError",
)  # fmt: skip
_LAST_LINE = re.compile(r"^([\w.]+)(?::|$)", re.MULTILINE)


@dataclass
class RestartPolicy:
    """Counts restarts, and says which are not to be.

    Attributes:
        most: how many there may be.
        window_s: the seconds within which they are counted.
        codes: exit codes after which there is none.
        clock: seconds.
    """

    most: int
    window_s: float = math.inf
    codes: frozenset[int] = frozenset()
    clock: Callable[[], float] = time.monotonic
    _times: list[float] = field(default_factory=list)
    _pause_s: float = 0.0

    def refusal(self, verdict: Verdict, num_steps: int) -> str | None:
        """Why the job is not started anew; empty if no more words are needed, None if it is.

        Args:
            verdict: of the attempt.
            num_steps: the most steps that a rank of it has done.
        """
        if verdict.final or not self.most:
            return ""
        if verdict.code in self.codes:
            return f"exit code {verdict.code} is one of --no-restart-codes"
        if not num_steps and (mistake := _mistake(verdict)):
            return f"{mistake} before the first step would come again"
        return "" if len(self._recent()) >= self.most else None

    def restart(self, made_progress: bool) -> str:
        """Count a restart; returns what is said about it."""
        recent = self._recent()
        if not self._times or made_progress:
            self._pause_s = 0.0
        else:
            self._pause_s = min(2 * self._pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._times = [*recent, self.clock()]
        when = f"in {self._pause_s:g} s" if self._pause_s else "now"
        within = f" within {self.window_s:g} s" if self.window_s < math.inf else ""
        return f"restart {len(self._times)} of {self.most}{within} {when}"

    @property
    def pause_s(self) -> float:
        """Seconds before the next attempt."""
        return self._pause_s

    def _recent(self) -> list[float]:
        return [at for at in self._times if self.clock() - at < self.window_s]


def _mistake(verdict: Verdict) -> str:
    """What shows that the script itself is wrong, or called wrongly; empty if nothing does."""
    if verdict.code == _USAGE_CODE and not verdict.traceback:
        return f"exit code {_USAGE_CODE} (wrong arguments)"
    names = _LAST_LINE.findall(verdict.traceback)
    return next((name for name in names[-1:] if name in _MISTAKES), "")
