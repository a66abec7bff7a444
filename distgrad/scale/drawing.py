"""Charts as SVG that follow the page's colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Curve", "bars", "lines"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 360, 64, 44, 16, 16


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Args:
        name: in the legend.
        points: x and y.
        colour: number of a colour of the page, from 1.
        dashes: of the line, as SVG has it; empty for none.
        spreads: lowest and highest y of each point; may be empty.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashes: str = ""
    spreads: Sequence[tuple[float, float]] = field(default=())


def _ticks(top: float) -> list[float]:
    """About five round numbers from 0 to ``top``."""
    step = 10.0 ** math.floor(math.log10(top / 4))
    step *= next(m for m in (1, 2, 5, 10) if top / (step * m) <= 5)
    return [step * number for number in range(int(top / step + 1e-9) + 1)]


def _frame(title: str, heights: Sequence[float], top: float, label: str, body: list[str]) -> str:
    """The chart around its marks: grid, axis and title."""
    grid = []
    for tick, y in zip(_ticks(top), heights, strict=True):
        grid.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text class="end" x="{_LEFT - 8}" y="{y + 4:.1f}">{tick:g}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    side = f'<text class="mid" transform="translate(16 {middle}) rotate(-90)">{escape(label)}</text>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{escape(title)}</title>'
        + "".join([*grid, side, *body])
        + "</svg>"
    )


def _legend(entries: Sequence[tuple[str, int, str]]) -> str:
    items = [
        f'<span><svg viewBox="0 0 24 10" class="key"><line class="c{colour}" x1="0" x2="24" y1="5" y2="5" '
        f'stroke-dasharray="{dashes}"/></svg>{escape(name)}</span>'
        for name, colour, dashes in entries
    ]
    return f'<p class="legend">{"".join(items)}</p>'


def lines(title: str, x_label: str, y_label: str, curves: Sequence[Curve]) -> str:
    """Curves over the number of ranks, on a scale that doubles."""
    xs = sorted({x for curve in curves for x, _ in curve.points})
    highest = max([y for curve in curves for _, y in curve.points] + [1e-9])
    top = 1.08 * highest
    low, high = math.log2(xs[0]), math.log2(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log2(x) - low) / (high - low) if high > low else 0.5
        inner = _WIDTH - _LEFT - _RIGHT - 32
        return _LEFT + 16 + share * inner, _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _BOTTOM - _TOP)

    body = []
    for x in xs:
        body.append(f'<text class="mid" x="{place(x, 0)[0]:.1f}" y="{_HEIGHT - _BOTTOM + 18}">{x:g}</text>')
    body.append(f'<text class="mid" x="{_WIDTH / 2}" y="{_HEIGHT - 6}">{escape(x_label)}</text>')
    for curve in curves:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve.points))
        dashes = f' stroke-dasharray="{curve.dashes}"' if curve.dashes else ""
        body.append(f'<polyline class="c{curve.colour}" fill="none" points="{path}"{dashes}/>')
        for (x, _), (least, most) in zip(curve.points, curve.spreads, strict=False):
            (at, bottom), (_, above) = place(x, least), place(x, most)
            ends = f'x1="{at:.1f}" x2="{at:.1f}" y1="{bottom:.1f}" y2="{above:.1f}"'
            body.append(f'<line class="c{curve.colour}" {ends}/>')
        for point in () if curve.dashes else curve.points:
            x, y = place(*point)
            mark = f'<circle class="f{curve.colour}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
            body.append(f"{mark}<title>{escape(curve.name)}: {point[1]:.3g}</title></circle>")
    heights = [place(xs[0], tick)[1] for tick in _ticks(top)]
    legend = _legend([(curve.name, curve.colour, curve.dashes) for curve in curves])
    return _frame(title, heights, top, y_label, body) + legend


def bars(title: str, y_label: str, stacks: Mapping[str, Mapping[str, float]]) -> str:
    """A bar for each of ``stacks``, made of named parts; those below 0 are left out."""
    names = list(dict.fromkeys(name for parts in stacks.values() for name in parts))
    top = 1.08 * max([sum(max(0.0, y) for y in parts.values()) for parts in stacks.values()] + [1e-9])
    scale = (_HEIGHT - _BOTTOM - _TOP) / top
    pitch = (_WIDTH - _LEFT - _RIGHT) / max(1, len(stacks))
    body = []
    for place, (head, parts) in enumerate(stacks.items()):
        left, bottom = _LEFT + (place + 0.2) * pitch, float(_HEIGHT - _BOTTOM)
        for number, name in enumerate(names, 1):
            height = max(0.0, parts.get(name, 0.0)) * scale
            bottom -= height
            box = f'x="{left:.1f}" y="{bottom:.1f}" width="{0.6 * pitch:.1f}" height="{height:.1f}"'
            told = f"{escape(name)}: {parts.get(name, 0.0):.3g}"
            body.append(f'<rect class="f{number}" {box}><title>{told}</title></rect>')
        middle = left + 0.3 * pitch
        body.append(f'<text class="mid" x="{middle:.1f}" y="{_HEIGHT - _BOTTOM + 18}">{escape(head)}</text>')
    heights = [_HEIGHT - _BOTTOM - tick * scale for tick in _ticks(top)]
    legend = _legend([(name, number, "") for number, name in enumerate(names, 1)])
    return _frame(title, heights, top, y_label, body) + legend
