"""What the command does with checkpoints on disk."""

import os

import numpy as np
import pytest
from click.testing import CliRunner

import distgrad as dg
from distgrad import nn, optim
from distgrad.checkpoint import CheckpointManager
from distgrad.checkpoint.layout import find_checkpoints, read_manifest
from distgrad.checkpoint.pieces import Reader
from distgrad.cli import main


def call(*arguments):
    return CliRunner().invoke(main, ["checkpoint", *map(str, arguments)])


def save(comm, folder):
    dg.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200))
    model = dg.parallel.DistributedDataParallel(model, comm, shard="optimizer")
    optimizer = optim.AdamW(model.parameters())
    model(dg.ones((2, 300))).sum().backward()
    optimizer.step()
    with CheckpointManager(folder, comm=comm) as manager:
        manager.add(model=model, optimizer=optimizer, place={"rank": comm.rank})
        manager.finished = 3
        return manager.save()


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 6])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_checkpoint_of_four_ranks_as_of_others(tmp_path, num_ranks, elsewhere):
    path = dg.comm.ThreadWorld(4, timeout_s=60).run(lambda comm: save(comm, tmp_path / "run"))[0]
    reader = Reader(path, read_manifest(path))
    before = {name: reader.array(name) for name in reader.manifest.arrays}
    root = tmp_path / "other" if elsewhere else tmp_path / "run"
    done = call("reshard", tmp_path / "run", "--ranks", num_ranks, *(["-o", root] if elsewhere else []))
    assert done.exit_code == 0, done.output
    (new,) = find_checkpoints(root)
    after = Reader(new, read_manifest(new))
    assert list(after.verify())
    assert after.manifest.world_size == num_ranks
    for name, entry in after.manifest.arrays.items():
        np.testing.assert_array_equal(after.array(name), before.pop(name))
        assert entry.dtype == reader.manifest.arrays[name].dtype
    assert all(name.startswith(("rank1/", "rank2/", "rank3/")) for name in before)
    assert {name.split("/")[0] for name in before} == {f"rank{rank}" for rank in range(num_ranks, 4)}
    sizes = [file.stat().st_size for file in new.glob("*.safetensors")]
    assert len(sizes) == num_ranks
    assert max(sizes) - min(sizes) < 10_000
    assert sorted(os.listdir(root)) == [".lock", "step-00000003"]

    def place(comm):
        place = {}
        with CheckpointManager(tmp_path / "reader", comm=comm) as manager:
            manager.add(place=place)
            manager.restore(new)
        return place["rank"]

    found = dg.comm.ThreadWorld(num_ranks, timeout_s=60).run(place)
    assert found == [rank if rank < 4 else 0 for rank in range(num_ranks)]


def test_reshard_refuses_in_words(tmp_path):
    path = dg.comm.ThreadWorld(2, timeout_s=60).run(lambda comm: save(comm, tmp_path))[0]
    assert "must be 1 or more" in call("reshard", path, "--ranks", 0).output
    with CheckpointManager(tmp_path):
        assert "another job uses" in call("reshard", path, "--ranks", 1).output
    file = path / "rank1.safetensors"
    data = bytearray(file.read_bytes())
    data[-10_000] ^= 1
    file.write_bytes(data)
    assert "differ from their digest" in call("reshard", path, "--ranks", 1).output
    assert [each.name for each in find_checkpoints(tmp_path)] == [path.name]
    assert not list(tmp_path.glob(".step*"))


def test_show_verify_and_join(tmp_path):
    path = dg.comm.ThreadWorld(2, timeout_s=60).run(lambda comm: save(comm, tmp_path))[0]
    assert "step-00000003" in call("ls", tmp_path).output
    assert "model.module.0.weight  float32[200, 300]" in call("show", tmp_path).output
    assert "whole" in call("verify", path).output
    done = call("consolidate", tmp_path, tmp_path / "model.safetensors", "--only", "model")
    assert done.exit_code == 0, done.output
    found = dg.load(tmp_path / "model.safetensors")
    reader = Reader(path, read_manifest(path))
    for name, array in found.items():
        np.testing.assert_array_equal(array.numpy(), reader.array(f"model.{name}"))
    assert call("consolidate", tmp_path, tmp_path / "model.safetensors").exit_code == 1
    assert "holds" in call("consolidate", tmp_path, tmp_path / "x", "--only", "nobody").output
    (path / "rank0.safetensors").unlink()
    assert "cannot read" in call("verify", path).output
