"""The operations that importing the package leaves unread: their file is imported when one is asked for.

What most programs call is read at once, in ``methods.py``; what few of them call would make the import longer
for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["FILES", "PUBLIC", "TORCH", "attributes", "find_operation", "read_all"]

# fmt: off
#: File in ops/: the operations that it holds.
FILES: dict[str, str] = {
    "arithmetic": "deg2rad entr exp2 float_power fmax fmin fmod frac frexp from_parts heaviside ldexp"
    " logaddexp2 nan_to_num rad2deg rsqrt sinc xlog1py",
    "arrange": "block_diag cartesian_prod combinations diag_embed diagonal_scatter put_strided select_scatter"
    " slice_scatter take_strided unfold_axis",
    "bessel": "i0 i0e i1 i1e",
    "blas": "addbmm addcdiv addcmul addmm addmv addr baddbmm dot lerp multi_dot vdot",
    "calculus": "cumulative_trapezoid gradient trapezoid vander",
    "fractional": "fractional_max_pool",
    "fourier": "fft2 hfft2 hfftn ifft2 ihfft2 ihfftn irfft2 istft rfft2 stft",
    "gamma": "digamma gammaln multigammaln polygamma polygamma_of zeta",
    "gaussian": "erfcx log_ndtr ndtri",
    "grid": "affine_grid grid_sample",
    "incomplete": "gammainc gammaincc",
    "indexed": "index_copy index_fill index_reduce masked_scatter put scatter_combine scatter_reduce",
    "linalg_lu": "cholesky_inverse cholesky_solve lu lu_factor lu_permutation lu_solve lu_unpack"
    " solve_triangular triangular_solve",
    "linalg_more": "eig eigvals householder_product lstsq matrix_exp matrix_sqrth ormqr pca_lowrank"
    " polar_decomposition svd_lowrank tensorinv tensorsolve",
    "order": "argmode corrcoef cov dist kthvalue logcumsumexp mode pdist renorm",
}

#: Where users find those that NumPy, SciPy or the array API standard has words for; "" is the package itself.
PUBLIC: dict[str, str] = {
    "": "corrcoef cov"
    " deg2rad exp2 float_power fmax fmin fmod frexp gradient heaviside ldexp logaddexp2 nan_to_num rad2deg"
    " sinc trapezoid vander",
    "fft": "fft2 hfft2 hfftn ifft2 ihfft2 ihfftn irfft2 rfft2",
    "linalg": "cholesky_inverse cholesky_solve eig eigvals householder_product lstsq lu lu_factor lu_solve"
    " lu_unpack matrix_exp matrix_sqrth multi_dot ormqr pca_lowrank polar_decomposition solve_triangular"
    " svd_lowrank tensorinv tensorsolve triangular_solve",
    "special": "digamma entr erfcx gammainc gammaincc gammaln"
    " i0 i0e i1 i1e log_ndtr multigammaln ndtri polygamma xlog1py zeta",
}

#: Those that only PyTorch has words for.
TORCH = (
    "addbmm addcdiv addcmul addmm addmv addr affine_grid baddbmm block_diag cartesian_prod combinations"
    " cumulative_trapezoid diag_embed diagonal_scatter dist dot frac fractional_max_pool from_parts"
    " grid_sample index_copy index_fill index_reduce istft kthvalue lerp logcumsumexp masked_scatter mode"
    " pdist put put_strided renorm rsqrt scatter_reduce select_scatter slice_scatter stft take_strided"
    " unfold_axis vdot"
)
# fmt: on

_FILE_OF = {name: file for file, names in FILES.items() for name in names.split()}


def find_operation(name: str) -> Any:
    """An operation that stands in one of ``FILES``, which is imported for it.

    Raises:
        AttributeError: no file has an operation of that name.
    """
    if name not in _FILE_OF:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"distgrad.autograd.ops.{_FILE_OF[name]}"), name)


def attributes(room: str, otherwise: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """A module's ``__getattr__``, which finds what ``PUBLIC`` lists for it.

    Args:
        room: the module, as ``PUBLIC`` calls it.
        otherwise: is asked for all other names; None raises as Python does.
    """
    names = frozenset(PUBLIC[room].split())

    def find(name: str) -> Any:
        if name in names:
            return find_operation(name)
        if otherwise is not None:
            return otherwise(name)
        raise AttributeError(f"module 'distgrad.{room}' has no attribute {name!r}")

    return find


def read_all() -> None:
    """Import every file, for those who go through the registry of all operations."""
    for file in FILES:
        importlib.import_module(f"distgrad.autograd.ops.{file}")
