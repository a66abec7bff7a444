"""Functions that users write."""

import gc
import sys
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd import Function, gradcheck, gradgradcheck
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError, GraphError, InPlaceError, ShapeError


def leaf(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


class Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3.0 * x * x * g


class Exp(Function):
    @staticmethod
    def forward(ctx, x):
        y = dg.exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Scaled(Function):
    """A tensor, a number, and a tensor that may be None."""

    @staticmethod
    def forward(ctx, x, scale, shift):
        ctx.scale = scale
        ctx.save_for_backward(x, None)
        return x * scale if shift is None else x * scale + shift

    @staticmethod
    def backward(ctx, g):
        assert ctx.saved_tensors[1] is None
        return g * ctx.scale, None, dg.sum(g, axis=0) if ctx.needs_input_grad[2] else None


class SumAndProduct(Function):
    @staticmethod
    def forward(ctx, x, w):
        product = x * w
        ctx.save_for_backward(x, w, product)
        order = dg.argsort(x)
        ctx.mark_non_differentiable(order)
        return x + w, product, order

    @staticmethod
    def backward(ctx, g_sum, g_product, g_order):
        x, w, product = ctx.saved_tensors
        return g_sum + g_product * w + 0.0 * product, g_sum + g_product * x


@pytest.mark.parametrize("function", [Cube, Exp])
def test_gradients_to_second_order(function):
    assert gradcheck(function.apply, [leaf(3, 2)])
    assert gradgradcheck(function.apply, [leaf(3, 2)])


def test_arguments_that_are_no_tensors():
    inputs = [leaf(3, 2), leaf(2, seed=1)]
    assert gradcheck(lambda x, shift: Scaled.apply(x, 1.5, shift), inputs)
    x = inputs[0]
    Scaled.apply(x, 2.0, None).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full((3, 2), 2.0))


def test_several_results():
    def both(x, w):
        total, product, order = SumAndProduct.apply(x, w)
        assert not order.requires_grad
        return total * product

    inputs = [leaf(4), leaf(4, seed=1)]
    assert gradcheck(both, inputs)
    assert gradgradcheck(both, inputs)
    assert gradcheck(lambda x, w: SumAndProduct.apply(x, w)[1], inputs)


def test_a_gradient_that_nothing_asked_for():
    class Pair(Function):
        @staticmethod
        def forward(ctx, x, materialize):
            ctx.set_materialize_grads(materialize)
            return x * 1.0, x * 2.0

        @staticmethod
        def backward(ctx, first, second):
            seen.append(second)
            return first, None

    seen = []
    for materialize in (True, False):
        Pair.apply(leaf(3), materialize)[0].sum().backward()
    assert seen[0].tolist() == [0.0] * 3
    assert seen[1] is None


def test_a_change_in_place():
    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2.0)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2.0

    def program(x):
        y = x * 3.0
        view = y[0]
        out = Double.apply(y)
        assert out is y
        return y.sum() * view

    assert gradcheck(program, [leaf(3)])
    x = leaf(3)
    y = dg.exp(x)
    Double.apply(y)
    with pytest.raises(InPlaceError, match=r"exp .* changed in place at Double"):
        y.sum().backward()
    with pytest.raises(GraphError, match="Double: a leaf that requires a gradient"):
        Double.apply(leaf(3))


def test_an_argument_that_is_returned():
    class Reversed(Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return -g

    x = leaf(3)
    y = Reversed.apply(x)
    assert y is not x
    y.sum().backward()
    assert x.grad.tolist() == [-1.0] * 3


def test_a_saved_value_that_was_changed():
    x = leaf(3)
    h = x * 1.0
    y = Cube.apply(h)
    line = sys._getframe().f_lineno - 1
    with dg.no_grad():
        h += 1.0
    with pytest.raises(InPlaceError, match=rf"Cube \({__file__}:{line}\) saved an array"):
        y.sum().backward()


def wrong(returned):
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x, number):
            return x * number

        @staticmethod
        def backward(ctx, g):
            return returned(g)

    return Wrong.apply(leaf(3), 2.0).sum()


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda g: g, GraphError, "Wrong: backward returned 1 gradients, but forward takes 2 arguments"),
        (lambda g: (g, None, g), GraphError, "Wrong: backward returned 3 gradients"),
        (lambda g: (g.numpy(), None), DTypeError, "Wrong: backward must return tensors or None, got ndarray"),
        (lambda g: (g[:2], None), ShapeError, r"Wrong \(.*: the gradient is \[2\] but the input is \[3\]"),
    ],
)
def test_what_backward_must_not_return(returned, error, message):
    with pytest.raises(error, match=message):
        wrong(returned).backward()


def test_more_gradients_than_arguments_if_they_are_none():
    wrong(lambda g: (g, None, None)).backward()


def test_an_error_in_backward_names_the_function_and_the_line():
    out = wrong(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        out.backward()
    assert any(f"in backward of Wrong ({__file__}:" in note for note in caught.value.__notes__)


def test_a_function_without_backward():
    class Half(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 0.5

    assert Half.apply(dg.ones((2,))).tolist() == [0.5, 0.5]
    with pytest.raises(GraphError, match="Half: the function has no backward"):
        Half.apply(leaf(2)).sum().backward()


def test_nothing_is_recorded_where_nothing_is_asked_for():
    assert not Cube.apply(dg.ones((2,))).requires_grad
    with dg.no_grad():
        assert not Cube.apply(leaf(2)).requires_grad


def test_a_result_that_is_saved_makes_no_cycle():
    gc.disable()
    try:
        x = leaf(3)
        y = Exp.apply(x)
        alive = weakref.ref(y._node)
        y.sum().backward()
        del y
        assert alive() is None
        y = Exp.apply(x)
        alive = weakref.ref(y._node)
        del y
        assert alive() is None
    finally:
        gc.enable()
