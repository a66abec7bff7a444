"""Published scaling beside the simulator's: the first point of a curve is fitted, the others are foretold.

::

    python benchmarks/published.py [--json FILE]

``published.toml`` holds the points, what is known of the machines, and where each comes from. Fitted is one
number a curve, the seconds that a rank computes a step, so that the efficiency of the first point comes out.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from distgrad.comm import Link
from distgrad.scale.cluster import Cluster
from distgrad.scale.drawing import Curve, lines
from distgrad.scale.page import STYLE
from distgrad.scale.schedule import Gradient, Profile
from distgrad.scale.simulate import Plan, simulate

FILE = Path(__file__).with_suffix(".toml")
PIECES = 200  # of the gradients, which become ready one behind the other
HALVINGS = 60
DRAWN = [4 * 2**i for i in range(11)]  # 4 to 4,096 ranks

Row = dict[str, Any]


def profile_of(curve: Row, table: Row, computing_s: float) -> Profile:
    """A step that computes so long: backward begins with the ``last`` layers, and the rest is even."""
    backward_s = table["backward_share"] * computing_s
    last, end_s = curve.get("last", []), curve.get("last_computing", 0.0) * backward_s
    even, each = backward_s - end_s, (curve["parameters"] - sum(last)) // PIECES
    ready = [(size, end_s * (i + 1) / len(last)) for i, size in enumerate(last)]
    ready += [(each, end_s + even * (i + 1) / PIECES) for i in range(PIECES)]
    gradients = (Gradient(size * curve["bytes_per_parameter"], at_s) for size, at_s in ready)
    return Profile(computing_s - backward_s, backward_s, 0.0, tuple(gradients))


def efficiency(curve: Row, table: Row, computing_s: float, ranks: int) -> float:
    """Of so many ranks in one ring, which passes each host's line once."""
    profile = profile_of(curve, table, computing_s)
    within_us, between_us = table["within_us"], table["between_us"]
    hop_us = within_us + (between_us - within_us) / curve["ranks_per_host"]  # of a ring's, the mean
    link = Link(1e-6 * hop_us, curve["gbits"] * 1e9 / 8)
    found = simulate(profile, Cluster(ranks, 1, link), Plan(table["bucket_mib"] * 2**20), 1)
    return found.efficiency(profile)


def fitted_s(curve: Row, table: Row) -> float:
    """Seconds of computing with which the first point comes out."""
    ranks, wanted = curve["points"][0]
    low, high = 1e-4, 1e3  # the more is computed, the less communication weighs
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if efficiency(curve, table, middle, ranks) >= wanted else (middle, high)
    return high


def drawn(table: Row) -> str:
    """Curves to 4,096 ranks, and the published points on them."""
    curves, points = [], []
    shown = [curve for curve in table["curve"] if len(curve["points"]) > 1][:2]
    for number, curve in enumerate(shown, 1):
        computing_s = fitted_s(curve, table)
        line = [(float(n), efficiency(curve, table, computing_s, n)) for n in DRAWN]
        curves.append(Curve(curve["name"], line, number, "6 4"))
        points.append(Curve(curve["name"], [(float(n), y) for n, y in curve["points"]], number))
    svg = lines("Published and simulated efficiency", "ranks", "efficiency", [*curves, *points]).split(
        "</svg>"
    )[0]
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, title, rest = svg.partition("<title>")
    return f"{head}<style>{STYLE}</style>{title}{rest}</svg>\n"


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw up to 4,096 ranks beside the points")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    options = parser.parse_args()
    table = tomllib.loads(FILE.read_text())
    rows: list[Row] = []
    print(f"{'curve':24}{'ranks':>6}{'published':>11}{'simulated':>11}{'error':>8}")
    for curve in table["curve"]:
        computing_s = fitted_s(curve, table)
        for place, (ranks, published) in enumerate(curve["points"]):
            simulated = efficiency(curve, table, computing_s, ranks)
            row = {"curve": curve["name"], "ranks": ranks, "published": published, "simulated": simulated}
            rows.append({**row, "error": simulated / published - 1.0, "fitted": place == 0})
            error = "fitted" if place == 0 else f"{rows[-1]['error']:+.1%}"
            print(f"{curve['name']:24}{ranks:6}{published:11.0%}{simulated:11.1%}{error:>8}")
    if options.svg is not None:
        options.svg.write_text(drawn(table))
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
