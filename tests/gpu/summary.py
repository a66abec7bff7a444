"""The tables of docs/gpu.md from what a check of a GPU has left: python tests/gpu/summary.py FOLDER."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rows import FIGURES, SUMMARY, TESTS, Row, read

#: title: figure in the rows, its columns' headings, and the values beneath, for each library
TABLES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "Training steps": (
        ("step", "launches", "memory", "cold start"),
        {
            "ms": "ms",
            "host_ms": "host ms",
            "samples_per_s": "samples/s",
            "launches": "launches",
            "device_ms": "device ms",
            "peak_mib": "peak MiB",
            "step_s": "cold start s",
        },
    ),
    "Matrix products": (("product", "stacked product"), {"tflops": "TFLOP/s"}),
    "Attention": (("attention",), {"ms": "ms", "tflops": "TFLOP/s"}),
    "Convolutions": (("convolution",), {"ms": "ms", "tflops": "TFLOP/s"}),
    "Bandwidth": (("bandwidth",), {"gb_per_s": "GB/s", "of_a_copy": "of a copy"}),
    "NCCL": (("NCCL",), {"ms": "ms"}),
}
LIBRARIES = ("distgrad", "torch")


def shown(value: Any) -> str:
    """A cell."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return "—" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def table(headings: list[str], lines: list[list[Any]]) -> Iterator[str]:
    """Markdown."""
    yield "| " + " | ".join(headings) + " |"
    yield "|" + "---|" * len(headings)
    for line in lines:
        yield "| " + " | ".join(map(shown, line)) + " |"
    yield ""


def stages(rows: list[Row]) -> Iterator[str]:
    """What ran, how it ended and how long it took."""
    lines = [
        [row["name"], row["result"], row.get("seconds"), row.get("limit")]
        for row in rows
        if row["figure"] == "stage"
    ]
    yield from table(["stage", "result", "seconds", "limit"], lines)


def tests(outcomes: list[Row]) -> Iterator[str]:
    """Counts, and everything that did not pass."""
    collected = sum(row.get("collected", 0) for row in outcomes)
    ended = [row for row in outcomes if "outcome" in row]
    counts = Counter(row["outcome"] for row in ended)
    missing = max(collected - len(ended), 0)
    parts = [f"{counts[each]:,} {each}" for each in ("passed", "failed", "skipped")]
    yield f"Tests: {', '.join(parts)}, {missing:,} not reached, of {collected:,}."
    yield ""
    reasons = Counter(
        (row["outcome"], row["test"].split("[")[0], row.get("text", "").strip().rsplit("\n", 1)[-1][:160])
        for row in ended
        if row["outcome"] != "passed"
    )
    for (outcome, test, text), count in reasons.most_common(25):
        yield f"- {outcome}, {count} of `{test}`: {text}"
    if reasons:
        yield ""


def compared(rows: list[Row], figures: tuple[str, ...], columns: dict[str, str]) -> Iterator[str]:
    """One table: a line a name, the libraries side by side."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if "library" not in row or "error" in row:
            continue
        family = row["figure"].split(",")[0].rstrip("0123456789 ")
        if row["figure"] in figures or any(family.startswith(each) for each in figures):
            is_part = row["figure"] in ("step", "launches", "memory", "cold start", "bandwidth", "NCCL")
            name = row["name"] if is_part else f"{row['figure']}, {row['name']}"
            found.setdefault(name, {}).setdefault(row["library"], {}).update(row)
    libraries = [each for each in LIBRARIES if any(each in cells for cells in found.values())]
    keys = [
        (key, library)
        for key in columns
        for library in libraries
        if any(key in cells.get(library, {}) for cells in found.values())
    ]
    lines = [
        [name, *(cells.get(library, {}).get(key) for key, library in keys)] for name, cells in found.items()
    ]
    yield from table(["", *(f"{library}, {columns[key]}" for key, library in keys)], lines)


def add_shares(rows: list[Row]) -> None:
    """What part of a copy's bandwidth each kernel has."""
    copies = {
        (row["library"], row["name"].rsplit(", ", 1)[-1]): row["gb_per_s"]
        for row in rows
        if row["figure"] == "bandwidth" and row["name"].startswith("copy, ") and "gb_per_s" in row
    }
    for row in rows:
        if "gb_per_s" in row:
            copy = copies.get((row["library"], row["name"].rsplit(", ", 1)[-1]))
            row["of_a_copy"] = None if copy is None else row["gb_per_s"] / copy


def summarise(folder: Path) -> Iterator[str]:
    """All tables."""
    rows = read(folder / FIGURES)
    devices = [row for row in rows if row["figure"] == "device"]
    for device in devices:
        yield f"# {', '.join(device['gpus'])}"
        yield ""
        if device["rehearsal"]:
            yield "**A rehearsal on the double of a GPU: nothing below was seen on a GPU.**"
            yield ""
        yield ", ".join(f"{key} {value}" for key, value in device.items() if key not in ("figure", "gpus"))
        yield ""
    if not devices:
        yield "# No GPU was found"
        yield ""
    yield from stages(rows)
    yield from tests(read(folder / TESTS))
    yield from table(
        ["first minute", "result", "seconds"],
        [[row["name"], row["result"], row["seconds"]] for row in rows if row["figure"] == "smoke"],
    )
    add_shares(rows)
    for title, (figures, columns) in TABLES.items():
        yield f"## {title}"
        yield ""
        yield from compared(rows, figures, columns)
    failed = [row for row in rows if "error" in row]
    if failed:
        yield "## Not measured"
        yield ""
        for row in failed:
            yield f"- {row['library']}, {row['figure']}, {row['name']}: {row['error']}"


def main() -> None:
    """Write the tables beside the rows, and print them."""
    folder = Path(sys.argv[1])
    text = "\n".join(summarise(folder)) + "\n"
    (folder / SUMMARY).write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
