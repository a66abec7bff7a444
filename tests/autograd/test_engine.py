"""The engine around the primitives: what it keeps, when it tells whom, and what it refuses."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.dispatch import operations, primitive
from distgrad.autograd.functional import grad
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.primitive import REGISTRY, Sample
from distgrad.backend.numpy import numpy_module
from distgrad.errors import DTypeError, GraphError, InPlaceError, ShapeError


def leaf(*shape, seed=0):
    """A float64 leaf of random numbers."""
    rng = np.random.default_rng([seed, *shape])
    return dg.Tensor(np.asarray(rng.standard_normal(shape)), requires_grad=True)


@pytest.fixture
def no_garbage():
    """Whatever is freed in the test is freed by reference counts alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# -- broadcasting


@pytest.mark.parametrize(
    ("shape", "other"),
    [((3, 1), (4,)), ((), (2, 3)), ((1, 1, 4), (2, 3, 1)), ((4,), (2, 3, 4)), ((1,), ()), ((0, 1), (3,))],
)
def test_broadcasting_is_undone(shape, other):
    x, y = leaf(*shape), leaf(*other, seed=1)
    out = x * y
    g = leaf(*out.shape, seed=2).detach()
    out.backward(g)
    for target, partner in ((x, y), (y, x)):
        full = g.numpy() * np.broadcast_to(partner.detach().numpy(), out.shape)
        added = tuple(range(out.ndim - target.ndim))
        expected = full.sum(axis=added)
        expected = expected.sum(
            axis=tuple(i for i, n in enumerate(target.shape) if n == 1), keepdims=True
        ).reshape(target.shape)
        np.testing.assert_allclose(target.grad.numpy(), expected, atol=1e-12)
        assert target.grad.shape == target.shape


def test_an_input_used_twice_gets_both_gradients():
    x = leaf(3)
    (x * x + 3.0 * x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.detach().numpy() + 3)


# -- what a node keeps


def test_a_product_with_a_constant_keeps_the_constant_alone():
    constant = dg.Tensor(np.arange(3.0))
    for out in (leaf(3) * constant, constant * leaf(3)):
        kept = [value for value in out.grad_fn.saved if value is not None]
        assert len(kept) == 1
        assert kept[0] is constant._data
        assert sum(edge is not None for edge in out.grad_fn.edges) == 1


def test_a_product_of_two_leaves_keeps_both():
    x, y = leaf(3), leaf(3, seed=1)
    assert {id(value) for value in (x * y).grad_fn.saved} == {id(x._data), id(y._data)}


@pytest.mark.parametrize(
    "operation", [lambda x: x + 1.0, lambda x: -x, lambda x: x.sum(), lambda x: x.reshape(3)]
)
def test_a_linear_operation_keeps_no_array(operation):
    saved = operation(leaf(3)).grad_fn.saved
    assert not any(isinstance(value, np.ndarray) for value in saved)


def test_a_result_that_nothing_needs_is_freed_during_forward(no_garbage):
    x = leaf(1000)
    middle = x * 2.0  # its consumer keeps its own result, not this
    array = weakref.ref(middle._data)
    out = dg.tanh(middle)
    del middle
    assert array() is None
    assert any(value is out._data for value in out.grad_fn.saved)


def test_a_constant_result_has_no_node():
    assert (dg.Tensor(np.ones(3)) * 2.0).grad_fn is None
    assert not (dg.Tensor(np.ones(3)) * 2.0).requires_grad
    assert not (leaf(3) > 0).requires_grad


# -- modes


def test_no_grad_and_enable_grad_nest():
    x = leaf(3)
    with dg.no_grad():
        assert not (x * 2).requires_grad
        with dg.enable_grad():
            assert (x * 2).requires_grad
        assert not dg.is_grad_enabled()
    assert (x * 2).requires_grad


def test_no_grad_ends_with_an_exception_and_decorates():
    @dg.no_grad()
    def double(x):
        if x.ndim == 0:
            raise ValueError("no axes")
        return x * 2

    assert not double(leaf(3)).requires_grad
    with pytest.raises(ValueError, match="no axes"):
        double(leaf())
    assert dg.is_grad_enabled()


def test_modes_belong_to_a_thread():
    seen = []
    with dg.no_grad():
        thread = threading.Thread(target=lambda: seen.append(dg.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


# -- second order


def mlp(x, *parameters):
    """Two layers and a smooth loss."""
    w1, b1, w2, b2 = parameters
    hidden = dg.tanh(dg.linear(x, w1, b1))
    return dg.mean(dg.square(dg.linear(hidden, w2, b2)))


def mlp_inputs():
    return [leaf(5, 3), leaf(4, 3), leaf(4), leaf(2, 4), leaf(2)]


def test_gradients_of_a_network_in_both_orders():
    assert gradcheck(mlp, mlp_inputs())
    assert gradgradcheck(mlp, mlp_inputs())


def test_a_gradient_penalty_reaches_the_parameters():
    inputs = mlp_inputs()
    (gx,) = grad(mlp(*inputs), inputs[0], create_graph=True)
    penalty = (gx * gx).sum()
    penalty.backward()

    def value(w):
        (g,) = grad(mlp(inputs[0], w, *inputs[2:]), inputs[0])
        return float((g.numpy() ** 2).sum())

    w, step = inputs[1], 1e-6
    direction = leaf(4, 3, seed=9).detach().numpy()
    ends = [dg.Tensor(w.detach().numpy() + sign * step * direction, requires_grad=True) for sign in (1, -1)]
    numeric = (value(ends[0]) - value(ends[1])) / (2 * step)
    assert np.sum(w.grad.numpy() * direction) == pytest.approx(numeric, rel=1e-6)


def test_third_order():
    x = leaf(3)
    y = (x**4).sum()
    for factor, power in ((4, 3), (12, 2), (24, 1)):
        (g,) = grad(y, x, create_graph=True)
        np.testing.assert_allclose(g.detach().numpy(), factor * x.detach().numpy() ** power)
        y = g.sum()


# -- observers


class Recorder:
    """Writes down what an observer is told."""

    number = 0
    has_data = True

    def __init__(self, leaves):
        self.names = {tensor.leaf_state(): name for name, tensor in leaves.items()}
        self.events = []
        for tensor in leaves.values():
            tensor.leaf_state().observer = self

    def backward_started(self, leaves, order):
        self.events.append(("started", {self.names[each] for each in leaves}))

    def gradient_ready(self, leaf):
        self.events.append((self.names[leaf], None if leaf.grad is None else leaf.grad.numpy().copy()))

    def backward_ended(self):
        self.events.append(("ended", None))


def test_observers_hear_of_gradients_last_used_first():
    leaves = {name: leaf(3, seed=i) for i, name in enumerate(("first", "second", "third", "unused"))}
    recorder = Recorder(leaves)
    ((dg.tanh(leaves["first"]) * leaves["second"]).sum() + (leaves["third"] * 2.0).sum()).backward()
    names = [name for name, _ in recorder.events]
    assert recorder.events[0] == ("started", {"first", "second", "third"})
    assert names == ["started", "third", "second", "first", "ended"]
    for name, g in recorder.events[1:-1]:
        np.testing.assert_array_equal(g, leaves[name].grad.numpy())


def test_a_shared_leaf_is_ready_once_and_complete():
    shared = leaf(3)
    recorder = Recorder({"shared": shared})
    (dg.exp(shared) * shared + shared).sum().backward()
    assert [name for name, _ in recorder.events] == ["started", "shared", "ended"]
    x = shared.detach().numpy()
    np.testing.assert_allclose(recorder.events[1][1], np.exp(x) * (1 + x) + 1)


def test_a_gradient_goes_into_the_leafs_buffer():
    x = leaf(2, 3)
    room = np.full(10, 7.0)
    x.leaf_state().buffer = room[2:8].reshape(2, 3)
    (x * 2.0).sum().backward()
    np.testing.assert_array_equal(room, [7, 7, 2, 2, 2, 2, 2, 2, 7, 7])
    assert np.shares_memory(x.grad.numpy(), room)
    (x * 3.0).sum().backward()
    assert set(room[2:8]) == {5.0}


# -- hooks


def test_hooks_replace_the_gradient_of_leaves_and_results():
    x = leaf(3)
    y = x * 2.0
    seen = []
    y.register_hook(lambda g: g * 10.0)
    y.register_hook(lambda g: seen.append(g.tolist()))
    handle = x.register_hook(lambda g: g + 1.0)
    y.sum().backward(retain_graph=True)
    assert seen == [[10.0] * 3]
    assert x.grad.tolist() == [21.0] * 3
    handle.remove()
    handle.remove()
    x.grad = None
    y.sum().backward()
    assert x.grad.tolist() == [20.0] * 3


def test_a_hook_that_is_registered_twice_is_removed_once_a_handle():
    x, seen = leaf(2), []
    first, _ = x.register_hook(seen.append), x.register_hook(seen.append)
    first.remove()
    first.remove()
    (x * 1.0).sum().backward()
    assert len(seen) == 1


def test_a_leafs_hook_sees_the_sum_of_all_paths_once():
    x, seen = leaf(2), []
    x.register_hook(lambda g: seen.append(g.tolist()))
    (x * 2.0 + x * 3.0).sum().backward()
    assert seen == [[5.0, 5.0]]


def test_post_accumulate_hooks_and_retain_grad():
    x = leaf(2)
    y = x * 3.0
    y.retain_grad()
    x.register_post_accumulate_grad_hook(lambda tensor: setattr(tensor, "grad", None))
    seen = []
    x.register_post_accumulate_grad_hook(lambda tensor: seen.append((tensor is x, tensor.grad)))
    (y * y).sum().backward()
    assert seen == [(True, None)]
    np.testing.assert_allclose(y.grad.numpy(), 2 * y.detach().numpy())


# -- refusals


def test_a_freed_graph_is_an_error_that_says_what_to_do():
    x = leaf(3)
    out = dg.exp(x).sum()
    out.backward(retain_graph=True)
    first = x.grad.numpy().copy()
    out.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * first)
    with pytest.raises(GraphError, match=r"freed by an earlier backward.*retain_graph=True"):
        out.backward()


def change(x):
    with dg.no_grad():
        x += 1.0


def test_a_saved_array_that_was_changed_is_an_error_that_says_where():
    x = leaf(3)
    out = (x * x).sum()
    change(x)
    with pytest.raises(InPlaceError, match=rf"multiply \(.*\) saved an array.* at .*{__file__}:\d+"):
        out.backward()


@pytest.mark.parametrize("alias", [lambda x: x[1:], lambda x: x.reshape(3, 1), lambda x: x.detach()])
def test_a_change_through_a_view_is_seen(alias):
    x = leaf(3)
    out = dg.sin(x).sum()
    change(alias(x.detach()))
    with pytest.raises(InPlaceError, match=r"sin \(.*\) saved an array"):
        out.backward()


def test_a_change_of_what_nothing_saved_is_fine():
    x = leaf(3)
    out = (x * 2.0).sum()
    change(x)
    out.backward()
    assert x.grad.tolist() == [2.0] * 3


def test_what_backward_refuses():
    x = leaf(3)
    with pytest.raises(GraphError, match="no graph"):
        x.detach().backward(dg.Tensor(np.ones(3)))
    with pytest.raises(ShapeError, match="must have one element"):
        (x * 2.0).backward()
    with pytest.raises(ShapeError, match=r"gradient is \[2\] but the tensor is \[3\]"):
        (x * 2.0).backward(dg.Tensor(np.ones(2)))
    with pytest.raises(DTypeError, match="gradient must be a Tensor"):
        (x * 2.0).backward(np.ones(3))
    with pytest.raises(GraphError, match="do not depend on input 0"):
        grad((x * 2.0).sum(), leaf(2))
    assert grad((x * 2.0).sum(), leaf(2), allow_unused=True) == (None,)
    assert x.grad is None


# -- operations with several results


@pytest.fixture
def planted_pair():
    """An operation with two results: the double and the square."""

    def planted_pair(xp, x, /):
        return 2.0 * x, x * x

    planted_pair.__annotations__["x"] = "Array"
    operation = primitive(math="", outputs=2, samples=[Sample(((3,),))])(planted_pair)
    operation.vjp("x")(lambda xp, g, x: g[0] * 2.0 + g[1] * (2.0 * x))
    yield operation
    for where in (REGISTRY, operations.__dict__, numpy_module.__dict__):
        del where["planted_pair"]


def test_a_result_that_is_used_and_saved_gets_both_gradients():
    def function(x):
        values, vectors = dg.linalg.eigh(x)
        return (vectors * values**2) @ vectors.mT

    assert gradcheck(function, [leaf(3, 3)])
    assert gradgradcheck(function, [leaf(3, 3)])


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
def test_backward_through_several_results(planted_pair, used):
    def function(x):
        outs = planted_pair(x)
        return [dg.sin(outs[i]) for i in used]

    assert gradcheck(function, [leaf(3)])
    assert gradgradcheck(function, [leaf(3)])


def test_a_result_used_twice_and_one_left_out(planted_pair):
    x = leaf(3)
    double, square = planted_pair(x)
    (square * square + 3.0 * square).sum().backward()
    a = x.detach().numpy()
    np.testing.assert_allclose(x.grad.numpy(), (2 * a * a + 3.0) * 2 * a)
    assert double.requires_grad


# -- depth and memory


def chain(x, length):
    """The end of that many operations in a row."""
    for _ in range(length):
        x = x * 1.0
    return x


def test_a_chain_of_100_000_operations_neither_overflows_nor_leaks(no_garbage):
    x = dg.Tensor(np.ones(1), requires_grad=True)
    chain(x, 10_000).backward()  # fills the interpreter's free lists
    before = sys.getallocatedblocks()
    y = chain(x, 100_000)
    held = sys.getallocatedblocks()
    array = weakref.ref(y._data)
    y.backward()
    assert x.grad.tolist() == [2.0]
    del y
    assert array() is None
    assert held - before > 500_000
    assert sys.getallocatedblocks() - before < 1_000


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_training_step_leaves_no_cycles(no_garbage, create_graph):
    inputs = mlp_inputs()
    loss = mlp(*inputs)
    watched = [weakref.ref(loss), weakref.ref(loss._data)]
    gs = grad(loss, inputs, create_graph=create_graph)
    watched += [weakref.ref(g) for g in gs] + [weakref.ref(g._data) for g in gs]
    del loss, gs
    assert [ref() for ref in watched] == [None] * len(watched)


def test_a_graph_that_is_dropped_without_backward_is_freed(no_garbage):
    x = leaf(3)
    y = dg.exp(x)
    z = (y * y).sum()
    watched = [weakref.ref(y._data), weakref.ref(z._data)]
    del y, z
    assert [ref() for ref in watched] == [None, None]
