"""Backward's arguments, what it frees, and the lines that it names."""

import sys
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.graph import describe
from distgrad.autograd.tensor import Tensor
from distgrad.errors import GraphError, ShapeError


def leaf(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def close(got, expected):
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


# -- backward and grad


def test_inputs_choose_what_is_added_to():
    x, w = leaf(3), leaf(3, seed=1)
    h = x * w
    out = (h * h).sum()
    out.backward(retain_graph=True, inputs=[x, h])
    assert w.grad is None
    close(h.grad, 2 * h.detach().numpy())
    close(x.grad, 2 * (h * w).detach().numpy())
    first = x.grad.numpy().copy()
    out.backward(inputs=[x, h])
    close(h.grad, 4 * h.detach().numpy())
    close(x.grad, 2 * first)


def test_inputs_must_be_given_and_require_a_gradient():
    out = (leaf(3) * 2.0).sum()
    with pytest.raises(GraphError, match="backward: inputs is empty"):
        out.backward(inputs=[])
    with pytest.raises(GraphError, match="backward: input 0 does not require a gradient"):
        out.backward(inputs=dg.ones((3,)))


def test_several_outputs_with_their_gradients():
    x = leaf(3)
    y, z = x * 2.0, (x * x).sum()
    dg.autograd.backward([y, z], [dg.Tensor(np.array([1.0, 2.0, 3.0])), None])
    close(x.grad, 2 * np.array([1.0, 2.0, 3.0]) + 2 * x.detach().numpy())
    with pytest.raises(GraphError, match="expected 2 gradients, one an output, got 1"):
        dg.autograd.backward([x * 2.0, (x * x).sum()], [None])


def test_the_gradient_of_a_result_and_of_the_output_itself():
    x = leaf(3)
    h = x * 2.0
    out = h.sum()
    gh, go, gx = dg.autograd.grad(out, [h, out, x])
    close(gh, np.ones(3))
    assert go.item() == 1.0
    close(gx, np.full(3, 2.0))
    assert x.grad is None
    (g,) = dg.autograd.grad(x, x, dg.ones((3,), dtype=dg.float64))
    close(g, np.ones(3))


def test_inputs_that_are_not_used():
    x, w = leaf(3), leaf(2)
    out = (x * x).sum()
    with pytest.raises(GraphError, match="do not depend on input 1"):
        dg.autograd.grad(out, [x, w], retain_graph=True)
    assert dg.autograd.grad(out, [x, w], retain_graph=True, allow_unused=True)[1] is None
    for create_graph in (False, True):
        zeros = dg.autograd.grad(
            out, [x, w], retain_graph=True, create_graph=create_graph, materialize_grads=True
        )[1]
        assert zeros.tolist() == [0.0, 0.0]
        assert zeros.dtype == w.dtype
    with pytest.raises(GraphError, match="materialize_grads=True returns zeros"):
        dg.autograd.grad(out, [x, w], allow_unused=False, materialize_grads=True)


def test_gradients_of_another_dtype_are_converted():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    (x * 2.0).backward(dg.ones((3,), dtype=dg.float64))
    assert x.grad.dtype == np.float32


def test_retained_gradients_add_up_as_those_of_leaves():
    x = leaf(3)
    y = x * 2.0
    y.retain_grad()
    out = (y * y).sum()
    out.backward(retain_graph=True)
    out.backward()
    close(y.grad, 4 * y.detach().numpy())


def test_a_hook_must_keep_the_shape():
    x = leaf(3)
    x.register_hook(lambda g: g[:2])
    with pytest.raises(ShapeError, match=r"hook: the gradient is \[3\] but the hook returned \[2\]"):
        (x * 2.0).sum().backward()


def test_integer_results_have_no_gradient():
    x = leaf(3)
    assert not dg.argmax(x).requires_grad
    assert not (x > 0).requires_grad
    assert not x.astype(dg.int64).requires_grad
    (x * dg.argmax(x)).sum().backward()
    close(x.grad, np.full(3, float(np.argmax(x.detach().numpy()))))


def test_a_gradient_through_a_complex_value():
    x = leaf(4)
    dg.real(dg.fft.fft(x)).sum().backward()
    close(x.grad, [4.0, 0.0, 0.0, 0.0])


# -- what is freed


def test_a_graph_is_freed_node_by_node():
    x = leaf(3)
    h = dg.exp(x)
    y = dg.exp(h)
    alive = []
    saved = weakref.ref(y._data)
    out = y.sum()
    del y
    h.register_hook(lambda g: alive.append(saved()))
    out.backward()
    assert alive == [None]


def test_nodes_that_saved_no_array_can_be_walked_again():
    x = leaf(3)
    h = x + 1.0
    (h * 2.0).sum().backward()
    (h * 3.0).sum().backward()
    close(x.grad, np.full(3, 5.0))


# -- lines


def number(offset=0):
    return sys._getframe(1).f_lineno + offset


class Outer(dg.nn.Module):
    def forward(self, x):
        return dg.nn.functional.gelu(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + 1.0,
        lambda x: 1.0 - x,
        lambda x: np.ones(3) * x,
        lambda x: dg.exp(x * 1.0),
        lambda x: x.reshape(3, 1),
        lambda x: x[0],
        lambda x: dg.std(x * 1.0),
        lambda x: dg.concat([x, x]),
        lambda x: dg.unstack(x)[0],
        lambda x: dg.nn.Softplus()(x * 1.0),
        lambda x: dg.nn.Sequential(dg.nn.Tanh(), dg.nn.Sequential(dg.nn.ReLU()))(x * 1.0),
        lambda x: x.clone().mul_(2.0),
    ],
)
def test_the_line_is_the_users(call):
    for _ in range(2):  # the first call compiles
        node = call(leaf(3)).grad_fn
        node = node.edges[0] if node.line is None else node  # of one result among several
        assert describe(node) == f"{node.op.name} ({__file__}:{call.__code__.co_firstlineno})"


def test_the_line_inside_the_users_own_module():
    node = Outer()(leaf(3)).grad_fn
    assert f"{__file__}:{Outer.forward.__code__.co_firstlineno + 1}" in describe(node)


def test_a_call_over_several_lines():
    x = leaf(3)
    y = dg.concat(
        [
            x,
            dg.exp(x),
        ]
    )
    assert describe(y.grad_fn.edges[1]) == f"exp ({__file__}:{number(-3)})"


def test_errors_in_backward_name_operation_and_line():
    x = leaf(3)
    y = dg.exp(x)
    line = number(-1)
    y.grad_fn.saved = ("not an array",)
    with pytest.raises(TypeError) as caught:
        y.sum().backward()
    assert caught.value.__notes__ == [f"in backward of exp ({__file__}:{line})"]


def test_a_frame_is_not_kept():
    class Big:
        pass

    def run():
        big = Big()
        seen.append(weakref.ref(big))
        return dg.exp(x)

    x, seen = leaf(3), []
    y = run()
    assert seen[0]() is None
    assert y.requires_grad
