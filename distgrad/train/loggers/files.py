"""Loggers that write files which any program reads."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.errors import DataError, MissingDependencyError
from distgrad.train.loggers.logger import Logger

__all__ = ["CSVLogger", "JSONLogger"]


def _open_for(what: str, path: Path, resume: int | None, is_later: Callable[[str], bool]) -> list[str]:
    """The lines of an earlier run that stay, from a file that is written anew with them.

    Raises:
        DataError: the file is there, and nobody said to go on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    if resume is None:
        raise DataError(
            f"{what}: {path} is there already; name another file, or pass resume=STEP to go on after it"
        )
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not is_later(line)]
    _replace(path, kept)
    return kept


def _replace(path: Path, lines: list[str]) -> None:
    """Write the file anew, whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text("".join(f"{line}\n" for line in lines))
    part.replace(path)


class CSVLogger(Logger):
    """Numbers as a table: a line a call, a column a name, and one each for ``step`` and ``seconds``.

    Every line is there as soon as the call returns. A name that comes later adds a column.

    Args:
        path: of a new file.
        resume: go on with an earlier run's file, behind this step; its later lines are dropped. None: the
            file must not be there.

    Raises:
        DataError: the file is there, or is no table of this kind.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: int | None = None) -> None:
        self.path, self.resume = Path(path), resume
        self._columns = ["step", "seconds"]
        self._start_s = time.perf_counter()
        super().__init__()

    def _open(self) -> None:
        kept = _open_for("CSVLogger", self.path, self.resume, self._is_later)
        if kept:
            self._columns = next(csv.reader(kept[:1]))
            if self._columns[:2] != ["step", "seconds"]:
                raise DataError(f"CSVLogger: {self.path} does not begin with step,seconds; name another file")
        self._file = self.path.open("a")

    def _is_later(self, line: str) -> bool:
        first = line.split(",", 1)[0]
        return self.resume is not None and first.lstrip("-").isdecimal() and int(first) > self.resume

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        new = [name for name in values if name not in self._columns]
        if new or self._file.tell() == 0:
            self._widen(new)
        row = {"step": step, "seconds": round(time.perf_counter() - self._start_s, 3), **values}
        self._file.write(_line([row.get(name, "") for name in self._columns]) + "\n")
        self._file.flush()

    def _widen(self, names: list[str]) -> None:
        self._columns += names
        self._file.close()
        rows = self.path.read_text().splitlines()[1:]
        _replace(self.path, [_line(self._columns), *(row + "," * len(names) for row in rows)])
        self._file = self.path.open("a")

    def _close(self) -> None:
        self._file.close()


def _line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


class JSONLogger(Logger):
    """Everything as JSON lines, an object a call with ``step``, ``seconds`` and ``kind``; pictures beside it.

    ==================  ==========================================================
    ``scalars``         a field a name; NaN and infinity as ``null``
    ``histogram``       ``name``, ``counts``, ``edges``
    ``image``           ``name``, ``file``: a PNG in a folder beside, ``PATH.images``
    ``text``            ``name``, ``text``
    ``hyperparameters`` a field a setting
    ==================  ==========================================================

    Args:
        path: of a new file.
        resume: as for :class:`CSVLogger`.

    Raises:
        DataError: the file is there.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: int | None = None) -> None:
        self.path, self.resume = Path(path), resume
        self._start_s = time.perf_counter()
        super().__init__()

    def _open(self) -> None:
        _open_for("JSONLogger", self.path, self.resume, self._is_later)
        self._file = self.path.open("a")

    def _is_later(self, line: str) -> bool:
        try:
            step = json.loads(line).get("step")
        except (ValueError, AttributeError):
            return True  # half a line of a run that was killed
        return self.resume is not None and step is not None and step > self.resume

    def _write(self, kind: str, step: int | None, **fields: Any) -> None:
        seconds = round(time.perf_counter() - self._start_s, 3)
        record = {"kind": kind, "step": step, "seconds": seconds, **fields}
        self._file.write(json.dumps(record, allow_nan=False, default=str) + "\n")
        self._file.flush()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        self._write("scalars", step, **{k: v if np.isfinite(v) else None for k, v in values.items()})

    def _histogram(self, step: int, name: str, values: NDArray[Any], bins: int) -> None:
        counts, edges = np.histogram(values[np.isfinite(values)].astype(np.float64), bins)
        self._write("histogram", step, name=name, counts=counts.tolist(), edges=edges.tolist())

    def _image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        try:
            image = importlib.import_module("PIL.Image")
        except ImportError as error:
            raise MissingDependencyError(
                "JSONLogger.image: needs Pillow, which is not installed; pip install 'distgrad[vision]'"
            ) from error
        folder = self.path.with_name(f"{self.path.name}.images")
        folder.mkdir(exist_ok=True)
        file = folder / f"{name.replace('/', '_')}-{step}.png"
        image.fromarray(pixels).save(file)
        self._write("image", step, name=name, file=f"{folder.name}/{file.name}")

    def _text(self, step: int, name: str, text: str) -> None:
        self._write("text", step, name=name, text=text)

    def _hyperparameters(self, values: dict[str, Any]) -> None:
        self._write("hyperparameters", None, **values)

    def _close(self) -> None:
        self._file.close()
