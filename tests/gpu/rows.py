"""What the check of a GPU finds, a line of JSON each, written at once: a run that is cut off keeps it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FIGURES, TESTS, LOG, SUMMARY = "figures.jsonl", "tests.jsonl", "log.txt", "summary.md"
Row = dict[str, Any]


def folder() -> Path:
    """``OUT``, where all of it goes; made if it is not there."""
    path = Path(os.environ.get("OUT", "gpu-check"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def add(file: str, **row: Any) -> None:
    """Append a row; processes that write at once do not mix theirs."""
    line = json.dumps(row) + "\n"
    descriptor = os.open(folder() / file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def say(**row: Any) -> None:
    """Print a figure, and append it."""
    print(json.dumps(row), flush=True)
    add(FIGURES, **row)


def read(file: Path) -> list[Row]:
    """The rows of a file; none if it is not there, and without a last one that is not whole."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
