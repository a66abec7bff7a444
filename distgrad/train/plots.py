"""Curves of runs, from the files that loggers write."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distgrad.errors import DataError, MissingDependencyError, OptionError
from distgrad.train.loggers.files import rows_of, whole_lines

__all__ = ["plot_runs", "read_run"]

Curve = list[tuple[float, float]]


def read_run(path: str | Path) -> dict[str, Curve]:
    """The curves of a file of CSVLogger or JSONLogger: by name, pairs of step and value.

    Raises:
        DataError: the file is not there, or of neither kind.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"plot: {file} is not there; name a file of CSVLogger or JSONLogger")
    text = whole_lines(file)
    if text.startswith("{"):
        rows = [row for line in text.split("\n") if (row := _object(line)) and row.get("kind") == "scalars"]
    elif text.startswith("step,"):
        names, *lines = rows_of(text)
        if len(set(names)) < len(names):
            raise DataError(f"plot: {file} has two columns of one name; name a file of CSVLogger")
        rows = [dict(zip(names, line, strict=False)) for line in lines if line]
    else:
        raise DataError(f"plot: {file} begins neither with step, nor with an object; it is no logger's file")
    curves: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "seconds", "kind") and value not in ("", None):
                curves.setdefault(name, []).append(_point(file, row, name))
    return curves


def _point(file: Path, row: dict[str, Any], name: str) -> tuple[float, float]:
    try:
        return float(row["step"]), float(row[name])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"plot: {file}: expected numbers, got step {row.get('step')!r} and {name} {row[name]!r}; name a "
            "file of CSVLogger or JSONLogger"
        ) from None


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None  # no record
    return found if isinstance(found, dict) else None


def plot_runs(paths: Sequence[str | Path], output: str | Path) -> list[str]:
    """Draw the curves of runs over each other, a picture for every name that occurs.

    Args:
        paths: files of CSVLogger or JSONLogger.
        output: a PNG, SVG or PDF file.

    Returns:
        The names.

    Raises:
        DataError: a file that is none of a logger, or no number in any.
        OptionError: an output of another kind.
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError(
            "plot: needs matplotlib, which is not installed; pip install 'distgrad[plot]'"
        ) from error
    picture = Path(output)
    kind = picture.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise OptionError(f"plot: the output must end in .png, .svg or .pdf, got {picture.name!r}")
    runs = {str(path): read_run(path) for path in paths}
    names = sorted({name for curves in runs.values() for name in curves})
    if not names:
        raise DataError(f"plot: no numbers in {', '.join(runs)}")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = figures.Figure(figsize=(5 * columns, 3.5 * rows), layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, names, strict=False):
        for path, curves in runs.items():
            if name in curves:
                axes.plot(*zip(*curves[name], strict=True), label=path)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    part = picture.with_name(f".{picture.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format=kind)
        part.replace(picture)
    finally:
        part.unlink(missing_ok=True)
    return names
