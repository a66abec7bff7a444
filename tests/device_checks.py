"""What a device must satisfy: a primitive's sample gives there what it gives on the CPU, in both orders."""

import copy
import re

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.functional import backward, grad
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, to_device
from distgrad.backend.rng import Generator
from distgrad.errors import DeviceError

#: Operations that must tell the host a number or a shape, and so wait on every device.
WAITING = {
    *(
        "getitem",
        "setitem",
        "put_zeros",
        "masked_select",
        "nonzero",
    ),  # with a boolean mask; where elements are
    *("unique_all", "unique_counts", "unique_inverse", "unique_values"),
    *(
        "move",
        "repeat",
        "quantile",
        "one_hot",
        "gradient",
        "matrix_exp",
    ),  # to the host; by, at or up to the numbers of an array
}

#: Operations that end in cuFFT and cuSOLVER, for which the double has no stand-in: a GPU runs them first.
IN_OTHER_LIBRARIES = {
    *("fft", "ifft", "fftn", "ifftn", "rfft", "irfft", "rfftn", "irfftn", "hfft", "ihfft"),
    *("cholesky", "cofactors", "cofactors_vjp", "det", "eigh", "eigvalsh", "inv", "matrix_norm"),
    *("matrix_power", "matrix_rank", "pinv", "qr", "slogdet", "solve", "svd", "svdvals"),
    *("fft2", "ifft2", "rfft2", "irfft2", "hfft2", "ihfft2", "hfftn", "ihfftn", "stft", "istft"),
    *("cholesky_inverse", "cholesky_solve", "eig", "eigvals", "lstsq", "lu", "lu_factor", "lu_solve"),
    *("matrix_exp", "matrix_sqrth", "pca_lowrank", "polar_decomposition", "solve_triangular"),
    *("svd_lowrank", "tensorinv", "tensorsolve", "triangular_solve"),
}


def is_in_other_libraries(case):
    """Whether a sample ends in cuFFT or cuSOLVER."""
    return case.record.name in IN_OTHER_LIBRARIES or str(case) == "norm-sum_of_singular_values"


def _numbered(vectors):
    """Columns times 1, 2, ...: a product with it tells them apart."""
    return vectors * Tensor(to_device(np.arange(1.0, vectors.shape[-1] + 1), vectors.device))


def _eigh(values, vectors):
    return [values, _numbered(vectors) @ vectors.mT]


def _svd(u, s, vh):
    rank = s.shape[-1]
    return [s, _numbered(u[..., :rank]) @ vh[..., :rank, :]]


def _qr(q, r):
    rank = min(r.shape[-2:])
    signs = dg.sign(dg.linalg.diagonal(r.detach()))
    return [q[..., :rank] * signs[..., None, :], r[..., :rank, :] * signs[..., None]]


#: Decompositions are unique up to signs, which a library chooses as it likes: what the choice leaves alone.
GAUGE_FREE = {"eigh": _eigh, "svd": _svd, "qr": _qr}


def placed(value, device):
    """Arrays inside an argument on a device, everything else as it is; generators as copies of their own."""
    if isinstance(value, np.ndarray):
        return to_device(value, device)
    if isinstance(value, Generator):
        return copy.copy(value)
    if isinstance(value, list | tuple):
        parts = [placed(each, device) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


class Placed:
    """A case whose arrays lie on a device.

    Args:
        case: the sample.
        device: where.
        dtype: of the floating inputs.
    """

    def __init__(self, case, device, dtype=np.float64):
        self.case, self.device, self.dtype = case, device, dtype

    def inputs(self):
        """The inputs, each floating array as a tensor that requires a gradient."""
        return [self._placed(x) for x in self.case.tensors(self.dtype)]

    def _placed(self, x):
        if isinstance(x, Tensor):
            return Tensor(to_device(x._data, self.device), requires_grad=True)
        return placed(x, self.device)

    def call(self, inputs):
        """The results, as a list."""
        example = self.case.example
        here = {name: placed(value, self.device) for name, value in example.attributes.items()}
        there = type(example)(**{**vars(example), "attributes": here})
        out = type(self.case)(self.case.record, there, self.case.index).call(*inputs)
        return [out] if isinstance(out, Tensor) else list(out)

    def run(self):
        """Forward, and backward from gradients of ones, without reading anything."""
        outs = [out for out in self.call(self.inputs()) if out.requires_grad and out.dtype.kind == "f"]
        if outs:
            backward(outs, [Tensor(to_device(np.ones(out.shape, out.dtype), self.device)) for out in outs])

    def gradients(self, order=1):
        """Results, gradients and gradients of gradients, as NumPy arrays; None where there is none.

        Those of decompositions are of :data:`GAUGE_FREE`.
        """
        inputs = self.inputs()
        outs = self.call(inputs)
        if self.case.record.name in GAUGE_FREE:
            outs = GAUGE_FREE[self.case.record.name](*outs)
        found = [out._data for out in outs]
        wanted = [x for x in inputs if isinstance(x, Tensor)]
        outs = [out for out in outs if out.requires_grad and out.dtype.kind == "f"]
        if outs and wanted:
            rng = np.random.default_rng(0)
            weights = [np.asarray(rng.uniform(0.5, 1.5, out.shape), out.dtype) for out in outs]
            seeds = [Tensor(to_device(weight, self.device)) for weight in weights]
            first = grad(outs, wanted, seeds, create_graph=order == 2, allow_unused=True)
            found += [None if g is None else g._data for g in first]
            again = [g for g in first if g is not None and g.requires_grad]
            if again:
                seeds = [Tensor(to_device(np.full(g.shape, 0.7, g.dtype), self.device)) for g in again]
                second = grad(again, wanted, seeds, allow_unused=True)
                found += [None if g is None else g._data for g in second]
        return [None if x is None else to_device(x, CPU) for x in found]


@np.errstate(all="ignore")
def check_same_as_on_the_cpu(case, device, rtol=0.0, atol=0.0, order=2, dtype=np.float64):
    """Result and gradients of a sample on ``device`` equal the CPU's."""
    expected = Placed(case, CPU, dtype).gradients(order)
    found = Placed(case, device, dtype).gradients(order)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def check_results_stay(case, device):
    """Results and gradients lie where the inputs do."""
    here = Placed(case, device)
    inputs = here.inputs()
    outs = here.call(inputs)
    assert {out.device for out in outs} <= {device}


@np.errstate(all="ignore")
def check_mixing_is_refused(case, device):
    """With one array on the host and the others on the device, the error names both and the way out."""
    inputs = Placed(case, device).inputs()
    places = [i for i, x in enumerate(inputs) if hasattr(x, "dtype")]
    for place in places:
        mixed = list(inputs)
        host = case.tensors()[place]
        mixed[place] = host
        with pytest.raises(DeviceError, match=r"(on one device|got an index).*\.to\(") as caught:
            Placed(case, device).call(mixed)
        assert {"cpu", str(device)} <= set(re.findall(r"cpu|[a-z]+:\d", str(caught.value)))
