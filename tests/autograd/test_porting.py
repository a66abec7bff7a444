"""A PyTorch user who writes PyTorch's name for an array operation is told distgrad's."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import AxisError

X = dg.ones((2, 3))

# fmt: off
CALLS = [
    (lambda: X.sum(depth=1), "sum: unexpected keyword 'depth'; its keywords are dim, keepdim, dtype"),
    (lambda: dg.softmax(X, dim=-1), "softmax: unexpected keyword 'dim'; .* calls it 'axis'"),
    (lambda: dg.logsumexp(X, dim=-1), "logsumexp: unexpected keyword 'dim'; .* calls it 'axis'"),
    (lambda: dg.concat([X, X], dim=0), "concat: unexpected keyword 'dim'; .* calls it 'axis'"),
    (lambda: dg.tril(X, diagonal=1), "tril: unexpected keyword 'diagonal'; .* calls it 'k'"),
    (lambda: dg.sum(X, depth=1), "sum: unexpected keyword 'depth'; its keywords are axis, dtype, keepdims"),
    (lambda: dg.sum(X, 0, True), r"expected options by keyword, got \(True,\); write keepdims=True"),
    (lambda: dg.sum(X, 0, dg.float64), "write dtype=dtype"),
    (lambda: dg.diff(X, depth=1), "diff: unexpected keyword 'depth'; its keywords are n, axis"),
    (lambda: dg.reshape(X, 3, 2), "reshape: expected one shape, got several numbers; write .* one tuple"),
    (lambda: dg.zeros(2, 3), r"zeros: expected one shape, got 2 arguments; write dg.zeros\(\(2, 3\)\)"),
    (lambda: dg.ones(2, 3), r"ones: expected one shape, got 2 arguments; write dg.ones\(\(2, 3\)\)"),
    (lambda: dg.empty(2, 3), r"empty: expected one shape, got 2 arguments"),
]
# fmt: on


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_a_call_in_pytorch_s_words_names_ours(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("name", ["cat", "from_numpy", "mm", "double", "float", "unsqueeze", "utils"])
def test_a_function_of_pytorch_names_ours(name):
    with pytest.raises(AttributeError, match=f"module 'distgrad' has no attribute '{name}'; .*; write "):
        getattr(dg, name)
    assert not hasattr(dg, name)


def test_a_name_of_neither_is_an_ordinary_error():
    with pytest.raises(AttributeError, match=r"module 'distgrad' has no attribute 'gobble'$"):
        _ = dg.gobble
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'gobble'"):
        _ = X.gobble


def test_pytorch_s_methods_of_the_same_meaning_are_there():
    np.testing.assert_array_equal(X.masked_fill(X > 0, -1.0).numpy(), -np.ones((2, 3)))
    np.testing.assert_array_equal(X.cumsum(1).numpy(), [[1, 2, 3], [1, 2, 3]])
    assert X.softmax(axis=1).shape == (2, 3)
    assert [part.shape for part in X.split(2, axis=1)] == [(2, 2), (2, 1)]
    assert X.view(3, 2).shape == X.reshape(3, 2).shape == (3, 2)
    block = dg.ones((2, 1, 3, 4))
    shapes = [block.flatten(*axes).shape for axes in ((), (1,), (0, 1), (-2, -1), (2, 2))]
    assert shapes == [(24,), (2, 12), (2, 3, 4), (2, 1, 12), (2, 1, 3, 4)]
    assert dg.ones(()).flatten().shape == (1,)
    assert block.squeeze().shape == block.squeeze(1).shape == (2, 3, 4)
    for axes in ((4,), (0, -5), (2, 1)):
        with pytest.raises(AxisError, match="flatten: "):
            block.flatten(*axes)
    assert X.gather(1, dg.zeros((2, 1), dtype=dg.int64)).shape == (2, 1)
    assert X.size == X.size().numel() == 6
    assert isinstance(X.size, int)
    assert (X.size(), X.size(1), X.size(dim=-2)) == ((2, 3), 3, 2)
    with pytest.raises(AxisError, match="size: axis 2 is outside an array with 2 axes"):
        X.size(2)


def test_a_choice_between_numbers_is_float32():
    mask = dg.tensor([True, False])
    dtypes = [
        dg.where(mask, *pair).dtype.name for pair in ((1.0, 0.0), (1, 0.5), (1, 0), (np.float64(1.0), 0.0))
    ]
    assert dtypes == ["float32", "float32", "int64", "float32"]
    assert dg.where(mask, X[0, :2].astype(dg.float64), 0.0).dtype == np.float64
