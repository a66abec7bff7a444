"""Loggers that write files which any program reads."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from distgrad.errors import DataError, MissingDependencyError
from distgrad.train.loggers.logger import Logger, plain, whole_step

__all__ = ["CSVLogger", "JSONLogger"]


def whole_lines(path: Path) -> str:
    """A file's text up to its last line's end: a run that was killed may have left half a line behind it.

    Raises:
        DataError: it is no text.
    """
    with path.open("rb") as file:
        data = file.read()
    try:
        return data[: data.rfind(b"\n") + 1].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} holds no text in UTF-8 ({error}); name a file of CSVLogger or JSONLogger"
        ) from None


def rows_of(text: str) -> list[list[str]]:
    """The rows of a table, whose cells may hold commas and line breaks.

    Raises:
        DataError: it is no table.
    """
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"a table of numbers cannot be read: {error}") from None


def _earlier(what: str, path: Path, resume: int | None) -> str:
    """What an earlier run has left in the file, which is made where there is none.

    Raises:
        DataError: the file is there, and nobody said to go on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.open("x").close()
        return ""
    except FileExistsError:
        if resume is None:
            raise DataError(
                f"{what}: {path} is there already; name another file, or pass resume=STEP to go on after it"
            ) from None
    return whole_lines(path)


def _replace(path: Path, lines: Iterable[str]) -> TextIO:
    """Write the file anew, whole or not at all, and open it to go on."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    part.replace(path)
    return path.open("a", encoding="utf-8", newline="")


class CSVLogger(Logger):
    """Numbers as a table: a line a call, a column a name, and one each for ``step`` and ``seconds``.

    Every line is there as soon as the call returns. A name that comes later adds a column. One program writes
    a file at a time.

    Args:
        path: of a new file.
        resume: go on with an earlier run's file, behind this step; its later lines are dropped. None: the
            file must not be there.

    Raises:
        DataError: the file is there, or is no table of this kind.
    """

    reserved = ("step", "seconds")

    def __init__(self, path: str | os.PathLike[str], *, resume: int | None = None) -> None:
        self.path = Path(path)
        self.resume = None if resume is None else whole_step("CSVLogger: resume", resume)
        self._columns = ["step", "seconds"]
        self._start_s = time.perf_counter()
        super().__init__()

    def _open(self) -> None:
        rows = rows_of(_earlier("CSVLogger", self.path, self.resume))
        if rows:
            self._columns = rows[0]
            steps = [row[0] for row in rows[1:] if row]
            if self._columns[:2] != ["step", "seconds"] or not all(map(_is_step, steps)):
                raise DataError(
                    f"CSVLogger: {self.path} does not begin with step,seconds and hold a step a line; name "
                    "another file"
                )
            rows[1:] = [row for row in rows[1:] if row and int(row[0]) <= (self.resume or 0)]
        self._file = _replace(self.path, map(_line, rows))

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
        rows = rows_of(whole_lines(self.path))[1:]
        self._file = _replace(
            self.path, map(_line, [self._columns, *(row + [""] * len(names) for row in rows)])
        )

    def _close(self) -> None:
        self._file.close()


def _is_step(cell: str) -> bool:
    return cell.removeprefix("-").isdecimal()


def _line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # so that both are quoted in a name
    return text.getvalue()[:-2]


class JSONLogger(Logger):
    """Everything as JSON lines, an object a call with ``step``, ``seconds`` and ``kind``; pictures beside it.

    ==================  ==========================================================
    ``scalars``         a field a name; NaN and infinity as ``null``
    ``histogram``       ``name``, ``counts``, ``edges``
    ``image``           ``name``, ``file``: a PNG in a folder beside, ``PATH.images``, in
                        place of one of that name and step
    ``text``            ``name``, ``text``
    ``hyperparameters`` a field a setting
    ==================  ==========================================================

    Args:
        path: of a new file.
        resume: as for :class:`CSVLogger`.

    Raises:
        DataError: the file is there, or holds other lines.
    """

    reserved = ("kind", "step", "seconds")

    def __init__(self, path: str | os.PathLike[str], *, resume: int | None = None) -> None:
        self.path = Path(path)
        self.resume = None if resume is None else whole_step("JSONLogger: resume", resume)
        self._start_s = time.perf_counter()
        super().__init__()

    def _open(self) -> None:
        kept = []
        for line in _earlier("JSONLogger", self.path, self.resume).split("\n")[:-1]:
            try:
                step = json.loads(line)["step"]
                is_kept = step is None or whole_step("JSONLogger", step) <= (self.resume or 0)
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"JSONLogger: {self.path} holds a line that is no record of this kind, {line[:80]!r}; "
                    "name another file"
                ) from error
            if is_kept:
                kept.append(line)
        self._file = _replace(self.path, kept)

    def _write(self, kind: str, step: int | None, fields: dict[str, Any]) -> None:
        seconds = round(time.perf_counter() - self._start_s, 3)
        record = {"kind": kind, "step": step, "seconds": seconds, **_json(plain(fields))}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        self._write("scalars", step, values)

    def _histogram(self, step: int, name: str, values: NDArray[Any], bins: int) -> None:
        counts, edges = np.histogram(values[np.isfinite(values)].astype(np.float64), bins)
        self._write("histogram", step, {"name": name, "counts": counts, "edges": edges})

    def _image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        try:
            image = importlib.import_module("PIL.Image")
        except ImportError as error:
            raise MissingDependencyError(
                "JSONLogger.image: needs Pillow, which is not installed; pip install 'distgrad[vision]'"
            ) from error
        folder = self.path.with_name(f"{self.path.name}.images")
        folder.mkdir(exist_ok=True)
        file = folder / f"{quote(name, safe=' ')}-{step}.png"
        image.fromarray(pixels).save(file)
        self._write("image", step, {"name": name, "file": f"{folder.name}/{file.name}"})

    def _text(self, step: int, name: str, text: str) -> None:
        self._write("text", step, {"name": name, "text": text})

    def _hyperparameters(self, values: dict[str, Any]) -> None:
        self._write("hyperparameters", None, values)

    def _close(self) -> None:
        self._file.close()


def _json(value: Any) -> Any:
    """The same in JSON's kinds: NaN and infinity as None, and what is no number, list or text as its text."""
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
