"""Shared memory in large pages, where the kernel gives them and where it does not."""

import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest

from distgrad.comm import mapping
from distgrad.comm.mapping import LARGE_PAGE_BYTES, enlarge_pages, map_shared

SIZE = 3 * LARGE_PAGE_BYTES + 5000


@pytest.fixture
def descriptor():
    descriptor = os.memfd_create("distgrad test of mappings")
    os.ftruncate(descriptor, SIZE)
    yield descriptor
    os.close(descriptor)


def entries():
    """What the kernel tells of the mappings of the test's memory, one text each."""
    text = Path("/proc/self/smaps").read_text()
    each = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text)
    return [entry for entry in each if "distgrad test of mappings" in entry]


def array(memory):
    return np.frombuffer(memory, np.uint8)


@pytest.mark.parametrize("num_bytes", [1, 5000, LARGE_PAGE_BYTES, SIZE])
def test_two_mappings_show_the_same_bytes_and_end_with_their_arrays(num_bytes, descriptor):
    gc.collect()
    before = len(Path("/proc/self/maps").read_text().splitlines())
    one, other = map_shared(descriptor, num_bytes), map_shared(descriptor, num_bytes)
    assert (one.nbytes, one.format, len(entries())) == (num_bytes, "B", 2)
    if num_bytes >= LARGE_PAGE_BYTES:
        assert array(one).ctypes.data % LARGE_PAGE_BYTES == 0
    one[num_bytes - 1] = 7
    assert array(other)[-1] == 7
    last = array(one)[-1:]
    del one, other
    gc.collect()
    assert last[0] == 7
    assert len(entries()) == 1
    del last
    gc.collect()
    assert not entries()
    assert abs(len(Path("/proc/self/maps").read_text().splitlines()) - before) <= 2  # the heap's own


def test_pages_become_large_where_the_kernel_gives_them(descriptor):
    one, other = array(map_shared(descriptor, SIZE)), array(map_shared(descriptor, SIZE))
    count = enlarge_pages(one[100:])
    if count == 0:
        pytest.skip("this kernel gives shared memory no large pages")
    assert count == 2  # the first is not whole
    assert not one.any()
    one[:] = np.arange(SIZE) % 251
    np.testing.assert_array_equal(other, one)
    large = [int(re.search(r"ShmemPmdMapped: *(\d+) kB", entry)[1]) << 10 for entry in entries()]
    assert large == [2 * LARGE_PAGE_BYTES] * 2


def test_a_kernel_that_refuses_leaves_small_pages(descriptor, monkeypatch):
    monkeypatch.setattr(mapping._library, "madvise", lambda *arguments: -1)
    memory = array(map_shared(descriptor, SIZE))
    assert enlarge_pages(memory) == 0
    assert not memory.any()
    assert enlarge_pages(memory[: LARGE_PAGE_BYTES - 1]) == 0


@pytest.mark.parametrize("granted", [0, 1])
def test_without_room_at_such_an_address_any_will_do(granted, descriptor, monkeypatch):
    """The kernel refuses the first call, which reserves addresses, or the second, which maps the memory."""
    grant, answers = mapping._library.mmap, iter([True] * granted + [False])
    monkeypatch.setattr(
        mapping._library, "mmap", lambda *call: grant(*call) if next(answers) else mapping._FAILED
    )
    memory = array(map_shared(descriptor, SIZE))
    assert next(answers, None) is None
    memory[:] = 3
    assert len(entries()) == 1
