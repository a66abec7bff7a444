"""Horovod's calls on tensors: blocking, in place (``_``), asynchronous and grouped.

Gradients flow through those that are not in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.autograd.function import Function
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError, ShapeError
from distgrad.horovod.compression import Compression, Compressor
from distgrad.horovod.sets import ProcessSet, global_process_set
from distgrad.horovod.verbs import (
    Adasum,
    Average,
    Handle,
    Max,
    Min,
    Product,
    Sum,
    check_reducible,
    contiguous,
    issue,
)

__all__ = [
    "allgather", "allgather_async", "allreduce", "allreduce_", "allreduce_async", "allreduce_async_",
    "alltoall", "alltoall_async", "broadcast", "broadcast_", "broadcast_async", "broadcast_async_",
    "grouped_allgather", "grouped_allgather_async", "grouped_allreduce", "grouped_allreduce_",
    "grouped_allreduce_async", "grouped_allreduce_async_", "grouped_reducescatter",
    "grouped_reducescatter_async", "reducescatter", "reducescatter_async", "sparse_allreduce_async",
]  # fmt: skip

_ALL = global_process_set


def _reduction(where: str, average: bool | None, op: Any) -> str:
    """The reduction of ``op``, or of ``average`` as of old.

    Raises:
        OptionError: both, or none of Horovod's.
    """
    if average is not None and op is not None:
        raise OptionError(f"{where}: average and op were both given; give op alone")
    found = (Sum if average is False else Average) if op is None else op
    if found not in (Average, Sum, Adasum, Min, Max, Product):
        raise OptionError(f"{where}: op must be Average, Sum, Adasum, Min, Max or Product, got {op!r}")
    return str(found)


def _lengths(verb: str, tensors: Sequence[Tensor]) -> list[int]:
    """How many rows each tensor has.

    Raises:
        ShapeError: one has no axes.
    """
    if not all(each.ndim for each in tensors):
        raise ShapeError(f"{verb}: expected tensors of rows, got one without axes; use unsqueeze(0)")
    return [each.shape[0] for each in tensors]


def _issue(
    verb: str, tensors: Sequence[Tensor], options: tuple[Any, ...], process_set: ProcessSet, name: str | None
) -> Handle:
    arrays = [contiguous(each, verb) for each in tensors]
    if verb in ("allreduce", "reducescatter"):
        check_reducible(verb, arrays, options[0], options[1:])
    return issue(verb, arrays, options, process_set, lambda found: [Tensor(each) for each in found], name)


def _into(handle: Handle, tensors: Sequence[Tensor], where: str, single: bool) -> Handle:
    """The handle whose result goes into the tensors that were given."""

    def finish(_: Any) -> Any:
        for tensor, each in zip(tensors, handle.result(), strict=True):
            tensor._data[...] = each._data
            tensor.changed(where)
        return tensors[0] if single else list(tensors)

    return Handle(handle.work, finish)


def _one(handle: Handle) -> Handle:
    return Handle(handle.work, lambda _: handle.result()[0])


class _Through(Function):
    """A call whose derivative is another: ``dx`` from ``dy``, each a list."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        call, ctx.back, *tensors = args
        found = call(tensors)
        return tuple(found) if len(found) > 1 else found[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return None, None, *ctx.back(list(grad_outputs))


def _through(call: Any, back: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    found = _Through.apply(call, back, *tensors)
    return list(found) if isinstance(found, tuple) else [found]


# -- allreduce


def grouped_allreduce_async(
    tensors: Sequence[Tensor], average: bool | None = None, name: str | None = None, op: Any = None,
    prescale_factor: float = 1.0, postscale_factor: float = 1.0, process_set: ProcessSet = _ALL,
) -> Handle:  # fmt: skip
    """Issue the reduction of several tensors over the ranks; new tensors.

    Collective: yes; blocks: no.
    """
    found = _reduction("allreduce", average, op)
    return _issue("allreduce", tensors, (found, prescale_factor, postscale_factor), process_set, name)


def grouped_allreduce(
    tensors: Sequence[Tensor], average: bool | None = None, name: str | None = None,
    compression: type[Compressor] = Compression.none, op: Any = None, prescale_factor: float = 1.0,
    postscale_factor: float = 1.0, process_set: ProcessSet = _ALL,
) -> list[Tensor]:  # fmt: skip
    """The reduction of several tensors over the ranks; new tensors.

    Collective: yes; blocks: yes.

    Args:
        tensors: of equal shapes and dtypes on every rank.
        average: as of old: True for ``op=Average``, False for ``op=Sum``.
        name: taken for Horovod's sake: calls are matched by their order.
        compression: what is sent in their place.
        op: ``Average`` (also None), ``Sum``, ``Adasum``, ``Min``, ``Max`` or ``Product``.
        prescale_factor, postscale_factor: multiply what is given, and what comes out.
        process_set: the ranks.
    """

    def call(given: Sequence[Tensor]) -> list[Tensor]:
        pairs = [compression.compress(each) for each in given]
        handle = grouped_allreduce_async(
            [pair[0] for pair in pairs], average, name, op, prescale_factor, postscale_factor, process_set
        )
        return [
            compression.decompress(each, pair[1]) for each, pair in zip(handle.result(), pairs, strict=True)
        ]

    return _through(call, call, tensors)


def allreduce(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    """The reduction of a tensor over the ranks; arguments as for :func:`grouped_allreduce`.

    Collective: yes; blocks: yes.
    """
    return grouped_allreduce([tensor], *args, **options)[0]


def allreduce_async(tensor: Tensor, *args: Any, **options: Any) -> Handle:
    """Issue it; arguments as for :func:`grouped_allreduce_async`.

    Collective: yes; blocks: no.
    """
    return _one(grouped_allreduce_async([tensor], *args, **options))


def grouped_allreduce_async_(tensors: Sequence[Tensor], *args: Any, **options: Any) -> Handle:
    """Issue it in place.

    Collective: yes; blocks: no.
    """
    return _into(grouped_allreduce_async(tensors, *args, **options), tensors, "allreduce_", single=False)


def grouped_allreduce_(tensors: Sequence[Tensor], *args: Any, **options: Any) -> list[Tensor]:
    """The reduction of several tensors over the ranks, in place.

    Collective: yes; blocks: yes.
    """
    found: list[Tensor] = grouped_allreduce_async_(tensors, *args, **options).result()
    return found


def allreduce_async_(tensor: Tensor, *args: Any, **options: Any) -> Handle:
    """Issue it in place.

    Collective: yes; blocks: no.
    """
    return _into(grouped_allreduce_async([tensor], *args, **options), [tensor], "allreduce_", single=True)


def allreduce_(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    """The reduction of a tensor over the ranks, in place.

    Collective: yes; blocks: yes.
    """
    found: Tensor = allreduce_async_(tensor, *args, **options).result()
    return found


def sparse_allreduce_async(
    tensor: Tensor, name: str | None = None, op: Any = Average, process_set: ProcessSet = _ALL
) -> Callable[[], Tensor]:
    """Issue the reduction of a sparse tensor, whose elements lie dense here: a function that ends it.

    Collective: yes; blocks: no.

    Raises:
        OptionError: ``op`` is neither ``Average`` nor ``Sum``.
    """
    if op not in (Average, Sum):
        raise OptionError(f"sparse_allreduce_async: op must be Average or Sum, got {op!r}")
    return allreduce_async(tensor, name=name, op=op, process_set=process_set).result


# -- allgather


def grouped_allgather_async(
    tensors: Sequence[Tensor], name: str | None = None, process_set: ProcessSet = _ALL
) -> Handle:
    """Issue the gathering of several tensors.

    Collective: yes; blocks: no.
    """
    _lengths("allgather", tensors)
    return _issue("allgather", tensors, (), process_set, name)


def grouped_allgather(
    tensors: Sequence[Tensor], name: str | None = None, process_set: ProcessSet = _ALL
) -> list[Tensor]:
    """Every rank's rows, one behind the other, of any number on each.

    The gradient is the mean of the ranks', as Horovod's, so that a mean of losses has the one of all rows.

    Collective: yes; blocks: yes.
    """
    lengths = _lengths("allgather", tensors)

    def back(grads: Sequence[Tensor]) -> list[Tensor]:
        comm = process_set.comm
        found = []
        for grad, length in zip(grads, lengths, strict=True):
            every = comm.all_gather_object(length)
            total = allreduce(grad, op=Average, process_set=process_set)
            start = sum(every[: comm.rank])
            found.append(total[start : start + length])
        return found

    return _through(lambda given: grouped_allgather_async(given, name, process_set).result(), back, tensors)


def allgather(tensor: Tensor, name: str | None = None, process_set: ProcessSet = _ALL) -> Tensor:
    """Every rank's rows, one behind the other, of any number on each.

    Collective: yes; blocks: yes.
    """
    return grouped_allgather([tensor], name, process_set)[0]


def allgather_async(tensor: Tensor, name: str | None = None, process_set: ProcessSet = _ALL) -> Handle:
    """Issue it.

    Collective: yes; blocks: no.
    """
    return _one(grouped_allgather_async([tensor], name, process_set))


# -- broadcast


def _root(root_rank: int, process_set: ProcessSet) -> int:
    return root_rank if process_set.ranks is None else process_set.ranks.index(root_rank)


def broadcast_async(
    tensor: Tensor, root_rank: int, name: str | None = None, process_set: ProcessSet = _ALL
) -> Handle:
    """Issue it.

    Collective: yes; blocks: no.
    """
    return _one(_issue("broadcast", [tensor], (_root(root_rank, process_set),), process_set, name))


def broadcast(
    tensor: Tensor, root_rank: int, name: str | None = None, process_set: ProcessSet = _ALL
) -> Tensor:
    """One rank's tensor, as numbered in the world, on all.

    Collective: yes; blocks: yes.
    """
    root = _root(root_rank, process_set)

    def back(grads: Sequence[Tensor]) -> list[Tensor]:
        total = allreduce(grads[0], op=Average, process_set=process_set)
        return [total if process_set.rank() == root else total * 0.0]

    call = lambda given: [broadcast_async(given[0], root_rank, name, process_set).result()]  # noqa: E731
    return _through(call, back, [tensor])[0]


def broadcast_async_(
    tensor: Tensor, root_rank: int, name: str | None = None, process_set: ProcessSet = _ALL
) -> Handle:
    """Issue it in place.

    Collective: yes; blocks: no.
    """
    handle = _issue("broadcast", [tensor], (_root(root_rank, process_set),), process_set, name)
    return _into(handle, [tensor], "broadcast_", single=True)


def broadcast_(
    tensor: Tensor, root_rank: int, name: str | None = None, process_set: ProcessSet = _ALL
) -> Tensor:
    """One rank's tensor on all, in place.

    Collective: yes; blocks: yes.
    """
    found: Tensor = broadcast_async_(tensor, root_rank, name, process_set).result()
    return found


# -- alltoall, reducescatter


def alltoall_async(
    tensor: Tensor, splits: Any = None, name: str | None = None, process_set: ProcessSet = _ALL
) -> Handle:
    """Issue it.

    Collective: yes; blocks: no.
    """
    (rows,) = _lengths("alltoall", [tensor])
    lengths = None if splits is None else tuple(int(n) for n in splits)
    size = process_set.size()
    if (lengths is None and rows % size) or (
        lengths is not None and (len(lengths) != size or sum(lengths) != rows)
    ):
        raise OptionError(
            f"alltoall: splits must be {size} numbers that add up to {rows} rows, got {lengths}"
        )
    handle = _issue("alltoall", [tensor], (lengths,), process_set, name)
    whole = lengths is not None
    return Handle(handle.work, lambda _: tuple(handle.result()) if whole else handle.result()[0])


def alltoall(
    tensor: Tensor, splits: Any = None, name: str | None = None, process_set: ProcessSet = _ALL
) -> Any:
    """Rows for each rank, and of each.

    Collective: yes; blocks: yes.

    Args:
        tensor: ``[n, ...]``.
        splits: how many rows go to which rank; None: as many to each.
        name: taken for Horovod's sake.
        process_set: the ranks.

    Returns:
        The rows, and with ``splits`` also how many came from which rank.
    """
    size = process_set.size()
    (count,) = _lengths("alltoall", [tensor])
    lengths = [count // size] * size if splits is None and count % size == 0 else splits
    received: list[Any] = []

    def call(given: Sequence[Tensor]) -> list[Tensor]:
        found = alltoall_async(given[0], lengths, name, process_set).result()
        received[:] = found[1].tolist()
        return [found[0]]

    def back(grads: Sequence[Tensor]) -> list[Tensor]:
        return [alltoall(grads[0], received, name, process_set)[0]]

    (rows,) = _through(call, back, [tensor])
    return rows if splits is None else (rows, Tensor(np.array(received, np.int32)))


def grouped_reducescatter_async(
    tensors: Sequence[Tensor], name: str | None = None, op: Any = Average, process_set: ProcessSet = _ALL,
    prescale_factor: float = 1.0, postscale_factor: float = 1.0,
) -> Handle:  # fmt: skip
    """Issue it for several tensors.

    Collective: yes; blocks: no.
    """
    _lengths("reducescatter", tensors)
    if op not in (Average, Sum):
        raise OptionError(f"reducescatter: op must be Average or Sum, got {op!r}")
    return _issue("reducescatter", tensors, (op, prescale_factor, postscale_factor), process_set, name)


def grouped_reducescatter(
    tensors: Sequence[Tensor], name: str | None = None, compression: type[Compressor] = Compression.none,
    op: Any = Average, process_set: ProcessSet = _ALL, prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> list[Tensor]:  # fmt: skip
    """This rank's rows of the sums or means of several tensors over the ranks; the first have one more.

    Collective: yes; blocks: yes.
    """

    def call(given: Sequence[Tensor]) -> list[Tensor]:
        pairs = [compression.compress(each) for each in given]
        handle = grouped_reducescatter_async(
            [pair[0] for pair in pairs], name, op, process_set, prescale_factor, postscale_factor
        )
        return [
            compression.decompress(each, pair[1]) for each, pair in zip(handle.result(), pairs, strict=True)
        ]

    def back(grads: Sequence[Tensor]) -> list[Tensor]:
        scale = prescale_factor * postscale_factor * (process_set.size() if op == Sum else 1)
        return grouped_allgather([grad * scale for grad in grads], name, process_set)

    return _through(call, back, tensors)


def reducescatter(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    """The same for one tensor.

    Collective: yes; blocks: yes.
    """
    return grouped_reducescatter([tensor], *args, **options)[0]


def reducescatter_async(tensor: Tensor, *args: Any, **options: Any) -> Handle:
    """Issue it.

    Collective: yes; blocks: no.
    """
    return _one(grouped_reducescatter_async([tensor], *args, **options))
