"""How long the first and the tenth step take: right after installation, and once the kernels lie on disk.

::

    python benchmarks/first_step.py                                  # all workloads and libraries, 1 round
    python benchmarks/first_step.py --workloads gpt --libraries distgrad --rounds 3 --json rows.json
    python benchmarks/first_step.py --wheel dist/*.whl   # as `make wheel` makes it
    python benchmarks/first_step.py --libraries distgrad --before ../distgrad-before

Each figure is of a fresh process, from its start to the end of its first and tenth whole step (zero_grad,
forward, mean cross entropy, backward, AdamW) of a workload of ``step.py``, imports and the model's making
included, with byte code, as an installation leaves it: ``cold`` with empty folders for what is compiled
(kernels here, Inductor's and JAX's caches there), ``warm`` with what that left in them. Beside the clock
stands the processor's time ("busy") of the process and of those that it started, which a machine shared with
others distorts less. All are medians of the rounds.

``--wheel`` measures what is in the wheel and not the checkout; ``--before`` takes turns with another
checkout, and the last column is this one's time over that one's.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Not as a part of distgrad, whose import is measured.
sys.path.append(str(Path(__file__).parents[1] / "distgrad" / "scale"))
from bench.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
LIMIT_S = 300
CACHES = ("cold", "warm")
LIBRARIES = ("distgrad", "torch eager", "torch compile", "jax")
#: Where libraries keep what they have compiled.
FOLDERS = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR")

Row = dict[str, Any]


def measure(library: str, workload: str, threads: int) -> Row:
    """In the measured process: when its first and its tenth step end, and how many kernels it compiled."""
    from bench.peers import STEPS

    step = STEPS[library](workload, threads)
    built_s = time.time()
    step()
    first_s = time.time()
    for _ in range(9):
        step()
    tenth_s = time.time()
    modules = [module for name, module in sys.modules.items() if name.startswith("distgrad.backend.kernels.")]
    kernels = {id(each): each for m in modules for each in vars(m).values() if hasattr(each, "py_func")}
    compiled = sum(sum(each.stats.cache_misses.values()) for each in kernels.values())
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    busy_s = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return {
        "built_s": built_s,
        "first_s": first_s,
        "tenth_s": tenth_s,
        "busy_s": busy_s,
        "compiled": compiled,
    }


def run_child(library: str, workload: str, threads: int, folder: str, source: str | None) -> Row:
    """:func:`measure` in a fresh process that keeps what it compiles in ``folder``; times since its start.

    Args:
        source: folder that distgrad comes from; None for this checkout.

    Raises:
        RuntimeError: with the end of the process's output, if it failed.
    """
    unset = {"NUMBA_CACHE_DIR", "DISTGRAD_CACHE", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    unset |= {"PYTHONDONTWRITEBYTECODE"}
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {name: f"{folder}/{name.lower()}" for name in FOLDERS}
    environment |= {"OMP_NUM_THREADS": str(threads), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment["PYTHONPATH"] = source or str(ROOT)
    began_s = time.time()
    done = subprocess.run(
        [sys.executable, __file__, "--child", library, workload, str(threads)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"first_step: {library} {workload} failed:\n{done.stderr[-2000:]}")
    row = json.loads(done.stdout.splitlines()[-1])
    return {
        key: value - began_s if key in ("built_s", "first_s", "tenth_s") else value
        for key, value in row.items()
    }


def compare(
    workload: str, sources: dict[str, tuple[str, str | None]], threads: int, rounds: int
) -> Iterator[Row]:
    """A row cold and a row warm of each source.

    Args:
        sources: by the name in the table, the library and the folder that it comes from.
    """
    times: dict[tuple[str, str], list[Row]] = {(name, cache): [] for name in sources for cache in CACHES}
    for _ in range(rounds):
        for name, (library, source) in sources.items():
            with tempfile.TemporaryDirectory() as folder:
                for cache in CACHES:  # cold first, which leaves what it compiled to the other
                    times[name, cache].append(run_child(library, workload, threads, folder, source))
    for (name, cache), each in times.items():
        medians = {key: round(statistics.median(row[key] for row in each), 3) for key in each[0]}
        yield {"workload": workload, "library": name, "threads": threads, "cache": cache, **medians}


def line(row: Row, before: Row | None) -> str:
    """A row of the table."""
    first, tenth = f"{row['first_s']:7.2f} s", f"{row['tenth_s']:7.2f} s"
    ratio = ""
    if before is not None:
        first_share, busy_share = (row[key] / before[key] for key in ("first_s", "busy_s"))
        ratio = f"  of before: {first_share:.2f}, busy {busy_share:.2f}"
    return (
        f"{row['workload']:10} {row['library']:14} {row['cache']}  first step {first}  tenth {tenth}  "
        f"busy {row['busy_s']:6.2f} s  compiled {row['compiled']:3.0f}{ratio}"
    )


def parse() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="names, with commas between")
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="likewise")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="fresh caches for each workload")
    parser.add_argument("--wheel", type=Path, help="measure what is in this wheel, not this checkout")
    parser.add_argument("--before", type=Path, help="another checkout to compare with, turn by turn")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for option, known in (("workloads", WORKLOADS), ("libraries", LIBRARIES)):
        for name in getattr(options, option).split(","):
            if name not in known:
                parser.error(f"--{option}: {name!r} is none of {list(known)}")
    return options


def main() -> None:
    """Measure, print the table, and write it."""
    options = parse()
    if options.child:
        print(json.dumps(measure(options.child[0], options.child[1], int(options.child[2]))))
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as unpacked:
        if options.wheel is not None:
            zipfile.ZipFile(options.wheel).extractall(unpacked)
        own = unpacked if options.wheel is not None else None
        sources: dict[str, tuple[str, str | None]] = {}
        if options.before is not None:
            sources["before"] = "distgrad", str(options.before.resolve())
        sources |= {name: (name, own) for name in options.libraries.split(",")}
        for _, source in sources.values():  # as an installation does
            compileall.compile_dir(Path(source or ROOT) / "distgrad", quiet=2)
        for workload in options.workloads.split(","):
            found: dict[tuple[str, str], Row] = {}
            for row in compare(workload, sources, options.threads, options.rounds):
                found[row["library"], row["cache"]] = row
                before = found.get(("before", row["cache"])) if row["library"] == "distgrad" else None
                print(line(row, before), flush=True)
            rows += found.values()
    if options.json is not None:
        report = {"cores": len(os.sched_getaffinity(0)), "rounds": options.rounds, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
