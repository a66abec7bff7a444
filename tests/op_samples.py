"""PyTorch's own samples of an operation, run on distgrad's: values and gradients must agree.

``op_db``, which PyTorch tests itself with, gives for each of its operations inputs that reach its corners.
"""

import inspect

import numpy as np
import torch

from distgrad.autograd.functional import grad
from distgrad.autograd.tensor import Tensor

#: PyTorch's keywords, where ours are the array API standard's.
KEYWORDS = {
    "dim1": "axis1",
    "dim2": "axis2",
    "dim": "axis",
    "keepdim": "keepdims",
    "dims": "axis",
    "unbiased": "correction",
}
NUM_SAMPLES = 8


def ours(value):
    """An argument of PyTorch's as one of distgrad's: tensors become tensors, dtypes dtypes."""
    if isinstance(value, torch.Tensor):
        array = value.detach().resolve_conj().resolve_neg().numpy().copy()
        return Tensor(array, requires_grad=value.requires_grad)
    if isinstance(value, torch.dtype):
        return np.dtype(str(value).removeprefix("torch."))
    if isinstance(value, list | tuple):
        return type(value)(ours(each) for each in value)
    return value


def keywords(function, given):
    """Keyword arguments by the names that our function has for them: an axis may be one of several axes."""
    record = getattr(function, "record", None)
    known = inspect.signature(record.formula if record else function).parameters
    found = {}
    for name, value in given.items():
        own = name if name in known else KEYWORDS.get(name, name)
        own = "axes" if own == "axis" and "axes" in known else own
        found[own] = (value,) if own == "axes" and isinstance(value, int) else ours(value)
    return found


def leaves(value):
    """The tensors inside results or arguments, in order; of a dict by key."""
    if isinstance(value, torch.Tensor | Tensor):
        return [value]
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in leaves(each)]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in leaves(each)]
    return []


def array(x):
    """The elements of a tensor of either."""
    return x._data if isinstance(x, Tensor) else x.detach().resolve_conj().resolve_neg().numpy()


def floating(outs):
    """The results that a gradient can start from."""
    return [out for out in outs if out.requires_grad]


def check_sample(function, info, sample, rtol=1e-9, atol=1e-9):
    """Values and gradients of one sample.

    Args:
        function: ours, called as PyTorch's.
        info: PyTorch's record of the operation.
        sample: one of its samples.
        rtol, atol: how far apart the two may be.
    """
    expected = leaves(info.op(sample.input, *sample.args, **sample.kwargs))
    given = keywords(function, sample.kwargs)
    args = [ours(sample.input), *map(ours, sample.args)]
    outs = leaves(function(*args, **given))
    assert len(outs) == len(expected)
    for out, reference in zip(outs, expected, strict=True):
        theirs = array(reference)
        assert out.shape == theirs.shape
        assert out.dtype == theirs.dtype
        near(array(out), theirs, rtol, atol)
    if not info.supports_autograd:
        return
    theirs = [x for x in leaves([sample.input, *sample.args, sample.kwargs]) if x.requires_grad]
    here = [x for x in leaves([*args, given]) if x.requires_grad]
    starts, ends = floating(outs), floating(expected)
    assert len(starts) == len(ends)
    if not starts or not here:
        return
    rng = np.random.default_rng(0)
    seeds = [weights(rng, out) for out in ends]
    references = torch.autograd.grad(ends, theirs, [torch.tensor(seed) for seed in seeds], allow_unused=True)
    found = grad(starts, here, [Tensor(seed) for seed in seeds], allow_unused=True)
    for ours_, reference in zip(found, references, strict=True):
        near(
            0.0 if ours_ is None else ours_._data, 0.0 if reference is None else array(reference), rtol, atol
        )


def near(found, expected, rtol, atol):
    """Both agree as far as their dtype goes."""
    if getattr(expected, "dtype", None) in (np.float32, np.complex64):
        rtol, atol = 1e-5, 1e-5
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def weights(rng, out):
    """The gradient that a result gets."""
    seed = np.asarray(rng.uniform(0.5, 1.5, tuple(out.shape)))
    return seed + 1j * rng.uniform(0.5, 1.5, tuple(out.shape)) if out.is_complex() else seed


def samples(info, dtype=torch.float64):
    """The first samples of an operation, seeded."""
    torch.manual_seed(0)
    found = []
    if not info.supports_dtype(dtype, "cpu"):
        dtype = torch.complex128
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        found.append(sample)
        if len(found) == NUM_SAMPLES:
            break
    return found
