"""What is printed for the mistakes that docs/guide/mistakes.md lists, against its words."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import failures_guide
import pytest

BEGIN = "import numpy as np\nimport distgrad as dg\ncomm = dg.comm.init()\n"
NET = "net = dg.nn.Linear(4, 2)\n"
DDP = NET + "ddp = dg.parallel.DistributedDataParallel(net)\n"
LOSS = 'ddp(dg.tensor(np.full((2, 4), comm.rank, "f"))).sum()'
TRAIN = """optimizer = dg.optim.SGD(net.parameters(), lr=0.1)
for step in range(3 + ({more})):
    optimizer.zero_grad()
    loss = ddp(dg.tensor(np.full((2, 4), comm.rank + step, "f"))).sum()
    if {backward}: loss.backward()
    optimizer.step()
"""
PROGRAMS = {
    "`lr` is a text, also one that was put into `param_groups`": BEGIN
    + NET
    + 'o = dg.optim.SGD(net.parameters(), lr=1.0)\no.param_groups[0]["lr"] = "1e-3"\n'
    + "net(dg.ones((2, 4))).sum().backward()\no.step()",
    '`init("mpi")` without `--backend mpi`': 'import distgrad as dg\ndg.comm.init("mpi")',
    "a backend that nobody has registered": 'import distgrad as dg\ndg.comm.init("tcp")',
    "`init` with two backends": BEGIN + 'dg.comm.init("threads")',
    "another number of batches on each rank": BEGIN + DDP + TRAIN.format(more="comm.rank", backward=True),
    "a backward left out on one rank": BEGIN
    + DDP
    + TRAIN.format(more=1, backward="(step, comm.rank) != (2, 1)"),
    "another module on each rank": BEGIN
    + "dg.parallel.DistributedDataParallel(dg.nn.Linear(4, 2 + comm.rank))",
    "more layers on one rank": BEGIN
    + "net = dg.nn.Sequential(*(dg.nn.Linear(4, 4) for _ in range(1 + comm.rank)))\n"
    + "dg.parallel.DistributedDataParallel(net)",
    "`DistributedDataParallel` of another": BEGIN + DDP + "dg.parallel.DistributedDataParallel(ddp)",
    "`backward` twice": BEGIN + DDP + f"loss = {LOSS}\nloss.backward()\nloss.backward()",
    "a wrong shape": BEGIN + DDP + "ddp(dg.ones((2, 5)))",
    "a label that is no class": BEGIN + "dg.nn.functional.cross_entropy(dg.ones((2, 2)), dg.tensor([0, 5]))",
    "a GPU that is not there": BEGIN + NET + 'net.to("cuda:99")',
    "a collective under `if rank == 0`": BEGIN + "if comm.rank == 0:\n    comm.all_reduce(np.ones(1))",
    "`sys.exit()` on one rank": BEGIN + "if comm.rank == 1: raise SystemExit\ncomm.barrier()",
    '`sys.exit("no data here")` on one rank': BEGIN
    + 'if comm.rank == 1: raise SystemExit("no data here")\ncomm.barrier()',
    "collectives in another order": BEGIN
    + 'x = np.ones(4, "f")\nif comm.rank == 1:\n    comm.broadcast(x)\nelse:\n    comm.all_reduce(x)',
    "another `root` on each rank": BEGIN + "comm.broadcast(np.ones(3), root=comm.rank)",
    "a `root` that is no rank": BEGIN + "comm.broadcast(np.ones(3), root=7)",
    "a reduction of another name": BEGIN + 'comm.all_reduce(np.ones(3), op="avg")',
    "a list in place of an array": BEGIN + "comm.all_reduce([1.0, 2.0])",
    "an array that is not cut into one part a rank": BEGIN + "comm.reduce_scatter(np.ones(4))",
    "a collective after `close()`": BEGIN + "comm.close()\ncomm.all_reduce(np.ones(2))",
    'workers in a script without `if __name__ == "__main__":`': BEGIN
    + "class Data(dg.data.Dataset):\n    def __len__(self): return 8\n"
    + "    def __getitem__(self, index): return np.ones(2)\n"
    + "list(dg.data.DataLoader(Data(), 4, num_workers=1))",
    "a script that cannot be parsed": BEGIN + "def train(:",
}
COMMANDS = failures_guide.quotations("Before a rank starts", failures_guide.MISTAKES)
SHORT = ["a wrong shape", "a backward left out on one rank"]  # in every run; the others where there is time


def run(command: str, folder: Path) -> tuple[int, str]:
    """The exit code of a command, and all that it has printed; nothing of it is left behind."""
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "DISTGRAD_MARK": str(folder)}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, timeout=120, check=False
    )
    mark = f"DISTGRAD_MARK={folder}".encode()
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            assert mark not in process.read_bytes().split(b"\0"), process
        except OSError:  # of another user, or over
            continue
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize(
    "mistake",
    [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS],
)
def test_a_mistake_in_a_program_ends_with_the_words_of_the_guide(mistake, tmp_path):
    (tmp_path / "script.py").write_text(PROGRAMS[mistake] + "\n")
    code, printed = run("distgrad run -n 3 script.py", tmp_path)
    assert code == 1, printed
    failures_guide.check("Errors", mistake, printed, failures_guide.MISTAKES)
    verdict = printed.partition("\nlaunch: rank ")[2]  # what is shown of the first rank that failed,
    verdict = re.split(r"^\S+Error\b", verdict, maxsplit=1, flags=re.MULTILINE)[0]  # and not what it quotes
    assert len(re.findall(r'  File ".*/distgrad/', verdict)) <= 2, printed


def test_the_guide_has_all_programs_and_no_other():
    assert list(failures_guide.quotations("Errors", failures_guide.MISTAKES)) == list(PROGRAMS)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_in_a_command_ends_with_the_words_of_the_guide(command, tmp_path):
    (tmp_path / "script.py").write_text(BEGIN)
    line = command.strip("`").replace("python ", f"{sys.executable} ")
    code, printed = run(line, tmp_path)
    assert code in (1, 2), printed
    failures_guide.check("Before a rank starts", command, printed, failures_guide.MISTAKES)
