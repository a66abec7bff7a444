"""What the runs of a study say: medians and spread, speed-up and efficiency, and where the loss goes."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distgrad.scale.study import COPIES, OURS, Run, Settings, runs_of

__all__ = ["doubts", "read_runs", "summarise", "write_csv"]

Row = dict[str, Any]

_ABOVE_ALL, _APART = 1.02, 1.25  # an efficiency, and runs of one kind, that say that the machine was not idle

#: Parts of a loss, and what they are.
LOSSES = {
    "computing_s": "computing slower beside the other ranks (memory bandwidth, cores)",
    "stragglers_s": "waiting for slower ranks",
    "communication_s": "communication that backward did not hide",
    "data_s": "waiting for data",
    "other_s": "everything else",
}


def read_runs(settings: Settings, folder: Path) -> dict[Run, list[Row]]:
    """What each rank of every finished run wrote, without the steps that warm up."""
    found = {}
    for run in runs_of(settings):
        path = folder / "runs" / run.name
        if path.exists():
            ranks = [json.loads((path / f"rank{rank}.json").read_text()) for rank in range(run.ranks)]
            for rank in ranks:
                rank["steps"] = rank["steps"][settings.warm_up :]
                rank["buckets"] = rank["buckets"][settings.warm_up :]
            found[run] = ranks
    return found


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def computing_s(step: Row) -> float:
    """Of a step what the rank itself computed: all but waiting."""
    waiting = ("exposed_s", "blocking_s", "data_s", "checkpoint_s")
    return max(0.0, float(step["step_s"]) - sum(float(step[part]) for part in waiting))


def _of_run(ranks: list[Row]) -> Row:
    """A run's medians over its steps: the slowest rank's step, and the parts of the ranks' mean."""
    steps = list(zip(*(rank["steps"] for rank in ranks), strict=False))  # ranks may end a step apart
    mean = statistics.fmean
    computing = [[computing_s(rank) for rank in step] for step in steps]
    waiting = [mean(rank["exposed_s"] + rank["blocking_s"] for rank in step) for step in steps]
    late = [max(each) - mean(each) for each in computing]
    return {
        "step_s": max(_median(row["step_s"] for row in rank["steps"]) for rank in ranks),
        "computing_s": _median(mean(each) for each in computing),
        "stragglers_s": _median(min(wait, one) for wait, one in zip(waiting, late, strict=True)),
        "communication_s": _median(max(0.0, wait - one) for wait, one in zip(waiting, late, strict=True)),
        "data_s": _median(mean(rank["data_s"] for rank in step) for step in steps),
    }


def summarise(settings: Settings, runs: dict[Run, list[Row]]) -> list[Row]:
    """A row for each kind and number of ranks, compared with the fewest ranks of its kind.

    Seconds are medians over the repetitions, ``spread_s`` their least and largest. ``speed_up`` counts
    samples a second; ``efficiency`` is the speed-up over the ranks' number; ``loss`` are the seconds of a
    step by which it is longer than without any loss.
    """
    found: dict[tuple[str, int], list[Row]] = {}
    for run, written in runs.items():
        found.setdefault((run.kind, run.ranks), []).append(_of_run(written))
    rows: list[Row] = []
    for (kind, ranks), each in found.items():
        parts = {key: _median(one[key] for one in each) for key in each[0]}
        times = [one["step_s"] for one in each]
        row: Row = {
            "kind": kind,
            "ranks": ranks,
            "runs": len(each),
            "spread_s": [min(times), max(times)],
            **parts,
        }
        rows.append(row)
    for row in rows:
        compared = row["kind"] if row["kind"] != COPIES else OURS
        base = min(
            (one for one in rows if one["kind"] == compared), key=lambda one: one["ranks"], default=None
        )
        if base is not None:
            _compare(row, base, settings.strong and row["kind"] != COPIES)
    return sorted(rows, key=lambda row: (row["kind"] != OURS, row["kind"], row["ranks"]))


def _compare(row: Row, base: Row, strong: bool) -> None:
    """Add the speed-up over ``base``, the efficiency and the loss to a row."""
    more = row["ranks"] / base["ranks"]
    share = 1.0 / more if strong else 1.0  # of the samples that a rank of base has
    row["speed_up"] = more * share * base["step_s"] / row["step_s"]
    row["efficiency"] = row["speed_up"] / more
    loss = {
        "computing_s": row["computing_s"] - share * base["computing_s"],
        "stragglers_s": row["stragglers_s"] - share * base["stragglers_s"],
        "communication_s": row["communication_s"] - share * base["communication_s"],
        "data_s": row["data_s"] - share * base["data_s"],
    }
    loss["other_s"] = row["step_s"] - share * base["step_s"] - sum(loss.values())
    row["loss"] = loss


def doubts(rows: list[Row], strong: bool) -> list[str]:
    """What in the rows cannot be the program's own: other programs used the machine meanwhile.

    Args:
        rows: as :func:`summarise` gives them.
        strong: whether the ranks shared one batch.
    """
    found = []
    for row in rows:
        where = f"{row['kind']} on {row['ranks']} rank{'s' if row['ranks'] > 1 else ''}"
        least, most = row["spread_s"]
        if row["efficiency"] > _ABOVE_ALL:
            why = ", or a rank's share of the batch fits its caches" if strong else ""
            found.append(
                f"{where}: an efficiency of {row['efficiency']:.0%} is above 100 %, as the fewest ranks were "
                f"measured while the machine was slower (other programs, its clock){why}; measure again on "
                "an idle machine, with a larger --repeat"
            )
        if most > _APART * least:
            found.append(
                f"{where}: steps of {1e3 * least:.2f} to {1e3 * most:.2f} ms in runs that should be alike; "
                "other programs used the machine"
            )
    return found


def write_csv(rows: list[Row], path: Path) -> None:
    """The rows as a table with one line each."""
    heads = ["kind", "ranks", "runs", "step_s", "least_s", "most_s", "speed_up", "efficiency", "predicted_s"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*heads, *(f"lost_{part}" for part in LOSSES)])
        for row in rows:
            spread = dict(zip(("least_s", "most_s"), row["spread_s"], strict=True))
            cells = [({**row, **spread}).get(head, "") for head in heads]
            writer.writerow([*cells, *(row["loss"][part] for part in LOSSES)])
