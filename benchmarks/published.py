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
    if not curve.get("overlap", True):
        ready = [(size, backward_s) for size, _ in ready]
    gradients = (Gradient(size * curve["bytes_per_parameter"], at_s) for size, at_s in ready)
    return Profile(computing_s - backward_s, backward_s, 0.0, tuple(gradients))


def step_s(curve: Row, table: Row, computing_s: float, ranks: int) -> float:
    """Of so many ranks in one ring, which passes each host's line once."""
    hop_us, gbits = table["within_us"], curve.get("within_gbits", 0.0)
    if ranks > curve["ranks_per_host"]:  # the mean of a ring's hops
        hop_us += (table["between_us"] - hop_us) / curve["ranks_per_host"]
        gbits = curve["gbits"]
    cluster = Cluster(ranks, 1, Link(1e-6 * hop_us, gbits * 1e9 / 8))
    plan = Plan(curve.get("bucket_mib", table["bucket_mib"]) * 2**20)
    return simulate(profile_of(curve, table, computing_s), cluster, plan, 1).total_s


def published(curve: Row) -> list[tuple[int, float]]:
    """Ranks and their efficiency, beside one rank's or, of seconds, beside the first point's."""
    if "points" in curve:
        return [(ranks, share) for ranks, share in curve["points"]]
    return [(ranks, curve["seconds"][0][1] / seconds) for ranks, seconds in curve["seconds"]]


def efficiency(curve: Row, table: Row, computing_s: float, ranks: int) -> float:
    """As simulated, of what :func:`published` gives."""
    alone_s = computing_s if "points" in curve else curve["seconds"][0][1]
    return float(alone_s / step_s(curve, table, computing_s, ranks))


def fitted_s(curve: Row, table: Row) -> float:
    """Seconds of computing with which the first point comes out."""
    ranks, wanted = published(curve)[0]
    low, high = 1e-4, 1e3
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        larger = efficiency(curve, table, middle, ranks) >= wanted
        # The more is computed, the less communication weighs, and the longer a step takes.
        low, high = (low, middle) if larger == ("points" in curve) else (middle, high)
    return high


def drawn(table: Row) -> str:
    """Curves to 4,096 ranks, and the published points on them."""
    curves, points = [], []
    shown = [curve for curve in table["curve"] if "points" in curve][:2]
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
    print(f"{'curve':26}{'ranks':>6}{'published':>11}{'simulated':>11}{'error':>8}")
    for curve in table["curve"]:
        computing_s = fitted_s(curve, table)
        for place, (ranks, share) in enumerate(published(curve)):
            simulated = efficiency(curve, table, computing_s, ranks)
            row = {"curve": curve["name"], "ranks": ranks, "published": share, "simulated": simulated}
            rows.append({**row, "error": simulated / share - 1.0, "fitted": place == 0})
            error = "fitted" if place == 0 else f"{rows[-1]['error']:+.1%}"
            print(f"{curve['name']:26}{ranks:6}{share:11.1%}{simulated:11.1%}{error:>8}")
    if options.svg is not None:
        options.svg.write_text(drawn(table))
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
