"""The communicator: an ordered group of ranks and what they can do together.

Every verb lives here once. It checks what it is given, numbers the call, keeps it for error reports, has the
ranks agree that they all issued the same call, and hands flat arrays to the backend, which only moves them.
"""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.device import CPU, Device, activated, resolve
from distgrad.comm.arrays import check_writeable, empty, flat_bytes, flat_numbers, label, zeros
from distgrad.comm.calls import Call
from distgrad.comm.transport import Transport
from distgrad.comm.work import Work
from distgrad.errors import CommError, ShapeError

__all__ = ["Communicator"]


class Communicator(Transport):
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

    def all_reduce(
        self, x: NDArray[Any], op: str = "sum", async_op: bool = False, *, weight: float | None = None
    ) -> Any:
        """Replace ``x`` on every rank by the reduction over all ranks.

        ``x = x_0 op x_1 op ... op x_{size-1}``, element by element, in the order of the ranks within a host;
        float16 and bfloat16 add and multiply in float32. ``mean`` divides the sum by ``size``, or, with
        weights, is ``(w_0 x_0 + w_1 x_1 + ...) / (w_0 + w_1 + ...)``, and 0 where all weights are 0.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: numbers of equal shape and dtype on every rank; overwritten. Booleans take min (and), max (or)
                and prod (and).
            op: ``sum``, ``mean``, ``min``, ``max`` or ``prod``. With NaN among the elements, min and max are
                undefined.
            async_op: return a :class:`Work` at once.
            weight: how much this rank's ``x`` counts in a mean, from 0; given by every rank or by none. One
                of weight 0 may be anything, NaN too.

        Returns:
            ``x``, or the Work that returns it.
        """
        self._check_array("all_reduce", "x", x)
        flat = flat_numbers("all_reduce", x, op, overwritten=True)
        options = "" if op == "sum" else f"op={op}"
        if weight is not None:
            if op != "mean" or not 0 <= weight < math.inf:
                raise CommError(
                    f"all_reduce: weight must be from 0, and op='mean' with it, got {weight} and {op!r}"
                )
            options += ", weighted"
        body = functools.partial(self._reduce_all, x, flat, op, weight)
        return self._issue(Call("all_reduce", x.dtype, x.shape, options, x.nbytes), body, async_op)

    def reduce_scatter(self, x: NDArray[Any], op: str = "sum", async_op: bool = False) -> Any:
        """Reduce over all ranks and keep this rank's part: ``y_r = x_0[r] op ... op x_{size-1}[r]``.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: ``[size, ...]`` numbers, of equal shape and dtype on every rank; left as they are.
            op: as for :meth:`all_reduce`.
            async_op: return a :class:`Work` at once.

        Returns:
            The part, of shape ``x.shape[1:]``, or the Work that returns it.
        """
        self._check_array("reduce_scatter", "x", x)
        flat = flat_numbers("reduce_scatter", x, op)
        self._check_parts("reduce_scatter", x)

        def body() -> NDArray[Any]:
            part = empty(x, x.shape[1:], x.dtype)
            out = flat_numbers("reduce_scatter", part, op)
            self._reduce_scatter(flat.reshape(self.size, -1), out, "sum" if op == "mean" else op)
            self._divide(out, op)
            return part

        call = Call("reduce_scatter", x.dtype, x.shape, _option("op", op, "sum"), x.nbytes)
        return self._issue(call, body, async_op)

    def broadcast(self, x: NDArray[Any], root: int = 0, async_op: bool = False) -> Any:
        """Replace ``x`` on every rank by the root's.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: of equal shape and dtype on every rank; overwritten, except on the root.
            root: the rank that sends.
            async_op: return a :class:`Work` at once.

        Returns:
            ``x``, or the Work that returns it.
        """
        flat = self._bytes("broadcast", "x", x)
        self._check_rank("broadcast", "root", root)
        if self.rank != root:
            check_writeable("broadcast", "x", x)

        def body() -> NDArray[Any]:
            self._broadcast(flat, root)
            return x

        call = Call("broadcast", x.dtype, x.shape, _option("root", root, 0), x.nbytes)
        return self._issue(call, body, async_op)

    def all_gather(self, x: NDArray[Any], async_op: bool = False) -> Any:
        """Collect every rank's ``x`` on every rank: ``y[r] = x_r``.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: of equal shape and dtype on every rank.
            async_op: return a :class:`Work` at once.

        Returns:
            ``y``, of shape ``[size, *x.shape]``, or the Work that returns it.
        """
        flat = self._bytes("all_gather", "x", x)

        def body() -> NDArray[Any]:
            out = empty(x, (self.size, *x.shape), x.dtype)
            self._all_gather(flat, self._rows(out))
            return out

        return self._issue(Call("all_gather", x.dtype, x.shape, "", x.nbytes), body, async_op)

    def all_gather_v(self, x: NDArray[Any], async_op: bool = False) -> Any:
        """Collect every rank's ``x`` on every rank where its first axis has another length on each.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: ``[n_r, ...]``; dtype and all other axes are equal on every rank.
            async_op: return a :class:`Work` at once.

        Returns:
            The list of the ranks' arrays in their order, or the Work that returns it.
        """
        flat = self._bytes("all_gather_v", "x", x)
        if x.ndim == 0:
            raise ShapeError("all_gather_v: x must have a first axis, got []; use all_gather")

        def body() -> list[NDArray[Any]]:
            lengths = self._gather_lengths(len(x))
            row_bytes = math.prod(x.shape[1:]) * x.itemsize
            padded = zeros(x, (max(lengths) * row_bytes,), np.dtype(np.uint8))
            padded[: flat.size] = flat
            rows = empty(x, (self.size, padded.size), np.dtype(np.uint8))
            self._all_gather(padded, rows)
            self._settle()
            return [
                row[: length * row_bytes].copy().view(x.dtype).reshape(length, *x.shape[1:])
                for row, length in zip(rows, lengths, strict=True)
            ]

        return self._issue(Call("all_gather_v", x.dtype, x.shape[1:], "a row"), body, async_op)

    def all_to_all(self, x: NDArray[Any], async_op: bool = False) -> Any:
        """Send part ``i`` to rank ``i`` and receive a part of each: ``y[i] = x_i[rank]``.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: ``[size, ...]``, of equal shape and dtype on every rank.
            async_op: return a :class:`Work` at once.

        Returns:
            ``y``, of the shape of ``x``, or the Work that returns it.
        """
        self._bytes("all_to_all", "x", x)
        self._check_parts("all_to_all", x)

        def body() -> NDArray[Any]:
            out = empty(x, x.shape, x.dtype)
            self._all_to_all(self._rows(x), self._rows(out))
            return out

        return self._issue(Call("all_to_all", x.dtype, x.shape, "", x.nbytes), body, async_op)

    def gather(self, x: NDArray[Any], root: int = 0, async_op: bool = False) -> Any:
        """Collect every rank's ``x`` on the root: ``y[r] = x_r``.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: of equal shape and dtype on every rank.
            root: the rank that receives.
            async_op: return a :class:`Work` at once.

        Returns:
            ``y``, of shape ``[size, *x.shape]``, on the root and None elsewhere; or the Work that returns it.
        """
        flat = self._bytes("gather", "x", x)
        self._check_rank("gather", "root", root)

        def body() -> NDArray[Any] | None:
            out = empty(x, (self.size, *x.shape), x.dtype) if self.rank == root else None
            self._gather(flat, None if out is None else self._rows(out), root)
            return out

        return self._issue(Call("gather", x.dtype, x.shape, _option("root", root, 0)), body, async_op)

    def scatter(
        self, out: NDArray[Any], x: NDArray[Any] | None = None, root: int = 0, async_op: bool = False
    ) -> Any:
        """Send part ``r`` of the root's ``x`` to rank ``r``: ``out_r = x[r]``.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            out: receives the part; of equal shape and dtype on every rank.
            x: ``[size, *out.shape]`` on the root, None elsewhere.
            root: the rank that sends.
            async_op: return a :class:`Work` at once.

        Returns:
            ``out``, or the Work that returns it.
        """
        flat = self._bytes("scatter", "out", out)
        check_writeable("scatter", "out", out)
        self._check_rank("scatter", "root", root)
        if (x is not None) != (self.rank == root):
            raise CommError(
                f"scatter: x must be given on the root, rank {root}, alone; rank {self.rank} gave "
                f"{'none' if x is None else 'one'}"
            )
        if x is not None:
            self._bytes("scatter", "x", x)
            if x.shape != (self.size, *out.shape) or x.dtype != out.dtype:
                raise ShapeError(
                    f"scatter: x must be {out.dtype}{[self.size, *out.shape]} for out of {out.dtype}"
                    f"{list(out.shape)}, got {x.dtype}{list(x.shape)}"
                )

        def body() -> NDArray[Any]:
            self._scatter(None if x is None else self._rows(x), flat, root)
            return out

        return self._issue(Call("scatter", out.dtype, out.shape, _option("root", root, 0)), body, async_op)

    def send(self, x: NDArray[Any], dest: int, tag: int = 0, async_op: bool = False) -> Any:
        """Send a copy of ``x`` to one rank; does not wait for the receiver.

        Collective: no; blocks: until ``x`` is copied and the calls before it are over.

        Args:
            x: what to send.
            dest: the rank that receives it.
            tag: from 0; a receiver asks for messages of one tag, which arrive in the order of sending.
            async_op: return a :class:`Work` at once.
        """
        flat = self._bytes("send", "x", x)
        self._check_rank("send", "dest", dest)
        call = Call("send", x.dtype, x.shape, f"dest={dest}, tag={tag}")

        def body() -> None:
            self._send_labelled(label(x), flat, dest, tag)

        return self._issue(call, body, async_op, everyone=False)

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

        return self._issue(Call("broadcast_object", options=_option("root", root, 0)), body, False)

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

    def allocate(self, nbytes: int, device: Device | str | None = None) -> NDArray[np.uint8]:
        """Zeroed memory, page aligned, from where this communicator reduces fastest.

        Among ranks of one host that is memory which all of them map: arrays that lie in it, at the same place
        on every rank, are reduced there, without a copy.

        Collective: yes, with equal ``nbytes`` on every rank; blocks: yes.

        Args:
            nbytes: bytes, from 0.
            device: where; None means the host.

        Returns:
            ``[nbytes]``; other dtypes are views of it.
        """
        if device is not None and (found := resolve(device)) != CPU:
            with activated(found) as xp:
                return xp.zeros(nbytes, np.uint8)
        return self._issue(
            Call("allocate", options=f"nbytes={nbytes}"), lambda: self._allocate(nbytes), False
        )

    def close(self) -> None:
        """Finish what was issued and end the communication thread, for this group and all split from it.

        Collective: yes; blocks: until the calls that were issued are over and, with ``mpi``, every rank is
            here.
        """
        self.family.close()

    def _reduce_all(self, x: NDArray[Any], flat: NDArray[Any], op: str, weight: float | None) -> NDArray[Any]:
        if weight is not None:
            self._weighted_mean(flat, weight)
        elif op == "mean":
            self._all_reduce(flat, "sum")
            self._divide(flat, op)
        else:
            self._all_reduce(flat, op)
        return x

    def _weighted_mean(self, flat: NDArray[Any], weight: float) -> None:
        total = np.array([float(weight)])
        self._all_reduce(total, "sum")
        share = weight / total[0] if total[0] else 0.0
        if share:
            np.multiply(flat, flat.dtype.type(share), out=flat)
        else:
            flat[...] = 0
        self._all_reduce(flat, "sum")

    def _divide(self, flat: NDArray[Any], op: str) -> None:
        if op == "mean":
            flat /= self.size

    def _bytes(self, verb: str, name: str, x: NDArray[Any]) -> NDArray[np.uint8]:
        self._check_array(verb, name, x)
        return flat_bytes(verb, name, x)

    def _rows(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """The bytes of ``x`` as one row a rank."""
        return flat_bytes("rows", "x", x).reshape(self.size, x.nbytes // self.size)

    def _check_rank(self, verb: str, name: str, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise CommError(f"{verb}: {name} must be a rank from 0 to {self.size - 1}, got {rank}")

    def _check_parts(self, verb: str, x: NDArray[Any]) -> None:
        if x.ndim == 0 or x.shape[0] != self.size:
            raise ShapeError(f"{verb}: x must have one part a rank, [{self.size}, ...], got {list(x.shape)}")


def _option(name: str, value: object, default: object) -> str:
    """How an option stands in a call's text: not at all if it is the default."""
    return "" if value == default else f"{name}={value}"
