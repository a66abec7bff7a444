"""Arguments that PyTorch refuses are refused here too, by name."""

import pytest

import distgrad.torch as torch
from distgrad.errors import AxisError, DTypeError, OptionError, ShapeError

F, windows, X = torch.nn.functional, torch.signal.windows, torch.ones(1, 3, 4, 4)
PLACES, Y = torch.tensor([0, 1]), torch.arange(6.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: torch.arange(0, -3, 2), OptionError, "arange: the end lies behind"),
        (lambda: torch.arange(1549556900, 1549556828, 1989724), OptionError, "arange: the end lies behind"),
        (lambda: torch.isclose(X, X, rtol=-0.4), OptionError, "rtol and atol must be 0 or more"),
        (lambda: torch.isclose(X, X, atol=-0.4), OptionError, "rtol and atol must be 0 or more"),
        (lambda: torch.complex(X, X.double()), DTypeError, "one floating-point dtype"),
        (lambda: torch.complex(X, 2), DTypeError, "float32 and int"),
        (lambda: torch.multinomial(torch.ones(3), 0), OptionError, "num_samples must be 1 or more, got 0"),
        (lambda: F.avg_pool2d(X, 2, divisor_override=0), OptionError, "divisor_override must not be 0"),
        (lambda: F.rrelu(X, 0.3, 0.1), OptionError, "lower must be at most upper"),
        (lambda: F.hardtanh(X, 0.5, -0.5), OptionError, "min_val must be at most max_val"),
        (lambda: F.triplet_margin_loss(X, X, X, margin=-1.0), OptionError, "margin must be above 0"),
        (lambda: F.triplet_margin_with_distance_loss(X, X, X, margin=0), OptionError, "must be above 0"),
        (lambda: windows.hann(3, layout="sparse_coo"), OptionError, "windows are dense"),
        (lambda: windows.hann(3, dtype=torch.int64), OptionError, "floating-point dtype"),
        (lambda: windows.gaussian(3, std=-1), OptionError, "std must be above 0"),
        (lambda: windows.kaiser(3, beta=-1), OptionError, "beta must be 0 or more"),
        (lambda: windows.general_cosine(3, a=[]), OptionError, "at least one coefficient"),
        (lambda: torch.eq(2, X), TypeError, "eq: expected a tensor, got the number 2"),
        (lambda: torch.pow(2, 3), TypeError, "pow: expected a tensor"),
        (lambda: X.masked_fill(X > 0, torch.ones(1)), ShapeError, "value must be one number"),
        (lambda: X.masked_fill(X > 0, 1j), DTypeError, "value 1j is complex"),
        (lambda: torch.roll(X, [2, 1], 0), OptionError, "a shift for each of dims"),
        (lambda: torch.trace(X), ShapeError, "trace: expected matrices"),
        (lambda: torch.zeros(2).scatter(0, PLACES, X[0, 0, 0].double()), DTypeError, "src is float64"),
        (lambda: torch.zeros(2).scatter_add(0, PLACES, X[0, 0, 0].double()), DTypeError, "src is float64"),
        (lambda: torch.unbind(torch.tensor(1)), AxisError, "axis 0"),
        (lambda: torch.multinomial(PLACES, 1), DTypeError, "floating-point weights"),
        (lambda: torch.linalg.cross(torch.ones(2, 3), torch.ones(2, 1)), ShapeError, "length 3"),
        (lambda: torch.cov(torch.ones(2), fweights=torch.ones(2)), DTypeError, "whole numbers"),
        (lambda: torch.cov(torch.ones(2), aweights=-torch.ones(2)), OptionError, "0 or more"),
        (lambda: torch.gather(Y, 0, PLACES, out=Y[:2]), OptionError, "out lies in the memory"),
        (lambda: torch.cat([Y, Y], out=Y), OptionError, "out lies in the memory"),
        (lambda: torch.gather(Y, 0, PLACES, out=torch.empty(2).double()), DTypeError, "out is float64"),
    ],
)
def test_what_pytorch_refuses_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_same_calls_within_bounds_go_through():
    assert torch.arange(3, 0, -1).tolist() == [3, 2, 1]
    assert torch.arange(2, 2).tolist() == []
    assert torch.complex(X, X).dtype == torch.complex64
    assert torch.hann_window(4, dtype=torch.float16).dtype == torch.float16


def test_random_samples_of_more_examples_than_there_are_serve_the_first_of_them():
    x, samples = torch.rand(4, 6, 6, 6), torch.rand(2, 4, 3)
    found = F.fractional_max_pool3d(x, 2, output_size=3, _random_samples=samples)
    assert torch.equal(found, F.fractional_max_pool3d(x, 2, output_size=3, _random_samples=samples[:1]))
