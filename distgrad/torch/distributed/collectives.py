"""Collectives of ``torch.distributed`` over the verbs of ``dg.comm``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.comm.base import Communicator
from distgrad.errors import ShapeError
from distgrad.torch.distributed.arrays import (
    Array,
    ReduceOp,
    array_of,
    combine,
    flat,
    is_bitwise,
    issue,
    meet,
    place_in,
    reduction,
    stacked,
    store,
)
from distgrad.torch.distributed.works import Work, seconds_of, settle_all

__all__ = [
    "all_gather", "all_gather_coalesced", "all_gather_into_tensor", "all_reduce", "all_reduce_coalesced",
    "all_to_all", "all_to_all_single", "barrier", "broadcast", "gather", "monitored_barrier", "reduce",
    "reduce_scatter", "reduce_scatter_tensor", "scatter",
]  # fmt: skip


def all_reduce(tensor: Tensor, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False) -> Any:
    """Replace a tensor on every rank by its reduction over the group's ranks.

    Collective: yes; blocks: unless ``async_op``.
    """
    return _reduce_into(tensor, op, group, async_op, "all_reduce", None)


def reduce(
    tensor: Tensor, dst: int | None = None, op: Any = ReduceOp.SUM, group: Any = None,
    async_op: bool = False, group_dst: int | None = None,
) -> Any:  # fmt: skip
    """Replace the tensor of one rank by the reduction over the group's ranks; the others' stay.

    Collective: yes; blocks: unless ``async_op``.
    """
    met = meet(group, "reduce")
    if met is None:
        return None
    return _reduce_into(tensor, op, group, async_op, "reduce", place_in(met[0], dst, group_dst, "reduce"))


def _reduce_into(
    tensor: Tensor, op: Any, group: Any, async_op: bool, where: str, root: int | None
) -> Work | None:
    values = array_of(tensor, where)
    met = meet(group, where, tensor)
    if met is None:
        return None
    comm, name = met[1], reduction(op, where)
    if root is not None:
        values = values.copy()

    def finish(result: Array) -> list[Tensor]:
        if root in (None, comm.rank):
            store(tensor, combine(result, name) if is_bitwise(name) else result, where)
        return [tensor]

    if is_bitwise(name):
        return issue(lambda later: comm.all_gather(values, async_op=later), finish, async_op)
    return issue(lambda later: comm.all_reduce(values, name, async_op=later), finish, async_op)


def all_reduce_coalesced(
    tensors: Sequence[Tensor], op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Any:
    """The same for several tensors.

    Collective: yes; blocks: unless ``async_op``.
    """
    works = [all_reduce(each, op, group, True) for each in tensors]
    return _together([work for work in works if work is not None], tensors, async_op)


def _together(works: Sequence[Work], tensors: Sequence[Tensor], async_op: bool) -> Work | None:
    def finish(_: Any) -> Sequence[Tensor]:
        for work in works:
            work.wait()
        return tensors

    joined = Work(None, finish)
    if async_op:
        return joined
    joined.wait()
    return None


def broadcast(
    tensor: Tensor, src: int | None = None, group: Any = None, async_op: bool = False,
    group_src: int | None = None,
) -> Any:  # fmt: skip
    """Replace a tensor on every rank by one rank's.

    Collective: yes; blocks: unless ``async_op``.
    """
    values = array_of(tensor, "broadcast")
    met = meet(group, "broadcast", tensor)
    if met is None:
        return None
    root = place_in(met[0], src, group_src, "broadcast")
    comm = met[1]
    return issue(
        lambda later: comm.broadcast(values, root, async_op=later),
        lambda result: [store(tensor, result, "broadcast")],
        async_op,
    )


def all_gather(
    tensor_list: Sequence[Tensor], tensor: Tensor, group: Any = None, async_op: bool = False
) -> Any:
    """Collect every rank's tensor in a list, whose tensors may have another length on each rank.

    Collective: yes; blocks: unless ``async_op``.
    """
    values = array_of(tensor, "all_gather")
    met = meet(group, "all_gather", tensor)
    if met is None:
        return None
    comm = met[1]
    _check_count("all_gather", tensor_list, comm)
    even = all(each.shape == tensor_list[0].shape for each in tensor_list)
    verb = comm.all_gather if even else comm.all_gather_v
    return issue(
        lambda later: verb(values, async_op=later),
        lambda result: _store_all(tensor_list, result, "all_gather"),
        async_op,
    )


def all_gather_coalesced(
    output_tensor_lists: Sequence[Sequence[Tensor]], input_tensor_list: Sequence[Tensor], group: Any = None,
    async_op: bool = False,
) -> Any:  # fmt: skip
    """The same for several tensors: ``output_tensor_lists[i]`` gets the ranks' ``input_tensor_list[i]``.

    Collective: yes; blocks: unless ``async_op``.
    """
    pairs = zip(output_tensor_lists, input_tensor_list, strict=True)
    works = [all_gather(outputs, each, group, True) for outputs, each in pairs]
    tensors = list(itertools.chain(*output_tensor_lists))
    return _together([work for work in works if work is not None], tensors, async_op)


def _store_all(tensors: Sequence[Tensor], values: Sequence[Array], where: str) -> Sequence[Tensor]:
    for tensor, each in zip(tensors, values, strict=True):
        store(tensor, each, where)
    return tensors


def _check_count(where: str, tensors: Sequence[Tensor], comm: Communicator) -> None:
    if len(tensors) != comm.size:
        raise ShapeError(f"{where}: expected a list of {comm.size} tensors, one a rank, got {len(tensors)}")


def all_gather_into_tensor(
    output_tensor: Tensor, input_tensor: Tensor, group: Any = None, async_op: bool = False
) -> Any:
    """Collect every rank's tensor in one, one behind the other or along a new first axis.

    Collective: yes; blocks: unless ``async_op``.
    """
    values = flat(input_tensor, "all_gather_into_tensor")
    out = flat(output_tensor, "all_gather_into_tensor")
    met = meet(group, "all_gather_into_tensor", input_tensor)
    if met is None:
        return None
    comm = met[1]
    return issue(
        lambda later: comm.all_gather(values, async_op=later, out=out),
        lambda result: [store(output_tensor, result, "all_gather_into_tensor")],
        async_op,
    )


def reduce_scatter(
    output: Tensor, input_list: Sequence[Tensor], op: Any = ReduceOp.SUM, group: Any = None,
    async_op: bool = False,
) -> Any:  # fmt: skip
    """Reduce over the ranks a tensor for each, and keep one's own.

    Collective: yes; blocks: unless ``async_op``.
    """
    met = meet(group, "reduce_scatter", output)
    if met is None:
        return None
    _check_count("reduce_scatter", input_list, met[1])
    rows = stacked(input_list, "reduce_scatter")
    return _scatter_reduced(output, rows, op, met[1], async_op, "reduce_scatter")


def reduce_scatter_tensor(
    output: Tensor, input: Tensor, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Any:
    """The same, of one tensor that holds the ranks' parts one behind the other or along its first axis.

    Collective: yes; blocks: unless ``async_op``.
    """
    met = meet(group, "reduce_scatter_tensor", output)
    if met is None:
        return None
    rows = flat(input, "reduce_scatter_tensor")
    if rows.size != output.numel() * met[1].size:
        raise ShapeError(
            f"reduce_scatter_tensor: input must have {met[1].size} times the {output.numel()} elements of "
            f"output, got {rows.size}"
        )
    rows = rows.reshape(met[1].size, *output.shape)
    return _scatter_reduced(output, rows, op, met[1], async_op, "reduce_scatter_tensor")


def _scatter_reduced(
    output: Tensor, rows: Array, op: Any, comm: Communicator, async_op: bool, where: str
) -> Work | None:
    name = reduction(op, where)
    if is_bitwise(name):
        return issue(
            lambda later: comm.all_to_all(rows, async_op=later),
            lambda result: [store(output, combine(result, name), where)],
            async_op,
        )
    return issue(
        lambda later: comm.reduce_scatter(rows, name, async_op=later),
        lambda result: [store(output, result, where)],
        async_op,
    )


def gather(
    tensor: Tensor, gather_list: Sequence[Tensor] | None = None, dst: int | None = None, group: Any = None,
    async_op: bool = False, group_dst: int | None = None,
) -> Any:  # fmt: skip
    """Collect every rank's tensor in the list of one rank, by default of the first.

    Collective: yes; blocks: unless ``async_op``.
    """
    values = array_of(tensor, "gather")
    met = meet(group, "gather", tensor)
    if met is None:
        return None
    comm = met[1]
    root = place_in(met[0], 0 if dst is None and group_dst is None else dst, group_dst, "gather")
    if comm.rank == root:
        if gather_list is None:
            raise ValueError("Argument gather_list must be specified on destination rank.")
        _check_count("gather", gather_list, comm)
    elif gather_list:
        raise ValueError("Argument gather_list must NOT be specified on non-destination ranks.")
    return issue(
        lambda later: comm.gather(values, root, async_op=later),
        lambda result: [] if result is None else _store_all(gather_list or [], result, "gather"),
        async_op,
    )


def scatter(
    tensor: Tensor, scatter_list: Sequence[Tensor] | None = None, src: int | None = None, group: Any = None,
    async_op: bool = False, group_src: int | None = None,
) -> Any:  # fmt: skip
    """Give each rank a tensor of the list of one rank, by default of the first.

    Collective: yes; blocks: unless ``async_op``.
    """
    out = array_of(tensor, "scatter")
    met = meet(group, "scatter", tensor)
    if met is None:
        return None
    comm = met[1]
    root = place_in(met[0], 0 if src is None and group_src is None else src, group_src, "scatter")
    if comm.rank == root:
        if not scatter_list:
            raise ValueError("Argument scatter_list must be specified on source rank.")
        _check_count("scatter", scatter_list, comm)
    elif scatter_list:
        raise ValueError("Argument scatter_list must NOT be specified on non-source ranks.")
    rows = stacked(scatter_list, "scatter") if comm.rank == root and scatter_list else None
    return issue(
        lambda later: comm.scatter(out, rows, root, async_op=later),
        lambda result: [store(tensor, result, "scatter")],
        async_op,
    )


def all_to_all(
    output_tensor_list: Sequence[Tensor], input_tensor_list: Sequence[Tensor], group: Any = None,
    async_op: bool = False,
) -> Any:  # fmt: skip
    """Send a tensor to each rank and receive one of each, of any sizes.

    Collective: yes; blocks: unless ``async_op``.
    """
    met = meet(group, "all_to_all", input_tensor_list[0] if input_tensor_list else None)
    if met is None:
        return None
    for each in (input_tensor_list, output_tensor_list):
        _check_count("all_to_all", each, met[1])
    parts = [flat(each, "all_to_all") for each in input_tensor_list]
    return issue(
        lambda later: met[1].all_to_all_v(parts, async_op=later),
        lambda result: _store_parts(output_tensor_list, result),
        async_op,
    )


def _store_parts(tensors: Sequence[Tensor], parts: Sequence[Array]) -> Sequence[Tensor]:
    sizes = [each.numel() for each in tensors]
    if sizes != [part.size for part in parts]:
        raise ShapeError(
            f"all_to_all: the ranks sent {[part.size for part in parts]} elements, but the tensors that take "
            f"them have {sizes}"
        )
    return _store_all(tensors, parts, "all_to_all")


def all_to_all_single(
    output: Tensor, input: Tensor, output_split_sizes: Sequence[int] | None = None,
    input_split_sizes: Sequence[int] | None = None, group: Any = None, async_op: bool = False,
) -> Any:  # fmt: skip
    """Send parts of a tensor's first axis to the ranks and receive parts of each; by default even ones.

    Collective: yes; blocks: unless ``async_op``.
    """
    values = array_of(input, "all_to_all_single")
    met = meet(group, "all_to_all_single", input)
    if met is None:
        return None
    comm = met[1]
    sent = _splits(input_split_sizes, len(values), comm, "input")
    taken = _splits(output_split_sizes, output.shape[0], comm, "output")
    edges = [0, *itertools.accumulate(sent)]
    parts = [values[start:stop] for start, stop in itertools.pairwise(edges)]

    def finish(result: Sequence[Array]) -> list[Tensor]:
        if [len(part) for part in result] != taken:
            raise ShapeError(
                f"all_to_all_single: the ranks sent parts of {[len(part) for part in result]}, but output is "
                f"split into {taken}"
            )
        joined = get_array_module(values).concatenate(list(result))
        return [store(output, joined, "all_to_all_single")]

    return issue(lambda later: comm.all_to_all_v(parts, async_op=later), finish, async_op)


def _splits(sizes: Sequence[int] | None, length: int, comm: Communicator, name: str) -> list[int]:
    if not sizes:
        if length % comm.size:
            raise ShapeError(
                f"all_to_all_single: {name} has {length} rows, which {comm.size} ranks do not share evenly; "
                f"give {name}_split_sizes"
            )
        return [length // comm.size] * comm.size
    if len(sizes) != comm.size or sum(sizes) != length:
        raise ShapeError(
            f"all_to_all_single: {name}_split_sizes must be {comm.size} numbers that add up to {length}, got "
            f"{list(sizes)}"
        )
    return list(sizes)


def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Any:
    """Wait until all ranks have come.

    Collective: yes; blocks: unless ``async_op``.
    """
    met = meet(group, "barrier")
    if met is None:
        return None
    work = issue(lambda later: met[1].barrier(async_op=later), lambda _: [], async_op)
    if not async_op:
        settle_all()  # what was issued before is over
    return work


def monitored_barrier(group: Any = None, timeout: Any = None, wait_all_ranks: bool = False) -> None:
    """A barrier that names the ranks that do not come.

    Collective: yes; blocks: yes.

    Args:
        timeout: a ``timedelta`` after which it gives up; None takes the group's.
        wait_all_ranks: taken: all ranks that are missing are always named.

    Raises:
        CommTimeoutError: some did not come.
    """
    met = meet(group, "monitored_barrier")
    if met is None:
        return
    family = met[1].family
    before = family.timeout_s
    try:
        family.timeout_s = seconds_of(timeout) or before
        met[1].barrier()
    finally:
        family.timeout_s = before
