"""The page of a scaling study: one file, with its pictures and colours in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from distgrad.scale.drawing import Curve, bars, lines
from distgrad.scale.results import LOSSES, doubts
from distgrad.scale.study import COPIES, OURS, Settings

__all__ = ["STYLE", "page"]

Row = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --paper: #ffffff; --grid: #d8dee4;
  --c1: #2f6fbb; --c2: #bc5a14; --c3: #1f7f4c; --c4: #7a4fb5; --c5: #8b949e; --c6: #b3405f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --paper: #0d1117;
  --grid: #30363d; --c1: #6aa9ef; --c2: #e59a5c; --c3: #5fc48f; --c4: #b692ef; --c5: #8b949e; --c6: #ea8aa5;
  } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 860px;
  margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.mid { text-anchor: middle; } .end { text-anchor: end; } .grid { stroke: var(--grid); }
polyline, .key line, line[class^=c] { stroke-width: 2; } .key { width: 24px; height: 10px; margin-right: 6px;
} .legend span { margin-right: 1.2rem; white-space: nowrap; color: var(--soft); }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: 2px 12px 2px 0; text-align: right; }
th { color: var(--soft); font-weight: 600; } td:first-child, th:first-child { text-align: left; }
.wide { overflow-x: auto; }
""" + "".join(f".c{n} {{ stroke: var(--c{n}); }} .f{n} {{ fill: var(--c{n}); }}\n" for n in range(1, 7))


def page(settings: Settings, rows: list[Row], fitted: Sequence[int], about: str) -> str:
    """The page as HTML.

    Args:
        settings: of the study.
        rows: as :func:`~distgrad.scale.results.summarise` gives them, with ``predicted_s`` where there is a
            model.
        fitted: the numbers of ranks that the model knows.
        about: what ran it all.
    """
    program = settings.workload or settings.script[0]
    kind = "strong" if settings.strong else "weak"
    ours = [row for row in rows if row["kind"] == OURS]
    losses = {f"{row['ranks']}": {LOSSES[part]: 1e3 * s for part, s in row["loss"].items()} for row in ours}
    parts = [
        f"<h1>Scaling of {escape(program)}</h1>",
        f"<p>{kind.capitalize()} scaling: "
        + ("the ranks share one batch." if settings.strong else "each rank has a batch of its own.")
        + f" Medians of {settings.repeat} runs, with their least and largest; {settings.warm_up} steps of "
        f"each run warm up and do not count. {escape(about)}</p>",
        "<h2>Speed-up</h2>",
        lines("Speed-up over the number of ranks", "ranks", "speed-up", _curves(settings, rows)),
        _said_of_model(fitted),
        "".join(f"<p>Beware: {escape(doubt)}.</p>" for doubt in doubts(rows, settings.strong)),
        "<h2>Where the loss goes</h2>",
        bars("Milliseconds lost in a step", "ms a step, by ranks", losses),
        "<h2>Numbers</h2>",
        _table(rows),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>Scaling of {escape(program)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _curves(settings: Settings, rows: list[Row]) -> list[Curve]:
    ours = [row for row in rows if row["kind"] == OURS]
    base = ours[0]
    spreads = [tuple(row["speed_up"] * row["step_s"] / s for s in row["spread_s"][::-1]) for row in ours]
    found = [
        Curve("ideal", [(row["ranks"], row["ranks"] / base["ranks"]) for row in ours], 5, "2 4"),
        Curve("distgrad", _points(ours), 1, spreads=[(low, high) for low, high in spreads]),
    ]
    predicted = [
        (row["ranks"], row["speed_up"] * row["step_s"] / row["predicted_s"])
        for row in ours
        if row.get("predicted_s")
    ]
    if predicted:
        found.append(Curve("predicted", predicted, 2, "6 4"))
    names = {COPIES: "copies without communication: the machine's limit"}
    others = dict.fromkeys(row["kind"] for row in rows if row["kind"] != OURS)
    for number, kind in enumerate(others, 3):
        points = _points([row for row in rows if row["kind"] == kind])
        found.append(Curve(names.get(kind, kind), points, number))
    return found


def _points(rows: list[Row]) -> list[tuple[float, float]]:
    return [(row["ranks"], row["speed_up"]) for row in rows]


def _said_of_model(fitted: Sequence[int]) -> str:
    if not fitted:
        return ""
    known = " and ".join(map(str, fitted))
    return f"<p>The dashed prediction knows the runs on {known} ranks alone.</p>"


def _table(rows: list[Row]) -> str:
    heads = ["", "ranks", "ms a step", "least", "most", "predicted", "error", "speed-up", "efficiency"]
    body = []
    for row in rows:
        least, most = (f"{1e3 * s:.2f}" for s in row["spread_s"])
        predicted = row.get("predicted_s")
        cells = [row["kind"], row["ranks"], f"{1e3 * row['step_s']:.2f}", least, most]
        told = [f"{1e3 * predicted:.2f}", f"{predicted / row['step_s'] - 1:+.0%}"] if predicted else ["", ""]
        cells += told
        cells += [f"{row['speed_up']:.2f}", f"{row['efficiency']:.0%}"]
        body.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{each}</th>" for each in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>'
