"""Booleans among numbers, dtypes of sums, changes of axes in place and counts, as PyTorch has them."""

import numpy as np
import pytest

import distgrad.torch
from distgrad.errors import GraphError

torch = pytest.importorskip("torch")

CASES = {
    "a mask compared": lambda lib, x, m: (m > 0, m < x, m >= m),
    "masks in order": lambda lib, x, m: (
        m.max(),
        m.sort()[0],
        m.amin(0),
        lib.maximum(m, ~m),
        lib.max(m, 1)[0],
    ),
    "a mask and numbers": lambda lib, x, m: (lib.maximum(x, m), x.clamp(0, 1), m.clamp(0, 1), m.cumsum(0)),
    "remainders by a mask": lambda lib, x, m: (x.remainder(m | True), m.prod(), m.nansum()),
    "sums of bytes": lambda lib, x, m: (m.byte().sum(), m.byte().prod(1), m.char().sum(), m.sum()),
    "axes in place": lambda lib, x, m: (x.clone().unsqueeze_(0), x.clone().t_(), x[:1].clone().squeeze_()),
    "axes exchanged in place": lambda lib, x, m: (x.clone().transpose_(0, 1), x.clone().swapaxes_(0, 1)),
    "a view's place": lambda lib, x, m: lib.tensor([x.storage_offset(), x[1].storage_offset()]),
    "chosen by a method": lambda lib, x, m: x.where(m, x * 2),
    "one of others": lambda lib, x, m: (
        lib.isin(x.int(), lib.tensor([1, 2])),
        lib.isin(x, x[0], invert=True),
    ),
    "a histogram": lambda lib, x, m: (lib.histc(x, 4, -2, 2), x.histc(3), *lib.histogram(x, 4)),
    "divisors": lambda lib, x, m: (
        lib.gcd(lib.tensor([12, -8]), lib.tensor(18)),
        lib.tensor([4]).lcm(lib.tensor([6])),
    ),
    "a diagonal": lambda lib, x, m: (x.clone().fill_diagonal_(9), lib.zeros(5, 2).fill_diagonal_(1, True)),
    "numbers without axes": lambda lib, x, m: (
        x[0, 0].flip(0),
        x[0, 0].movedim(0, -1),
        lib.tensor(True).max(),
    ),
    "whole numbers into bytes": lambda lib, x, m: m.byte().add_(lib.tensor([300, -1, 2])),
}


@pytest.mark.parametrize("case", CASES)
def test_results_and_dtypes_are_pytorchs(case):
    data = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    found = []
    for lib in (torch, distgrad.torch):
        x = lib.from_numpy(data.copy())
        out = CASES[case](lib, x, x > 0)
        found.append([each.numpy() for each in (out if isinstance(out, tuple) else (out,))])
    for theirs, ours in zip(*found, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_tensor_whose_axes_are_changed_in_place_keeps_its_gradient():
    lib = distgrad.torch
    leaf = lib.ones(2, 3, requires_grad=True)
    x = leaf * lib.arange(3.0)
    x.unsqueeze_(0).transpose_(0, 2)
    (x * lib.arange(6.0).reshape(3, 2, 1)).sum().backward()
    np.testing.assert_array_equal(leaf.grad.numpy(), [[0, 2, 8], [0, 3, 10]])
    with pytest.raises(GraphError, match="unsqueeze_: a leaf"):
        leaf.unsqueeze_(0)


@pytest.mark.parametrize("kinds", [("float32", "bfloat16"), ("float32", "float16"), ("float64", "bfloat16")])
def test_what_meets_more_digits_is_multiplied_with_them(kinds):
    data = np.random.default_rng(1).standard_normal((2, 300)).astype(np.float32)
    found = []
    for lib in (torch, distgrad.torch):
        x, y = (lib.from_numpy(each).to(getattr(lib, kind)) for each, kind in zip(data, kinds, strict=True))
        out = [
            x.add(y, alpha=-0.1),
            x.clone().add_(y, alpha=0.3),
            x.sub(y, alpha=0.7),
            lib.rsub(y, x, alpha=0.7),
        ]
        found.append([each.double().numpy() for each in out])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-7 if kinds[0] == "float32" else 1e-15, rtol=0)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_sums_of_16_bits_with_a_factor_are_rounded_once(kind):
    data = np.random.default_rng(1).standard_normal((2, 300)).astype(np.float32)
    found = []
    for lib in (torch, distgrad.torch):
        x, y = (lib.from_numpy(each).to(getattr(lib, kind)) for each in data)
        found.append(lib.add(x, y, alpha=0.3).double().numpy())
    assert np.mean(found[0] != found[1]) < 0.05  # the last elements go another way in PyTorch


@np.errstate(invalid="ignore")
def test_parts_of_complex_numbers_stay_as_they_are():
    values = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]
    real, imag = (np.ravel(each) for each in np.meshgrid(values, values))
    found = []
    for lib in (torch, distgrad.torch):
        x, y = (lib.tensor(each, dtype=lib.float32) for each in (real, imag))
        made = [lib.complex(x, y), lib.view_as_complex(lib.stack([x, y], -1)), lib.polar(x, y)]
        found.append([part.numpy() for z in made for part in (z.real, z.imag)])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        known = ~np.isnan(theirs)
        np.testing.assert_array_equal(np.signbit(ours[known]), np.signbit(theirs[known]))
