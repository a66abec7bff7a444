"""Data sets of Hugging Face's ``datasets`` are taken as they are: rows are dicts, found by number."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.data import DataLoader, DistributedSampler, random_split

COLUMNS = {
    "text": [f"text {number}" for number in range(11)],
    "label": [number % 3 for number in range(11)],
    "score": [number / 4 for number in range(11)],
    "vector": [[number, 2 * number, 0] for number in range(11)],
}


class Rows:
    """The interface of ``datasets.Dataset``: a row for a number, columns for numbers, and no base of ours."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["label"])

    def __getitem__(self, key):
        if not isinstance(key, int):
            raise TypeError(f"Wrong key type: {key!r}")
        return {name: column[key] for name, column in self.columns.items()}


def real(columns):
    library = pytest.importorskip("datasets", reason="the datasets library is not installed")
    return library.Dataset.from_dict(columns)


pytestmark = pytest.mark.filterwarnings("default")
kinds = pytest.mark.parametrize("make", [Rows, real])


@kinds
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_become_batches(make, workers):
    batches = list(DataLoader(make(COLUMNS), 4, num_workers=workers))
    assert [batch["text"] for batch in batches] == [COLUMNS["text"][i : i + 4] for i in (0, 4, 8)]
    labels = np.concatenate([batch["label"].numpy() for batch in batches])
    np.testing.assert_array_equal(labels, COLUMNS["label"])
    assert batches[0]["label"].dtype == dg.int64
    assert batches[0]["score"].dtype == dg.float32
    vectors = np.concatenate([np.stack([x.numpy() for x in batch["vector"]], axis=1) for batch in batches])
    np.testing.assert_array_equal(vectors, COLUMNS["vector"])


@kinds
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_row_once_over_the_ranks(make, ranks):
    data, seen = make(COLUMNS), []
    for rank in range(ranks):
        sampler = DistributedSampler(data, num_replicas=ranks, rank=rank)
        for batch in DataLoader(data, 2, sampler=sampler):
            seen += batch["text"]
    assert sorted(seen) == sorted(COLUMNS["text"])


@kinds
def test_parts_and_a_collate_function(make):
    def collate(rows):
        return dg.asarray(np.array([row["vector"] for row in rows]))

    parts = random_split(make(COLUMNS), [8, 3], generator=dg.Generator(0))
    rows = [
        row for part in parts for batch in DataLoader(part, 3, collate_fn=collate) for row in batch.numpy()
    ]
    assert sorted(map(tuple, rows)) == sorted(map(tuple, COLUMNS["vector"]))
