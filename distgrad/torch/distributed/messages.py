"""Messages between two ranks, and objects between all: what ``torch.distributed`` sends by pickle."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.comm.base import Communicator
from distgrad.errors import CommError, CommTimeoutError, OptionError
from distgrad.torch.distributed.arrays import array_of, meet, place_in, store
from distgrad.torch.distributed.groups import ProcessGroup
from distgrad.torch.distributed.works import Work

__all__ = [
    "P2POp", "all_gather_object", "batch_isend_irecv", "broadcast_object_list", "gather_object", "irecv",
    "isend", "recv", "recv_object_list", "scatter_object_list", "send", "send_object_list",
]  # fmt: skip

_OBJECTS = 1 << 20  # the tag of objects, which no program takes


def send(
    tensor: Tensor, dst: int | None = None, group: Any = None, tag: int = 0, group_dst: int | None = None
) -> None:
    """Send a tensor to a rank; it may be changed at once.

    Collective: no; blocks: until it is copied.
    """
    isend(tensor, dst, group, tag, group_dst)


def isend(
    tensor: Tensor, dst: int | None = None, group: Any = None, tag: int = 0, group_dst: int | None = None
) -> Work | None:
    """The same; sending waits for nobody, so that the Work is over.

    Collective: no; blocks: until it is copied.
    """
    values = array_of(tensor, "send")
    met = meet(group, "send", tensor)
    if met is None:
        return None
    place = place_in(met[0], dst, group_dst, "send")
    if place == met[1].rank:
        raise ValueError("Invalid destination rank: destination rank should not be the same as the rank of "
                         "the current process.")  # fmt: skip
    met[1].send(values, place, tag)
    done = Work(None, lambda _: [tensor])
    done.wait()
    return done


#: Messages that this rank is to receive, of each communicator, rank and tag, in the order of the calls.
_awaited: dict[tuple[int, int, int], deque[Work]] = {}


def irecv(
    tensor: Tensor, src: int | None = None, group: Any = None, tag: int = 0, group_src: int | None = None
) -> Work | None:
    """Receive a message into a tensor once the Work is waited for, or asked whether it is over and is.

    Collective: no; blocks: no.
    """
    met = meet(group, "recv", tensor)
    if met is None:
        return None
    comm, place = met[1], _source(met[0], src, group_src)
    queue = _awaited.setdefault((id(comm), place, tag), deque())

    def finish(_: Any) -> list[Tensor]:
        while queue[0] is not work:  # messages come in the order in which they are asked for
            queue[0].wait()
        values = array_of(tensor, "recv")
        try:
            comm.recv(values, place, tag)
        finally:
            queue.popleft()
            if not queue:
                _awaited.pop((id(comm), place, tag), None)
        return [store(tensor, values, "recv")]

    deadline_s = time.monotonic() + comm.family.timeout_s

    def arrived() -> bool:
        while comm.has_message(place, tag):
            if queue[0] is work:
                return True
            queue[0].exception_behind()
        if time.monotonic() > deadline_s:
            raise CommTimeoutError(
                f"irecv: no message of rank {place} with tag {tag} came within {comm.family.timeout_s:g} s; "
                "look for a rank that skipped the send"
            )
        return False

    work = Work(None, finish, arrived)
    queue.append(work)
    return work


def _source(group: ProcessGroup, src: int | None, group_src: int | None) -> int:
    if src is None and group_src is None:
        if group.size() == 2:
            return 1 - group.rank()
        raise OptionError("recv: src=None (a message of any rank) is not to be had; name the rank that sends")
    return place_in(group, src, group_src, "recv")


def recv(
    tensor: Tensor, src: int | None = None, group: Any = None, tag: int = 0, group_src: int | None = None
) -> int:
    """Receive a message into a tensor; the rank that sent it, as numbered in the world.

    Collective: no; blocks: yes.
    """
    work = irecv(tensor, src, group, tag, group_src)
    met = meet(group, "recv", tensor)
    if work is None or met is None:
        return -1
    work.wait()
    return met[0].ranks[_source(met[0], src, group_src)]


class P2POp:
    """A message for :func:`batch_isend_irecv`.

    Args:
        op: ``isend`` or ``irecv``.
        tensor: what is sent, or filled.
        peer, group, tag, group_peer: as for these.
    """

    def __init__(
        self, op: Callable[..., Any], tensor: Tensor, peer: int | None = None, group: Any = None,
        tag: int = 0, group_peer: int | None = None,
    ) -> None:  # fmt: skip
        if op not in (isend, irecv):
            raise ValueError("Invalid `op`. Expected dist.isend or dist.irecv")
        self.op, self.tensor, self.peer, self.group = op, tensor, peer, group
        self.tag, self.group_peer = tag, group_peer


def batch_isend_irecv(p2p_op_list: Sequence[P2POp]) -> list[Work]:
    """Issue messages together; what is sent goes first, so that no order can have two ranks wait.

    Collective: no; blocks: no.
    """
    works: dict[int, Work | None] = {}
    for place, each in sorted(enumerate(p2p_op_list), key=lambda pair: pair[1].op is irecv):
        works[place] = each.op(each.tensor, each.peer, each.group, each.tag, each.group_peer)
    return [work for _, work in sorted(works.items()) if work is not None]


# Objects


def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """Fill a list with every rank's object.

    Collective: yes; blocks: yes.
    """
    met = meet(group, "all_gather_object")
    if met is not None:
        object_list[: met[1].size] = met[1].all_gather_object(obj)


def gather_object(
    obj: Any, object_gather_list: list[Any] | None = None, dst: int | None = None, group: Any = None,
    group_dst: int | None = None,
) -> None:  # fmt: skip
    """Fill the list of one rank, by default of the first, with every rank's object.

    Collective: yes; blocks: yes.
    """
    met = meet(group, "gather_object")
    if met is None:
        return
    root = place_in(met[0], 0 if dst is None and group_dst is None else dst, group_dst, "gather_object")
    found = met[1].gather_object(obj, root)
    if found is not None:
        if object_gather_list is None:
            raise ValueError("Argument object_gather_list must be specified on destination rank.")
        object_gather_list[: len(found)] = found


def broadcast_object_list(
    object_list: list[Any], src: int | None = None, group: Any = None, device: Any = None,
    group_src: int | None = None,
) -> None:  # fmt: skip
    """Replace the objects in a list by one rank's, by default the first's.

    Collective: yes; blocks: yes.
    """
    met = meet(group, "broadcast_object_list")
    if met is None:
        return
    root = place_in(met[0], 0 if src is None and group_src is None else src, group_src, "broadcast_object")
    found = met[1].broadcast_object(list(object_list), root)
    if met[1].rank != root:
        if len(found) != len(object_list):
            raise CommError(
                f"broadcast_object_list: rank {root} has sent {len(found)} objects, but the list holds "
                f"{len(object_list)}"
            )
        object_list[:] = found


def scatter_object_list(
    scatter_object_output_list: list[Any], scatter_object_input_list: Sequence[Any] | None = None,
    src: int | None = None, group: Any = None, group_src: int | None = None,
) -> None:  # fmt: skip
    """Put one of one rank's objects, by default the first's, at the beginning of each rank's list.

    Collective: yes; blocks: yes.
    """
    met = meet(group, "scatter_object_list")
    if met is None:
        return
    root = place_in(met[0], 0 if src is None and group_src is None else src, group_src, "scatter_object_list")
    given = scatter_object_input_list if met[1].rank == root else None
    scatter_object_output_list[0] = met[1].scatter_object(given, root)


def send_object_list(
    object_list: Sequence[Any], dst: int | None = None, group: Any = None, device: Any = None,
    group_dst: int | None = None,
) -> None:  # fmt: skip
    """Send objects to a rank.

    Collective: no; blocks: until they are copied.
    """
    import pickle

    met = meet(group, "send_object_list")
    if met is not None:
        data = np.frombuffer(pickle.dumps(list(object_list)), np.uint8)
        place = place_in(met[0], dst, group_dst, "send_object_list")
        met[1].send(np.array([data.size]), place, _OBJECTS)
        met[1].send(data, place, _OBJECTS)


def recv_object_list(
    object_list: list[Any], src: int | None = None, group: Any = None, device: Any = None,
    group_src: int | None = None,
) -> int:  # fmt: skip
    """Replace the objects in a list by those that a rank sends; that rank.

    Collective: no; blocks: yes.
    """
    import pickle

    met = meet(group, "recv_object_list")
    if met is None:
        return -1
    place = _source(met[0], src, group_src)
    comm: Communicator = met[1]
    length = comm.recv(np.empty(1, np.int64), place, _OBJECTS)[0]
    object_list[:] = pickle.loads(comm.recv(np.empty(length, np.uint8), place, _OBJECTS).tobytes())
    return met[0].ranks[place]
