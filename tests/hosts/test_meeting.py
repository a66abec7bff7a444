"""Ranks on several hosts that no launcher has started find each other, as programs for PyTorch start them."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
pytest.importorskip("mpi4py", reason="ranks of several hosts talk by MPI")
LIMIT_S = 120
PROGRAM = """
import os, sys
import torch, torch.distributed as dist
how, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if how == "env":
    dist.init_process_group("gloo")
elif how.startswith("store"):
    store = dist.TCPStore(how.split(":")[1], 29512, size, rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
else:
    dist.init_process_group("gloo", init_method=how, rank=rank, world_size=size)
x = torch.full((5,), 10.0**rank)
dist.all_reduce(x)
everyone = [None] * size
dist.all_gather_object(everyone, (rank, os.uname().nodename))
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
model(torch.full((3, 2), rank + 1.0)).sum().backward()
print("FOUND", x.tolist(), everyone, model.module.weight.grad.tolist())
if os.environ.get("ENDS") == str(rank):
    os._exit(7)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture
def ranks(network, tmp_path):
    """Starts ranks 0 and 1 on h1 and rank 2 on h2; what each has said, and its code."""
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)

    def start(how, **variables):
        started = []
        for rank, place in enumerate((0, 0, 1)):
            own = {"RANK": rank, "WORLD_SIZE": 3, "LOCAL_RANK": (0, 1, 0)[rank], "DISTGRAD_TIMEOUT": 60}
            words = [f"{name}={value}" for name, value in {**own, **variables}.items()]
            command = ["env", *words, sys.executable, "-m", "distgrad.torch", str(program), how, rank, 3]
            inside = network.hosts[place].inside(*map(str, command))
            started.append(
                subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        try:
            return [(each.communicate(timeout=LIMIT_S)[0], each.returncode) for each in started]
        finally:
            for each in started:
                each.kill()

    return start


@pytest.mark.parametrize("how", ["env", "agent", "tcp", "file", "store"])
def test_ranks_find_each_other_between_hosts(how, ranks, network, tmp_path):
    address = network.hosts[0].address
    variables = {"MASTER_ADDR": "h1", "MASTER_PORT": 29511} if how in ("env", "agent") else {}
    if how == "agent":  # torchrun's listens at the port itself
        variables["TORCHELASTIC_USE_AGENT_STORE"] = True
    if how == "file":
        variables["LOCAL_WORLD_SIZE"] = 2
    ways = {
        "tcp": f"tcp://{address}:29513",
        "file": f"file://{tmp_path}/meeting",
        "store": f"store:{address}",
    }
    for said, code in ranks(ways.get(how, "env"), **variables):
        assert code == 0, said
        assert "FOUND [111.0, 111.0, 111.0, 111.0, 111.0] [(0, 'h1'), (1, 'h1'), (2, 'h2')]" in said
        assert "[[6.0, 6.0]]" in said
    assert not (tmp_path / "meeting").exists()


def test_a_rank_that_ends_ends_those_of_other_hosts(ranks):
    said = ranks("env", MASTER_ADDR="h1", MASTER_PORT=29514, ENDS=2)
    assert [code for _, code in said] == [1, 1, 7]
    assert all("distgrad: rank 2 has ended, so the whole job ends" in each for each, _ in said[:2])
