"""Tensors and shapes are printed as PyTorch prints them, where its names are used, and as NumPy elsewhere."""

import importlib
import math

import numpy as np
import pytest

import distgrad as dg
import distgrad.torch
from distgrad.autograd.casting import set_weak_scalars

VALUES = {
    "whole": [0.0, 1.0, -2.0, 300.0],
    "parts": [0.25, -1.0 / 3.0, 12.5, 1e-3],
    "small": [1e-5, 1.0, 2.0, -3.0],
    "large": [1e9, 1.5, 100000.0, -1.0],
    "none": [math.nan, math.inf, -math.inf, 1.25],
    "zeros": [0.0, -0.0, 0.0, 0.0],
}
SHAPES = [(), (1,), (4,), (40,), (3, 2), (2, 3, 4), (2000,), (60, 70), (5, 300), (0,), (3, 0), (2, 0, 3)]
DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "complex64"]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def texts(library):
    found = {}
    for name, values in VALUES.items():
        for shape in SHAPES:
            whole = np.resize(np.array(values), math.prod(shape)).reshape(shape)
            for kind in DTYPES:
                if (kind[0] in "iu" and name in ("none", "large")) or (kind == "float16" and name == "large"):
                    continue  # what numbers become that it has not is the machine's
                if kind == "complex64" and name in ("none", "zeros"):
                    continue
                x = library.from_numpy(whole)
                x = library.complex(x, x.flip(-1)) if kind == "complex64" and shape else x
                found[name, shape, kind] = repr(x.to(getattr(library, kind)))
    return found


def test_elements_of_every_kind(torch):
    theirs, ours = texts(torch), texts(distgrad.torch)
    assert not {key: (want, ours[key]) for key, want in theirs.items() if ours[key] != want}


def test_what_is_not_as_usual(torch):
    for library in (torch, distgrad.torch):
        x = library.tensor([1.5, 2.0], requires_grad=True)
        assert repr(x) == "tensor([1.5000, 2.0000], requires_grad=True)"
        assert str(x * 2) == "tensor([3., 4.], grad_fn=<MulBackward0>)"
        assert repr(library.nn.Parameter(x.detach())).startswith("Parameter containing:\ntensor([1.5000,")
        assert repr(library.empty(2, 3, device="meta")) == "tensor(..., device='meta', size=(2, 3))"
        assert f"{x.shape} {library.tensor(0.25):.1f}" == "torch.Size([2]) 0.2"
        long = library.zeros(5, dtype=library.float64).requires_grad_() + 1234.5
        assert str(long).endswith("1234.5000],\n       dtype=torch.float64, grad_fn=<AddBackward0>)")


def test_options_are_heeded(torch):
    options = [{"precision": 2}, {"sci_mode": True}, {"linewidth": 30}, {"threshold": 3, "edgeitems": 1}]
    data = np.arange(12.0).reshape(3, 4) / 7
    for given in [*options, {"profile": "short"}, {"profile": "full"}]:
        shown = []
        for name in ("torch", "distgrad.torch"):
            library = importlib.import_module(name)
            library.set_printoptions(**given)
            shown.append(repr(library.from_numpy(data)))
            library.set_printoptions(profile="default")
        assert shown[0] == shown[1], given
    with pytest.raises(ValueError, match="profile must be one of"):
        distgrad.torch.set_printoptions(profile="wide")


def test_without_its_names_every_digit_is_shown():
    set_weak_scalars(False)
    assert repr(dg.asarray(np.float64(1) / 3)) == "tensor(0.33333333, dtype=float64)"
    assert repr(dg.ones((2, 3)).shape) == "(2, 3)"
