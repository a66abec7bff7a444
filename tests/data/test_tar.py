"""Samples in tar files: what they hold, what is damaged, and every one once an epoch across restarts."""

import io
import tarfile
from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
from worker_datasets import number_of

import distgrad as dg
from distgrad.data import DataLoader, DistributedSampler, TarDataset
from distgrad.errors import DataError


def shard(path, names, mode="w"):
    with tarfile.open(path, mode) as file:
        folder = tarfile.TarInfo("dog")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for name in names:
            for kind, content in (("txt", f"{name}".encode()), ("seg.npy", b"\1" * (name % 700))):
                member = tarfile.TarInfo(f"dog/{name}.{kind}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    return [shard(tmp_path / f"{i}.tar", range(50 * i, 50 * i + 50)) for i in range(3)]


def test_a_sample_has_no_file_twice(tmp_path):
    path = tmp_path / "twice.tar"
    with tarfile.open(path, "w") as file:
        for name in ("x.txt", "y.txt", "x.txt", "x.txt"):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match=r"has x\.txt twice in one sample"):
        TarDataset(path)


def test_files_of_one_name_are_a_sample(shards):
    data = TarDataset(shards)
    assert len(data) == 150
    assert data[0] == {"__key__": "dog/0", "txt": b"0", "seg.npy": b""}
    assert data[-1] == {"__key__": "dog/149", "txt": b"149", "seg.npy": b"\1" * 149}
    assert [number_of(data[i]) for i in range(150)] == list(range(150))
    with pytest.raises(IndexError, match="150 is out of range"):
        data[150]
    assert TarDataset(shards, decode=number_of)[70] == 70


def test_what_belongs_to_no_sample_is_left_out(tmp_path):
    path = tmp_path / "beside.tar"
    with tarfile.open(path, "w") as file:
        for name in ("README", "d/.DS_Store", "__info__.json", "d/a.x", "d/LICENSE", "d/a.y", "__b.x"):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    data = TarDataset(path)
    assert [data[i] for i in range(len(data))] == [
        {"__key__": "d/a", "x": b"", "y": b""},
        {"__key__": "__b", "x": b""},
    ]


def test_long_names_and_one_name_in_two_shards(tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=tarfile.PAX_FORMAT) as file:
            member = tarfile.TarInfo("ü" * 150 + ".x")
            member.size = 3
            file.addfile(member, io.BytesIO(b"%d%d%d" % ((number,) * 3)))
    data = TarDataset([tmp_path / "0.tar", tmp_path / "1.tar"])
    assert [(each["__key__"], each["x"]) for each in (data[0], data[1])] == [
        ("ü" * 150, b"000"),
        ("ü" * 150, b"111"),
    ]


@pytest.mark.parametrize(("before", "after", "workers"), [(2, 3, 0), (3, 1, 1), (1, 2, 2)])
def test_every_sample_once_an_epoch_on_changing_ranks(shards, before, after, workers):
    data = TarDataset(shards, decode=number_of)

    def run(size, state, steps):
        loaders = []
        for rank in range(size):
            sampler = DistributedSampler(data, size, rank, seed=2)
            loaders.append(DataLoader(data, 12 // size, sampler=sampler, num_workers=workers))
            if state is not None:
                loaders[-1].load_state_dict(state)
        seen = []
        for batches in islice(zip(*loaders, strict=True), steps):
            seen.append(sorted(int(value) for batch in batches for value in np.asarray(batch)))
        return seen, loaders[0].state_dict()

    whole, _ = run(before, None, None)
    first, state = run(before, None, 5)
    rest, _ = run(after, state, None)
    assert first + rest == whole
    assert Counter(value for batch in first + rest for value in batch) == dict.fromkeys(range(150), 1)


def test_damaged_shards_are_named(shards, tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none.tar: No such file"):
        TarDataset([tmp_path / "none.tar"])
    with pytest.raises(DataError, match=r"packed.tar is no whole tar file without compression .*; unpack"):
        TarDataset([shard(tmp_path / "packed.tar", range(5), "w:gz")])
    (tmp_path / "text.tar").write_text("no tar " * 500)
    with pytest.raises(DataError, match=r"text.tar is no whole tar file"):
        TarDataset([tmp_path / "text.tar"])
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"no samples in \[.*empty.tar"):
        TarDataset([tmp_path / "empty.tar"])
    data = TarDataset(shards)
    whole = shards[2].read_bytes()
    place = whole.index(b"\1" * 149)
    shards[2].write_bytes(whole[: place + 20])
    with pytest.raises(DataError, match=r"2.tar: dog/149.seg.npy is not whole in it|2.tar is no whole tar"):
        TarDataset(shards)
    with pytest.raises(DataError, match=r"2.tar has become shorter"):
        data[149]


@pytest.mark.parametrize("damage", ["cut at a file's edge", "a damaged header"])
def test_a_shard_that_tarfile_takes_for_ended_is_not(shards, damage):
    whole = shards[0].read_bytes()
    place = whole.index(b"dog/20.txt")
    shards[0].write_bytes(whole[:place] + (b"" if damage[0] == "c" else b"zzzz" + whole[place + 4 :]))
    with pytest.raises(DataError, match=rf"0.tar is truncated or damaged at byte {place}, where neither"):
        TarDataset(shards)


def test_a_name_in_no_encoding_and_a_single_shard(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("a\udcff.x"))
    assert TarDataset(str(path))[0] == TarDataset(path)[0] == {"__key__": "a\udcff", "x": b""}


def test_a_job_goes_on_in_mid_epoch_with_what_is_left(shards, tmp_path):
    data = TarDataset(shards, decode=number_of)

    def run(comm, steps):
        loader = DataLoader(data, 12 // comm.size, sampler=DistributedSampler(data, comm.size, comm.rank))
        seen = []
        with dg.checkpoint.CheckpointManager(tmp_path / "run", every=4, comm=comm, signals=False) as manager:
            manager.add(loader=loader)
            manager.restore_latest()
            for batch in islice(loader, steps):
                seen += np.asarray(batch).tolist()
                manager.step()
        return seen

    first = dg.comm.ThreadWorld(3, timeout_s=60).run(lambda comm: run(comm, 4))
    rest = dg.comm.ThreadWorld(2, timeout_s=60).run(lambda comm: run(comm, None))
    assert sorted(chain(*first, *rest)) == list(range(150))
