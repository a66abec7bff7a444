"""The collectives of arrays: each checks what it is given, and hands flat arrays to the backend."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.device import native
from distgrad.comm.arrays import (
    check_out,
    check_part,
    check_writeable,
    cut,
    empty,
    flat_bytes,
    flat_numbers,
    scale_edges,
)
from distgrad.comm.averaging import Averaging
from distgrad.comm.calls import Call
from distgrad.comm.work import Work
from distgrad.errors import CommError, ShapeError

__all__ = ["Collectives", "option"]

A = TypeVar("A", bound=NDArray[Any])  # an array of the same shape
S = TypeVar("S", bound=np.generic)  # elements of the same type
Parts = list[NDArray[S]]


class Collectives(Averaging):
    """The verbs that all ranks of a group issue together, with an array of each."""

    @overload
    def all_reduce(
        self, x: A, op: str = ..., async_op: Literal[False] = ..., *, weight: float | None = ...
    ) -> A: ...

    @overload
    def all_reduce(
        self, x: A, op: str = ..., *, async_op: Literal[True], weight: float | None = ...
    ) -> Work[A]: ...

    @overload
    def all_reduce(
        self, x: A, op: str = ..., async_op: bool = ..., *, weight: float | None = ...
    ) -> A | Work[A]: ...

    def all_reduce(
        self, x: NDArray[Any], op: str = "sum", async_op: bool = False, *, weight: float | None = None
    ) -> Any:
        """Replace ``x`` on every rank by the reduction over all ranks.

        ``x = x_0 op x_1 op ... op x_{size-1}``, element by element, in the order of the ranks within a host;
        float16 and bfloat16 are reduced in float32, and rounded once. ``mean`` divides the sum by ``size``,
        or, with weights, is ``(w_0 x_0 + w_1 x_1 + ...) / (w_0 + w_1 + ...)``, and 0 where all weights are 0.

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

    @overload
    def reduce_scatter(
        self,
        x: NDArray[S],
        op: str = ...,
        async_op: Literal[False] = ...,
        *,
        out: NDArray[S] | None = ...,
        counts: Sequence[int] | None = ...,
    ) -> NDArray[S]: ...

    @overload
    def reduce_scatter(
        self,
        x: NDArray[S],
        op: str = ...,
        *,
        async_op: Literal[True],
        out: NDArray[S] | None = ...,
        counts: Sequence[int] | None = ...,
    ) -> Work[NDArray[S]]: ...

    @overload
    def reduce_scatter(
        self,
        x: NDArray[S],
        op: str = ...,
        async_op: bool = ...,
        *,
        out: NDArray[S] | None = ...,
        counts: Sequence[int] | None = ...,
    ) -> NDArray[S] | Work[NDArray[S]]: ...

    def reduce_scatter(
        self,
        x: NDArray[Any],
        op: str = "sum",
        async_op: bool = False,
        *,
        out: NDArray[Any] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Any:
        """Reduce over all ranks and keep this rank's part: ``y_r = x_0[r] op ... op x_{size-1}[r]``.

        With ``out`` or ``counts`` the parts are ranges of the first axis, one behind the other::

            comm.reduce_scatter(gradients, out=gradients[mine])  # where they lie

        Among ranks of one host a part has the bits that :meth:`all_reduce` would give it, and memory of
        :meth:`allocate` at one place on every rank is reduced where it lies.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: ``[size, ...]`` numbers, or ``[n, ...]`` with ``out`` or ``counts``; of equal shape and dtype
                on every rank; left as they are.
            op: as for :meth:`all_reduce`.
            async_op: return a :class:`Work` at once.
            out: receives the part, ``[counts[rank], ...]``; may be the very part of ``x``.
            counts: each rank's share in the first axis, the same on every rank; None cuts it evenly.

        Returns:
            ``out``, or the part, of shape ``x.shape[1:]`` without ``counts``; or the Work that returns it.
        """
        x = native(x)
        self._check_array("reduce_scatter", "x", x)
        flat = flat_numbers("reduce_scatter", x, op)
        if out is None and counts is None:
            self._check_parts("reduce_scatter", x)
            shape = x.shape[1:]
        edges = cut("reduce_scatter", "x", x, self.size, counts)
        if out is not None or counts is not None:
            shape = (edges[self.rank + 1] - edges[self.rank], *x.shape[1:])
        if out is not None:
            self._check_array("reduce_scatter", "out", out)
            check_part("reduce_scatter", "out", out, shape, x, edges[self.rank])
            check_writeable("reduce_scatter", "out", out)
        places = scale_edges(edges, x)

        def body() -> NDArray[Any]:
            part = empty(x, shape, x.dtype) if out is None else out
            self._reduce_part(flat, flat_numbers("reduce_scatter", part, op), op, places)
            return part

        options = ", ".join(filter(None, (option("op", op, "sum"), option("counts", counts, None))))
        return self._issue(Call("reduce_scatter", x.dtype, x.shape, options, x.nbytes), body, async_op)

    @overload
    def broadcast(self, x: A, root: int = ..., async_op: Literal[False] = ...) -> A: ...

    @overload
    def broadcast(self, x: A, root: int = ..., *, async_op: Literal[True]) -> Work[A]: ...

    @overload
    def broadcast(self, x: A, root: int = ..., async_op: bool = ...) -> A | Work[A]: ...

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

        call = Call("broadcast", x.dtype, x.shape, option("root", root, 0), x.nbytes)
        return self._issue(call, body, async_op)

    @overload
    def all_gather(
        self,
        x: NDArray[S],
        async_op: Literal[False] = ...,
        *,
        out: NDArray[S] | None = ...,
        counts: Sequence[int] | None = ...,
    ) -> NDArray[S]: ...

    @overload
    def all_gather(
        self,
        x: NDArray[S],
        *,
        async_op: Literal[True],
        out: NDArray[S] | None = ...,
        counts: Sequence[int] | None = ...,
    ) -> Work[NDArray[S]]: ...

    @overload
    def all_gather(
        self,
        x: NDArray[S],
        async_op: bool = ...,
        *,
        out: NDArray[S] | None = ...,
        counts: Sequence[int] | None = ...,
    ) -> NDArray[S] | Work[NDArray[S]]: ...

    def all_gather(
        self,
        x: NDArray[Any],
        async_op: bool = False,
        *,
        out: NDArray[Any] | None = None,
        counts: Sequence[int] | None = None,
    ) -> Any:
        """Collect every rank's ``x`` on every rank: ``y[r] = x_r``; with ``out`` one behind the other.

        ::

            comm.all_gather(parameters[mine], out=parameters)  # where they lie

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: of equal dtype on every rank, and of equal shape but for ``counts``.
            async_op: return a :class:`Work` at once.
            out: ``[n, ...]`` for x of ``[counts[rank], ...]``; overwritten. ``x`` may be its very part.
            counts: with ``out``, each rank's share in its first axis, the same on every rank; None: even.

        Returns:
            ``y``, of shape ``[size, *x.shape]``, or ``out``; or the Work that returns it.
        """
        flat = self._bytes("all_gather", "x", x)
        if out is None:
            if counts is not None:
                raise CommError(
                    "all_gather: counts cut out, which was not given; pass out, or use all_gather_v"
                )
            edges = [rank * x.nbytes for rank in range(self.size + 1)]
            call = Call("all_gather", x.dtype, x.shape, "", x.nbytes)
        else:
            whole = self._bytes("all_gather", "out", out)
            parts = cut("all_gather", "out", out, self.size, counts)
            shape = (parts[self.rank + 1] - parts[self.rank], *out.shape[1:])
            check_part("all_gather", "x", x, shape, out, parts[self.rank])
            check_writeable("all_gather", "out", out)
            edges = [place * out.itemsize for place in scale_edges(parts, out)]
            text = option("counts", counts, None) or "out"
            call = Call("all_gather", out.dtype, out.shape, text, out.nbytes / self.size)  # on average

        def body() -> NDArray[Any]:
            if out is not None:
                self._all_gather(flat, whole, edges)
                return out
            stacked = empty(x, (self.size, *x.shape), x.dtype)
            self._all_gather(flat, flat_bytes("all_gather", "y", stacked), edges)
            return stacked

        return self._issue(call, body, async_op)

    @overload
    def all_gather_v(self, x: NDArray[S], async_op: Literal[False] = ...) -> Parts[S]: ...

    @overload
    def all_gather_v(self, x: NDArray[S], *, async_op: Literal[True]) -> Work[Parts[S]]: ...

    @overload
    def all_gather_v(self, x: NDArray[S], async_op: bool = ...) -> Parts[S] | Work[Parts[S]]: ...

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
            edges = [0, *itertools.accumulate(length * row_bytes for length in lengths)]
            whole = empty(x, (edges[-1],), np.dtype(np.uint8))
            self._all_gather(flat, whole, edges)
            self._settle()
            return [
                whole[start:stop].copy().view(x.dtype).reshape(length, *x.shape[1:])
                for (start, stop), length in zip(itertools.pairwise(edges), lengths, strict=True)
            ]

        return self._issue(Call("all_gather_v", x.dtype, x.shape[1:], "a row"), body, async_op)

    @overload
    def all_to_all(self, x: A, async_op: Literal[False] = ..., *, out: NDArray[Any] | None = ...) -> A: ...

    @overload
    def all_to_all(self, x: A, *, async_op: Literal[True], out: NDArray[Any] | None = ...) -> Work[A]: ...

    @overload
    def all_to_all(self, x: A, async_op: bool = ..., *, out: NDArray[Any] | None = ...) -> A | Work[A]: ...

    def all_to_all(self, x: NDArray[Any], async_op: bool = False, *, out: NDArray[Any] | None = None) -> Any:
        """Send part ``i`` to rank ``i`` and receive a part of each: ``y[i] = x_i[rank]``.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: ``[size, ...]``, of equal shape and dtype on every rank.
            async_op: return a :class:`Work` at once.
            out: receives ``y``.

        Returns:
            ``y``, of the shape of ``x``, or the Work that returns it.
        """
        self._bytes("all_to_all", "x", x)
        self._check_parts("all_to_all", x)
        if out is not None:
            self._check_array("all_to_all", "out", out)
            check_out("all_to_all", out, x.shape, x)

        def body() -> NDArray[Any]:
            y = empty(x, x.shape, x.dtype) if out is None else out
            self._all_to_all(self._rows(x), self._rows(y))
            return y

        return self._issue(Call("all_to_all", x.dtype, x.shape, "", x.nbytes), body, async_op)

    @overload
    def gather(
        self, x: NDArray[S], root: int = ..., async_op: Literal[False] = ..., *, out: NDArray[S] | None = ...
    ) -> NDArray[S] | None: ...

    @overload
    def gather(
        self, x: NDArray[S], root: int = ..., *, async_op: Literal[True], out: NDArray[S] | None = ...
    ) -> Work[NDArray[S] | None]: ...

    @overload
    def gather(
        self, x: NDArray[S], root: int = ..., async_op: bool = ..., *, out: NDArray[S] | None = ...
    ) -> NDArray[S] | Work[NDArray[S] | None] | None: ...

    def gather(
        self, x: NDArray[Any], root: int = 0, async_op: bool = False, *, out: NDArray[Any] | None = None
    ) -> Any:
        """Collect every rank's ``x`` on the root: ``y[r] = x_r``.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: of equal shape and dtype on every rank.
            root: the rank that receives.
            async_op: return a :class:`Work` at once.
            out: receives ``y``, on the root; None elsewhere.

        Returns:
            ``y``, of shape ``[size, *x.shape]``, on the root and None elsewhere; or the Work that returns it.
        """
        flat = self._bytes("gather", "x", x)
        self._check_rank("gather", "root", root)
        shape = (self.size, *x.shape)
        if out is not None:
            if self.rank != root:
                raise CommError(f"gather: out is for the root, rank {root}, alone; rank {self.rank} gave one")
            self._check_array("gather", "out", out)
            check_out("gather", out, shape, x)

        def body() -> NDArray[Any] | None:
            y = empty(x, shape, x.dtype) if self.rank == root and out is None else out
            self._gather(flat, None if y is None else self._rows(y), root)
            return y

        return self._issue(Call("gather", x.dtype, x.shape, option("root", root, 0)), body, async_op)

    @overload
    def scatter(
        self, out: A, x: NDArray[Any] | None = ..., root: int = ..., async_op: Literal[False] = ...
    ) -> A: ...

    @overload
    def scatter(
        self, out: A, x: NDArray[Any] | None = ..., root: int = ..., *, async_op: Literal[True]
    ) -> Work[A]: ...

    @overload
    def scatter(
        self, out: A, x: NDArray[Any] | None = ..., root: int = ..., async_op: bool = ...
    ) -> A | Work[A]: ...

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

        return self._issue(Call("scatter", out.dtype, out.shape, option("root", root, 0)), body, async_op)

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


def option(name: str, value: object, default: object) -> str:
    """How an option stands in a call's text: not at all if it is the default."""
    return "" if value == default else f"{name}={value}"
