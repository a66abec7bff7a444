"""Stores of ``torch.distributed``: long values, late answers, and files that go with their last user."""

import contextlib
import gc
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from distgrad.errors import CommError
from distgrad.torch.distributed import FileStore, TCPStore


def test_a_tcp_store_takes_long_values():
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=20)
    value = bytes(range(256)) * 4096  # 1 MiB, of which one call of the system takes a part
    for i in range(3):
        store.set(f"key {i}", value[i:])
        assert store.get(f"key {i}") == value[i:]
    assert store.add("count", 2) == 2  # still in step
    with pytest.raises(CommError, match="expected at most 67108864 bytes"):
        store.set("too long", bytes(1 << 26))
    assert store.add("count", 2) == 4


def test_a_tcp_store_that_lost_an_answer_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve():  # answers the store's coming in time, then too late
            line, _ = door.accept()
            line.recv(1 << 16)
            line.sendall((17 - 8).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"1")
            line.recv(1 << 16)
            time.sleep(0.5)
            with line, contextlib.suppress(OSError):
                line.sendall((17 - 8).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"7")
                line.recv(1 << 16)

        server = threading.Thread(target=serve)
        server.start()
        store = TCPStore("127.0.0.1", door.getsockname()[1], timeout=0.3)
        for _ in range(2):
            with pytest.raises(CommError, match="is gone"):
                store.add("count", 1)
            time.sleep(0.4)
        server.join()


PROGRAM = """
    import sys
    import numpy as np
    import distgrad.torch as torch
    path, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = torch.distributed.FileStore(path, size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    x = torch.tensor([rank + 1.0])
    torch.distributed.all_reduce(x)
    assert x.item() == size * (size + 1) / 2
    torch.distributed.destroy_process_group()
"""


def test_a_program_that_meets_in_a_file_runs_twice(tmp_path):
    for _ in range(2):
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "store"), str(rank), "2"]
            )
            for rank in range(2)
        ]
        try:
            assert [each.wait(60) for each in ranks] == [0, 0]
        finally:
            for each in ranks:
                each.kill()
        assert not (tmp_path / "store").exists()


def test_the_last_user_deletes_a_file(tmp_path):
    path = tmp_path / "store"
    first, second = FileStore(str(path), 2), FileStore(str(path), 2)
    first.set("a", b"1")
    del first
    gc.collect()
    assert second.get("a") == b"1"
    del second
    gc.collect()
    assert not path.exists()
    kept = FileStore(str(path))
    del kept
    gc.collect()
    assert path.exists()
