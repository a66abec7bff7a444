"""Who reads which elements: its part of what is spread over ranks, straight from the files, and no more."""

import hashlib
import json
import tracemalloc

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.checkpoint import CheckpointManager
from distgrad.checkpoint import pieces as pieces_module
from distgrad.checkpoint.digests import BLOCK_BYTES, agrees
from distgrad.checkpoint.layout import read_manifest
from distgrad.checkpoint.pieces import Reader
from distgrad.checkpoint.restoring import restore
from distgrad.errors import DataError, StateDictError
from distgrad.parallel import DistributedDataParallel

STAGES = [None, "optimizer", "gradients", "parameters"]


def build(comm, shard, width=32, seed=1):
    dg.manual_seed(seed)
    net = nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(3)])
    model = DistributedDataParallel(net, comm, shard=shard)
    return model, optim.AdamW(model.named_parameters(), lr=0.01)


def train(model, optimizer, step, rank, width=32):
    x = np.random.default_rng([step, rank]).standard_normal((4, width)).astype(np.float32)
    optimizer.zero_grad()
    (model(dg.asarray(x)) ** 2).mean().backward()
    optimizer.step()


def wholes(model, optimizer):
    parameters = {name: np.array(value) for name, value in model.state_dict().items()}
    moments = optimizer.state_dict()["state"]
    return parameters, {
        (number, name): np.array(value) for number, each in moments.items() for name, value in each.items()
    }


@pytest.mark.parametrize("shard", STAGES)
def test_any_stage_reads_what_any_stage_saved(tmp_path, shard):
    def save(comm):
        model, optimizer = build(comm, shard)
        with CheckpointManager(tmp_path / f"{comm.size}", comm=comm) as manager:
            manager.add(model=model, optimizer=optimizer)
            for step in range(2):
                train(model, optimizer, step, comm.rank)
            manager.save()
        return wholes(model, optimizer)

    def load(comm, size, other):
        model, optimizer = build(comm, other, seed=2)
        with CheckpointManager(tmp_path / f"to{comm.size}", comm=comm) as manager:
            manager.add(model=model, optimizer=optimizer)
            manager.restore(tmp_path / f"{size}" / "step-00000000")
        return wholes(model, optimizer)

    for size in (1, 3):
        saved = dg.comm.ThreadWorld(size, timeout_s=60).run(save)[0]
        for other in STAGES:
            for found in dg.comm.ThreadWorld(2, timeout_s=60).run(
                lambda comm, size=size, other=other: load(comm, size, other)
            ):
                for before, after in zip(saved, found, strict=True):
                    assert before.keys() == after.keys()
                    for name, value in before.items():
                        np.testing.assert_array_equal(after[name], value, str(name))


def test_saving_what_is_spread_sends_nothing(tmp_path):
    def run(comm):
        model, optimizer = build(comm, "parameters", 256)
        train(model, optimizer, 0, comm.rank, 256)
        manager = CheckpointManager(tmp_path, comm=comm)
        manager.add(model=model, optimizer=optimizer)
        before = comm.all_gather
        comm.all_gather = None  # whoever gathers wholes fails
        try:
            path = manager.save()
        finally:
            comm.all_gather = before
        manager.close()
        return path

    path = dg.comm.ThreadWorld(3, timeout_s=60).run(run)[0]
    entries = read_manifest(path).arrays
    for name, entry in entries.items():
        if name.startswith("model."):
            assert len({piece.file for piece in entry.pieces}) == len(entry.pieces)
    assert any(len(entry.pieces) > 1 for entry in entries.values())


def test_a_rank_reads_its_own_part_and_no_more(tmp_path):
    """Of parameters and moments each of four ranks owns a quarter."""
    width = 900
    own_bytes = 3 * 3 * width * width * 4 / 4

    def save(comm):
        model, optimizer = build(comm, "parameters", width)
        with CheckpointManager(tmp_path / "of2", comm=comm) as manager:
            manager.add(model=model, optimizer=optimizer)
            train(model, optimizer, 0, comm.rank, width)
            manager.save()

    taken, peaks = [], []

    def measured(manager):
        take = Reader._take

        def counted(self, descriptors, block):
            taken.append(block.size)
            take(self, descriptors, block)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reader, "_take", counted)
            tracemalloc.start()
            manager.restore(tmp_path / "of2" / "step-00000000")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    def load(comm):
        model, optimizer = build(comm, "parameters", width, seed=2)
        with CheckpointManager(tmp_path / f"of{comm.size}", comm=comm) as manager:
            manager.add(model=model, optimizer=optimizer)
            for turn in range(comm.size):  # one after the other, as memory is measured of the process
                if turn == comm.rank:
                    measured(manager)
                comm.barrier()

    dg.comm.ThreadWorld(2, timeout_s=60).run(save)
    dg.comm.ThreadWorld(4, timeout_s=60).run(load)
    assert 0.95 * 4 * own_bytes < sum(taken) < 4 * own_bytes * 2  # a block at either end of a part
    assert max(peaks) < own_bytes * (1 + 2 / 3) + (4 << 20)  # what is read, and the moments that are made


def test_a_range_is_compared_with_the_digests_of_its_blocks(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        manager.add(state={"x": np.arange(3 * BLOCK_BYTES, dtype=np.uint8)})
        path = manager.save()
    manifest = read_manifest(path)
    assert len(manifest.arrays["state.x"].pieces[0].digests) == 3
    file = path / "rank0.safetensors"
    data = bytearray(file.read_bytes())
    data[-10_000] ^= 1  # behind it are the random generators
    file.write_bytes(data)
    reader = Reader(path, manifest)
    middle = reader.range("state.x", BLOCK_BYTES - 5, BLOCK_BYTES + 7)
    np.testing.assert_array_equal(middle, np.arange(BLOCK_BYTES - 5, BLOCK_BYTES + 7, dtype=np.int64) % 256)
    with pytest.raises(DataError, match=r"rank0.safetensors: the bytes of state.x differ"):
        reader.range("state.x", 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 1)


def test_digests_are_of_two_kinds(tmp_path, monkeypatch):
    from distgrad.checkpoint import digests

    monkeypatch.setattr(digests, "_xxh3", None)  # as where the package is not installed
    with CheckpointManager(tmp_path) as manager:
        manager.add(state={"x": np.arange(5)})
        path = manager.save()
    monkeypatch.undo()
    assert len(read_manifest(path).arrays["state.x"].pieces[0].digests[0]) == 64
    assert list(Reader(path, read_manifest(path)).verify())
    if digests._xxh3 is not None:
        assert len(digests.digest_of(b"a")) == 32
        monkeypatch.setattr(digests, "_xxh3", None)
        with pytest.raises(DataError, match="install the package xxhash"):
            agrees(b"a", "0" * 32)
        monkeypatch.undo()
        with CheckpointManager(tmp_path) as manager:
            manager.add(state={"x": np.arange(5)})
            path = manager.save()
        monkeypatch.setattr(digests, "_xxh3", None)
        with pytest.raises(DataError, match=r"manifest.json cannot be checked: .* install .* xxhash"):
            read_manifest(path)


def test_format_1_is_read(tmp_path):
    """One digest a piece, of all its bytes, and no ``block_bytes``."""
    with CheckpointManager(tmp_path) as manager:
        manager.add(state={"x": np.arange(BLOCK_BYTES, dtype=np.int64)})
        path = manager.save()
    found = json.loads((path / "manifest.json").read_text())
    reader = Reader(path, read_manifest(path))
    for name, entry in found["arrays"].items():
        data = reader.array(name)
        for piece in entry["pieces"]:
            piece[4] = hashlib.sha256(data.reshape(-1)[piece[2] : piece[3]].tobytes()).hexdigest()
    found["format"] = 1
    del found["block_bytes"], found["digest"]
    (path / "manifest.json").write_text(json.dumps(found))
    reader = Reader(path, read_manifest(path))
    np.testing.assert_array_equal(reader.array("state.x"), np.arange(BLOCK_BYTES))
    assert reader.range("state.x", 7, 9).tolist() == [7, 8]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_copies_are_the_same_for_any_number_of_threads(threads, monkeypatch):
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 256, size, np.uint8) for size in (0, 1, 5 << 20, 3, 2 << 20)]
    monkeypatch.setattr(pieces_module, "_PART_BYTES", 1 << 10)
    monkeypatch.setattr(pieces_module, "get_num_threads", lambda: threads)
    targets = [np.zeros_like(source) for source in sources]
    pieces_module.copy_all(list(zip(targets, sources, strict=True)))
    for target, source in zip(targets, sources, strict=True):
        np.testing.assert_array_equal(target, source)


def test_a_part_of_a_pretrained_model(tmp_path):
    dg.manual_seed(0)
    pretrained = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with CheckpointManager(tmp_path / "a") as manager:
        manager.add(model=pretrained)
        path = manager.save()
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 7))  # another head
    head = np.array(other[1].weight.detach())
    with CheckpointManager(tmp_path / "b") as manager:
        manager.add(model=other)
        with pytest.raises(StateDictError, match=r"nothing under 'model\.2'"):
            manager.restore(path, only=["model.2"])
        with pytest.raises(StateDictError, match="does not fit"):
            manager.restore(path, only=["model"], strict=False)
        manager.restore(path, only=["model.0"])
    np.testing.assert_array_equal(other[0].weight.detach(), pretrained[0].weight.detach())
    np.testing.assert_array_equal(other[1].weight.detach(), head)


@pytest.mark.parametrize(("seed", "follows"), [(5, True), (6, False)])
def test_a_further_rank_of_rank_0_s_seed_draws_as_rank_0_does(tmp_path, seed, follows):
    dg.manual_seed(5)
    dg.rand(100)
    with CheckpointManager(tmp_path) as manager:
        path = manager.save()
    coming = dg.rand(3).tolist()
    dg.manual_seed(seed)
    restore(Reader(path, read_manifest(path)), {}, 1, True, None)
    assert (dg.rand(3).tolist() == coming) == follows
