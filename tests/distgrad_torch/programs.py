"""Public programs written for PyTorch, run unchanged with both packages; their losses compared.

``python tests/distgrad_torch/programs.py FOLDER [name ...] [--write]``: FOLDER holds the ``REPOSITORIES``
under their names, and ``prepare.py FOLDER`` has written what they read. Random numbers are NumPy's and
dropout is off (``watched.py``); where a program reads images, random ones stand in (``standins``).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from program_list import PROGRAMS, REPOSITORIES, VARIABLES

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guide" / "torch-programs.md"
STEPS, ENOUGH = 20, 1e-4
#: PyTorch with the norm of gradients in float64, as ours is: in float32 it loses digits in large embeddings.
WIDE_NORM = {"WATCHED_WIDE_NORM": "1"}
#: Both in float64, where rounding has nearly no part in what is between them.
FLOAT64 = {"WATCHED_FLOAT64": "1"}
#: What PyTorch differs from itself by: its operations without oneDNN, MKL's and its own vector code; and
#: random numbers (so also first weights) that are half a unit of float32's last place away, three times.
CONTROLS = (
    {"WATCHED_OTHER_KERNELS": "1", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    *({"WATCHED_NUDGE": str(seed)} for seed in range(3)),
)


def run(folder, program, ours, limit=STEPS, seconds=150, control=None):
    """Losses, error and processor milliseconds a step of one program; as a control, with these variables."""
    path = (folder / program.partition("#")[0]).resolve()
    command = [
        sys.executable,
        *(["-m", "distgrad.torch"] if ours else []),
        str(HERE / "watched.py"),
        str(limit),
    ]
    places = (str(folder / program.split("/")[0] / each) for each in ("", "src"))
    root = os.pathsep.join([*places, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    variables = {
        **os.environ,
        "PYTHONPATH": root,
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "disabled",
        "PYTHONHASHSEED": "0",
        **VARIABLES.get(program.split("/")[0], {}),
        **(control or {}),
    }
    try:
        done = subprocess.run(
            [*command, str(path), *PROGRAMS[program].split()],
            cwd=path.parent, env=variables, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"losses": [], "error": f"longer than {seconds} s", "ms": float("nan")}
    except FileNotFoundError as missing:
        return {"losses": [], "error": str(missing), "ms": float("nan")}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("WATCHED "):
            return json.loads(line[8:])
    return {"losses": [], "error": done.stderr.strip().splitlines()[-1:], "ms": float("nan")}


def gap(mine, theirs):
    """The largest relative difference of two series of losses."""
    x, y = np.asarray(mine), np.asarray(theirs)
    if x.size != y.size:
        return float("nan")
    return float(np.max(np.abs(x - y) / np.maximum(np.abs(y), 1e-3))) if x.size else float("nan")


def main(arguments):
    """Run programs and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=150, help="that a program may take")
    parser.add_argument("--rounds", type=int, default=1, help="how often both run in turn, for the time")
    parser.add_argument(
        "--write", action="store_true", help="the rows of these programs, or all, in the guide"
    )
    options = parser.parse_args(arguments)
    for program in PROGRAMS:
        if options.names and not any(name in program for name in options.names):
            continue
        pairs = [
            [run(options.folder, program, ours, seconds=options.seconds) for ours in (False, True)]
            for _ in range(options.rounds)
        ]
        theirs, mine = pairs[0]
        verdict, ratio = judged(mine, theirs), float(np.median([b["ms"] / a["ms"] for a, b in pairs]))
        if gap(mine["losses"], theirs["losses"]) > ENOUGH:
            others = (run(options.folder, program, False, seconds=1000, control=each) for each in CONTROLS)
            apart = [gap(each["losses"], theirs["losses"]) for each in others]
            verdict += f"; PyTorch's other kernels {apart[0]:.1e}, nudged {max(apart[1:]):.1e}"
            exact = (run(options.folder, program, ours, seconds=1000, control=FLOAT64)["losses"]
                     for ours in (True, False))  # fmt: skip
            verdict += f"; both in float64 {gap(*exact):.1e}"
            if max(apart) < ENOUGH:
                wide = run(options.folder, program, False, seconds=1000, control=WIDE_NORM)
                verdict += (
                    f"; from PyTorch's with the norm in float64 {gap(mine['losses'], wide['losses']):.1e}"
                )
        print(f"{program}: {verdict}; time {ratio:.2f}", flush=True)
        if options.write:
            write([(program, verdict, ratio)])


def judged(mine, theirs):
    """What a run of ours beside PyTorch's shows, in words."""
    if not theirs["losses"]:
        return f"not with PyTorch either: {str(theirs['error'])[:90]}"
    apart = gap(mine["losses"], theirs["losses"])
    if np.isnan(apart):
        counts = f"{len(mine['losses'])} of {len(theirs['losses'])}"
        return f"stopped after {counts}: {str(mine['error'])[:160]}"
    ending = ""
    if theirs["error"] and mine["error"]:  # programs for a PyTorch of old
        kinds = {str(each["error"]).partition(":")[0] for each in (mine, theirs)}
        ending = f", then both end with {' and '.join(sorted(kinds))}"
    return f"{len(mine['losses'])} losses, {apart:.1e} apart{ending}"


def write(rows):
    """The table in the guide: these rows in the place of those of the same programs."""
    text = PAGE.read_text()
    start = text.index("<!-- programs -->")
    lines = {line.split("`")[1]: line for line in text[start:].splitlines() if line.startswith("| `")}
    lines |= {program: f"| `{program}` | {verdict} | {ratio:.2f} |" for program, verdict, ratio in rows}
    sources = [f"- {name} at {commit}" for name, commit in REPOSITORIES.values()]
    table = [
        "<!-- programs -->",
        *sources,
        "",
        "| program | 20 steps | time beside PyTorch's |",
        "|---|---|---|",
        *(lines[program] for program in PROGRAMS if program in lines),
    ]
    PAGE.write_text(text[:start] + "\n".join(table) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
