"""Run pytest, run what failed once more, and say which tests passed only then.

``python tests/second_try.py FOLDER [pytest's arguments]`` keeps pytest's cache and a record in FOLDER. On a
busy machine a time limit may be missed, so a failure gets a second try; but whatever passes only there is
listed, and a test that was listed twice in ten runs fails the next one. Once it is mended,
``python tests/second_try.py FOLDER --forget TEST`` takes it off the record.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUNS, TIMES = 10, 2  # a test that is on the record that often in so many runs fails the next one
FAILED = 1  # pytest's exit status where tests failed; above it nothing was tested


def read(path: Path) -> Any:
    """A JSON file's value; None where there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def write(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def failed(folder: Path) -> set[str]:
    """The tests that failed last, as pytest's cache has them."""
    return set(read(folder / "v/cache/lastfailed") or {})


def run(folder: Path, arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Run the tests, and those that fail once more.

    Returns:
        pytest's exit status, and the tests that passed only at the second try.
    """
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={folder}", *arguments]
    status = subprocess.run(command, check=False).returncode
    first = failed(folder)
    if status != FAILED or not first:
        return status, []
    print("make: once more, those that failed: on a busy machine a time limit may be missed", flush=True)
    status = subprocess.run(
        [*command, "--last-failed", "--last-failed-no-failures", "none"], check=False
    ).returncode
    return status, sorted(first - failed(folder)) if status <= FAILED else []


def main(folder: Path, arguments: Sequence[str]) -> int:
    """The exit status of a run, for which what the record holds counts too."""
    record = folder / "second-try.json"
    runs = read(record) or []
    if list(arguments[:1]) == ["--forget"]:
        write(
            record, [{**each, "tests": [t for t in each["tests"] if t not in arguments[1:]]} for each in runs]
        )
        return 0
    status, late = run(folder, arguments)
    counts = Counter(test for each in runs[-RUNS:] for test in each["tests"])
    if late:
        print(f"make: passed only at the second try: {len(late)}", *late, sep="\n  ", flush=True)
    often = sorted(test for test, count in counts.items() if count >= TIMES)
    for test in often:
        print(
            f"make: {test} passed only at the second try in {counts[test]} of the last {len(runs[-RUNS:])} "
            f"runs: mend it, then run: {sys.executable} {sys.argv[0]} {folder} --forget '{test}'",
            flush=True,
        )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write(record, [*runs, {"at": now, "tests": late}][-RUNS:])
    return status or bool(often)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
