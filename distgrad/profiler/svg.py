"""Plots as SVG text, whose colours are the page's: classes ``s0`` … ``s7`` fill, ``l0`` … ``l7`` draw."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

__all__ = ["areas", "bars", "lines", "quantity", "timeline"]

WIDTH = 760
_LEFT, _RIGHT, _BAR, _GAP = 90, 20, 22, 8
_HEIGHT = 190
_ANCHORS = {0.0: "start", 0.5: "middle", 1.0: "end"}  # of the marks, by their place on the axis

Series = Mapping[str, Sequence[tuple[float, float]]]


def quantity(value: float, unit: str = "") -> str:
    """A number with three digits and a prefix: ``1.23 MB``."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}".rstrip()
    if unit == "s" and 0 < abs(value) < 1:
        return f"{value * 1e3:.3g} ms" if abs(value) >= 1e-3 else f"{value * 1e6:.3g} µs"
    return f"{value:.3g} {unit}".rstrip()


def _open(height: float, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{html.escape(label, quote=True)}">'
    )


def bars(rows: Mapping[str, Sequence[tuple[str, float]]], label: str, unit: str = "s") -> str:
    """A bar a row, divided into named parts.

    Args:
        rows: by the row's name its parts, (name, length); all rows have the same names in the same order.
        label: what is shown, for those who cannot see it.
        unit: of the lengths.
    """
    longest = max((sum(length for _, length in parts) for parts in rows.values()), default=0.0) or 1.0
    scale = (WIDTH - _LEFT - _RIGHT) / longest
    out = [_open(len(rows) * (_BAR + _GAP) + 26, label)]
    for place, (name, parts) in enumerate(rows.items()):
        y, x = place * (_BAR + _GAP), float(_LEFT)
        out.append(f'<text x="{_LEFT - 8}" y="{y + 16}" class="name">{html.escape(name)}</text>')
        for number, (part, length) in enumerate(parts):
            width = length * scale
            tip = f"{name}: {part} {quantity(length, unit)}"
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" class="s{number % 8}">'
                f"<title>{html.escape(tip)}</title></rect>"
            )
            x += width
    y = len(rows) * (_BAR + _GAP) + 14
    for share in (0.0, 0.5, 1.0):
        x = _LEFT + share * longest * scale
        anchor, text = _ANCHORS[share], quantity(share * longest, unit)
        out.append(f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" class="tick">{text}</text>')
    return "".join([*out, "</svg>"])


class _Axes:
    """Places on a plot of points."""

    def __init__(self, points: Sequence[tuple[float, float]], units: tuple[str, str]) -> None:
        self.units = units
        self.x0 = min((x for x, _ in points), default=0.0)
        self.x1 = max((x for x, _ in points), default=1.0)
        self.x1 = self.x1 if self.x1 > self.x0 else self.x0 + 1.0
        self.top = max((y for _, y in points), default=0.0) or 1.0

    def place(self, x: float, y: float) -> str:
        across = (x - self.x0) / (self.x1 - self.x0) * (WIDTH - _LEFT - _RIGHT)
        return f"{_LEFT + across:.1f},{(1 - y / self.top) * (_HEIGHT - 34) + 8:.1f}"

    def draw(self) -> str:
        out = []
        for share in (0.0, 0.5, 1.0):
            x, y = self.place(self.x0, share * self.top).split(",")
            out.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - _RIGHT}" y2="{y}" class="grid"/>')
            text = quantity(share * self.top, self.units[1])
            out.append(f'<text x="{_LEFT - 8}" y="{float(y) + 4:.1f}" class="name">{text}</text>')
            across = self.x0 + share * (self.x1 - self.x0)
            x = self.place(across, 0.0).split(",")[0]
            anchor, text = _ANCHORS[share], quantity(across, self.units[0])
            out.append(f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="{anchor}" class="tick">{text}</text>')
        return "".join(out)


def lines(series: Series, label: str, units: tuple[str, str]) -> str:
    """A line a series.

    Args:
        series: points by name, in the order of x.
        label: what is shown, for those who cannot see it.
        units: of x and y.
    """
    axes = _Axes([point for points in series.values() for point in points], units)
    out = [_open(_HEIGHT, label), axes.draw()]
    for number, (name, points) in enumerate(series.items()):
        path = " ".join(axes.place(x, y) for x, y in points)
        title = f"<title>{html.escape(name)}</title>"
        out.append(f'<polyline points="{path}" class="l{number % 8}">{title}</polyline>')
        if len(points) == 1:
            x, y = axes.place(*points[0]).split(",")
            out.append(f'<circle cx="{x}" cy="{y}" r="3" class="s{number % 8}"/>')
    return "".join([*out, "</svg>"])


def areas(series: Series, label: str, units: tuple[str, str]) -> str:
    """Series on top of each other; they have the same x."""
    names = list(series)
    xs = [x for x, _ in series[names[0]]] if names else []
    sums = [0.0] * len(xs)
    layers = []
    for name in names:
        below, sums = sums, [s + y for s, (_, y) in zip(sums, series[name], strict=True)]
        layers.append((name, below, sums))
    axes = _Axes([(x, y) for x, y in zip(xs, sums, strict=True)] + [(x, 0.0) for x in xs], units)
    out = [_open(_HEIGHT, label), axes.draw()]
    for number, (name, below, above) in enumerate(layers):
        there = [axes.place(x, y) for x, y in zip(xs, above, strict=True)]
        back = [axes.place(x, y) for x, y in zip(reversed(xs), reversed(below), strict=True)]
        title = f"<title>{html.escape(name)}</title>"
        out.append(f'<polygon points="{" ".join(there + back)}" class="s{number % 8}">{title}</polygon>')
    return "".join([*out, "</svg>"])


def timeline(rows: Mapping[str, Sequence[tuple[str, int, float, float]]], label: str) -> str:
    """Spans in rows, along one axis of time.

    Args:
        rows: by the row's name its spans: name, number of its colour, start and length in seconds; the outer
            ones first.
        label: what is shown, for those who cannot see it.
    """
    end = (
        max((start + length for spans in rows.values() for _, _, start, length in spans), default=0.0) or 1.0
    )
    left = _LEFT + 60
    scale = (WIDTH - left - _RIGHT) / end
    out = [_open(len(rows) * (_BAR + 4) + 24, label)]
    for place, (row, spans) in enumerate(rows.items()):
        y = place * (_BAR + 4)
        out.append(f'<text x="{left - 8}" y="{y + 16}" class="name">{html.escape(row)}</text>')
        for name, colour, start, length in spans:
            x, width = left + start * scale, max(0.5, length * scale)
            title = html.escape(f"{name} {quantity(length, 's')}")
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" class="s{colour % 8}">'
                f"<title>{title}</title></rect>"
            )
    for share, anchor in _ANCHORS.items():
        x, text = left + share * end * scale, quantity(share * end, "s")
        y = len(rows) * (_BAR + 4) + 12
        out.append(f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" class="tick">{text}</text>')
    return "".join([*out, "</svg>"])
