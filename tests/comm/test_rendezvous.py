"""Ranks that no launcher has started meet at an address, and whoever does not belong there is turned away."""

import hashlib
import os
import socket
import threading
import time

import numpy as np
import pytest

from distgrad.comm import rendezvous
from distgrad.comm.registry import finalize, init
from distgrad.errors import CommError, CommTimeoutError


def together(size, body):
    """What ``body(rank)`` gives or raises in threads, one a rank."""
    found = [None] * size

    def run(rank):
        try:
            found[rank] = body(rank)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_all_get_one_secret_and_a_second_meeting_another(size, monkeypatch):
    monkeypatch.setattr(rendezvous, "join", lambda secret, rank, size, timeout_s: (secret, rank))
    place = f"a test of {size}"
    meetings = [together(size, lambda rank: rendezvous.meet(place, rank, size, 20)) for _ in range(2)]
    for found in meetings:
        assert [rank for _, rank in found] == list(range(size))
        assert len({secret for secret, _ in found}) == 1
    assert meetings[0][0][0] != meetings[1][0][0]


def test_a_rank_that_comes_twice_ends_all(monkeypatch):
    monkeypatch.setattr(rendezvous, "join", lambda *given: given)
    found = together(3, lambda rank: rendezvous.meet("twice", min(rank, 1), 3, 20))
    assert all(isinstance(each, CommError) for each in found)
    assert "give every process its own rank" in str(found[0])
    assert any("has turned rank 1 of 3 away" in str(each) for each in found[1:])


def test_those_who_do_not_come_are_named():
    with pytest.raises(CommTimeoutError, match=r"ranks? 1.*2.* did not come to late in time"):
        rendezvous.meet("late", 0, 3, 0.2)
    with pytest.raises(CommTimeoutError, match="rank 0 did not come"):
        rendezvous.meet("late", 1, 3, 0.2)


def address_of(place):
    name = hashlib.sha256(f"{os.getuid()} {place}".encode()).hexdigest()
    return f"\0distgrad-meeting-{name}"


def test_a_rank_that_ends_behind_its_hello_is_named():
    gone = threading.Event()

    def come(rank):
        if rank == 2:
            gone.wait(20)
        if rank != 1:
            return rendezvous.meet("ending", rank, 3, 20)
        while not gone.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                try:
                    line.connect(address_of("ending"))
                except ConnectionRefusedError:
                    time.sleep(0.01)
                    continue
                line.sendall(rendezvous._HELLO.pack(1, 3))
            gone.set()
        return None

    first, _, last = together(3, come)
    assert isinstance(first, CommError)
    assert "rank 1 of 3 came to ending and has ended since" in str(first)
    assert isinstance(last, CommError)


def test_a_rank_0_that_ends_before_the_hello_is_named(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(address_of("leaving"))
        door.listen()
        monkeypatch.setattr(rendezvous, "_is_ours", lambda line: door.accept()[0].close() or True)
        with pytest.raises(CommError, match="rank 0 has turned rank 1 of 2 away at leaving, or has ended"):
            rendezvous.meet("leaving", 1, 2, 20)


def test_other_users_are_not_let_in(monkeypatch):
    monkeypatch.setattr(rendezvous, "_is_ours", lambda line: False)
    found = together(2, lambda rank: rendezvous.meet("strangers", rank, 2, 0.5))
    assert isinstance(found[0], CommTimeoutError)
    assert "another user's process waits" in str(found[1])


def test_two_jobs_at_one_place_are_an_error():
    found = together(2, lambda _: rendezvous.meet("one", 0, 2, 1))
    assert {type(each) for each in found} == {CommTimeoutError, CommError}
    assert any("another job's ranks meet at one already" in str(each) for each in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "localhost:1"}, "address, rank and size go together"),
        (
            {"address": "nothing", "rank": 0, "size": 1},
            "must be host:port, with a port from 1 to 65535, or the path of a file",
        ),
        ({"address": "192.0.2.1:1", "rank": 0, "size": 2}, "which is not this machine"),
        ({"address": "localhost:1", "rank": 2, "size": 2}, "rank must be from 0 and below size"),
    ],
)
def test_what_does_not_fit_is_an_error(options, message):
    with pytest.raises(CommError, match=message):
        init(**options)


def test_variables_of_another_launcher_are_an_address(monkeypatch, tmp_path):
    for name in ("DISTGRAD_JOB_SECRET", "DISTGRAD_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert init().backend == "shm"
    assert init().all_reduce(np.ones(2)).tolist() == [1, 1]
    finalize()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.1")
    with pytest.raises(
        CommError, match="not this machine, but LOCAL_WORLD_SIZE says that all of them are here"
    ):
        init()
