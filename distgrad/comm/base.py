"""The communicator: an ordered group of ranks and what they can do together.

Every verb lives here once. It checks what it is given, numbers the call, keeps it for error reports, has the
ranks agree that they all issued the same call, and hands flat arrays to the backend, which only moves them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.device import CPU, Device, activated, native, resolve
from distgrad.comm.arrays import (
    check_writeable,
    label,
)
from distgrad.comm.calls import Call
from distgrad.comm.collectives import A, option
from distgrad.comm.unequal import Unequal
from distgrad.comm.work import Work
from distgrad.errors import CommError

__all__ = ["Communicator"]


class Communicator(Unequal):
    """An ordered group of ranks that exchange arrays: NumPy's, or with ``nccl`` those of one GPU a rank.

    Every rank of the group issues the same collectives in the same order, from one thread of its program at a
    time. A verb blocks, or, with ``async_op=True``, returns a :class:`Work` and runs on the communication
    thread behind the calls before it. Arrays are C-contiguous; an array given to an unfinished collective is
    not touched until it ends. Reductions give the same bits on every rank.

    Attributes:
        backend: the backend's name.
        rank: this process's place in the group, from 0.
        size: number of ranks.
        group: the group's name in error reports.
        topology: which rank runs on which host.
        host: the same ranks' communicator for host arrays: itself, except where arrays lie on GPUs.
        sent_bytes: of arrays in ``all_reduce``, ``reduce_scatter``, ``all_gather``, ``all_to_all`` and
            ``broadcast``, as this rank sends them in the algorithm that sends least.
    """

    backend: str

    def __repr__(self) -> str:
        return f"<{self.backend} communicator '{self.group}': rank {self.rank} of {self.size}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def host(self) -> Communicator:
        """The same ranks, for arrays on the host."""
        return self

    @property
    def local_rank(self) -> int:
        """This rank's place among the group's ranks on its host, from 0."""
        return self.topology.local_rank(self.rank)

    @property
    def local_size(self) -> int:
        """Number of the group's ranks on this rank's host."""
        return self.topology.local_size(self.rank)

    @overload
    def send(self, x: NDArray[Any], dest: int, tag: int = ..., async_op: Literal[False] = ...) -> None: ...

    @overload
    def send(self, x: NDArray[Any], dest: int, tag: int = ..., *, async_op: Literal[True]) -> Work[None]: ...

    @overload
    def send(self, x: NDArray[Any], dest: int, tag: int = ..., async_op: bool = ...) -> Work[None] | None: ...

    def send(self, x: NDArray[Any], dest: int, tag: int = 0, async_op: bool = False) -> Any:
        """Send a copy of ``x`` to one rank; does not wait for the receiver.

        Collective: no; blocks: until ``x`` is copied and the calls before it are over.

        Args:
            x: what to send.
            dest: the rank that receives it.
            tag: from 0; a receiver asks for messages of one tag, which arrive in the order of sending.
            async_op: return a :class:`Work` at once.
        """
        x = native(x)
        flat = self._bytes("send", "x", x)
        self._check_rank("send", "dest", dest)
        call = Call("send", x.dtype, x.shape, f"dest={dest}, tag={tag}")

        def body() -> None:
            self._send_labelled(label(x), flat, dest, tag)

        return self._issue(call, body, async_op, everyone=False)

    @overload
    def recv(self, x: A, source: int, tag: int = ..., async_op: Literal[False] = ...) -> A: ...

    @overload
    def recv(self, x: A, source: int, tag: int = ..., *, async_op: Literal[True]) -> Work[A]: ...

    @overload
    def recv(self, x: A, source: int, tag: int = ..., async_op: bool = ...) -> A | Work[A]: ...

    def recv(self, x: NDArray[Any], source: int, tag: int = 0, async_op: bool = False) -> Any:
        """Replace ``x`` by the next message that ``source`` sent with this tag.

        Collective: no; blocks: unless ``async_op``.

        Args:
            x: of the shape and dtype that was sent; overwritten.
            source: the rank that sends it.
            tag: the tag it was sent with.
            async_op: return a :class:`Work` at once.

        Returns:
            ``x``, or the Work that returns it.

        Raises:
            CommMismatchError: the message has another shape or dtype; it is consumed.
        """
        flat = self._bytes("recv", "x", x)
        check_writeable("recv", "x", x)
        self._check_rank("recv", "source", source)
        call = Call("recv", x.dtype, x.shape, f"source={source}, tag={tag}")

        def body() -> NDArray[Any]:
            self._recv_labelled(label(x), flat, source, tag)
            return x

        return self._issue(call, body, async_op, everyone=False)

    def has_message(self, source: int, tag: int = 0) -> bool:
        """Whether a message that ``source`` sent with this tag has come, so that :meth:`recv` finds it there.

        Collective: no; blocks: no; while calls are under way the answer is no.

        Args:
            source: the rank that sends it.
            tag: the tag it was sent with.
        """
        self._check_rank("has_message", "source", source)
        family = self.family
        if family.closed:
            raise CommError(
                f"has_message, group '{self.group}': the communicator is closed; ask before close()"
            )
        if family.relay is not None:
            family.relay.check(f"has_message, group '{self.group}'")
        return not family.thread.busy() and self._has_message(source, tag)

    @overload
    def barrier(self, async_op: Literal[False] = ...) -> None: ...

    @overload
    def barrier(self, async_op: Literal[True]) -> Work[None]: ...

    @overload
    def barrier(self, async_op: bool) -> Work[None] | None: ...

    def barrier(self, async_op: bool = False) -> Any:
        """Wait until every rank has come here.

        Collective: yes; blocks: unless ``async_op``.
        """
        return self._issue(Call("barrier"), self._barrier, async_op)

    def all_gather_object(self, obj: Any) -> list[Any]:
        """Collect every rank's object on every rank, by pickle; for small things.

        Collective: yes; blocks: yes.

        Returns:
            The objects in the order of the ranks, all of them copies.
        """
        return self._issue(Call("all_gather_object"), lambda: self._exchange_objects(obj), False)

    def broadcast_object(self, obj: Any = None, root: int = 0) -> Any:
        """Return a copy of the root's object on every rank, by pickle; for small things.

        Collective: yes; blocks: yes.

        Args:
            obj: what the root sends; ignored elsewhere.
            root: the rank that sends.
        """
        self._check_rank("broadcast_object", "root", root)

        pickled = pickle.dumps(obj) if self.rank == root else b""

        def body() -> Any:
            length = np.array([len(pickled)])
            self._broadcast(length.view(np.uint8), root)
            data = np.frombuffer(bytearray(pickled.ljust(length[0])), np.uint8)
            self._broadcast(data, root)
            return pickle.loads(data.tobytes())

        return self._issue(Call("broadcast_object", options=option("root", root, 0)), body, False)

    def submit(self, function: Callable[[], Any], name: str = "") -> Work:
        """Run ``function`` on the communication thread, as one call behind those before it.

        Verbs of this communicator, and of all that come from the same world, run at once inside it; ``split``
        and ``allocate`` are not for use there.

        Collective: yes; blocks: no.

        Args:
            function: issues the same calls on every rank.
            name: what it does, for error reports; the same on every rank.

        Returns:
            The Work that returns what ``function`` returns.
        """
        call = Call("submit", options=name)
        work: Work = self._issue(call, lambda: self._run_submitted(call, function), async_op=True)
        return work

    def split(self, color: int | None, key: int = 0, group: str | None = None) -> Communicator | None:
        """Make groups of the ranks that give equal colors.

        Collective: yes; blocks: yes.

        Args:
            color: which group this rank joins; None joins none.
            key: ranks of a group are ordered by key, then by their rank here.
            group: the new group's name in error reports; by default ``PARENT/COLOR``.

        Returns:
            The communicator of this rank's group, or None.
        """

        def body() -> Communicator | None:
            entries = self._exchange_objects((color, key))
            colors = sorted({entry[0] for entry in entries if entry[0] is not None})
            members = [r for r, entry in enumerate(entries) if entry[0] == color]
            members.sort(key=lambda r: entries[r][1])  # stable: equal keys stay in the order of the ranks
            name = group if group is not None else f"{self.group}/{color}"
            return self._split(None if color is None else colors.index(color), members, name)

        return self._issue(Call("split"), body, False)

    def split_by_host(self) -> tuple[Communicator, Communicator]:
        """The ranks of this rank's host, and those of its place among the ranks of every host.

        What is summed within hosts and then between them has been summed over all ranks, where hosts hold
        equally many; the first group has the fast links, the second the slow ones.

        Collective: yes; blocks: yes.

        Returns:
            Both groups, named ``PARENT/host/NUMBER`` and ``PARENT/place/NUMBER``; a host with fewer ranks is
            missing in the groups of higher places.
        """
        host, place = self.topology.node_rank(self.rank), self.local_rank
        within = self.split(host, group=f"{self.group}/host/{host}")
        between = self.split(place, group=f"{self.group}/place/{place}")
        assert within is not None
        assert between is not None
        return within, between

    def allocate(
        self, nbytes: int, device: Device | str | None = None, lazy: bool = False
    ) -> NDArray[np.uint8]:
        """Zeroed memory, page aligned, from where this communicator reduces fastest.

        Among ranks of one host that is memory which all of them map: arrays that lie in it, at the same place
        on every rank, are reduced there, without a copy.

        Collective: yes, with equal ``nbytes`` on every rank; blocks: yes.

        Args:
            nbytes: bytes, from 0.
            device: where; None means the host.
            lazy: let pages of the host's memory come as they are written, small ones, where most will not be.

        Returns:
            ``[nbytes]``; other dtypes are views of it.
        """
        if device is not None and (found := resolve(device)) != CPU:
            with activated(found) as xp:
                return xp.zeros(nbytes, np.uint8)
        return self._issue(
            Call("allocate", options=f"nbytes={nbytes}"), lambda: self._allocate(nbytes, lazy), False
        )

    def close(self) -> None:
        """Finish what was issued and end the communication thread, for this group and all split from it.

        Collective: yes; blocks: until the calls that were issued are over and, with ``mpi``, every rank is
            here.
        """
        self.family.close()
