"""Products by cuBLAS read their operands where they lie: transposed, broadcast, cut from larger arrays."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import distgrad as dg

pytestmark = pytest.mark.gpu_double(devices=1)

DTYPES = {"f": np.float32, "d": np.float64, "e": np.float16, "E": ml_dtypes.bfloat16}
EPS = {char: float(ml_dtypes.finfo(dtype).eps) for char, dtype in DTYPES.items()}


def turned(x):
    return x.swapaxes(-1, -2)


def same(x):
    return x


#: name: shape and view of both sides, and how many of them are copied
LAYOUTS = {
    "matrices": ((5, 8), same, (8, 7), same, 0),
    "both transposed": ((8, 5), turned, (7, 8), turned, 0),
    "scores": ((2, 3, 5, 8), same, (2, 3, 7, 8), turned, 0),
    "gradient of values": ((2, 3, 5, 7), turned, (2, 3, 5, 8), same, 0),
    "a weight for a batch": ((6, 8), same, (4, 8, 9), same, 0),
    "a batch for a weight": ((4, 5, 8), same, (6, 8), turned, 0),
    "a batch of a batch": ((4, 1, 5, 8), same, (1, 3, 8, 6), same, 2),
    "shared keys": ((2, 2, 3, 5, 8), same, (2, 2, 1, 7, 8), turned, 1),
    "columns of a wider array": ((2, 5, 12), lambda x: x[..., :8], (2, 8, 4), same, 0),
    "rows of a longer array": ((2, 9, 8), lambda x: x[:, 2:7], (2, 8, 4), same, 0),
    "every other row": ((2, 10, 8), lambda x: x[:, ::2], (2, 8, 4), same, 0),
    "every other column": ((2, 5, 16), lambda x: x[..., ::2], (2, 8, 4), same, 1),
    "heads within a row": ((2, 5, 3, 8), lambda x: x.swapaxes(1, 2), (2, 3, 8, 4), same, 1),
    "backwards": ((3, 5, 8), lambda x: x[::-1, ::-1], (3, 8, 4), same, 1),
    "one row": ((3, 1, 8), same, (3, 8, 4), same, 0),
    "one column": ((3, 5, 8), same, (3, 8, 1), same, 0),
    "one term": ((3, 5, 1), same, (3, 1, 4), same, 0),
}


def numbers(shape, char, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[char])


def close(found, expected, char, terms):
    scale = np.abs(expected).max() + 1
    assert np.abs(found.astype("d") - expected).max() <= 4 * EPS[char] * scale * max(terms, 1) ** 0.5


@pytest.mark.parametrize("char", DTYPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_read_as_they_lie(name, char):
    import cupy as cp
    from gpu_double.runtime import installed

    from distgrad.backend.cublas import matmul

    shape, view, other_shape, other_view, copies = LAYOUTS[name]
    a, b = numbers(shape, char, 0), numbers(other_shape, char, 1)
    on_device = view(cp.asarray(a)), other_view(cp.asarray(b))
    before = installed().calls["launchKernel"]
    y = matmul(*on_device)
    assert installed().calls["launchKernel"] - before == copies
    expected = view(a).astype("d") @ other_view(b).astype("d")
    assert y.dtype == a.dtype
    assert y.shape == expected.shape
    assert y.flags.c_contiguous
    close(cp.asnumpy(y), expected, char, a.shape[-1])


@pytest.mark.parametrize("char", DTYPES)
def test_a_product_is_scaled_added_and_written_where_it_is_wanted(char):
    import cupy as cp

    from distgrad.backend.cublas import matmul

    a, b, old = numbers((2, 5, 8), char, 0), numbers((2, 8, 4), char, 1), numbers((2, 6, 7), char, 2)
    product = a.astype("d") @ b.astype("d")
    for add, scale in itertools.product((False, True), (1.0, 0.5)):
        whole = cp.asarray(old)
        y = matmul(cp.asarray(a), cp.asarray(b), whole[:, 1:, :4], scale, add)
        assert y.data.ptr == whole[:, 1:, :4].data.ptr
        close(cp.asnumpy(y), scale * product + add * old[:, 1:, :4].astype("d"), char, 8)
        rest = cp.asnumpy(whole)
        np.testing.assert_array_equal(rest[:, 0], old[:, 0])
        np.testing.assert_array_equal(rest[..., 4:], old[..., 4:])
    for place in (cp.asarray(old)[:, :5, :4:-1][..., :2], cp.empty((2, 2, 5), DTYPES[char]).swapaxes(1, 2)):
        found = matmul(cp.asarray(a), cp.asarray(b[..., :2]), place)
        assert found is place
        close(cp.asnumpy(found), product[..., :2], char, 8)


@pytest.mark.parametrize("char", ["e", "E"])
def test_16_bit_numbers_are_summed_in_float32(char):
    import cupy as cp

    from distgrad.backend.cublas import matmul

    a, b = numbers((3, 4, 300), char, 0), numbers((3, 300, 2), char, 1)
    expected = a.astype("d") @ b.astype("d")
    wide = cp.empty((3, 4, 2), np.float32)
    assert matmul(cp.asarray(a), cp.asarray(b), wide) is wide
    np.testing.assert_allclose(cp.asnumpy(wide), expected, rtol=1e-5, atol=1e-4)
    ones, quarters = (cp.full((2, 1, 70_000), value, DTYPES[char]) for value in (1, 0.25))
    assert float(matmul(quarters, ones.swapaxes(1, 2))[0, 0, 0]) == {"e": 17_504, "E": 17_536}[char]


def test_what_cublas_does_not_multiply_cupy_does():
    import cupy as cp

    from distgrad.backend.cublas import matmul

    for a, b in (
        (np.arange(6).reshape(2, 3), np.arange(3)),
        (np.ones((2, 3)) * 1j, np.ones((3, 2)) * 1j),
        (np.ones((0, 3), "f"), np.ones((3, 2), "f")),
        (np.ones((2, 0), "f"), np.ones((0, 2), "f")),
        (np.ones((2, 3), "f"), np.ones((3, 2), "d")),
        (np.arange(3.0), np.arange(3.0)),
    ):
        np.testing.assert_array_equal(cp.asnumpy(matmul(cp.asarray(a), cp.asarray(b))), a @ b)
    out = cp.ones((2, 2), "c16")
    matmul(cp.ones((2, 3), "c16"), cp.ones((3, 2), "c16"), out, 0.5, True)
    np.testing.assert_array_equal(cp.asnumpy(out), 2.5)
    with pytest.raises(ValueError, match="mismatch"):
        matmul(cp.ones((2, 3), "f"), cp.ones((4, 2), "f"))


def test_stacks_follow_the_precision_too(monkeypatch):
    from distgrad.backend import cublas

    binding, handle = cublas._library()
    seen = []
    monkeypatch.setattr(cublas, "_library", lambda: (lambda *a: seen.append(a[-2]) or binding(*a), handle))
    x = dg.ones((2, 3, 3), device="cuda")
    try:
        for precision in ("highest", "high", "medium"):
            dg.set_float32_matmul_precision(precision)
            assert (x @ x).sum().item() == 54.0
    finally:
        dg.set_float32_matmul_precision("highest")
    (x.double() @ x.double()).sum().item()
    assert seen == [cublas._FLOAT32, cublas._TF32, cublas._TF32, cublas._FLOAT64]


@pytest.mark.parametrize("char", DTYPES)
def test_what_several_products_read_is_copied_once_and_neighbours_together(char):
    import cupy as cp
    from gpu_double.runtime import installed

    from distgrad.backend.cublas import readable

    parts = numbers((2, 5, 3, 4, 8), char, 0)
    here = cp.asarray(parts)
    q, k, v = here.transpose(2, 0, 3, 1, 4)
    straight, other = (
        cp.asarray(numbers((2, 4, 5, 8), char, 1)),
        cp.asarray(parts).transpose(2, 0, 3, 1, 4)[1],
    )
    for arrays, launches in (
        ((q, k, v), 1),
        ((q, k, v, other), 2),
        ((q, straight, v), 1),
        ((v, k, q), 3),
        ((q, q, k), 2),
        ((straight, straight[..., :3]), 0),
        ((q, k[..., :4], v), 3),
        ((q, k, here.transpose(2, 0, 3, 1, 4)[2], v), 2),
    ):
        before = installed().calls["launchKernel"]
        found = readable(*arrays)
        assert installed().calls["launchKernel"] - before == launches
        for x, y in zip(arrays, found, strict=True):
            np.testing.assert_array_equal(cp.asnumpy(x), cp.asnumpy(y))
            assert x is y or y.flags.c_contiguous
