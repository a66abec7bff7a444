"""What a stranger sends to a rank's socket takes no room in it, and the ranks meet all the same."""

import secrets
import socket
import threading
from pathlib import Path

import pytest

from distgrad.comm import neighbours
from distgrad.comm.neighbours import Neighbours
from distgrad.comm.socketfilter import accept_prefix

PREFIX = bytes(range(1, 33))
NUM_MESSAGES = 2000


@pytest.fixture
def ends():
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    sender.setblocking(False)
    yield receiver, sender
    receiver.close()
    sender.close()


def bind(receiver: socket.socket) -> bytes:
    receiver.bind(b"\0distgrad-test-" + secrets.token_hex(8).encode())
    return receiver.getsockname()


def test_only_messages_with_the_prefix_arrive(ends):
    receiver, sender = ends
    accept_prefix(receiver, PREFIX)
    address = bind(receiver)
    near = [PREFIX[:i] + bytes([PREFIX[i] ^ 1]) + PREFIX[i + 1 :] + b"x" for i in range(len(PREFIX))]
    for message in [b"", b"x", PREFIX[:-1], bytes(32), bytes(100_000), *near]:
        sender.sendto(message, address)
    for message in (PREFIX, PREFIX + b"topic", PREFIX + bytes(100_000)):
        sender.sendto(message, address)
        assert receiver.recv(200_000) == message
    with pytest.raises(BlockingIOError):
        receiver.recv(1)


def flood(sender: socket.socket, address: bytes) -> bool:
    """Whether a stranger can fill a socket that nobody reads."""
    try:
        for _ in range(NUM_MESSAGES):
            sender.sendto(b"stranger", address)
    except BlockingIOError:
        return True
    return False


def test_a_stranger_cannot_fill_a_rank_s_socket(ends):
    receiver, sender = ends
    accept_prefix(receiver, PREFIX)
    assert not flood(sender, bind(receiver))


def test_without_the_filter_it_can(ends):
    receiver, sender = ends
    assert flood(sender, bind(receiver))


def addresses() -> set[bytes]:
    """Abstract names of ranks that stand in /proc/net/unix, as any user may read them."""
    names = (line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {b"\0" + name[1:].encode() for name in names if name.startswith("@distgrad-")}


def test_ranks_meet_while_a_stranger_writes_to_them(monkeypatch):
    """The stranger finds the addresses and has sent more than fits before the other rank sends anything."""
    before, flooded, met = addresses(), [], []
    introduce = Neighbours._introduce

    def slowly(self: Neighbours) -> None:
        if self.rank == 0:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
                stranger.setblocking(False)
                flooded.extend(flood(stranger, address) for address in addresses() - before)
        introduce(self)

    monkeypatch.setattr(neighbours.Neighbours, "_introduce", slowly)

    def join(rank: int) -> None:
        member = Neighbours("secret", rank, range(2), timeout_s=10.0)
        met.append(rank)
        member.close()

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert sorted(met) == [0, 1]
    assert flooded
    assert not any(flooded)
