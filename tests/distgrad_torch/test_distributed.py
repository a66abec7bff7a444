"""``torch.distributed`` under distgrad.torch: PyTorch's own answers, however the ranks are started."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
OURS, THEIRS = ["-m", "distgrad.torch"], []


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def start(prefix, program, size, address, timeout=120):
    """The lines that each rank prints."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, *prefix, str(HERE / program), str(rank), str(size), address],
            env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    try:
        ended = [rank.communicate(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, ended, strict=True):
        assert rank.returncode == 0, errors
    return [json.loads(output) for output, _ in ended]


@pytest.mark.slow
def test_collectives_give_what_pytorchs_give():
    ours = start(OURS, "collective_program.py", 3, f"tcp://127.0.0.1:{free_port()}")
    theirs = start(THEIRS, "collective_program.py", 3, f"tcp://127.0.0.1:{free_port()}")
    assert ours == theirs
    assert len({json.dumps(rank["reductions"]) for rank in ours}) == 2  # the root of reduce has another
    assert start(OURS, "collective_program.py", 1, "file:///nobody/else")[0]["gathers"][1] == [10.0, 11.0]


@pytest.mark.slow
def test_models_come_out_as_pytorchs_do(tmp_path):
    ours = start(OURS, "ddp_program.py", 2, f"file://{tmp_path}/meeting")
    theirs = start(THEIRS, "ddp_program.py", 2, f"file://{tmp_path}/others")
    for mine, its in zip(ours, theirs, strict=True):
        for manner, state in its.items():
            assert list(mine[manner]) == list(state), manner
            for key, values in state.items():
                np.testing.assert_allclose(mine[manner][key], values, atol=2e-5, err_msg=f"{manner} {key}")
    assert ours[0]["unequal"] != ours[0]["plain"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sharded_models_come_out_as_pytorchs_and_as_whole_ones(tmp_path):
    ours = start(OURS, "fsdp_program.py", 2, f"file://{tmp_path}/meeting", timeout=240)
    theirs = start(THEIRS, "fsdp_program.py", 2, f"file://{tmp_path}/others", timeout=240)
    assert ours[0] == ours[1]
    for mine, its in zip(ours, theirs, strict=True):
        for manner, state in its.items():
            assert list(mine[manner]) == list(state), manner
            for key, values in state.items():
                np.testing.assert_allclose(mine[manner][key], values, atol=2e-6, err_msg=f"{manner} {key}")
            assert mine[manner] == mine["clipped" if "clipped" in manner else "replicated"], manner
    assert ours[0]["clipped"] != ours[0]["replicated"]


PROGRAM = """
    import os
    import sys

    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp


    def work(rank, size, port):
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=port)
        for _ in range(2):  # a world can be had again
            dist.init_process_group("gloo", rank=rank, world_size=size)
            x = torch.ones(2) * (rank + 1)
            dist.all_reduce(x)
            dist.destroy_process_group()
        print(f"rank {rank} of {size}: {x.tolist()}")
        if sys.argv[1] == "fails" and rank == 1:
            raise ValueError("planted")


    if __name__ == "__main__":
        if sys.argv[1] == "env":
            dist.init_process_group()
            x = torch.ones(2) * (dist.get_rank() + 1)
            dist.all_reduce(x)
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
            assert all(name in os.environ for name in names)
            print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {x.tolist()}")
        else:
            mp.spawn(work, (3, sys.argv[2]), nprocs=3)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def run(command, **variables):
    return subprocess.run(
        [sys.executable, *map(str, command)], env={**os.environ, **variables}, capture_output=True, text=True,
        timeout=90, check=False,
    )  # fmt: skip


def shown(output, size):
    total = [size * (size + 1) / 2] * 2
    return all(f"rank {rank} of {size}: {total}" in output for rank in range(size))


@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "distgrad.launch", "--torch", "-n", "2"],
        ["-m", "distgrad.torch.distributed.run", "--standalone", "--nproc_per_node=2", "--rdzv_id=1"],
        ["-m", "distgrad.launch", "--torch", "-np", "2", "-H", "localhost:2", "--gloo"],
    ],
    ids=["distgrad run", "torchrun's options", "horovodrun's options"],
)
def test_ranks_of_any_launcher_find_each_other(program, launcher):
    done = run([*launcher, program, "env"])
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout, 2)


def test_ranks_that_torchrun_would_start_find_each_other(program):
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "distgrad.torch", str(program), "env"], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                 "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]  # fmt: skip
    output = "".join(rank.communicate(timeout=60)[0] for rank in ranks)
    assert shown(output, 2)


def test_ranks_that_a_program_spawns_find_each_other(program):
    done = run(["-m", "distgrad.torch", program, "spawn", free_port()])
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout, 3)
    done = run(["-m", "distgrad.torch", program, "fails", free_port()])
    assert done.returncode == 1
    assert "ProcessRaisedException" in done.stderr
    assert "Process 1 terminated with the following error" in done.stderr
    assert 'raise ValueError("planted")' in done.stderr


def test_options_of_others_are_told_of_or_refused(program):
    done = run(
        ["-m", "distgrad.launch", "--torch", "-n", "2", "--fusion-threshold-mb", "32", "--dry-run", program]
    )
    assert done.returncode == 0
    assert "launch: not needed, --fusion-threshold-mb: buckets are measured" in done.stderr
    done = run(["-m", "distgrad.launch", "-n", "2", "--config-file", "x.yaml", program])
    assert done.returncode == 2
    assert "--config-file is not to be had: write the options on the command line" in done.stderr


def test_a_rank_without_its_place_is_an_error(program):
    variables = {name: value for name, value in os.environ.items() if name != "RANK"}
    done = subprocess.run(
        [sys.executable, "-m", "distgrad.torch", str(program), "env"], env=variables, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "environment variable RANK expected, but not set; start with distgrad run --torch" in done.stderr


ABSENT = {
    "from torch.distributed.elastic.multiprocessing.errors import record; print(record(max)(1, 2))": "2",
    "dist.init_process_group('gloo', 'tcp://192.0.2.1:1', rank=0, world_size=2)": "not this machine",
    "dist.init_process_group('nccl', 'tcp://127.0.0.1:1', rank=0, world_size=1)": "needs a GPU",
    "dist.init_process_group('other')": "Invalid backend",
    "dist.init_process_group('gloo', 'http://a', rank=0, world_size=1)": "must begin with env://",
    "dist.all_reduce(torch.ones(1))": "has not been initialized",
    "dist.rpc.rpc_sync(1)": "distgrad has no torch.distributed.rpc.rpc_sync; use send and recv",
    "torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1), mixed_precision=1)": "mixed_precision",
}


def test_what_cannot_be_had_says_so(tmp_path):
    lines = ["import torch", "import torch.distributed as dist"]
    for text in ABSENT:
        lines += [f"try:\n    {text}\nexcept Exception as error:\n    print(error)"]
    (tmp_path / "train.py").write_text("\n".join(lines))
    done = run(["-m", "distgrad.torch", tmp_path / "train.py"])
    assert done.returncode == 0, done.stderr
    for message, line in zip(ABSENT.values(), done.stdout.splitlines(), strict=True):
        assert message in line
