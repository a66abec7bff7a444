"""Ranks of several hosts that no launcher has started meet at a port, where MPI's library finds them."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from typing import ClassVar

import pytest

from distgrad.comm import bootstrap
from distgrad.comm.pmi import Server
from distgrad.errors import CommError, CommTimeoutError

PLACE = "127.0.0.2"  # of this host, and no address that says so
LIMIT_S = 60


class Guest:
    """One line of a rank to a server."""

    opened: ClassVar = []

    def __init__(self, port, **hello):
        self.opened.append(self)
        self.line = socket.create_connection((PLACE, port), timeout=LIMIT_S)
        self.file = self.line.makefile("rwb", buffering=0)
        self.say(json.dumps(hello))

    def say(self, text):
        self.file.write(text.encode() + b"\n")

    def hear(self):
        return self.file.readline().decode().strip()

    def close(self):
        self.file.close()
        self.line.close()


@pytest.fixture
def serve():
    """Starts a server of so many ranks in a thread; its port."""
    threads = []

    def start(size, timeout_s=LIMIT_S):
        door = socket.create_server((PLACE, 0))
        threads.append(threading.Thread(target=Server(door, size, timeout_s).run, daemon=True))
        threads[-1].start()
        return door.getsockname()[1]

    yield start
    for each in Guest.opened:
        each.close()
    Guest.opened.clear()
    for each in threads:
        each.join(LIMIT_S)
        assert not each.is_alive()


def come(port, rank, size, host):
    """Both lines of a rank."""
    return [Guest(port, rank=rank, size=size, use=use, host=host) for use in ("life", "pmi")]


def test_libraries_find_each_other_and_a_rank_that_ends_is_told_of(serve):
    port = serve(3)
    socket.create_connection((PLACE, port)).close()  # a stranger
    Guest(port).close()
    ranks = [come(port, rank, 3, f"h{rank % 2}") for rank in range(3)]
    assert [json.loads(life.hear()) for life, _ in ranks] == [{"way": "mpi"}] * 3
    for rank, (_, pmi) in enumerate(ranks):
        pmi.say("cmd=init pmi_version=1 pmi_subversion=1\ncmd=get_maxes")
        assert pmi.hear() == "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0"
        assert pmi.hear().startswith("cmd=maxes rc=0")
        pmi.say(f"cmd=put kvsname=distgrad key=card-{rank} value=a = b {rank}")
        assert pmi.hear() == "cmd=put_result rc=0 msg=success"
        pmi.say("cmd=barrier_in")
    for _, pmi in ranks:
        assert pmi.hear() == "cmd=barrier_out rc=0"
        pmi.say("cmd=get kvsname=distgrad key=card-2\ncmd=get kvsname=distgrad key=none\ncmd=other")
        assert pmi.hear() == "cmd=get_result rc=0 msg=success value=a = b 2"
        assert pmi.hear().startswith("cmd=get_result rc=-1")
        assert pmi.hear() == "cmd=other rc=-1 msg=unknown_request"
    ranks[0][1].say("cmd=finalize")
    assert ranks[0][1].hear() == "cmd=finalize_ack rc=0"
    for each in ranks[0]:
        each.close()  # in order
    for each in ranks[2]:
        each.line.shutdown(socket.SHUT_RDWR)
    assert json.loads(ranks[1][0].hear()) == {"error": "rank 2 has ended"}


def test_a_rank_that_ends_the_job_is_told_of(serve):
    port = serve(2)
    (first, _), (_, second) = come(port, 0, 2, "a"), come(port, 1, 2, "b")
    first.hear()
    second.say("cmd=abort exitcode=1")
    assert json.loads(first.hear()) == {"error": "rank 1 has ended the job"}


def test_ranks_of_one_host_are_told_so(serve):
    port = serve(2)
    ranks = [come(port, rank, 2, "h") for rank in range(2)]
    assert [json.loads(life.hear()) for life, _ in ranks] == [{"way": "host"}] * 2


def test_who_does_not_come_or_comes_twice_is_named(serve):
    life, _ = come(serve(3, timeout_s=0.5), 1, 3, "h")
    assert json.loads(life.hear())["error"] == "of 3 ranks these did not come in time: 0, 2"
    port = serve(3)
    life, _ = come(port, 1, 3, "h")
    Guest(port, rank=1, size=3, use="life", host="h")
    assert "rank 1 of 3 came to a world of 3, in which [1] had come" in json.loads(life.hear())["error"]
    with pytest.raises(CommTimeoutError, match="nobody listens at"):
        bootstrap.meet(PLACE, 1, 1, 2, 0.2)
    with pytest.raises(CommError, match=r"cannot listen at .* which is not this machine"):
        bootstrap.meet("192.0.2.1", 1, 0, 2, 0.2)


PROGRAM = f"""
    import sys
    rank, size, port, hosts = map(int, sys.argv[1:])
    import numpy as np
    from distgrad.comm import bootstrap
    from distgrad.comm.registry import finalize, init
    bootstrap.host_name = lambda: f"h{{rank % hosts}}"
    for _ in range(2):  # a world can be had again
        comm = init(address=f"{PLACE}:{{port}}", rank=rank, size=size)
        print(comm.backend, comm.all_reduce(np.array([10.0**rank])))
        if hosts > 1 and rank == 1 and _ == 1:
            raise ValueError("planted")
        comm.barrier()
        finalize()
"""


@pytest.mark.parametrize(("size", "hosts", "backend"), [(2, 2, "mpi"), (3, 1, "shm")])
def test_they_compute_together(size, hosts, backend):
    if backend == "mpi":
        pytest.importorskip("mpi4py", reason="ranks of several hosts talk by MPI")
    with socket.create_server((PLACE, 0)) as probe:
        port = probe.getsockname()[1]
    variables = {name: value for name, value in os.environ.items() if name != "DISTGRAD_BACKEND"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, (rank, size, port, hosts))],
            env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    try:
        said = [each.communicate(timeout=2 * LIMIT_S) for each in ranks]
    finally:
        for each in ranks:
            each.kill()
    total = "[11.]" if size == 2 else "[111.]"
    for out, err in said:
        assert out == f"{backend} {total}\n" * 2, err
    assert [each.returncode for each in ranks] == [int(hosts > 1)] * size
    if hosts > 1:
        assert "planted" in said[1][1]
        assert "distgrad: rank 1 has ended the job, so the whole job ends" in said[0][1]
