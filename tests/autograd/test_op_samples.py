"""Operations on the samples that PyTorch tests its own with, where PyTorch is installed."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("expecttest")

from op_samples import check_sample, samples
from torch.testing._internal.common_methods_invocations import op_db

import distgrad as dg
from distgrad.autograd.dispatch import operations


def stft(x, return_complex=True, **options):
    """The transform, or its parts along a last axis."""
    return pairs(operations.stft(x, **options), return_complex)


def pairs(x, return_complex):
    """A complex result, or its parts along a last axis."""
    return x if return_complex else operations.stack([operations.real(x), operations.imag(x)], axis=-1)


#: Called as PyTorch's function of the same name.
SAME = (
    "addbmm addcdiv addcmul addmm addmm.decomposed addmv addr baddbmm dot lerp vdot"
    " deg2rad exp2 float_power fmax fmin fmod frac frexp heaviside ldexp logaddexp2 nan_to_num rad2deg rsqrt"
    " block_diag cartesian_prod combinations diag_embed diagonal_scatter index_copy"
    " index_fill masked_scatter put select_scatter slice_scatter"
    " corrcoef cov dist kthvalue logcumsumexp mode renorm"
    " matrix_exp ormqr sinc digamma i0 gradient trapezoid cumulative_trapezoid"
)

SPECIAL = "entr erfcx i0e i1 i1e log_ndtr ndtri xlog1py zeta"

#: Called otherwise: PyTorch's name, and how.
OTHERWISE = {
    "linalg.multi_dot": lambda xs: operations.multi_dot(*xs),
    "linalg.vander": lambda x, N=None: operations.vander(operations.reshape(x, x.shape or (1,)), N, True),
    "mvlgamma.mvlgamma_p_1": operations.multigammaln,
    "mvlgamma.mvlgamma_p_3": operations.multigammaln,
    "mvlgamma.mvlgamma_p_5": operations.multigammaln,
    "as_strided": operations.take_strided,
    "unfold": operations.unfold_axis,
    **{f"index_reduce.{kind}": operations.index_reduce for kind in ("prod", "mean", "amin", "amax")},
    **{
        f"scatter_reduce.{kind}": operations.scatter_reduce
        for kind in ("sum", "prod", "mean", "amin", "amax")
    },
    "nn.functional.pdist": operations.pdist,
    "complex": operations.from_parts,
    "stft": stft,
    "istft": operations.istft,
    "linalg.eigvals": operations.eigvals,
    "linalg.lu": operations.lu,
    "linalg.lu_factor": operations.lu_factor,
    "linalg.matrix_sqrth": operations.matrix_sqrth,
    "linalg.solve_triangular": operations.solve_triangular,
    "linalg.tensorinv": operations.tensorinv,
    "linalg.tensorsolve": operations.tensorsolve,
    "nn.functional.grid_sample": operations.grid_sample,
    "lgamma": operations.gammaln,
    **{f"polygamma.polygamma_n_{n}": lambda x, n: operations.polygamma(n, x) for n in range(5)},
    **{f"special.{x}": getattr(operations, x) for x in SPECIAL.split()},
}
#: The transforms, which stand in a room of their own.
FFT = {f"fft.{name}": getattr(dg.fft, name) for name in dg.fft.__all__ if not name.endswith("freq")}
FUNCTIONS = {name: getattr(operations, name.split(".")[0]) for name in SAME.split()} | OTHERWISE | FFT
TOLERANCE = {"cov": 1e-6}  # weights in float32 are multiplied in float32 there
INFOS = {info.full_name: info for info in op_db}


@pytest.mark.filterwarnings("ignore:index_reduce", "ignore:A window was not", "ignore:stft with")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_operation_equals_pytorch_s_on_its_samples(name):
    if name not in INFOS:
        pytest.skip(f"this release of PyTorch has no samples of {name}")
    found = samples(INFOS[name])
    assert found
    for sample in found:
        check_sample(FUNCTIONS[name], INFOS[name], sample, *[TOLERANCE.get(name, 1e-9)] * 2)
