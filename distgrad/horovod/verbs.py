"""Horovod's collectives of tensors, and ``join``.

Every call is one piece of work on the communication thread. It begins with the count of the ranks that still
have data; where some have none left, the others tell them what they do, and they go along with nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgrad.autograd.tensor import Tensor
from distgrad.backend.array_module import get_array_module
from distgrad.comm.base import Communicator
from distgrad.comm.work import Work
from distgrad.errors import CommError, DTypeError
from distgrad.horovod.sets import ProcessSet, global_process_set
from distgrad.horovod.timeline import timed

__all__ = [
    "Adasum", "Average", "Handle", "Max", "Min", "Product", "Sum", "Told", "barrier", "check_reducible",
    "contiguous", "go_along", "issue", "join", "poll", "synchronize", "tell",
]  # fmt: skip

Array = NDArray[Any]
Average, Sum, Adasum, Min, Max, Product = "mean", "sum", "adasum", "min", "max", "prod"

#: What a rank tells those that have joined: the verb, shapes and dtypes of its arrays, and options.
Told = tuple[str, tuple[tuple[tuple[int, ...], str], ...], tuple[Any, ...]]
Verb = Callable[..., Any]


def contiguous(tensor: Any, where: str) -> Array:
    """A tensor's own array, or a copy of it in C order.

    Raises:
        DTypeError: it is no tensor of distgrad's.
    """
    if not isinstance(tensor, Tensor):
        kind = f"{type(tensor).__module__}.{type(tensor).__name__}"
        raise DTypeError(
            f"{where}: expected a tensor of distgrad's, got {kind}; make one of it with torch.from_dlpack"
        )
    data: Array = tensor._data
    return data if data.flags.c_contiguous else data.copy(order="C")


class Handle:
    """A call that was issued.

    Args:
        work: what carries it out.
        finish: makes tensors of its result, once.
    """

    def __init__(self, work: Work, finish: Callable[[Any], Any]) -> None:
        self.work, self._finish = work, finish
        self._result: Any = None
        self._over = False

    def result(self) -> Any:
        """The tensors."""
        if not self._over:
            self._result, self._over = self._finish(self.work.wait()), True
        return self._result


def poll(handle: Handle) -> bool:
    """Whether a call is over, so that :func:`synchronize` returns at once."""
    return handle.work.done()


def synchronize(handle: Handle | None) -> Any:
    """Wait for a call; what it would have returned without ``_async``."""
    return None if handle is None else handle.result()


# -- the verbs, as all ranks carry them out


def check_reducible(verb: str, arrays: Sequence[Array], op: str, factors: Sequence[float]) -> None:
    """See, before a reduction is issued, that ``op`` takes the arrays.

    Raises:
        DTypeError: it does not take one's dtype.
    """
    for array in arrays:
        kind = "f" if array.dtype.name == "bfloat16" else array.dtype.kind
        takes = "f" if op == "adasum" else "fiu" if op in ("mean", "sum") or set(factors) != {1.0} else "fiub"
        if kind not in takes or array.dtype.itemsize > 8:
            raise DTypeError(
                f"{verb}: op={op} with factors {tuple(factors)} does not take {array.dtype}; convert the "
                "tensor, for example by .float()"
            )


def _scaled(array: Array, factor: float) -> Array:
    """``factor * array``, of integers rounded towards zero, of 16 bits computed in 32; itself for 1."""
    if factor == 1.0:
        return array
    if array.dtype.kind in "iu":
        return (array * np.float64(factor)).astype(array.dtype)
    if array.dtype.itemsize < 4:
        return (array.astype(np.float32) * np.float32(factor)).astype(array.dtype)
    return array * array.dtype.type(factor)


def _divided(array: Array, divisor: int) -> Array:
    """An integer quotient, rounded towards zero; itself for 1."""
    if divisor == 1:
        return array
    down = array // array.dtype.type(divisor)
    return down + ((array < 0) & (down * array.dtype.type(divisor) != array)).astype(array.dtype)


def _split_mean(comm: Communicator, array: Array, op: str) -> tuple[str, int]:
    """The reduction of which the result is ``op``'s, divided by an integer: Horovod's mean."""
    return ("sum", comm.size) if op == "mean" and array.dtype.kind in "iu" else (op, 1)


def _all_reduce(
    comm: Communicator, arrays: Sequence[Array], op: str, before: float, after: float
) -> list[Array]:
    if op == "adasum":
        return [_scaled(_adasum(comm, _scaled(array, before)), after) for array in arrays]
    found = []
    for array in arrays:
        own = array.copy() if before == 1.0 else _scaled(array, before)
        reduction, divisor = _split_mean(comm, array, op)
        comm.all_reduce(own, reduction)
        found.append(_scaled(_divided(own, divisor), after))
    return found


def _adasum(comm: Communicator, array: Array) -> Array:
    """Neighbours first, then pairs of them: ``(1 - a·b / 2 a·a) a + (1 - a·b / 2 b·b) b``."""
    rows = list(comm.all_gather(array))
    while len(rows) > 1:
        pairs = [rows[i : i + 2] for i in range(0, len(rows), 2)]
        rows = [pair[0] if len(pair) == 1 else _combine(*pair) for pair in pairs]
    return rows[0]


def _combine(a: Array, b: Array) -> Array:
    dot, norm_a, norm_b = (float((x.astype(np.float64) * y).sum()) for x, y in ((a, b), (a, a), (b, b)))
    left = 1.0 - dot / (2.0 * norm_a) if norm_a else 1.0
    right = 1.0 - dot / (2.0 * norm_b) if norm_b else 1.0
    result: Array = a * a.dtype.type(left) + b * b.dtype.type(right)
    return result


def _all_gather(comm: Communicator, arrays: Sequence[Array]) -> list[Array]:
    return [get_array_module(array).concatenate(comm.all_gather_v(array)) for array in arrays]


def _broadcast(comm: Communicator, arrays: Sequence[Array], root: int) -> list[Array]:
    return [comm.broadcast(array.copy(), root) for array in arrays]


def _all_to_all(comm: Communicator, arrays: Sequence[Array], splits: Sequence[int] | None) -> list[Array]:
    (array,) = arrays
    lengths = [len(array) // comm.size] * comm.size if splits is None else list(splits)
    edges = [0, *itertools.accumulate(lengths)]
    parts = comm.all_to_all_v([array[start:stop] for start, stop in itertools.pairwise(edges)])
    received = np.array([len(part) for part in parts], np.int32)
    return [get_array_module(array).concatenate(parts), received]


def _reduce_scatter(
    comm: Communicator, arrays: Sequence[Array], op: str, before: float, after: float
) -> list[Array]:
    found = []
    for array in arrays:
        rows, extra = divmod(len(array), comm.size)
        counts = [rows + (rank < extra) for rank in range(comm.size)]
        reduction, divisor = _split_mean(comm, array, op)
        part = comm.reduce_scatter(_scaled(array, before), reduction, counts=counts)
        found.append(_scaled(_divided(part, divisor), after))
    return found


def _gather_objects(comm: Communicator, arrays: Sequence[Array], obj: Any) -> list[Any]:
    return comm.all_gather_object(obj)


def _broadcast_object(comm: Communicator, arrays: Sequence[Array], obj: Any, root: int) -> Any:
    return comm.broadcast_object(obj, root)


def _barrier(comm: Communicator, arrays: Sequence[Array]) -> None:
    comm.barrier()


VERBS: dict[str, Verb] = {
    "allreduce": _all_reduce,
    "allgather": _all_gather,
    "broadcast": _broadcast,
    "alltoall": _all_to_all,
    "reducescatter": _reduce_scatter,
    "allgather_object": _gather_objects,
    "broadcast_object": _broadcast_object,
    "barrier": _barrier,
}
_NAME = "horovod"  # of all pieces of work, so that those of joined ranks are the same call


def tell(told: Told) -> None:
    """Count the ranks that have data, and say what this one does if some have none left.

    Collective: yes, among all ranks; blocks: yes.
    """
    world = global_process_set.comm.host
    if world.all_reduce(np.array([1]))[0] < world.size:
        world.all_gather_object(told)


def issue(
    verb: str, arrays: Sequence[Array], options: tuple[Any, ...], process_set: ProcessSet,
    finish: Callable[[Any], Any], name: str | None = None,
) -> Handle:  # fmt: skip
    """Issue a verb on arrays; the name is the timeline's."""
    comm = process_set.comm
    on_host = not arrays or isinstance(arrays[0], np.ndarray)
    world = comm.host if on_host else comm
    shapes = tuple((array.shape, array.dtype.name) for array in arrays)
    everyone = process_set is global_process_set

    def body() -> Any:
        if everyone:
            private = verb.endswith("_object")
            named = verb if on_host else f"{verb} on GPUs"
            tell((named, shapes, (None, *options[1:]) if private else options))
        return VERBS[verb](world, arrays, *options)

    return Handle(comm.submit(timed(body, verb, name), _NAME if everyone else verb), finish)


def barrier(process_set: ProcessSet = global_process_set) -> None:
    """Wait until all ranks have come.

    Collective: yes; blocks: yes.
    """
    issue("barrier", (), (), process_set, lambda _: None).result()


# -- ranks without data

#: For verbs of other files: what a joined rank does, behind the piece of work in which it was told.
ALONG: dict[str, Callable[[tuple[Any, ...]], None]] = {}


def go_along(verb: str, action: Callable[[tuple[Any, ...]], None]) -> None:
    """Have joined ranks do ``action(options)`` where others tell of ``verb``."""
    ALONG[verb] = action


def join(device: Any = -1) -> int:
    """Go along with the others' collectives until they, too, have no data left.

    This rank gives zeros to sums, and no rows to gathers; means are divided by the number of all ranks.

    Collective: yes, with whatever the others issue; blocks: until all have joined.

    Args:
        device: taken for Horovod's sake.

    Returns:
        The rank that joined last (the highest of those that did so at once).
    """
    world = global_process_set.comm
    last = world.rank
    while True:
        told = world.submit(functools.partial(_hear, last), _NAME).wait()
        if told[0] == "over":
            return int(told[1])
        last = -1
        if told[0] in ALONG:
            ALONG[told[0]](told[2])
        elif told[0] not in VERBS:
            raise CommError(
                f"join: others issue {told[0]}, which ranks that have joined do not go along with"
            )


def _hear(last: int) -> Any:
    """What the others do in this piece of work, which is done with them."""
    world = global_process_set.comm
    host = world.host
    if host.all_reduce(np.array([0]))[0] == 0:
        return "over", host.all_reduce(np.array([last]), "max")[0]
    told: Told = next(each for each in host.all_gather_object(None) if each is not None)
    verb, shapes, options = told
    if verb in VERBS:
        arrays = [_nothing(verb, shape, np.dtype(dtype), options) for shape, dtype in shapes]
        if verb == "alltoall":
            options = ((0,) * host.size,)
        if verb.startswith("broadcast") and options[-1] == host.rank:
            raise CommError(f"{verb}: its root, rank {host.rank}, has joined; take another one")
        VERBS[verb](host, arrays, *options)
    return told


def _nothing(verb: str, shape: tuple[int, ...], dtype: np.dtype, options: tuple[Any, ...]) -> Array:
    """What changes nothing in the others' result."""
    if verb in ("allgather", "alltoall"):
        shape = (0, *shape[1:])
    if verb == "allreduce" and options[0] in ("min", "max", "prod"):
        if options[0] == "prod":
            return np.ones(shape, dtype)
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        return np.full(shape, limits.max if options[0] == "min" else limits.min, dtype)
    return np.zeros(shape, dtype)
