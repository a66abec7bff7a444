"""One self-contained page of a run's numbers: HTML with SVG, light and dark, nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from distgrad.profiler import svg
from distgrad.profiler.owners import KINDS
from distgrad.profiler.summary import PARTS, Summary

__all__ = ["render"]

_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5")
_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1b1e23;--soft:#667;--line:#d9dce2;--card:#f5f6f8;
--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--back:#15171b;--text:#e6e8ec;--soft:#9aa0ab;--line:#333841;
--card:#1e2127;--bad:#ff8a80}}
body{background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif;max-width:60rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin-top:2.2rem}
svg{width:100%;height:auto;display:block;margin:.5rem 0}
svg text{fill:var(--soft);font-size:12px}svg .name{text-anchor:end}svg .grid{stroke:var(--line)}
polyline{fill:none;stroke-width:1.5}
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;border-bottom:1px solid var(--line);
text-align:right;font-variant-numeric:tabular-nums}td:first-child,th:first-child{text-align:left}
td{white-space:nowrap}td.text,th.text{text-align:left;white-space:normal;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.7rem}
.card{background:var(--card);border-radius:.5rem;padding:.7rem .9rem}.card b{display:block;font-size:1.3rem}
.card span,.soft{color:var(--soft);font-size:.85rem}
.warning{border-left:4px solid var(--bad);background:var(--card);padding:.5rem .9rem;margin:.5rem 0}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem}.key i{display:inline-block;width:.8em;
height:.8em;margin-right:.35em;border-radius:.15em}
"""
_OPERATIONS = 25


def render(found: Summary) -> str:
    """The page as text."""
    style = _STYLE + "".join(
        f".s{n}{{fill:{colour};background:{colour}}}.l{n}{{stroke:{colour}}}"
        for n, colour in enumerate(_COLOURS)
    )
    sections = (
        *(_cards, _warnings, _timeline, _parts, _steps, _communication, _buckets, _waits),
        *(_memory, _operations, _usage, _notes),
    )
    body = "\n".join(section(found) for section in sections)
    title = html.escape(found.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]], text: Sequence[int] = ()) -> str:
    """A table; columns named in ``text`` hold words, the others numbers."""

    def cells(tag: str, row: Sequence[Any]) -> str:
        marks = [' class="text"' if place in text else "" for place in range(len(row))]
        return "".join(f"<{tag}{m}>{html.escape(str(c))}</{tag}>" for m, c in zip(marks, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', heads)}</tr></thead><tbody>{body}</tbody></table>"


def _key(names: Sequence[str]) -> str:
    marks = (f'<span><i class="s{n % 8}"></i>{html.escape(name)}</span>' for n, name in enumerate(names))
    return f'<div class="key">{"".join(marks)}</div>'


def _seconds(value: float) -> str:
    return svg.quantity(value, "s")


def _cards(found: Summary) -> str:
    step_s = found.step_s
    exposed, whole_s = _mean(found, "exposed communication"), sum(_mean(found, part) for part in PARTS)
    shown = [
        (str(len(found.parts)), "ranks"),
        (_seconds(step_s), "a step (median)"),
        (f"{exposed / whole_s:.0%}" if whole_s else "0 %", "of all steps exposed communication"),
    ]
    if found.samples_per_s:
        shown.append((svg.quantity(found.samples_per_s), "samples a second"))
    if found.flops_per_s:
        shown.append((svg.quantity(found.flops_per_s, "FLOP/s"), "in products"))
    if found.utilization:
        shown.append((f"{found.utilization:.0%}", "of the measured limit (MFU)"))
    shown += [(f"{value:.4g}", f"{name}, last") for name, value in found.told.items()]
    cards = (
        f'<div class="card"><b>{html.escape(a)}</b><span>{html.escape(b)}</span></div>' for a, b in shown
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _mean(found: Summary, part: str) -> float:
    return sum(parts[part] for parts in found.parts.values()) / len(found.parts)


def _warnings(found: Summary) -> str:
    shown = "".join(
        f'<div class="warning"><b>{html.escape(what)}</b><br>{html.escape(do)}</div>'
        for what, do in found.warnings
    )
    return f"<h2>What to do</h2>{shown}" if shown else ""


def _timeline(found: Summary) -> str:
    if not found.timeline:
        return ""
    names = list(dict.fromkeys([*_SPANS, *(bar.name for bar in found.timeline)]))
    names = [name for name in names if any(bar.name == name for bar in found.timeline)]
    tracks = list(dict.fromkeys(bar.track for bar in found.timeline))
    rows: dict[str, list[tuple[str, int, float, float]]] = {
        f"rank {rank}, {track}": [] for rank in sorted(found.parts) for track in sorted(tracks)
    }
    for bar in sorted(found.timeline, key=lambda each: (each.start_s, -each.length_s)):
        rows[f"rank {bar.rank}, {bar.track}"].append(
            (bar.name, names.index(bar.name), bar.start_s, bar.length_s)
        )
    plot = svg.timeline({name: spans for name, spans in rows.items() if spans}, "one step of all ranks")
    return f"<h2>One step of all ranks</h2>{_key(names)}{plot}"


_SPANS = ("data.next", "forward", "backward", "bucket.wait", "optimizer.step", "all_reduce")


def _parts(found: Summary) -> str:
    rows = {f"rank {rank}": [(name, parts[name]) for name in PARTS] for rank, parts in found.parts.items()}
    table = _table(
        ("rank", *PARTS),
        [
            (f"{r} {found.hosts.get(r, '')}", *(_seconds(p[name]) for name in PARTS))
            for r, p in found.parts.items()
        ],
    )
    plot = svg.bars(rows, "parts of a step of each rank")
    return f"<h2>Where a step's time goes</h2>{_key(PARTS)}{plot}{table}"


def _steps(found: Summary) -> str:
    if not found.steps:
        return ""
    series = {f"rank {r}": [(float(n), s) for n, s in steps.items()] for r, steps in found.steps.items()}
    return f"<h2>Steps</h2>{_key(list(series))}{svg.lines(series, 'duration of each step', ('', 's'))}"


def _communication(found: Summary) -> str:
    rows = {
        f"rank {r}": [("hidden", found.hidden_s.get(r, 0.0)), ("exposed", parts["exposed communication"])]
        for r, parts in found.parts.items()
    }
    if not any(length for parts in rows.values() for _, length in parts):
        return ""
    plot = svg.bars(rows, "hidden and exposed communication of each rank")
    return f"<h2>Communication behind backward</h2>{_key(('hidden', 'exposed'))}{plot}"


def _buckets(found: Summary) -> str:
    if not found.buckets:
        return ""
    rows = [
        (b.number, svg.quantity(b.num_bytes, "B"), _seconds(b.busy_s), _seconds(b.waited_s))
        for b in found.buckets
    ]
    table = _table(("bucket", "bytes", "its reduction took", "backward's end waited"), rows)
    return f"<h2>Bucket by bucket</h2>{table}"


def _waits(found: Summary) -> str:
    if not found.waits:
        return ""
    ranks = sorted(found.parts)
    rows = [
        (f"rank {waiter}", *(_seconds(found.waits.get((waiter, late), 0.0)) for late in ranks))
        for waiter in ranks
    ]
    told = "".join(
        f"<p>{html.escape(each.text)} The others wait {_seconds(each.waited_s)} a step for it.</p>"
        for each in found.stragglers
    )
    table = _table(("waits, a step", *(f"for rank {rank}" for rank in ranks)), rows)
    return f"<h2>Who waits for whom</h2>{table}{told}"


def _memory(found: Summary) -> str:
    if not found.memory:
        return ""
    rank = min(found.memory)
    samples = found.memory[rank]
    kinds = [kind for kind in KINDS if any(owned.get(kind) for _, owned in samples)]
    series = {kind: [(t, float(owned.get(kind, 0))) for t, owned in samples] for kind in kinds}
    known = [sum(owned.get(kind, 0) for kind in kinds) for _, owned in samples]
    series["the rest of the process"] = [
        (t, max(0.0, float(owned.get("resident", 0)) - each))
        for (t, owned), each in zip(samples, known, strict=True)
    ]
    plot = svg.areas(series, f"memory of rank {rank} over time", ("s", "B"))
    peaks = {r: max(owned.get("resident", 0) for _, owned in each) for r, each in found.memory.items()}
    table = _table(
        ("rank", "most resident"), [(r, svg.quantity(peak, "B")) for r, peak in sorted(peaks.items())]
    )
    return f"<h2>Memory of rank {rank}</h2>{_key(list(series))}{plot}{table}"


def _operations(found: Summary) -> str:
    if not found.operations:
        return ""
    rows = [
        (
            each.name,
            each.op,
            each.line,
            each.count,
            _seconds(each.total_s),
            _seconds(each.total_s / each.count),
        )
        for each in found.operations[:_OPERATIONS]
    ]
    heads = ("operation", "pass", "line", "calls", "time", "a call")
    return f"<h2>Slowest operations</h2>{_table(heads, rows, text=(1, 2))}"


def _usage(found: Summary) -> str:
    if not found.usage:
        return ""
    names = {
        "cpu_s": "cores used", "ready_s": "ready, no core", "steal_s": "taken by the host",
        "minor_faults": "page faults/s", "major_faults": "read from disk/s",
    }  # fmt: skip
    rows = [
        (rank, *(f"{usage.get(name, 0.0):.2f}" for name in names))
        for rank, usage in sorted(found.usage.items())
    ]
    return f"<h2>What the machine gave</h2>{_table(('rank', *names.values()), rows)}"


def _notes(found: Summary) -> str:
    notes = "".join(f'<p class="soft">{html.escape(note)}</p>' for note in found.notes)
    return f"<h2>Of the recording</h2>{notes}" if notes else ""
