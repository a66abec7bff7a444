"""Linear algebra: the array API standard's ``linalg`` extension."""

from distgrad.autograd.later import PUBLIC, attributes
from distgrad.autograd.ops.linalg import matmul
from distgrad.autograd.ops.linalg_decompose import (
    cholesky,
    eigh,
    eigvalsh,
    matrix_rank,
    pinv,
    qr,
    svd,
    svdvals,
)
from distgrad.autograd.ops.linalg_norms import matrix_norm, vector_norm
from distgrad.autograd.ops.linalg_products import cross, diagonal, outer, tensordot, trace, vecdot
from distgrad.autograd.ops.linalg_solve import cofactors, det, inv, matrix_power, slogdet, solve
from distgrad.autograd.ops.shape import matrix_transpose

__getattr__ = attributes("linalg")

__all__ = [
    "cholesky",
    "cofactors",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]
__all__.extend(PUBLIC["linalg"].split())


def __dir__() -> list[str]:
    return sorted(__all__)
