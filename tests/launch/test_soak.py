"""The long job of ``soak.py``, in short; run that for twenty minutes before a release."""

import pytest

from .soak import Reader, grown, soak


@pytest.mark.slow
def test_a_job_under_everyday_strain(tmp_path):
    seen = soak(20.0, 10.0, tmp_path)
    assert seen["wrong"] == []
    assert seen["lines"] > 1000


def test_a_lost_line_and_growing_memory_are_noticed():
    reader = Reader(iter([b"[0] 0 xx\n", b"[0] 2 xx\n", b"noise\n", b"[0] 1 \n", b"[0] total 2\n"]), 0)
    reader.run()
    assert reader.wrong == ["[0] 2 xx\n", "noise\n"]
    assert (reader.totals, reader.counts) == ({0: 2}, {0: 2})
    steady = [{"launcher 1": (1000, 10)}] * 100
    assert grown(steady) == []
    leaking = [{"launcher 1": (1000 + 10 * count, 10 + count)} for count in range(100)]
    assert grown(leaking) == [
        "launcher 1: 1370 bytes became 1870",
        "launcher 1: 47 descriptors became 97",
    ]
