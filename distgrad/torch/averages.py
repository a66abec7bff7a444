"""What ``torch.profiler`` gives of what it saw: events, their sums by name, and a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distgrad.errors import OptionError

__all__ = ["EventList", "FunctionEvent", "FunctionEventAvg"]

_SHARES = ("cpu_time_total", "self_cpu_time_total", "cpu_time", "count")


@dataclass
class FunctionEventAvg:
    """Calls of one name; times are microseconds.

    Attributes:
        key: the name.
        count: calls.
        cpu_time_total: their time.
        self_cpu_time_total: of it, outside of other events.
        line: the line that called it, where sums are by line.
    """

    key: str
    count: int = 0
    cpu_time_total: float = 0.0
    self_cpu_time_total: float = 0.0
    line: str = ""
    cuda_time_total: float = 0.0  # not measured: none is told
    self_cuda_time_total: float = 0.0
    device_time_total: float = 0.0
    self_device_time_total: float = 0.0

    @property
    def cpu_time(self) -> float:
        """Of a call."""
        return self.cpu_time_total / self.count if self.count else 0.0


@dataclass
class FunctionEvent:
    """One event; times are microseconds.

    Attributes:
        name: an operation's, with ``backward`` behind it in backward, or a span's.
        start_us: when it began, on the process's clock.
        cpu_time_total: its time.
        self_cpu_time_total: of it, outside of other events.
        thread: where it ran.
        line: the line that called it.
    """

    name: str
    start_us: float
    cpu_time_total: float
    self_cpu_time_total: float
    thread: int
    line: str

    @property
    def key(self) -> str:
        """The name."""
        return self.name

    @classmethod
    def of(cls, spans: Sequence[tuple[Any, ...]]) -> list[FunctionEvent]:
        """Spans as events, with the time that each has for itself."""
        found = []
        opened: dict[int, list[FunctionEvent]] = defaultdict(list)
        whole = [span for span in spans if span[2] is not None]
        for name, start_s, end_s, thread, fields in sorted(whole, key=lambda each: (each[1], -each[2])):
            shown = f"{name} backward" if fields.get("op") == "backward" else name
            length = (end_s - start_s) * 1e6
            event = cls(shown, start_s * 1e6, length, length, thread, fields.get("line") or "")
            around = opened[thread]
            while around and around[-1].start_us + around[-1].cpu_time_total <= event.start_us:
                around.pop()
            if around:
                around[-1].self_cpu_time_total -= length
            around.append(event)
            found.append(event)
        return found


class EventList(list[Any]):
    """Events, or sums of them."""

    @property
    def self_cpu_time_total(self) -> float:
        """Of all, in microseconds."""
        return float(sum(event.self_cpu_time_total for event in self))

    def averages(self, by_line: bool = False) -> EventList:
        """Sums by name."""
        sums: dict[tuple[str, str], FunctionEventAvg] = {}
        for event in self:
            key = (event.name, event.line if by_line else "")
            entry = sums.setdefault(key, FunctionEventAvg(*key[:1], line=key[1]))
            entry.count += 1
            entry.cpu_time_total += event.cpu_time_total
            entry.self_cpu_time_total += event.self_cpu_time_total
        return EventList(sums.values())

    def key_averages(self) -> EventList:
        """As :meth:`averages`."""
        return self.averages()

    def total_average(self) -> FunctionEventAvg:
        """The sum of all."""
        total = FunctionEventAvg("Total")
        for event in self:
            total.count += getattr(event, "count", 1)
            total.cpu_time_total += event.cpu_time_total
            total.self_cpu_time_total += event.self_cpu_time_total
        return total

    def table(
        self,
        sort_by: str | None = None,
        row_limit: int = 100,
        max_src_column_width: int = 75,
        max_name_column_width: int = 55,
        **others: Any,
    ) -> str:
        """Sums as text.

        Args:
            sort_by: ``cpu_time_total``, ``self_cpu_time_total``, ``cpu_time`` or ``count``; those of devices
                are 0 here, and leave the order as it is.
            row_limit: rows that are shown; -1 shows all.
            max_src_column_width: characters of a line.
            max_name_column_width: characters of a name.
            **others: PyTorch's other options, which change nothing here.
        """
        rows = list(self)
        if sort_by is not None:
            if not hasattr(FunctionEventAvg(""), sort_by):
                raise OptionError(f"table: sort_by must be one of {', '.join(_SHARES)}, got {sort_by!r}")
            rows.sort(key=lambda each: getattr(each, sort_by), reverse=True)
        whole = self.self_cpu_time_total or 1.0
        heads = ["Name", "Self CPU %", "Self CPU", "CPU total %", "CPU total", "CPU time avg", "# of Calls"]
        lines = any(each.line for each in rows)
        cells = [[*heads, *(["Source Location"] if lines else [])]]
        for each in rows if row_limit < 0 else rows[:row_limit]:
            shares = (each.self_cpu_time_total, each.cpu_time_total)
            (own, own_share), (total, total_share) = ((_time(x), f"{x / whole:.2%}") for x in shares)
            average = _time(each.cpu_time)
            row = [
                each.key[:max_name_column_width],
                own_share,
                own,
                total_share,
                total,
                average,
                str(each.count),
            ]
            cells.append(row + ([each.line[-max_src_column_width:]] if lines else []))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rule = "  ".join("-" * width for width in widths)
        text = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
        end = f"Self CPU time total: {_time(self.self_cpu_time_total)}"
        return "\n".join([rule, text[0], rule, *text[1:], rule, end]) + "\n"


def _time(us: float) -> str:
    for limit, unit in ((1e6, "s"), (1e3, "ms")):
        if us >= limit:
            return f"{us / limit:.3f}{unit}"
    return f"{us:.3f}us"
