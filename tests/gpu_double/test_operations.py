"""CuPy's own operations on the double give what NumPy gives."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.gpu_double()

RNG = np.random.default_rng(0)
A = RNG.standard_normal((5, 7)).astype("f4")
B = RNG.standard_normal((5, 7)).astype("f4")
OPERATIONS = {
    "arithmetic": lambda xp: xp.asarray(A) * 2 + 1,
    "select": lambda xp: xp.where(xp.asarray(A) > 0, xp.exp(xp.asarray(A)), xp.tanh(xp.asarray(B))),
    "float64": lambda xp: xp.sqrt(xp.abs(xp.asarray(A.astype("f8")))),
    "float16": lambda xp: xp.asarray(A.astype("f2")) + xp.float16(1),
    "complex": lambda xp: xp.conj(xp.asarray(A.astype("c8"))) * (1 + 2j),
    "integers": lambda xp: xp.asarray([5, -3]) // 2 + xp.asarray([5, -3]) % 3,
    "sum": lambda xp: xp.asarray(A).sum(axis=0),
    "sum of many": lambda xp: xp.arange(100_000, dtype="f8").sum(),
    "maximum": lambda xp: xp.asarray(A).max(axis=1, keepdims=True),
    "place of the maximum": lambda xp: xp.asarray(A).argmax(axis=1),
    "variance": lambda xp: xp.asarray(A).var(axis=1),
    "transposed copy": lambda xp: xp.ascontiguousarray(xp.asarray(A)[:, ::2].T),
    "gather": lambda xp: xp.asarray(A)[xp.asarray([0, 3, 3])],
    "boolean mask": lambda xp: xp.asarray(A)[xp.asarray(A) > 0],
    "nonzero": lambda xp: xp.nonzero(xp.asarray(A) > 0)[1],
    "cumulative sum": lambda xp: xp.cumsum(xp.arange(3000, dtype="f8")),
    "cumulative sum of rows": lambda xp: xp.cumsum(xp.asarray(A), axis=1),
    "concatenation": lambda xp: xp.concatenate([xp.asarray(A), xp.asarray(B)], axis=1),
    "bincount": lambda xp: xp.bincount(xp.asarray([0, 1, 1])),
    "sort": lambda xp: xp.sort(xp.asarray(A), axis=0),
    "sort of one row": lambda xp: xp.sort(xp.asarray(A.ravel())),
    "places in order": lambda xp: xp.argsort(xp.asarray(np.round(A)), kind="stable"),
    "the largest": lambda xp: xp.sort(xp.argpartition(xp.abs(xp.asarray(A.ravel())), 30)[30:]),
    "distinct numbers": lambda xp: xp.unique(xp.asarray([3, 1, 3, 2])),
    "matmul": lambda xp: xp.asarray(A) @ xp.asarray(B).T,
    "matmul of float16": lambda xp: (xp.asarray(A.astype("f2")) @ xp.asarray(B.astype("f2")).T).astype("f4"),
    "matmul of float64": lambda xp: xp.asarray(A.astype("f8")) @ xp.asarray(B.astype("f8")).T,
    "matmul of complex": lambda xp: xp.asarray(A.astype("c8")) @ xp.asarray(B.astype("c8") * 1j).T,
    "batched matmul": lambda xp: (
        xp.asarray(np.stack([A, B])) @ xp.asarray(np.stack([B, A])).transpose(0, 2, 1)
    ),
    "broadcast matmul": lambda xp: xp.asarray(np.stack([A, B])) @ xp.asarray(A).T,
    "matrix and vector": lambda xp: xp.asarray(A) @ xp.asarray(B[0]),
    "inner product": lambda xp: xp.asarray(A[0]) @ xp.asarray(B[0]),
    "outer product": lambda xp: xp.outer(xp.asarray(A[0]), xp.asarray(B[0])),
    "tensordot": lambda xp: xp.tensordot(xp.asarray(A), xp.asarray(B), axes=([1], [1])),
    "einsum": lambda xp: xp.einsum("ij,kj->ik", xp.asarray(A), xp.asarray(B)),
    "einsum of three": lambda xp: xp.einsum("ij,ik,il->jkl", *map(xp.asarray, (A, B, A))),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name):
    import cupy

    result, expected = OPERATIONS[name](cupy), OPERATIONS[name](np)
    assert isinstance(result, cupy.ndarray)
    assert result.dtype == expected.dtype
    tolerance = 2e-2 if "float16" in name else 1e-5
    np.testing.assert_allclose(result.get(), expected, rtol=tolerance, atol=tolerance)


def test_bfloat16_products():
    import cupy
    import ml_dtypes

    a, b = A.astype(ml_dtypes.bfloat16), B.T.astype(ml_dtypes.bfloat16)
    product = (cupy.asarray(a) @ cupy.asarray(b)).get()
    np.testing.assert_allclose(product.astype("f4"), a.astype("f4") @ b.astype("f4"), rtol=1e-2, atol=5e-2)


def test_scatter_add_adds_every_row_once():
    import cupy

    for dtype in ("f4", "f8", "f2"):
        target, rows = np.zeros((5, 7), dtype), A[:3].astype(dtype)
        expected = target.copy()
        np.add.at(expected, [0, 1, 1], rows)
        on_device = cupy.asarray(target)
        cupy.add.at(on_device, cupy.asarray([0, 1, 1]), cupy.asarray(rows))
        np.testing.assert_allclose(on_device.get(), expected, rtol=1e-3)


def test_error_function():
    import cupy
    from cupyx.scipy.special import erf

    np.testing.assert_allclose(erf(cupy.asarray(A)).get(), np.vectorize(math.erf)(A), rtol=1e-5)
