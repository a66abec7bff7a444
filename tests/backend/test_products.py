"""Products that several threads share: the same numbers, whoever has part in them."""

import os
import platform
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.ops.recurrent import lstm_steps
from distgrad.backend import products
from distgrad.backend.blas import find_blas
from distgrad.backend.flags import exception_flags
from distgrad.backend.products import matmul, matmul_stack


@pytest.fixture
def two_threads():
    before = dg.get_num_threads()
    dg.set_num_threads(2)
    yield
    dg.set_num_threads(before)


SHAPES = [(256, 256, 256), (3, 4096, 512), (4096, 512, 3), (1, 2048, 2048), (701, 333, 257), (0, 9, 9)]


@pytest.fixture(params=[1, 2, 3, 5, 6])
def threads(request):
    before = dg.get_num_threads()
    dg.set_num_threads(request.param)
    yield request.param
    dg.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "i8"])
@pytest.mark.parametrize(("rows", "terms", "columns"), SHAPES)
def test_a_product_is_numpys(rows, terms, columns, dtype, threads):
    if dtype == "i8":  # NumPy's own loops, slow: half of the rows and columns
        rows, columns = rows // 2, columns // 2
    rng = np.random.default_rng(rows)
    x1 = rng.integers(-4, 5, (rows, terms)).astype(dtype)  # small whole numbers: no order of sums rounds
    x2 = rng.integers(-4, 5, (terms, columns)).astype(dtype)
    expected = np.matmul(x1, x2)
    out = np.full((columns, rows), 7, dtype).T
    for a, b in ((x1, x2), (np.asfortranarray(x1), np.asfortranarray(x2)), (x1[::-1][::-1], x2)):
        y = matmul(a, b)
        assert y.dtype == expected.dtype
        np.testing.assert_array_equal(y, expected)
    assert matmul(x1, x2, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_stacks_and_wrong_shapes_are_numpys(threads):
    x = np.arange(2 * 3 * 200 * 100, dtype="f8").reshape(2, 3, 200, 100) % 7
    w = np.arange(100 * 300, dtype="f8").reshape(100, 300) % 5
    np.testing.assert_array_equal(matmul(x, w), np.matmul(x, w))
    np.testing.assert_array_equal(matmul(x, x.mT), np.matmul(x, x.mT))
    for wrong in ((w, w), (np.ones((500, 400)), np.ones((401, 500)))):
        with pytest.raises(ValueError, match="mismatch in its core dimension"):
            matmul(*wrong)
    with pytest.raises(ValueError, match=r"mismatch|doesn't match|broadcast"):
        matmul(np.ones((400, 400)), np.ones((400, 400)), out=np.empty((401, 400)))


def test_many_python_threads_multiply_at_once(two_threads):
    x = np.ones((400, 400), "f4")
    results = []

    def multiply():
        results.append(all((matmul(x, x) == 400).all() for _ in range(50)))

    callers = [threading.Thread(target=multiply) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert results == [True] * 4
    assert sum(thread.name == "kernel part" for thread in threading.enumerate()) == 1
    assert find_blas().get_threads() == 1


def test_no_thread_takes_a_core_after_a_product(two_threads):
    x = np.ones((600, 600), "f4")
    waited = []
    for _ in range(5):
        matmul(x, x)
        start = time.process_time()
        time.sleep(0.02)
        waited.append(time.process_time() - start)
    assert min(waited) < 0.005  # OpenBLAS's own threads would take all 20 ms


def test_the_number_of_threads_may_change_while_others_multiply():
    before = dg.get_num_threads()
    x, results, going = np.ones((300, 300), "f4"), [], threading.Event()

    def multiply():
        while not going.is_set():
            results.append((matmul(x, x) == 300).all())

    caller = threading.Thread(target=multiply, daemon=True)
    caller.start()
    try:
        for i in range(300):
            dg.set_num_threads(1 + i % 3)
            time.sleep(0.0005)
    finally:
        going.set()
        caller.join(20)
        dg.set_num_threads(before)
    assert not caller.is_alive()
    assert results
    assert all(results)


def test_a_fork_has_threads_of_its_own(two_threads):
    x = np.ones((300, 300), "f4")
    matmul(x, x)
    child = os.fork()
    if not child:
        right = all((matmul(x, x) == 300).all() for _ in range(3)) and find_blas().get_threads() == 1
        os._exit(0 if right else 1)
    deadline = time.monotonic() + 60
    ended = (0, 0)
    while ended[0] == 0 and time.monotonic() < deadline:
        ended = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert (matmul(x, x) == 300).all()
    dg.set_num_threads(1)
    assert not any(thread.name == "kernel part" for thread in threading.enumerate())


@pytest.mark.parametrize("size", [(5, 33, 64), (1, 7, 128), (40, 16, 96)], ids=str)
def test_sequences_do_not_depend_on_how_a_batch_is_divided(size, threads):
    batch, steps, hidden = size
    rng = np.random.default_rng(1)
    arrays = [
        rng.standard_normal(shape).astype("f4") / 4
        for shape in ((steps, batch, 4 * hidden), (4 * hidden, hidden), (batch, hidden), (batch, hidden))
    ]

    def run():
        tensors = [dg.asarray(array) for array in arrays]
        for tensor in tensors:
            tensor.requires_grad = True
        hiddens, cells = lstm_steps(*tensors)[:2]
        ((hiddens * hiddens).sum() + cells.sum()).backward()
        return [
            hiddens.detach().numpy(),
            cells.detach().numpy(),
            *(tensor.grad.numpy() for tensor in tensors),
        ]

    ours = run()
    dg.set_num_threads(1)
    for ours_, alone in zip(ours, run(), strict=True):
        np.testing.assert_allclose(ours_, alone, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_convolutions_of_one_element_do_not_depend_on_threads(batch, threads):
    rng = np.random.default_rng(2)
    x = dg.asarray(rng.standard_normal((batch, 48, 30, 30)))
    w = dg.asarray(rng.standard_normal((64, 48, 1, 1)))

    def run():
        for tensor in (x, w):
            tensor.requires_grad = True
            tensor.grad = None
        y = dg.nn.functional.conv2d(x, w)
        (y * y).sum().backward()
        return y.detach().numpy(), x.grad.numpy(), w.grad.numpy()

    ours = run()
    dg.set_num_threads(1)
    for ours_, alone in zip(ours, run(), strict=True):
        np.testing.assert_allclose(ours_, alone, rtol=1e-11)


def test_what_overlaps_is_read_before_it_is_written(threads):
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal((600, 600)).astype("f4") for _ in range(2))
    expected = x @ w
    for _ in range(10):
        for out, sides in ((w.copy(), (x, None)), (x.copy(), (None, w))):
            given = [out if side is None else side for side in sides]
            np.testing.assert_allclose(matmul(*given, out=out), expected, rtol=1e-3, atol=1e-3)


def test_parts_follow_the_callers_errstate(threads):
    huge = np.full((256, 256), 1e300)
    with np.errstate(all="ignore"):
        assert np.isinf(matmul(huge, huge)).all()
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        matmul(np.concatenate([np.zeros((256, 256)), huge]), huge)


def test_exceptions_have_the_processors_numbers():
    found = exception_flags()
    assert found.keys() == {"invalid", "divide", "over", "under"}
    assert all(flag.bit_count() == 1 for flag in found.values())
    if platform.machine() == "x86_64":
        assert found == {"invalid": 1, "divide": 4, "over": 8, "under": 16}


def test_numpy_multiplies_where_exceptions_cannot_be_told(two_threads, monkeypatch):
    monkeypatch.setattr(products, "exception_flags", lambda: None)
    monkeypatch.setattr(products, "run_blocks", lambda *args, **options: 1 / 0)
    huge = np.full((256, 256), 1e300)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        matmul(huge, huge)
    with np.errstate(all="ignore"), pytest.raises(ZeroDivisionError):
        matmul(huge, huge)


def test_a_product_at_the_interpreters_end_waits_for_nobody():
    program = """
import numpy as np
import distgrad as dg
from distgrad.backend.products import matmul
dg.set_num_threads(2)
x = np.ones((300, 300))
matmul(x, x)
class Last:
    def __del__(self, matmul=matmul, x=x):
        print(matmul(x, x)[0, 0])
Last.kept = Last()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "300.0\n"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_matrix_times_a_stack_is_numpys(dtype, transposed, threads):
    rng = np.random.default_rng(4)
    matrix = rng.integers(-4, 5, (48, 64)).astype(dtype)
    x = rng.integers(-4, 5, (9, 64, 700)).astype(dtype)
    y = np.empty((9, 48, 700), dtype)
    matmul_stack(np.asfortranarray(matrix) if transposed else matrix, x, y)
    np.testing.assert_array_equal(y, np.matmul(matrix, x))
