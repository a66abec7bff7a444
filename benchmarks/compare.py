"""Hold a benchmark's rows against those of an earlier run, the last release's by default.

::

    python benchmarks/overhead.py --json now.json
    python benchmarks/compare.py overhead now.json            # against benchmarks/release/overhead.json
    python benchmarks/compare.py before.json now.json --times # on one machine: seconds too

Rows belong together that agree in all that was not measured. Ratios are compared, since machines differ, and
with ``--times`` times. A row is worse where a number has changed for the worse by more than ``--tolerance``;
the status is 1 if one is, or if a row has gone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RELEASE = Path(__file__).parent / "release"
LESS, MORE = 1.0, -1.0  # which way is better
#: What the benchmarks' ratios are of, and which way they are better.
RATIOS = {"ratio": LESS, "over_plain": LESS, "extra_us": LESS}
ENDINGS = {"_ratio": MORE, "ratio_to_distgrad": MORE}
TIMES = ("ms", "_ms", "_us", "_s")
Row = dict[str, Any]


def rows_of(value: Any) -> list[Row]:
    """The rows of a file: it is a list of them, or holds one under ``rows`` or ``results``."""
    if isinstance(value, dict):
        value = value.get("rows", value.get("results"))
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise SystemExit(
            "compare: expected a list of rows, or one under 'rows' or 'results'; pass what --json wrote"
        )
    return value


def key_of(row: Row) -> tuple[tuple[str, Any], ...]:
    """What a row is of: its texts and whole numbers."""
    return tuple(
        (name, value) for name, value in row.items() if isinstance(value, str | int) and name != "bits"
    )


def direction(name: str, times: bool) -> float | None:
    """Which way a number is better; None for one that is not compared."""
    if name in RATIOS:
        return RATIOS[name]
    if found := next((way for ending, way in ENDINGS.items() if name.endswith(ending)), None):
        return found
    return LESS if times and name.endswith(TIMES) else None


def changes(before: Sequence[Row], now: Sequence[Row], times: bool) -> Iterator[tuple[str, float]]:
    """Each number that is compared and how much worse it is now: 1 as before, infinity for a row gone."""
    found = {key_of(row): row for row in now}
    for row in before:
        label = " ".join(str(value) for _, value in key_of(row))
        other = found.get(key_of(row))
        if other is None:
            yield label, float("inf")
            continue
        for name, value in row.items():
            way = direction(name, times) if isinstance(value, float) else None
            if way is not None and value > 0 and isinstance(other.get(name), float):
                yield f"{label}, {name} {value:.3g} -> {other[name]:.3g}", float((other[name] / value) ** way)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what has changed by more than the tolerance, either way; 1 if anything is worse."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", help="a file, or the name of a benchmark: the last release's rows of it")
    parser.add_argument("now", type=Path)
    parser.add_argument("--tolerance", type=float, default=1.25, help="a factor; 1.25 by default")
    parser.add_argument("--times", action="store_true", help="compare times too: both ran on one machine")
    options = parser.parse_args(arguments)
    earlier = RELEASE / f"{options.before}.json"
    earlier = earlier if earlier.exists() else Path(options.before)
    before, now = (rows_of(json.loads(path.read_text())) for path in (earlier, options.now))
    worse = count = 0
    for label, factor in changes(before, now, options.times):
        count += 1
        if factor > options.tolerance:
            worse += 1
            print("gone:  " if factor == float("inf") else "worse: ", label)
        elif factor < 1.0 / options.tolerance:
            print("better:", label)
    print(f"compare: {count} numbers, {worse} worse by more than {options.tolerance:g} times")
    return int(worse > 0 or count == 0)


if __name__ == "__main__":
    sys.exit(main())
