"""What it costs that every collective is compared with the other ranks'.

::

    python benchmarks/checks.py                  # 2 ranks that play 2 hosts, 30 rounds
    python benchmarks/checks.py --rounds 5 --json rows.json

Between hosts 16 bytes go round by MPI for each call, in an all-reduce beside the hosts' own reduction.
All-reduces and broadcasts are timed in turns with and without them; a ratio is the median over the rounds of
with to without. Python's share, in processor time: ``fingerprint`` of a call; ``write`` of one that no host
waits for, with its fingerprint; a ``look`` at the others' calls, which messages compare 100 times a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import json, sys, time
import numpy as np
from mpi4py import MPI
import distgrad as dg
from distgrad.comm import mpi
from distgrad.comm.calls import Call
from distgrad.comm.ledger import PERIOD, Ledger

rank = MPI.COMM_WORLD.rank
mpi.host_name = lambda: f"host {rank}"
comm = dg.comm.init("mpi")
rows = []

class Unasked(mpi._Question):
    def ask(self, agreed):
        pass
    def hear(self):
        return True

def seconds(call, number):
    comm.barrier()
    start_s = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start_s) / number

kinds = {"with": mpi._Question, "without": Unasked}
for verb, num_bytes in (
    ("barrier", 0), ("all_reduce", 16), ("all_reduce", 1 << 16), ("all_reduce", 1 << 20),
    ("all_reduce", 25 << 20), ("broadcast", 16), ("broadcast", 1 << 20),
):
    x = np.ones(num_bytes // 4, np.float32)
    call = comm.barrier if verb == "barrier" else lambda: getattr(comm, verb)(x)
    times = {kind: [] for kind in kinds}
    number = 200 if num_bytes <= 1 << 16 else 3
    for i in range(int(sys.argv[1])):
        for kind in sorted(kinds, reverse=i % 2):
            mpi._Question = kinds[kind]
            times[kind].append(seconds(call, number))
    mpi._Question = kinds["with"]
    ratios = np.array(times["with"]) / np.array(times["without"])
    row = {kind + " us": round(1e6 * float(np.median(each)), 1) for kind, each in times.items()}
    rows.append({"call": verb, "bytes": num_bytes, **row, "ratio": round(float(np.median(ratios)), 3)})

def processor_us(function, number):
    best = float("inf")
    for _ in range(9):
        start_s = time.process_time()
        for _ in range(number):
            function()
        best = min(best, (time.process_time() - start_s) / number)
    return round(1e6 * best, 3)

call = Call("all_reduce", np.dtype("f4"), (1000, 10))
ledger = Ledger(comm.meeting, "world", [rank], comm.line, 2)
written = []
for _ in range(200):
    comm.barrier()
    start_s = time.process_time()
    for _ in range(PERIOD):
        ledger.write(call)
    written.append((time.process_time() - start_s) / PERIOD)
    while not ledger.is_settled():
        time.sleep(1e-4)
rows.append({"python": "nothing (of what follows)", "us": processor_us(lambda: None, 10**5)})
rows.append({"python": "fingerprint", "us": processor_us(call.fingerprint, 10**5)})
rows.append({"python": "write", "us": round(1e6 * min(written), 3)})
comm.barrier()
rows.append({"python": "look", "us": processor_us(ledger.compare, 1000)})
if rank == 0:
    json.dump(rows, open(sys.argv[2], "w"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program, found = Path(folder) / "program.py", Path(folder) / "rows.json"
        program.write_text(PROGRAM)
        mpiexec = str(Path(sys.executable).parent / "mpiexec")
        command = [mpiexec, "-n", "2", sys.executable, str(program), str(options.rounds), str(found)]
        subprocess.run(command, check=True, timeout=600)
        rows = json.loads(found.read_text())
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
