"""Pictures of functions of one number and of their derivatives, as SVG that pages hold in themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import distgrad as dg

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26  # margins for numbers
POINTS = 401
DOMAIN = (-4.0, 4.0)


def curve(function: Callable[[Any], Any], domain: tuple[float, float]) -> tuple[np.ndarray, ...] | None:
    """Places, values and derivatives ``[POINTS]`` of a function that is elementwise; None for any other.

    What is elementwise gives the same values in another order, and for each one alone, time and again.

    Args:
        function: of one array.
        domain: where it is looked at.
    """
    places = np.linspace(*domain, POINTS)
    order = np.random.default_rng(0).permutation(POINTS)
    try:
        with np.errstate(all="ignore"):
            x = dg.asarray(places).requires_grad_()
            y = function(x)
            moved, alone = function(dg.asarray(places[order])), function(dg.asarray(places[7:8]))
            y.sum().backward()
    except Exception:  # whatever an operation says to such an argument: it is none of one number
        return None
    slope = x.grad
    if not isinstance(slope, dg.Tensor) or any(each.dtype != dg.float64 for each in (y, moved, alone)):
        return None
    values = y.detach().numpy()
    if values.shape != places.shape or moved.shape != y.shape or alone.shape != (1,):
        return None
    same = np.allclose(moved.numpy(), values[order], equal_nan=True)
    if not same or not np.allclose(alone.numpy(), values[7:8], equal_nan=True):
        return None
    return places, values, slope.detach().numpy()


def heights(*values: np.ndarray) -> tuple[float, float]:
    """The range of values that is shown: all, or without the tenth at the ends where they run away."""
    known = np.concatenate([value[np.isfinite(value)] for value in values])
    if not known.size:
        return -1.0, 1.0
    low, high = float(known.min()), float(known.max())
    inner = np.quantile(known, [0.05, 0.95])
    if high - low > 4 * (inner[1] - inner[0]) > 0:
        low, high = float(inner[0]), float(inner[1])
    if high - low < 1e-9:
        low, high = low - 1, high + 1
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def pieces(
    x: np.ndarray, y: np.ndarray, low: float, high: float, slope: np.ndarray | None = None
) -> Iterator[list[tuple[float, float]]]:
    """The runs of a curve that are within the picture, cut where it jumps: further than its slope says."""
    run: list[tuple[float, float]] = []
    steepest = np.zeros_like(y) if slope is None else np.maximum(abs(slope), abs(np.roll(slope, 1)))
    allowed = 2 * steepest * (x[1] - x[0]) + (high - low) / (12 if slope is None else 50)
    for place, value, most in zip(x, y, allowed, strict=True):
        inside = np.isfinite(value) and low <= value <= high
        if run and (not inside or abs(value - run[-1][1]) > most):
            yield run
            run = []
        if inside:
            run.append((float(place), float(value)))
    if run:
        yield run


def steps(low: float, high: float) -> list[float]:
    """Four to eight round numbers in a range."""
    rough = (high - low) / 5
    unit = 10.0 ** np.floor(np.log10(rough))
    step = unit * min((factor for factor in (1, 2, 5, 10) if factor * unit >= rough), default=10)
    first = np.ceil(low / step)
    return [float(step * k) + 0.0 for k in np.arange(first, np.floor(high / step) + 1)]  # no −0


def picture(name: str, function: Callable[[Any], Any], domain: tuple[float, float] | None = None) -> str:
    """The curves of a function and its derivative; nothing where it is not a function of one number.

    Args:
        name: for those who cannot see the picture.
        function: of one array.
        domain: where it is looked at; None means −4 … 4.
    """
    found = curve(function, domain or DOMAIN)
    if found is None:
        return ""
    x, y, slope = found
    low, high = heights(y, slope)

    def across(place: float) -> str:
        return f"{LEFT + (place - x[0]) / (x[-1] - x[0]) * (WIDTH - LEFT - RIGHT):.1f}"

    def up(value: float) -> str:
        return f"{TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    def line(ends: str, place: float) -> str:
        return f'<line class="{"grid" if place else "zero"}" {ends}/>'

    label = f'role="img" aria-label="{name} and its derivative"'
    lines = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {label}>']
    for place in steps(x[0], x[-1]):
        at = across(place)
        lines.append(line(f'x1="{at}" x2="{at}" y1="{up(high)}" y2="{up(low)}"', place))
        lines.append(f'<text x="{at}" y="{HEIGHT - 8}" text-anchor="middle">{place:g}</text>')
    for value in steps(low, high):
        at = up(value)
        lines.append(line(f'x1="{across(x[0])}" x2="{across(x[-1])}" y1="{at}" y2="{at}"', value))
        lines.append(f'<text x="{LEFT - 6}" y="{at}" dy="4" text-anchor="end">{value:g}</text>')
    for kind, values, rate in (("slope", slope, None), ("value", y, slope)):
        for run in pieces(x, values, low, high, rate):
            points = " ".join(f"{across(place)},{up(value)}" for place, value in run)
            lines.append(f'<polyline class="{kind}" points="{points}"/>')
    key = (
        '<p class="key"><span class="value">the function</span> <span class="slope">its derivative</span></p>'
    )
    return "\n".join(['<div class="picture">', *lines, "</svg>", key, "</div>"])


STYLE = """\
.picture { max-width: 30rem; --value: #1f5fa8; --slope: #b04a00; --grid: #d8dee4; --zero: #8b949e; }
[data-bs-theme="dark"] .picture { --value: #6aa9ef; --slope: #e59a5c; --grid: #3a4149; --zero: #8b949e; }
.picture svg { display: block; width: 100%; height: auto; }
.picture text { font: 11px system-ui, sans-serif; fill: currentColor; }
.picture polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.picture polyline.value { stroke: var(--value); }
.picture polyline.slope { stroke: var(--slope); stroke-dasharray: 6 4; }
.picture line.grid { stroke: var(--grid); } .picture line.zero { stroke: var(--zero); }
.picture .key span { margin-right: 1.2rem; white-space: nowrap; }
.picture .key span::before { content: ""; display: inline-block; width: 1.6em; margin-right: .4em;
  border-top: 2px solid var(--value); vertical-align: middle; }
.picture .key span.slope::before { border-top: 2px dashed var(--slope); }
"""
