"""Verbs whose parts differ from rank to rank: objects, arrays of unequal lengths, and running reductions."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.backend.device import native
from distgrad.comm.arrays import check_out, empty, flat_bytes, flat_numbers, zeros
from distgrad.comm.calls import Call
from distgrad.comm.collectives import Collectives
from distgrad.comm.reduction import UFUNCS, is_narrow
from distgrad.errors import CommError, DTypeError, ShapeError

__all__ = ["Unequal"]

_SCAN_BYTES = 1 << 22  # of all ranks' parts together that a running reduction holds at a time


class Unequal(Collectives):
    """Verbs of :class:`distgrad.comm.Communicator`, written with those of a backend for equal parts.

    Between ranks every part is as long as the longest.
    """

    def gather_object(self, obj: Any, root: int = 0) -> list[Any] | None:
        """Collect every rank's object on the root, by pickle; for small things.

        Collective: yes; blocks: yes.

        Args:
            obj: what this rank gives.
            root: the rank that receives.

        Returns:
            Copies of the objects in the order of the ranks on the root, None elsewhere.
        """
        self._check_rank("gather_object", "root", root)
        data = np.frombuffer(pickle.dumps(obj), np.uint8)

        def body() -> list[Any] | None:
            found = self._gather_unequal(data, root)
            return None if found is None else [pickle.loads(part.tobytes()) for part in found]

        found: list[Any] | None = self._issue(Call("gather_object", options=f"root={root}"), body, False)
        return found

    def scatter_object(self, objs: Sequence[Any] | None = None, root: int = 0) -> Any:
        """Give each rank one of the root's objects, by pickle; for small things.

        Collective: yes; blocks: yes.

        Args:
            objs: one a rank on the root, None elsewhere.
            root: the rank that sends.

        Returns:
            A copy of ``objs[rank]``.
        """
        self._check_parts_of_root("scatter_object", "objs", objs, root)
        parts = [np.frombuffer(pickle.dumps(obj), np.uint8) for obj in objs or ()]

        def body() -> Any:
            lengths = self._tell_lengths([part.size for part in parts], root)
            return pickle.loads(self._scatter_bytes(parts, lengths, root).tobytes())

        return self._issue(Call("scatter_object", options=f"root={root}"), body, False)

    def gather_v(self, x: NDArray[Any], root: int = 0, async_op: bool = False) -> Any:
        """Collect every rank's ``x`` on the root where its first axis has another length on each.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: ``[n_r, ...]``; dtype and all other axes are equal on every rank.
            root: the rank that receives.
            async_op: return a :class:`Work` at once.

        Returns:
            The list of the ranks' arrays on the root, None elsewhere; or the Work that returns it.
        """
        flat = self._rows_of_bytes("gather_v", "x", x)
        self._check_rank("gather_v", "root", root)

        def body() -> list[NDArray[Any]] | None:
            found = self._gather_unequal(flat, root)
            return None if found is None else [_shaped(part, x) for part in found]

        return self._issue(Call("gather_v", x.dtype, x.shape[1:], f"a row, root={root}"), body, async_op)

    def scatter_v(
        self, xs: Sequence[NDArray[Any]] | None = None, root: int = 0, *, like: NDArray[Any]
    ) -> NDArray[Any]:
        """Give each rank one of the root's arrays, whose first axes have any lengths.

        Collective: yes; blocks: yes.

        Args:
            xs: one a rank on the root, None elsewhere.
            root: the rank that sends.
            like: an array of the dtype and of all axes but the first, equal on every rank; it may be empty.

        Returns:
            A copy of ``xs[rank]``.
        """
        self._check_parts_of_root("scatter_v", "xs", xs, root)
        self._rows_of_bytes("scatter_v", "like", like)
        parts = [self._part("scatter_v", x, like) for x in xs or ()]

        def body() -> NDArray[Any]:
            lengths = self._tell_lengths([part.size for part in parts], root)
            return _shaped(self._scatter_bytes(parts, lengths, root, like), like)

        call = Call("scatter_v", like.dtype, like.shape[1:], f"a row, root={root}")
        found: NDArray[Any] = self._issue(call, body, False)
        return found

    def all_to_all_v(self, xs: Sequence[NDArray[Any]], async_op: bool = False) -> Any:
        """Send ``xs[i]`` to rank ``i`` and receive a part of each, whose first axes have any lengths.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            xs: one a rank, ``[n, ...]``; dtype and all other axes are equal in all of them on every rank.
            async_op: return a :class:`Work` at once.

        Returns:
            The list of what the ranks have sent to this one, or the Work that returns it.
        """
        if len(xs) != self.size:
            raise ShapeError(f"all_to_all_v: xs must hold one array a rank, {self.size}, got {len(xs)}")
        like = xs[0]
        self._rows_of_bytes("all_to_all_v", "xs[0]", like)
        parts = [self._part("all_to_all_v", x, like) for x in xs]

        def body() -> list[NDArray[Any]]:
            lengths = self._exchange_objects([part.size for part in parts])
            sent = self._padded(parts, max(map(max, lengths)), like)
            received = empty(like, sent.shape, np.dtype(np.uint8))
            self._all_to_all(sent, received)
            self._settle()
            here = self.rank
            return [
                _shaped(row[: theirs[here]].copy(), like)
                for row, theirs in zip(received, lengths, strict=True)
            ]

        return self._issue(Call("all_to_all_v", like.dtype, like.shape[1:], "a row"), body, async_op)

    def scan(
        self,
        x: NDArray[Any],
        op: str = "sum",
        async_op: bool = False,
        *,
        out: NDArray[Any] | None = None,
    ) -> Any:
        """Reduce over this rank and those before it: ``y_r = x_0 op ... op x_r``.

        Every rank's array goes to all others, a piece at a time.

        Collective: yes; blocks: unless ``async_op``.

        Args:
            x: numbers of equal shape and dtype on every rank; left as they are.
            op: ``sum``, ``min``, ``max`` or ``prod``; as for :meth:`all_reduce`.
            async_op: return a :class:`Work` at once.
            out: receives ``y``.

        Returns:
            ``y``, of the shape of ``x``, or the Work that returns it.
        """
        self._check_array("scan", "x", x)
        x = native(x)
        flat = flat_numbers("scan", x, op)
        if op == "mean":
            raise CommError("scan: op must be sum, min, max or prod, got 'mean'; divide the sum by rank + 1")

        if out is not None:
            self._check_array("scan", "out", out)
            check_out("scan", out, x.shape, x)

        def body() -> NDArray[Any]:
            result = empty(x, x.shape, x.dtype) if out is None else out
            reduced = flat_numbers("scan", result, op)
            step = max(1, _SCAN_BYTES // (self.size * max(1, flat.itemsize)))
            for start in range(0, max(1, flat.size), step):
                piece = flat[start : start + step]
                rows = empty(x, (self.size, piece.size), piece.dtype)
                self._all_gather_even(piece.view(np.uint8), rows.reshape(-1).view(np.uint8))
                self._settle()
                reduced[start : start + step] = _reduce(rows[: self.rank + 1], op)
            return result

        return self._issue(Call("scan", x.dtype, x.shape, "" if op == "sum" else f"op={op}"), body, async_op)

    # What these are written with

    def _check_parts_of_root(self, verb: str, name: str, parts: Sequence[Any] | None, root: int) -> None:
        self._check_rank(verb, "root", root)
        if (parts is not None) != (self.rank == root):
            raise CommError(
                f"{verb}: {name} must be given on the root, rank {root}, alone; rank {self.rank} gave "
                f"{'none' if parts is None else 'some'}"
            )
        if parts is not None and len(parts) != self.size:
            raise ShapeError(f"{verb}: {name} must hold one part a rank, {self.size}, got {len(parts)}")

    def _rows_of_bytes(self, verb: str, name: str, x: NDArray[Any]) -> NDArray[np.uint8]:
        self._check_array(verb, name, x)
        if x.ndim == 0:
            raise ShapeError(f"{verb}: {name} must have a first axis, got []; pass {name}.reshape(1)")
        return flat_bytes(verb, name, x)

    def _part(self, verb: str, x: NDArray[Any], like: NDArray[Any]) -> NDArray[np.uint8]:
        flat = self._rows_of_bytes(verb, "each part", x)
        if x.dtype != like.dtype:
            raise DTypeError(f"{verb}: all parts must be {like.dtype}, got {x.dtype}; convert it")
        if x.shape[1:] != like.shape[1:]:
            raise ShapeError(
                f"{verb}: parts must agree in all axes but the first, here {list(like.shape[1:])}, got "
                f"{list(x.shape[1:])}"
            )
        return flat

    def _padded(self, parts: Sequence[Any], width: int, like: NDArray[Any]) -> NDArray[np.uint8]:
        """The parts as rows of one length."""
        rows = zeros(like, (len(parts), width), np.dtype(np.uint8))
        for row, part in zip(rows, parts, strict=True):
            row[: part.size] = part
        return rows

    def _tell_lengths(self, lengths: Sequence[int], root: int) -> list[int]:
        """The root's numbers, one a rank, on every rank."""
        told: list[int] = self._exchange_objects(lengths if self.rank == root else None)[root]
        return told

    def _scatter_bytes(
        self, parts: Sequence[Any], lengths: Sequence[int], root: int, like: NDArray[Any] | None = None
    ) -> NDArray[np.uint8]:
        """This rank's part of the root's."""
        near = np.empty(0, np.uint8) if like is None else like
        width = max(lengths)
        rows = self._padded(parts, width, near) if self.rank == root else None
        out = empty(near, (width,), np.dtype(np.uint8))
        self._scatter(rows, out, root)
        self._settle()
        return out[: lengths[self.rank]].copy()

    def _gather_unequal(self, flat: NDArray[np.uint8], root: int) -> list[NDArray[np.uint8]] | None:
        """Every rank's bytes on the root."""
        lengths = self._gather_lengths(flat.size)
        (padded,) = self._padded([flat], max(lengths), flat)
        out = empty(flat, (self.size, padded.size), np.dtype(np.uint8)) if self.rank == root else None
        self._gather(padded, out, root)
        self._settle()
        if out is None:
            return None
        return [row[:length].copy() for row, length in zip(out, lengths, strict=True)]


def _shaped(part: NDArray[np.uint8], like: NDArray[Any]) -> NDArray[Any]:
    """Bytes as rows of the dtype and shape of those of ``like``."""
    row_bytes = math.prod(like.shape[1:]) * like.itemsize
    return part.view(like.dtype).reshape(part.size // max(1, row_bytes), *like.shape[1:])


def _reduce(rows: NDArray[Any], op: str) -> NDArray[Any]:
    """The rows, one after the other; in float32 where that is wider."""
    wide = np.dtype(np.float32) if is_narrow(rows.dtype) else rows.dtype
    total = rows[0].astype(wide)
    with np.errstate(all="ignore"):  # an overflow is the caller's to find
        for row in rows[1:]:
            total = UFUNCS[op](total, row.astype(wide))
        return total.astype(rows.dtype)
