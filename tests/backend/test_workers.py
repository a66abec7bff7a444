"""Threads that make kernels' calls: what they compute, how work is cut, and how they come and go."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.ops.recurrent import lstm_steps
from distgrad.backend import threads as threads_module
from distgrad.backend.kernels import activation, attention, dropout, norm, optimizer
from distgrad.backend.kernels.table import accelerated
from distgrad.backend.kernels.workers import Pool
from distgrad.backend.products import SMALL_PRODUCT, _blocks, matmul
from distgrad.backend.threads import count_parts, cut, run_parts

SIZES = [2, 3, 4, 5, 7, 8, 12, 16, 31, 32, 48, 64]


@pytest.fixture(params=[True, False], ids=["futex", "pipes"])
def pool(request):
    made = Pool(3, 200_000, futex=request.param)
    yield made
    made.dismiss()
    assert not any(member.is_alive() for member in made.members)


def gelu_parts(x, y, count):
    edges = cut(x.size, count)
    return [[(activation._gelu, x[a:b], y[a:b])] for a, b in itertools.pairwise(edges)]


def test_parts_are_what_the_kernel_computes(pool):
    x = np.random.default_rng(0).standard_normal(3001).astype("f4")
    expected, y = np.empty_like(x), np.empty_like(x)
    activation._gelu(x, expected)
    for count in (1, 2, 3):
        for _ in range(200):
            y[:] = 0
            assert not pool.run(gelu_parts(x, y, count))[1]
            np.testing.assert_array_equal(y, expected)


def test_members_that_sleep_are_woken(pool):
    x = np.ones(300, "f4")
    y = np.empty_like(x)
    for _ in range(20):
        time.sleep(0.003)  # longer than they spin
        y[:] = 0
        pool.run(gelu_parts(x, y, 3))
        assert (y == y[0]).all()
        assert y[0] > 0.8


def test_all_kinds_of_arguments_arrive(pool):
    """Arrays with any strides, whole and real numbers, bools, pairs and None, beyond what registers hold."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, 9, 3, 8)).astype("f4").transpose(0, 2, 1, 3) for _ in range(3))
    x, weight, bias = (rng.standard_normal(s).astype("f4") for s in ((40, 16), (16,), (16,)))
    words = np.empty(dropout._WORDS * dropout._BATCH, np.uint64)
    key = np.array([7, 8], np.uint64)
    calls = [
        (attention._forward, q, k, v, np.float32(0.3), True, 4),
        (norm._forward, x, weight, bias, np.float32(1e-5), True),
        (dropout._dropout, x.reshape(-1)),
    ]
    last = (words, words.view("u4"), np.uint32(8), key, key, 0, 1 << 23, np.float32(2))
    for _ in range(3):
        alone, ours = ([np.empty_like(q), np.empty_like(x), np.empty(x.size, "f4")] for _ in range(2))
        for (kernel, *arguments), out in zip(calls, alone, strict=True):
            kernel(*arguments, out, *(last if kernel is dropout._dropout else ()))
        parts = [
            [(*call, out, *(last if call[0] is dropout._dropout else ()))]
            for call, out in zip(calls, ours, strict=True)
        ]
        assert not pool.run(parts)[1]
        for a, b in zip(alone, ours, strict=True):
            np.testing.assert_array_equal(a, b)


def test_more_real_numbers_than_registers_arrive(pool):
    rng = np.random.default_rng(2)
    arrays = [np.abs(rng.standard_normal(500)).astype("f4") for _ in range(4)]
    kernels = optimizer.__dict__["nadam"].__closure__
    kernel = next(cell.cell_contents for cell in kernels if cell.cell_contents.__class__ is dict)[()]
    assert kernel.entry.signature == " ".join(["x1"] * 4 + ["x"] * 10)
    numbers = [np.float32(n + 1) / 16 for n in range(10)]
    alone, ours = [x.copy() for x in arrays], [x.copy() for x in arrays]
    kernel(*alone, *numbers)
    pool.run([[], [(kernel, *ours, *numbers)]])
    for a, b in zip(alone, ours, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_pool_keeps_nothing_alive(pool):
    x = np.ones(100, "f4")
    y = np.empty_like(x)
    before = sys.getrefcount(x)
    for _ in range(5):
        pool.run(gelu_parts(x, y, 3))
    gc.collect()
    assert sys.getrefcount(x) == before


@pytest.mark.parametrize("parts", SIZES)
@pytest.mark.parametrize("length", [1, 7, 64, 100, 1023, 4096, 65537])
def test_parts_cover_everything_and_are_alike(length, parts):
    for step in (1, 16):
        edges = cut(length, min(parts, length), step)
        sizes = np.diff(edges)
        assert edges[0] == 0
        assert edges[-1] == length
        assert sizes.min() >= 1
        assert sizes.max() <= max(1.5 * length / min(parts, length), 2)


@pytest.mark.parametrize("parts", SIZES)
@pytest.mark.parametrize("shape", [(512, 512), (64, 4096), (4096, 64), (2048, 10), (768, 2304), (128, 128)])
def test_blocks_cover_a_product_and_are_alike(shape, parts):
    covered = np.zeros(shape, int)
    blocks = _blocks(*shape, 1 << 20, parts)
    for rows, columns in blocks:
        covered[rows, columns] += 1
    assert (covered == 1).all()
    assert len(blocks) == parts
    areas = [(r.stop - r.start) * (c.stop - c.start) for r, c in blocks]
    assert max(areas) <= 2.25 * np.prod(shape) / parts


@pytest.mark.parametrize("parts", SIZES)
@pytest.mark.parametrize(
    "shape", [(70, 90, 600), (300, 300, 300), (2, 3, 1 << 20), (3, 5000, 512), (1, 2, 3)]
)
def test_no_block_is_so_small_that_blas_would_add_up_otherwise(shape, parts):
    rows, columns, terms = shape
    blocks = _blocks(*shape, parts)
    assert 1 <= len(blocks) <= parts
    for block in blocks if len(blocks) > 1 else []:
        sizes = [x.stop - x.start for x in block]
        assert np.prod(sizes) * terms >= 100**3
        assert min(sizes) >= 2
    assert len(blocks) >= min(parts, 2) or rows * columns * terms < 2.2 * SMALL_PRODUCT or min(shape) < 4


@pytest.fixture
def number():
    before = dg.get_num_threads()
    yield dg.set_num_threads
    dg.set_num_threads(before)


@pytest.fixture
def eager_cuts(monkeypatch):
    """Everything is worth handing over, whoever else wants the cores."""
    monkeypatch.setattr(threads_module, "_WORTH", 1e-3)
    monkeypatch.setattr(Pool, "is_quiet", lambda self: False)


def computed():
    """Results of products and of kernels of every kind."""
    rng = np.random.default_rng(3)

    def normal(*shape, dtype="f4"):
        return rng.standard_normal(shape).astype(dtype)

    def kernel(name):
        return accelerated(name, None)

    x, w, b = normal(130, 200), normal(300, 200), normal(300)
    images, filters = normal(6, 5, 14, 14), normal(8, 5, 3, 3)
    q = normal(2, 4, 33, 16)
    yield matmul(x, w.T)
    yield matmul(normal(333, 257, dtype="f8"), normal(257, 190, dtype="f8"))
    yield matmul(np.asfortranarray(normal(70, 600)), normal(600, 90))
    yield matmul(normal(1030, 515), np.asfortranarray(normal(515, 770)))
    convolved = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    for rows, terms, columns in ((1, 400, 300), (300, 400, 1), (200, 1, 300)):
        yield matmul(normal(rows, terms), normal(terms, columns))
        yield matmul(normal(rows, terms, dtype="f8"), normal(columns, terms, dtype="f8").T)
    xp = dg.backend.numpy.numpy_module
    yield kernel("linear")(xp, x, w, b)
    yield kernel("gelu")(xp, x, approximate="none")
    yield kernel("softmax")(xp, x, axis=-1)
    yield kernel("convolution")(xp, images, filters, None, **convolved)
    yield kernel("convolution")(xp, images, normal(7, 5, 1, 1), None, **{**convolved, "padding": (0, 0)})
    yield kernel("attention")(xp, q, q, q, scale=0.25, is_causal=True)
    yield kernel("layer_norm")(xp, x, normal(200), normal(200), normalized_shape=(200,), eps=1e-5)
    weight, image = dg.asarray(filters), dg.asarray(images)
    for tensor in (weight, image):
        tensor.requires_grad = True
    dg.nn.functional.conv2d(image, weight, padding=1).sum().backward()
    yield weight.grad.numpy()
    yield image.grad.numpy()
    for hidden in (64, 128):
        shapes = ((5, 32, 4 * hidden), (4 * hidden, hidden), (32, hidden), (32, hidden))
        inputs = [dg.asarray(normal(*shape) / 4) for shape in shapes]
        for tensor in inputs:
            tensor.requires_grad = True
        hiddens, cells = lstm_steps(*inputs)[:2]
        ((hiddens * hiddens).sum() + cells.sum()).backward()
        yield from (hiddens.detach().numpy(), *(tensor.grad.numpy() for tensor in inputs))


def test_bits_do_not_depend_on_the_number_of_threads(number, eager_cuts):
    number(1)
    alone = list(computed())
    for threads in (2, 3, 5, 8, 13, 64):
        number(threads)
        for i, (a, b) in enumerate(zip(alone, computed(), strict=True)):
            np.testing.assert_array_equal(a, b, err_msg=f"result {i} on {threads} threads")


def test_work_is_cut_into_parts_of_four_hand_overs(number):
    number(4)
    assert count_parts(1e3) == 1
    assert count_parts(1e12) == 4
    grain_ns = threads_module._State.grain_ns
    cost = threads_module._State.pool.hand_over
    assert grain_ns in (4 * cost.awake_ns, 4 * cost.asleep_ns)
    assert count_parts(2.5 * grain_ns) == 2
    assert count_parts(1.9 * grain_ns) == 1


def test_one_that_is_quiet_leaves_all_to_who_asks(number, monkeypatch):
    number(2)
    count_parts(1e12)
    pool, x = threads_module._State.pool, np.ones(1 << 20, "f4")
    y, asked = np.empty_like(x), []
    monkeypatch.setattr(Pool, "run", lambda self, parts: asked.append(parts))
    monkeypatch.setattr(Pool, "is_quiet", lambda self: True)
    run_parts(lambda a, b: [(activation._gelu, x[a:b], y[a:b])], x.size, 1.0)
    assert not asked
    assert (y == y[0]).all()
    assert pool is threads_module._State.pool


def test_a_pool_that_only_loses_time_becomes_quiet():
    pool = Pool(2, 50_000)
    x = np.ones(8, "f4")
    y = np.empty_like(x)
    deadline = time.monotonic() + 60
    while not pool.is_quiet() and time.monotonic() < deadline:
        time.sleep(0.0002)  # the member sleeps: to wake it costs more than the part saves
        pool.run(gelu_parts(x, y, 2))
    assert pool.is_quiet()
    pool.dismiss()


def test_errors_of_a_part_are_raised_and_the_pool_goes_on(number, eager_cuts):
    number(2)
    x = np.ones(4096, "f4")
    y = np.empty_like(x)
    with pytest.raises(KeyError, match="wrong"):
        run_parts(lambda a, b: {}["wrong"], x.size, 1e3)
    run_parts(lambda a, b: [(activation._gelu, x[a:b], y[a:b])], x.size, 1e3)
    assert (y == y[0]).all()


def test_a_program_ends_while_threads_spin_and_leaves_none():
    program = """
import os, threading
import numpy as np
import distgrad as dg
from distgrad.backend.products import matmul
dg.set_num_threads(3)
x = np.ones((600, 600), "f4")
matmul(x, x)
assert sum(t.name == "kernel part" for t in threading.enumerate()) == 2
print("here")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "here\n"


def test_without_numba_numpys_own_threads_multiply():
    program = """
import sys
sys.modules["numba"] = None
import numpy as np
import distgrad as dg
from distgrad.backend.blas import find_blas
from distgrad.backend.products import matmul
from distgrad.backend.kernels import compiler
compiler._is_installed.cache_clear()
dg.set_num_threads(2)
x = np.ones((600, 600), "f4")
print((matmul(x, x) == 600).all(), find_blas().get_threads())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["True", "2"]


def test_a_library_that_is_not_openblas_multiplies_all(number, monkeypatch):
    from distgrad.backend import blas, products

    for module in (products, threads_module):
        monkeypatch.setattr(module, "find_blas", blas.Blas)
    number(2)
    x = np.random.default_rng(4).standard_normal((500, 500))
    np.testing.assert_array_equal(matmul(x, x), np.matmul(x, x))
    a, b = np.ones((3, 8, 8)), np.ones((8, 8))
    y = np.empty_like(a)
    products.matmul_stack(b, a, y)
    assert (y == 8).all()


def exit_code(child):
    """That of a forked child, or None of one that hangs, which is killed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def test_a_child_that_hangs_is_told_from_one_that_ends(monkeypatch):
    start = itertools.count(step=61)
    child = os.fork()
    if not child:
        signal.pause()
    monkeypatch.setattr(time, "monotonic", lambda: next(start))
    assert exit_code(child) is None


def test_a_fork_in_the_middle_of_work_goes_on(number):
    number(2)
    x = np.ones((400, 400), "f4")
    going = threading.Event()

    def multiply():
        while not going.is_set():
            matmul(x, x)

    other = threading.Thread(target=multiply)
    other.start()
    try:
        children = []
        for _ in range(5):
            child = os.fork()
            if not child:
                os._exit(0 if (matmul(x, x) == 400).all() else 1)
            children.append(child)
        assert [exit_code(child) for child in children] == [0] * 5
    finally:
        going.set()
        other.join(60)
