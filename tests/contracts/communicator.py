"""What every communicator does, whatever carries it: one check a promise, run by every rank.

A check takes the rank's communicator. Every rank computes all ranks' data by itself, from their numbers, so
that it knows what must arrive; no two ranks have equal data.
"""

import hashlib
import importlib
import importlib.util
import itertools
import operator
import time
from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest

from distgrad.comm import Communicator, Work
from distgrad.errors import CommError, CommMismatchError, CommTimeoutError, DTypeError, ShapeError

CHECKS: dict[str, Callable[[Communicator], None]] = {}
CHECKS_OF_MANY: dict[str, Callable[[Communicator], None]] = {}  # need two ranks or more

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
SHAPES = ((), (0,), (3, 0), (1,), (7,), (4, 5, 3), (70_001,))
_HAS_BFLOAT16 = importlib.util.find_spec("ml_dtypes") is not None
UFUNCS = {"sum": np.add, "min": np.minimum, "max": np.maximum, "prod": np.multiply}


def check(function: Callable[[Communicator], None]) -> Callable[[Communicator], None]:
    CHECKS[function.__name__] = function
    return function


def check_of_many(function: Callable[[Communicator], None]) -> Callable[[Communicator], None]:
    CHECKS_OF_MANY[function.__name__] = function
    return function


def run_all(comm: Communicator) -> dict[str, bool]:
    """Run every check that a group of this size can pass; a failure names its check.

    Returns:
        By check, whether it ran; one that did not lacks a package that it compares with.
    """
    ran = {}
    for name, function in {**CHECKS, **(CHECKS_OF_MANY if comm.size > 1 else {})}.items():
        try:
            function(comm)
            ran[name] = True
        except pytest.skip.Exception:
            ran[name] = False
        except BaseException as error:
            error.add_note(f"contract check {name} on rank {comm.rank} of {comm.size}, {comm.backend}")
            raise
    return ran


def data(rank: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Numbers of one rank; small enough that integers do not overflow in a product over five ranks."""
    rng = np.random.default_rng([rank, len(shape), int(np.prod(shape))])
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape), bool)
    if dtype in INTEGERS:
        return np.asarray(rng.integers(1, 3, shape), dtype)
    return np.asarray(rng.standard_normal(shape) + rank, dtype)


def all_data(comm: Communicator, shape: tuple[int, ...], dtype: str) -> list[np.ndarray]:
    return [data(rank, shape, dtype) for rank in range(comm.size)]


def same_bits(comm: Communicator, x: np.ndarray) -> None:
    digests = comm.all_gather_object(hashlib.sha256(x.tobytes()).hexdigest())
    assert len(set(digests)) == 1, f"ranks hold different bits: {digests}"


def close(actual: np.ndarray, expected: np.ndarray, scale: float = 1.0) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if actual.dtype.kind == "f":
        tolerance = 20 * scale * np.finfo(actual.dtype).eps
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(actual, expected)


# Who is there ----------------------------------------------------------------------------------------------


@check
def ranks_are_numbered(comm: Communicator) -> None:
    assert comm.all_gather_object(comm.rank) == list(range(comm.size))
    hosts = comm.all_gather_object(comm.topology.hosts[comm.rank])
    neighbours = [rank for rank, host in enumerate(hosts) if host == hosts[comm.rank]]
    assert (comm.local_rank, comm.local_size) == (neighbours.index(comm.rank), len(neighbours))
    assert f"rank {comm.rank} of {comm.size}" in repr(comm)


# Reductions ------------------------------------------------------------------------------------------------


@check
def all_reduce_matches_numpy_with_equal_bits(comm: Communicator) -> None:
    for dtype in (*FLOATS, *INTEGERS):
        for shape in SHAPES if dtype in ("float32", "int64") else ((7,),):
            rows = all_data(comm, shape, dtype)
            for op, ufunc in UFUNCS.items():
                x = rows[comm.rank].copy()
                assert comm.all_reduce(x, op) is x
                close(x, np.asarray(reduce(ufunc, rows), dtype))
                same_bits(comm, x)


@check
def all_reduce_has_equal_bits_at_any_length(comm: Communicator) -> None:
    for length in (2, 3, 63, 1000, 1025, 40_000, 300_001):
        x = data(comm.rank, (length,), "float32")
        comm.all_reduce(x)
        same_bits(comm, x)


@check
def mean_divides_the_sum(comm: Communicator) -> None:
    for dtype in FLOATS:
        x = data(comm.rank, (5, 2), dtype)
        comm.all_reduce(x, "mean")
        total = reduce(np.add, all_data(comm, (5, 2), dtype))
        close(x, (total / np.asarray(comm.size, dtype)).astype(dtype))


@check
def a_weighted_mean_divides_by_the_weights(comm: Communicator) -> None:
    for weights in (
        [1.0] * comm.size,
        [rank + 0.5 for rank in range(comm.size)],
        [2.0] + [0.0] * (comm.size - 1),
    ):
        for dtype in FLOATS:
            rows = np.array(all_data(comm, (20_000,), dtype))
            x = rows[comm.rank].copy()
            if weights[comm.rank] == 0.0:
                x[:] = np.nan  # counts nothing, whatever it is
            assert comm.all_reduce(x, "mean", weight=weights[comm.rank]) is x
            close(x, np.average(rows.astype(np.float64), axis=0, weights=weights).astype(dtype), scale=4)
            same_bits(comm, x)
    nothing = np.full(3, np.nan)
    np.testing.assert_array_equal(comm.all_reduce(nothing, "mean", weight=0), np.zeros(3))
    work = comm.all_reduce(np.full(3, float(comm.rank)), "mean", async_op=True, weight=float(comm.rank == 0))
    np.testing.assert_array_equal(work.wait(), np.zeros(3))
    for op, weight in (("sum", 1.0), ("mean", -1.0), ("mean", np.nan), ("mean", np.inf)):
        with pytest.raises(CommError, match="weight must be from 0, and op='mean' with it"):
            comm.all_reduce(np.ones(3), op, weight=weight)


@check
def narrow_floats_are_rounded_once(comm: Communicator) -> None:
    x = np.full(3, 2048 if comm.rank == 0 else 1, np.float16)  # 2048 + 1 is 2048 in float16
    comm.all_reduce(x)
    np.testing.assert_array_equal(x, np.full(3, np.float16(2048 + comm.size - 1)))
    x = np.full((comm.size, 2), 2048 if comm.rank == 0 else 1, np.float16)
    np.testing.assert_array_equal(comm.reduce_scatter(x), np.full(2, np.float16(2048 + comm.size - 1)))


@check
def means_of_narrow_floats_keep_their_range(comm: Communicator) -> None:
    bfloat16 = importlib.import_module("ml_dtypes").bfloat16 if _HAS_BFLOAT16 else np.float16
    for kind in (np.float16, bfloat16):
        large, small = kind(40_000), kind(1e-5)
        np.testing.assert_array_equal(comm.all_reduce(np.full(3, large), "mean"), np.full(3, large))
        for x in (large, small):
            y = comm.all_reduce(np.full(9, x), "mean", weight=4096.0 if comm.rank else 1.0)
            np.testing.assert_array_equal(y, np.full(9, x))
        parts = np.full((comm.size, 2), large)
        np.testing.assert_array_equal(comm.reduce_scatter(parts, "mean"), np.full(2, large))


@check
def booleans_reduce_by_logic(comm: Communicator) -> None:
    rows = all_data(comm, (50,), "bool")
    for op, combine in {"min": operator.and_, "prod": operator.and_, "max": operator.or_}.items():
        x = rows[comm.rank].copy()
        comm.all_reduce(x, op)
        close(x, reduce(combine, rows))


@check
def reduce_scatter_keeps_this_ranks_part(comm: Communicator) -> None:
    for dtype in ("float32", "int32"):
        for op in ("sum", "max", *(["mean"] if dtype == "float32" else [])):
            shape = (comm.size, 3, 2)
            x = data(comm.rank, shape, dtype)
            before = x.copy()
            part = comm.reduce_scatter(x, op)
            ufunc = np.add if op == "mean" else UFUNCS[op]
            whole = reduce(ufunc, all_data(comm, shape, dtype))
            expected = whole / np.float32(comm.size) if op == "mean" else whole
            close(part, expected[comm.rank].astype(dtype))
            np.testing.assert_array_equal(x, before)


def unequal_counts(comm: Communicator, longest: int) -> list[int]:
    """As unequal as can be: rank 0 has the longest part, one has nothing."""
    return [longest if rank == 0 else 7 * (rank % 2) * rank for rank in range(comm.size)]


@check
def parts_are_cut_along_the_first_axis(comm: Communicator) -> None:
    """With the bits of an all-reduce on one host, in place and elsewhere, in an arena and outside."""
    one_host = comm.local_size == comm.size
    for counts in (None, unequal_counts(comm, 3), unequal_counts(comm, 30_000), [9_000] * comm.size):
        total = 4 * comm.size if counts is None else sum(counts)
        edges = np.cumsum([0, *(counts or [4] * comm.size)])
        start, stop = edges[comm.rank : comm.rank + 2]
        arena = comm.allocate(4 * 3 * total).view(np.float32).reshape(total, 3)
        for dtype, x in (("float32", arena), ("float32", None), ("float16", None), ("int64", None)):
            rows = all_data(comm, (total, 3), dtype)
            x = np.empty((total, 3), dtype) if x is None else x
            for op in ("sum", "max", *(["mean"] if dtype != "int64" else [])):
                whole = rows[comm.rank].copy()
                comm.all_reduce(whole, op)
                x[:] = rows[comm.rank]
                separate = np.empty((stop - start, 3), dtype)
                assert comm.reduce_scatter(x, op, out=separate, counts=counts) is separate
                np.testing.assert_array_equal(x, rows[comm.rank])
                part = x[start:stop]
                assert comm.reduce_scatter(x, op, out=part, counts=counts) is part
                for got in (separate, part):
                    if one_host:
                        assert got.tobytes() == whole[start:stop].tobytes()
                    close(got, whole[start:stop], scale=comm.size)
                np.testing.assert_array_equal(x[:start], rows[comm.rank][:start])
                np.testing.assert_array_equal(x[stop:], rows[comm.rank][stop:])
                x[:start], x[stop:] = -1, -1
                assert comm.all_gather(part, out=x, counts=counts) is x
                same_bits(comm, x)
                np.testing.assert_array_equal(x[start:stop], separate)
                other = np.full_like(x, -1)
                comm.all_gather(separate, out=other, counts=counts, async_op=True).wait()
                np.testing.assert_array_equal(other, x)


@check
def parts_that_lie_in_different_places_are_reduced(comm: Communicator) -> None:
    """Where only some ranks give an array of the arena, or another one."""
    n = 6_000 * comm.size
    first, second = (comm.allocate(8 * n).view(np.float64) for _ in range(2))
    rows = all_data(comm, (n,), "float64")
    mine = slice(comm.rank * 6_000, (comm.rank + 1) * 6_000)
    for even, odd in ((first, np.empty(n)), (first, second)):
        x = (even, odd)[comm.rank % 2]
        x[:] = rows[comm.rank]
        comm.reduce_scatter(x, out=x[mine])
        close(x[mine], reduce(np.add, (row[mine] for row in rows)))
        comm.all_gather(x[mine], out=x)
        close(x, reduce(np.add, rows))


@check
def parts_that_do_not_fit_are_rejected(comm: Communicator) -> None:
    x, n = np.ones((comm.size * 4, 2), np.float32), comm.size
    wrong = np.ones((5, 2), np.float32)
    for kind, text, call in (
        (
            ShapeError,
            "out must be float32.* for this rank, got float32",
            lambda: comm.reduce_scatter(x, out=wrong),
        ),
        (ShapeError, "got float64", lambda: comm.reduce_scatter(x, out=np.ones((4, 2)))),
        (ShapeError, "x must be float32.* for this rank", lambda: comm.all_gather(wrong, out=x)),
        (ShapeError, "counts must be", lambda: comm.reduce_scatter(x, counts=[4] * (n + 1))),
        (ShapeError, "counts must be", lambda: comm.reduce_scatter(x, counts=[5] * n)),
        (ShapeError, "counts must be", lambda: comm.all_gather(x, out=x, counts=[-1, *[0] * (n - 1)])),
        (ShapeError, r"first axis.*got \[\]", lambda: comm.reduce_scatter(np.ones(()), out=np.ones(()))),
        (CommError, "counts cut out, which was not given", lambda: comm.all_gather(x, counts=[4] * n)),
    ):
        with pytest.raises(kind, match=text):
            call()
    y = np.ones(4 * n + 1, np.float32)
    start = 4 * comm.rank + 1
    with pytest.raises(ShapeError, match="must be this rank's own part"):
        comm.reduce_scatter(y[:-1], out=y[start : start + 4])
    comm.barrier()


@check
def reductions_reject_what_they_cannot_reduce(comm: Communicator) -> None:
    ones = np.ones((comm.size, 4), np.float32)
    rejected = [
        (DTypeError, "sum does not take bool", ones.astype(bool), "sum"),
        (DTypeError, "mean does not take bool", ones.astype(bool), "mean"),
        (DTypeError, "mean does not take int64", ones.astype(np.int64), "mean"),
        (DTypeError, "got complex64", ones.astype(np.complex64), "sum"),
        (DTypeError, "must be a NumPy array, got list", [1.0], "sum"),
        (DTypeError, "must be a NumPy array, got float32", np.float32(1), "sum"),
        (ShapeError, r"must be C-contiguous, got shape .* strides", ones[:, ::2], "sum"),
        (ShapeError, r"pass np.ascontiguousarray\(x\)", np.ones((2, 3), order="F"), "sum"),
        (CommError, "op must be one of sum, mean, min, max, prod, got 'average'", ones, "average"),
    ]
    for kind, text, x, op in rejected:
        for verb in (comm.all_reduce, comm.reduce_scatter):
            with pytest.raises(kind, match=f"{verb.__name__}: .*{text}"):
                verb(x, op)
    frozen = ones.copy()
    frozen.flags.writeable = False
    with pytest.raises(CommError, match="all_reduce: x is overwritten, but is read-only"):
        comm.all_reduce(frozen)
    with pytest.raises(ShapeError, match=r"one part a rank, \[\d, ...\], got \[9\]"):
        comm.reduce_scatter(np.ones(9, np.float32))
    comm.barrier()


# Moving data -----------------------------------------------------------------------------------------------


@check
def broadcast_copies_the_roots_array(comm: Communicator) -> None:
    for root in range(comm.size):
        for dtype in (*FLOATS, *INTEGERS, "bool"):
            for shape in SHAPES if (root, dtype) == (comm.size - 1, "float32") else ((7,),):
                x = data(comm.rank, shape, dtype)
                assert comm.broadcast(x, root) is x
                np.testing.assert_array_equal(x, data(root, shape, dtype))
    z = np.full(3, comm.rank + 1j, np.complex128)
    np.testing.assert_array_equal(comm.broadcast(z, 0), np.full(3, 1j))


@check
def all_gather_stacks_the_ranks(comm: Communicator) -> None:
    for dtype in ("float32", "int8", "bool"):
        for shape in SHAPES:
            x = data(comm.rank, shape, dtype)
            close(comm.all_gather(x), np.stack(all_data(comm, shape, dtype)))


@check
def unequal_lengths_are_gathered(comm: Communicator) -> None:
    for shape in ((), (3,), (2, 0)):
        for dtype in ("float32", "int8"):
            rows = [data(rank, (7 * rank % 5, *shape), dtype) for rank in range(comm.size)]
            gathered = comm.all_gather_v(rows[comm.rank])
            assert len(gathered) == comm.size
            for actual, expected in zip(gathered, rows, strict=True):
                close(actual, expected)
            assert all(row.flags.writeable for row in gathered)
    longest = comm.all_gather_v(np.full(300_000 * (comm.rank == comm.size - 1), 7), async_op=True).wait()
    assert [len(row) for row in longest] == [0] * (comm.size - 1) + [300_000]
    with pytest.raises(ShapeError, match="all_gather_v: x must have a first axis, got"):
        comm.all_gather_v(np.array(1))


@check
def objects_go_to_one_rank_and_come_from_one(comm: Communicator) -> None:
    for root in range(comm.size):
        own = {"rank": comm.rank, "blob": b"x" * (1 + 1000 * comm.rank)}
        found = comm.gather_object(own, root)
        expected = [{"rank": rank, "blob": b"x" * (1 + 1000 * rank)} for rank in range(comm.size)]
        assert found == (expected if comm.rank == root else None)
        parts = [("to", rank, "y" * (5000 * (rank == 0))) for rank in range(comm.size)]
        got = comm.scatter_object(parts if comm.rank == root else None, root)
        assert got == parts[comm.rank]
    with pytest.raises(ShapeError, match="scatter_object: objs must hold one part a rank"):
        comm.scatter_object([None] * (comm.size + 1) if comm.rank == 0 else [None], comm.rank)
    with pytest.raises(CommError, match="must be a rank from 0"):
        comm.gather_object(None, comm.size)


def uneven(rank: int, other: int, dtype: str) -> np.ndarray:
    """Rows that depend on two ranks: as many as the second's number, and none for rank 0."""
    return data(7 * rank + other, (other, 2, 3), dtype)


@check
def parts_of_unequal_length_arrive(comm: Communicator) -> None:
    ranks = range(comm.size)
    for dtype in ("float32", "int16", "bool"):
        for root in ranks:
            found = comm.gather_v(uneven(comm.rank, comm.rank, dtype), root)
            assert (found is None) == (comm.rank != root)
            for rank, part in enumerate(found or ()):
                assert part.dtype == dtype
                np.testing.assert_array_equal(part, uneven(rank, rank, dtype))
            parts = [uneven(root, rank, dtype) for rank in ranks] if comm.rank == root else None
            part = comm.scatter_v(parts, root, like=np.empty((0, 2, 3), dtype))
            assert part.dtype == dtype
            np.testing.assert_array_equal(part, uneven(root, comm.rank, dtype))
        sent = [uneven(comm.rank, (comm.rank + rank) % comm.size, dtype) for rank in ranks]
        for rank, part in enumerate(comm.all_to_all_v(sent, async_op=True).wait()):
            np.testing.assert_array_equal(part, uneven(rank, (comm.rank + rank) % comm.size, dtype))
    with pytest.raises(ShapeError, match=r"all_to_all_v: xs must hold one array a rank"):
        comm.all_to_all_v([])
    with pytest.raises(ShapeError, match="gather_v: x must have a first axis"):
        comm.gather_v(np.array(1))
    if comm.size > 1:
        with pytest.raises(DTypeError, match="all_to_all_v: all parts must be float64, got int8"):
            comm.all_to_all_v([np.ones(1)] * (comm.size - 1) + [np.ones(1, np.int8)])


@check
def results_go_where_out_says(comm: Communicator) -> None:
    x = data(comm.rank, (comm.size, 3), "float32")
    everyone = all_data(comm, (comm.size, 3), "float32")
    for async_op in (False, True):
        memory = np.full((3, comm.size, 3), 7, np.float32)
        found = comm.all_to_all(x, async_op, out=memory[1])
        found = found.wait() if async_op else found
        assert np.shares_memory(found, memory)
        np.testing.assert_array_equal(memory[1], np.stack([each[comm.rank] for each in everyone]))
        found = comm.scan(x, "max", async_op, out=memory[1])
        found = found.wait() if async_op else found
        np.testing.assert_array_equal(memory[1], reduce(np.maximum, everyone[: comm.rank + 1]))
        assert (memory[[0, 2]] == 7).all()
        root = comm.size - 1
        stacked = np.empty((comm.size, comm.size, 3), np.float32) if comm.rank == root else None
        found = comm.gather(x, root, async_op, out=stacked)
        found = found.wait() if async_op else found
        if comm.rank == root:
            assert np.shares_memory(found, stacked)
            np.testing.assert_array_equal(stacked, np.stack(everyone))
    for wrong in (np.empty((comm.size, 4), np.float32), np.empty((comm.size, 3))):
        for verb in (comm.all_to_all, comm.scan):
            with pytest.raises(ShapeError, match=r"out must be float32\["):
                verb(x, out=wrong)
    with pytest.raises(CommError, match="out must not lie in the memory of x"):
        comm.all_to_all(x, out=x)
    closed = np.empty_like(x)
    closed.flags.writeable = False
    with pytest.raises(CommError, match="out is overwritten, but is read-only"):
        comm.scan(x, out=closed)


@check
def scan_reduces_over_the_ranks_before(comm: Communicator) -> None:
    for dtype in (*FLOATS, *INTEGERS):
        for op, ufunc in UFUNCS.items():
            for shape in ((), (0,), (4, 5, 3)):
                rows = [data(rank, shape, dtype) for rank in range(comm.rank + 1)]
                own = rows[-1].copy()
                found = comm.scan(own, op)
                wide = "float32" if dtype == "float16" else dtype
                expected = reduce(ufunc, [row.astype(wide) for row in rows]).astype(dtype)
                assert (found.dtype, found.shape) == (dtype, shape)
                np.testing.assert_array_equal(found, expected)
                np.testing.assert_array_equal(own, rows[-1])
    large = np.arange(1_200_000) + comm.rank
    total = comm.scan(large, async_op=True).wait()
    assert total[-1] == sum(1_199_999 + rank for rank in range(comm.rank + 1))
    with pytest.raises(CommError, match="scan: op must be sum, min, max or prod"):
        comm.scan(np.ones(2), "mean")


@check
def gather_and_scatter_are_inverse(comm: Communicator) -> None:
    for root in range(comm.size):
        for shape in SHAPES if root == comm.size - 1 else ((7,),):
            x = data(comm.rank, shape, "float64")
            stacked = comm.gather(x, root)
            if comm.rank == root:
                close(stacked, np.stack(all_data(comm, shape, "float64")))
            else:
                assert stacked is None
            out = np.empty_like(x)
            assert comm.scatter(out, stacked, root) is out
            np.testing.assert_array_equal(out, x)


@check
def scatter_wants_the_parts_on_the_root_alone(comm: Communicator) -> None:
    out = np.zeros(2)
    given = None if comm.rank == 0 else np.zeros((comm.size, 2))
    with pytest.raises(CommError, match="x must be given on the root, rank 0, alone"):
        comm.scatter(out, given)
    if comm.rank == 0:
        with pytest.raises(
            ShapeError, match=r"x must be float64\[\d, 2\] for out of float64\[2\], got float64\[7\]"
        ):
            comm.scatter(out, np.zeros(7))
    comm.barrier()


@check
def all_to_all_transposes(comm: Communicator) -> None:
    for shape in ((comm.size,), (comm.size, 3, 2), (comm.size, 0)):
        x = data(comm.rank, shape, "float32")
        expected = np.stack([row[comm.rank] for row in all_data(comm, shape, "float32")])
        close(comm.all_to_all(x), expected)


@check
def messages_keep_their_order_and_tag(comm: Communicator) -> None:
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for length in (0, 3, 500_000):  # the longest is beyond what MPI takes without a receiver
        for i in range(3):
            comm.send(np.full(length, 10 * comm.rank + i), right, tag=7)
        comm.send(np.array(comm.rank), right, tag=8)
        other = np.array(-1)
        comm.recv(other, left, tag=8)
        assert other == left
        for i in range(3):
            x = np.full(length, -1)
            assert comm.recv(x, left, tag=7) is x
            np.testing.assert_array_equal(x, np.full(length, 10 * left + i))


@check
def whether_a_message_has_come_can_be_asked(comm: Communicator) -> None:
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    assert not comm.has_message(left, tag=9)
    comm.barrier()  # all have asked
    comm.send(np.array([comm.rank]), right, tag=9)
    deadline_s = time.monotonic() + 20
    while not comm.has_message(left, tag=9):
        assert time.monotonic() < deadline_s
        time.sleep(1e-3)
    assert not comm.has_message(left, tag=10)
    assert comm.recv(np.array([-1]), left, tag=9)[0] == left
    assert not comm.has_message(left, tag=9)
    with pytest.raises(CommError, match="has_message"):
        comm.has_message(comm.size)


@check
def a_sent_array_may_change_at_once(comm: Communicator) -> None:
    x = np.full(200_000, comm.rank, np.float32)
    comm.send(x, (comm.rank + 1) % comm.size)
    x[:] = -1
    y = np.empty_like(x)
    comm.recv(y, (comm.rank - 1) % comm.size)
    np.testing.assert_array_equal(y, np.full_like(y, (comm.rank - 1) % comm.size))


@check
def arrays_of_the_other_byte_order_are_converted(comm: Communicator) -> None:
    x = (np.arange(3 * comm.size).reshape(comm.size, 3) + comm.rank).astype(">f4")
    comm.send(x, (comm.rank + 1) % comm.size)
    y = np.empty(x.shape, np.float32)
    comm.recv(y, (comm.rank - 1) % comm.size)
    np.testing.assert_array_equal(y, x - comm.rank + (comm.rank - 1) % comm.size)
    part = comm.reduce_scatter(x)
    assert part.dtype == np.float32
    total = sum(3 * comm.rank + rank for rank in range(comm.size))
    np.testing.assert_array_equal(part, total + comm.size * np.arange(3))
    with pytest.raises(DTypeError, match="native byte order, got >f4"):
        comm.all_reduce(x)  # which is overwritten


@check
def a_message_of_another_kind_is_an_error(comm: Communicator) -> None:
    comm.send(np.ones((2, 3), np.float32), (comm.rank + 1) % comm.size)
    with pytest.raises(CommMismatchError, match=r"expected float64\[6\] from rank \d.* sent float32\[2, 3\]"):
        comm.recv(np.ones(6), (comm.rank - 1) % comm.size)
    comm.barrier()


@check
def ranks_that_do_not_exist_are_rejected(comm: Communicator) -> None:
    x = np.ones(2)
    for rank in (-1, comm.size):
        for name, verb, arguments in (
            ("broadcast: root", comm.broadcast, (x, rank)),
            ("gather: root", comm.gather, (x, rank)),
            ("scatter: root", comm.scatter, (x, None, rank)),
            ("send: dest", comm.send, (x, rank)),
            ("recv: source", comm.recv, (x, rank)),
            ("broadcast_object: root", comm.broadcast_object, (x, rank)),
        ):
            with pytest.raises(
                CommError, match=f"{name} must be a rank from 0 to {comm.size - 1}, got {rank}"
            ):
                verb(*arguments)
    comm.barrier()


@check
def moving_rejects_strides_and_objects(comm: Communicator) -> None:
    for verb in (comm.broadcast, comm.all_gather, comm.all_to_all, comm.gather, comm.scatter):
        with pytest.raises(ShapeError, match="must be C-contiguous"):
            verb(np.ones((4, 4))[:, ::2])
        with pytest.raises(DTypeError, match="use all_gather_object"):
            verb(np.array([None]))
    comm.barrier()


@check
def barrier_waits_for_the_last(comm: Communicator) -> None:
    for late in range(comm.size):
        if comm.rank == late:
            time.sleep(0.03)
        came_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        comm.barrier()
        went_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        assert went_s >= max(comm.all_gather_object(came_s))


@check
def objects_of_any_length_travel(comm: Communicator) -> None:
    objects = [{"rank": rank, "text": "x" * 1000 * rank} for rank in range(comm.size)]
    assert comm.all_gather_object(objects[comm.rank]) == objects
    for root in range(comm.size):
        assert comm.broadcast_object(objects[comm.rank], root) == objects[root]
    assert comm.broadcast_object(None if comm.rank else [1], 0) == [1]


# Work ------------------------------------------------------------------------------------------------------


@check
def work_returns_what_the_blocking_call_does(comm: Communicator) -> None:
    arrays = [data(comm.rank, (100 + i,), "float32") for i in range(20)]
    works = [comm.all_reduce(x, async_op=True) for x in arrays]
    gathered = comm.all_gather(np.array([comm.rank]), async_op=True)
    assert all(isinstance(work, Work) for work in works)
    for i, work in enumerate(works):
        assert work.wait() is arrays[i]
        close(arrays[i], reduce(np.add, all_data(comm, (100 + i,), "float32")))
        same_bits(comm, arrays[i])
        assert work.done()
        assert work.started_s <= work.ended_s <= time.perf_counter()
    assert all(a.ended_s <= b.started_s for a, b in itertools.pairwise(works)), "one at a time, in order"
    np.testing.assert_array_equal(gathered.wait(), np.arange(comm.size)[:, None])
    assert gathered.wait(timeout=0) is gathered.wait(), "a second wait returns the same"


@check
def a_blocking_call_waits_its_turn(comm: Communicator) -> None:
    x = np.full(100_000, 1.0)
    works = [comm.all_reduce(x, async_op=True) for _ in range(4)]
    comm.broadcast(x)
    assert all(work.done() for work in works)
    np.testing.assert_array_equal(x, np.full(100_000, float(comm.size**4)))


@check
def every_verb_has_an_asynchronous_form(comm: Communicator) -> None:
    x = np.full((comm.size, 2), comm.rank, np.float32)
    works = [
        comm.barrier(async_op=True),
        comm.broadcast(x[0], async_op=True),
        comm.reduce_scatter(x, async_op=True),
        comm.all_to_all(x, async_op=True),
        comm.gather(x, async_op=True),
        comm.scatter(np.empty(2, np.float32), x if comm.rank == 0 else None, async_op=True),
        comm.send(x, (comm.rank + 1) % comm.size, async_op=True),
        comm.recv(np.empty_like(x), (comm.rank - 1) % comm.size, async_op=True),
    ]
    received = [work.wait() for work in works][-1]
    assert received[1 % comm.size, 0] == (comm.rank - 1) % comm.size * (comm.size > 1)


# Groups ----------------------------------------------------------------------------------------------------


@check
def split_orders_by_key(comm: Communicator) -> None:
    part = comm.split(comm.rank % 2, key=-comm.rank)
    members = [rank for rank in reversed(range(comm.size)) if rank % 2 == comm.rank % 2]
    assert (part.rank, part.size, part.group) == (
        members.index(comm.rank),
        len(members),
        f"world/{comm.rank % 2}",
    )
    assert part.all_gather_object(comm.rank) == members
    x = np.array([float(comm.rank)])
    assert part.all_reduce(x) == sum(members)
    again = part.split(0, group="again")
    assert (again.size, again.group) == (part.size, "again")
    assert again.all_gather_object(again.rank) == list(range(again.size))
    comm.barrier()


@check
def split_leaves_out_who_gives_no_color(comm: Communicator) -> None:
    part = comm.split(None if comm.rank == 0 else 5)
    if comm.rank == 0:
        assert part is None
    else:
        assert (part.rank, part.size) == (comm.rank - 1, comm.size - 1)
    comm.barrier()


@check
def groups_share_one_order_of_work(comm: Communicator) -> None:
    part = comm.split(comm.rank // 2)
    x, y = np.ones(1000), np.ones(1000)
    works = [group.all_reduce(z, async_op=True) for _ in range(5) for group, z in ((comm, x), (part, y))]
    for work in works:
        work.wait()
    assert x[0] == comm.size**5
    assert y[0] == part.size**5


@check
def allocated_memory_is_aligned_and_zero(comm: Communicator) -> None:
    for nbytes in (0, 1, 4096, 100_000):
        memory = comm.allocate(nbytes)
        assert (memory.dtype, memory.shape) == (np.uint8, (nbytes,))
        assert memory.ctypes.data % 4096 == 0 or nbytes == 0
        assert not memory.any()
    x = comm.allocate(4000).view(np.float32)
    x += comm.rank + 1
    comm.all_reduce(x)
    np.testing.assert_array_equal(x, np.full(1000, comm.size * (comm.size + 1) / 2, np.float32))


@check
def allocated_memory_reduces_like_any_other(comm: Communicator) -> None:
    """At any place in it, at any length, and also where only some ranks give an array that lies in it."""
    size = 50_003
    memory = comm.allocate(8 * size).view(np.float64)
    again = comm.allocate(8 * size).view(np.float64)
    rows = all_data(comm, (size,), "float64")
    for start, stop in ((0, size), (5, 9), (1, 40_000), (size - 4, size), (7, 7)):
        for op, ufunc in UFUNCS.items() if start == 1 else (("sum", np.add),):
            memory[:] = rows[comm.rank]
            part = memory[start:stop]
            assert comm.all_reduce(part, op) is part
            close(part, reduce(ufunc, (row[start:stop] for row in rows)))
            same_bits(comm, part)
            np.testing.assert_array_equal(memory[:start], rows[comm.rank][:start])
            np.testing.assert_array_equal(memory[stop:], rows[comm.rank][stop:])
    for even, odd in ((memory[1:], np.empty(size - 1)), (memory[1:], memory[:-1]), (memory[1:], again[1:])):
        x = (even, odd)[comm.rank % 2]
        x[:] = rows[comm.rank][1:]
        close(comm.all_reduce(x), reduce(np.add, (row[1:] for row in rows)))


@check
def large_arrays_travel_in_pieces(comm: Communicator) -> None:
    size = 600_001  # beyond what any backend moves at once among ranks of a host
    x = np.arange(size, dtype=np.float64) * (comm.rank + 1)
    factor = comm.size * (comm.size + 1) // 2
    np.testing.assert_array_equal(comm.all_reduce(x), factor * np.arange(size, dtype=np.float64))
    x = np.arange(size) + comm.rank
    np.testing.assert_array_equal(comm.broadcast(x, comm.size - 1), np.arange(size) + comm.size - 1)
    rows = np.arange(comm.size * size).reshape(comm.size, size)
    np.testing.assert_array_equal(comm.reduce_scatter(rows), comm.size * rows[comm.rank])
    np.testing.assert_array_equal(comm.all_to_all(rows + comm.rank)[0], rows[comm.rank])
    np.testing.assert_array_equal(comm.all_gather(rows[comm.rank]), rows)
    out = np.empty(size, np.int64)
    comm.scatter(out, rows if comm.rank == 0 else None)
    np.testing.assert_array_equal(out, rows[comm.rank])
    gathered = comm.gather(out, comm.size - 1)
    assert (gathered is None) == (comm.rank != comm.size - 1)
    assert gathered is None or np.array_equal(gathered, rows)


@check
def bfloat16_is_reduced_where_numpy_has_it(comm: Communicator) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = np.full(20_000, 256 if comm.rank == 0 else 1, bfloat16)  # 256 + 1 is 256 in bfloat16
    comm.all_reduce(x)
    np.testing.assert_array_equal(x, np.full(20_000, bfloat16(256 + comm.size - 1)))
    x = np.full(5, comm.rank, bfloat16)
    np.testing.assert_array_equal(comm.all_reduce(x, "max"), np.full(5, bfloat16(comm.size - 1)))
    np.testing.assert_array_equal(comm.all_gather(x), np.full((comm.size, 5), bfloat16(comm.size - 1)))


# Faults ----------------------------------------------------------------------------------------------------


def differ(comm: Communicator, odd: Callable[[], object], even: Callable[[], object], text: str) -> None:
    """The last rank calls ``odd`` and all others ``even``; every rank must get the same report."""
    comm.all_gather(np.zeros(2))
    with pytest.raises(CommMismatchError) as caught:
        odd() if comm.rank == comm.size - 1 else even()
    message = str(caught.value)
    number = comm.log.count - 1
    first, *sites = message.splitlines()
    assert first == (
        f"collective #{number}, group 'world': {text.format(last=comm.size - 1)}; every rank must issue the "
        f"same calls in the same order. Last agreed: #{number - 1} all_gather"
    )
    assert len(sites) == 2
    assert all(__file__.rsplit("/", 1)[1] in line for line in sites)
    assert len(set(comm.all_gather_object(message))) == 1, "after the report the ranks are in step again"


@check_of_many
def different_calls_are_reported_before_data_moves(comm: Communicator) -> None:
    x = np.full(8, comm.rank, np.float32)
    differ(
        comm,
        lambda: comm.all_reduce(x[:5]),
        lambda: comm.all_reduce(x),
        "rank 0 called all_reduce(float32[8]), rank {last} called all_reduce(float32[5])",
    )
    differ(
        comm,
        comm.barrier,
        lambda: comm.all_reduce(x),
        "rank 0 called all_reduce(float32[8]), rank {last} called barrier()",
    )
    differ(
        comm,
        lambda: comm.all_reduce(x, "max"),
        lambda: comm.all_reduce(x),
        "rank 0 called all_reduce(float32[8]), rank {last} called all_reduce(float32[8], op=max)",
    )
    differ(
        comm,
        lambda: comm.broadcast(x.astype(np.float64), 1),
        lambda: comm.broadcast(x, 1),
        "rank 0 called broadcast(float32[8], root=1), rank {last} called broadcast(float64[8], root=1)",
    )
    np.testing.assert_array_equal(x, np.full(8, comm.rank, np.float32))


@check_of_many
def a_mismatch_is_raised_in_wait(comm: Communicator) -> None:
    work = comm.all_reduce(np.ones(3 + (comm.rank == 1)), async_op=True)
    with pytest.raises(CommMismatchError, match=r"rank 1 called all_reduce\(float64\[4\]\)"):
        work.wait()
    comm.barrier()


@check
def a_submitted_function_runs_in_the_order_of_calls(comm: Communicator) -> None:
    x, y = np.full(3, 1.0 + comm.rank), np.full(4, 2.0)

    def halve_and_gather() -> np.ndarray:
        np.divide(comm.all_reduce(y), 2.0, out=y)
        inner = comm.all_reduce(y, async_op=True)
        assert inner.done()
        return comm.all_gather(y)

    first = comm.all_reduce(x, async_op=True)
    work = comm.submit(halve_and_gather, "halve and gather")
    last = comm.all_reduce(y, "max", async_op=True)
    np.testing.assert_array_equal(work.wait(), np.full((comm.size, 4), float(comm.size) ** 2))
    assert first.done()
    np.testing.assert_array_equal(last.wait(), np.full(4, float(comm.size) ** 2))
    np.testing.assert_array_equal(x, np.full(3, comm.size * (comm.size + 1) / 2))


@check
def bytes_that_are_sent_are_counted(comm: Communicator) -> None:
    n, before = comm.size, comm.sent_bytes
    comm.all_reduce(np.zeros(1000, np.float32))
    assert comm.sent_bytes - before == pytest.approx(8000 * (n - 1) / n)
    comm.submit(lambda: comm.all_gather(np.zeros(10, np.float16))).wait()
    comm.all_to_all(np.zeros((n, 5)))
    assert comm.sent_bytes - before == pytest.approx(8000 * (n - 1) / n + 20 * (n - 1) + 40 * (n - 1))
    before, whole = comm.sent_bytes, np.zeros((n + 1, 3), np.float32)
    counts = [0] * (n - 1) + [n + 1]  # the ranks' own parts say nothing of what each passes on
    comm.all_gather(whole[: counts[comm.rank]].copy(), out=whole, counts=counts)
    comm.reduce_scatter(whole, counts=counts)
    assert comm.sent_bytes - before == pytest.approx(2 * whole.nbytes * (n - 1) / n)


@check_of_many
def submitted_functions_that_differ_are_reported(comm: Communicator) -> None:
    x = np.ones(2)
    work = comm.submit(lambda: comm.all_reduce(x), "this" if comm.rank else "that")
    with pytest.raises(CommMismatchError, match=r"rank 0 .* in submit\(that\), rank 1 .* submit\(this\)"):
        work.wait()
    work = comm.submit(lambda: comm.all_reduce(x[: 1 + (comm.rank > 0)]), "a sum")
    with pytest.raises(CommMismatchError, match=r"rank 1 called all_reduce\(float64\[2\]\)"):
        work.wait()
    comm.barrier()


@check_of_many
def a_wait_may_end_before_the_work(comm: Communicator) -> None:
    if comm.rank == 0:
        work = comm.barrier(async_op=True)
        with pytest.raises(
            CommTimeoutError, match=r"#\d+ barrier, group 'world' was expected to end within 0.02 s"
        ):
            work.wait(timeout=0.02)
        comm.send(np.zeros(0), 1, async_op=True)
        work.wait()
    else:
        time.sleep(0.1)
        comm.barrier()
    if comm.rank == 1:
        comm.recv(np.zeros(0), 0)
