"""Changes in place, through tensors and through views of them."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.samples import sample_cases
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError, GraphError, InPlaceError, ShapeError


def leaf(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def in_place_on_a_result(x, w):
    y = x * 2.0
    y += w
    y *= w
    y -= 1.0
    y /= w
    return y


def iadd_on_an_element(x, w):
    y = x * 2.0
    y[0] += w[1]
    return y


def through_a_view(x, w):
    y = x * 2.0
    v = y[0]
    v *= w[1]
    return y


def base_and_view_are_both_used(x, w):
    y = x * w
    v = y[1:, ::2]
    v *= v
    return y.sum() + (v * w[1:, ::2]).sum()


def a_view_of_a_view(x, w):
    y = x * w
    first = y[1:]
    second = first.T
    second *= w[1:].T
    first += 1.0
    return y * first.sum() * second.sum()


def a_change_of_the_base_reaches_its_views(x, w):
    y = x * w
    rows, part = y[0], y.reshape(-1)[1:3]
    y *= w
    return rows.sum() * part.sum()


def siblings_whose_base_is_gone(x, w):
    y = x * w
    a, b = y[:2], y[1:]
    del y
    a *= w[:2]
    return (a * a).sum() + (b * b * b).sum()


def a_broadcast_view_follows(x, w):
    y = x * w
    wide = dg.broadcast_to(y, (2, *y.shape))
    y *= w
    return wide * wide


def into_a_buffer(x, w):
    buffer = dg.zeros((2, *x.shape), dtype=np.float64)
    for row, value in zip(buffer, (x, w), strict=True):
        row += value
    buffer[0] *= w
    return buffer


def assignment(x, w):
    y = x * 1.0
    y[1:, 0] = w[1:, 1] * w[0, 0]
    y[np.array([0, 2])] = w[0]
    y[y > 100.0] = 0.0
    return y * y


def negative_steps(x, w):
    y = x * 1.0
    y[::-1, ::-2] *= w[:, ::2]
    return y * y


def methods(x, w):
    y = x * 1.0
    y.add_(w, alpha=2).mul_(w).sub_(w, alpha=0.5).div_(w * w + 1.0)
    y[0].fill_(w[0, 0])
    y[1].copy_(w[1] * w[0])
    y[2, 0].zero_()
    return y.tanh_().neg_()


PROGRAMS = [
    *(
        in_place_on_a_result,
        iadd_on_an_element,
        through_a_view,
        base_and_view_are_both_used,
        a_view_of_a_view,
    ),
    *(a_change_of_the_base_reaches_its_views, siblings_whose_base_is_gone, a_broadcast_view_follows),
    *(into_a_buffer, assignment, negative_steps, methods),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_gradients_of_changes_in_place(program):
    inputs = [leaf(3, 4), leaf(3, 4, seed=1)]
    assert gradcheck(program, inputs)
    assert gradgradcheck(program, inputs)


def test_the_gradients_that_pytorch_gives():
    x = Tensor(np.ones(3), requires_grad=True)
    y = x * 2
    y[0] += 1
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 2, 2])
    x.grad = None
    y = x * 2
    v = y[:2]
    v *= 3
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6, 6, 2])


def test_views_share_memory_in_all_directions():
    x = dg.zeros((2, 3))
    x.T[1:, 1].add_(1)
    x[0] = 5
    np.testing.assert_array_equal(x.numpy(), [[5, 5, 5], [0, 1, 1]])


@pytest.mark.parametrize("case", list(sample_cases()), ids=str)
def test_results_that_share_memory_count_as_views(case):
    inputs = case.tensors()
    outs = case.call(*inputs)
    for out in outs if isinstance(outs, tuple | list) else [outs]:
        for x in inputs:
            memory = x._data if isinstance(x, Tensor) else x
            if out is not x and isinstance(memory, np.ndarray) and np.shares_memory(out._data, memory):
                assert out._version is getattr(x, "_version", out._version)


# -- errors


def here(offset=0):
    import sys

    frame = sys._getframe(1)
    return f"{__file__}:{frame.f_lineno + offset}"


@pytest.mark.parametrize(("name", "spoil"), [("exp", "result"), ("multiply", "input"), ("tanh", "view")])
def test_a_saved_value_that_was_changed(name, spoil):
    x, w = leaf(4), leaf(4, seed=1)
    h = x * 1.0
    y = h * w if name == "multiply" else getattr(dg, name)(h)
    saved_at = here(-1)
    target = {"result": y, "input": h, "view": y[1:]}[spoil]
    target += 1.0
    changed_at = here(-1)
    with pytest.raises(InPlaceError) as caught:
        (y * 2.0).sum().backward()
    assert str(caught.value) == (
        f"backward: {name} ({saved_at}) saved an array that was changed in place at {changed_at}; "
        "change a copy instead, or make the change after backward"
    )


def test_a_change_through_detach_is_seen():
    x = leaf(4)
    y = dg.exp(x)
    y.detach().mul_(2.0)
    with pytest.raises(InPlaceError, match="exp"):
        y.sum().backward()


def filled_by_data(lib, x, w):
    rows = lib.zeros((3, *x.shape), dtype=x.dtype)
    for i in range(3):  # what later rows are made of is written after earlier ones were read
        rows.data[i] = (x * (i + 1)).data
        x = x + rows[i] * w
    return (x * rows[0]).sum()


def clipped_input(lib, x, w):
    y = x * 2.0
    out = (y * w).sum()
    y.data.clamp_(-0.5, 0.5)
    return out


def clipped_leaf(lib, x, w):
    out = (x * w * w).sum()
    w.data.mul_(0.25)
    return out


def written_result(lib, x, w):
    y = lib.exp(x)
    y[1:].data.zero_()
    return (y * w).sum()


def through_a_view_and_twice(lib, x, w):
    y = lib.tanh(x)
    y.data.data.view(-1)[:2] = 0.5
    y.data.T.add_(0.125)
    return (y * y * w).sum()


@pytest.mark.parametrize(
    "program", [filled_by_data, clipped_input, clipped_leaf, written_result, through_a_view_and_twice]
)
def test_what_is_written_through_data_is_not_noticed_as_in_pytorch(program):
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(3).standard_normal((2, 3, 4))
    got = []
    for lib, make in ((torch, torch.tensor), (dg, dg.tensor)):
        x, w = (make(each).requires_grad_() for each in start)
        out = program(lib, x, w)
        out.backward()
        got.append([each.detach().numpy() for each in (out, x.grad, w.grad, w)])
    for theirs, ours in zip(*got, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_change_beside_data_is_still_seen():
    x = leaf(4)
    y = dg.exp(x)
    y.data.mul_(2.0)
    y.mul_(2.0)
    y.data.mul_(2.0)
    z = dg.exp(y)
    z.detach().add_(1.0)
    z.data.add_(1.0)
    with pytest.raises(InPlaceError, match=r"exp .* saved an array"):
        z.sum().backward()


def test_whoever_keeps_copies_sees_what_is_written_through_data():
    weight = dg.nn.Parameter(dg.ones((2, 2), dtype="float32"))
    x = dg.ones((1, 2), dtype="float32")
    with dg.autocast("cpu", dtype="float16"):
        before = (x @ weight).detach().numpy()
        weight.data.data[0].mul_(3.0)
        np.testing.assert_array_equal((x @ weight).detach().numpy(), before * 2)
        dg.nn.Parameter(weight.data).data.mul_(0.5)
        np.testing.assert_array_equal((x @ weight).detach().numpy(), before)


def test_a_change_that_hurts_nobody():
    x = leaf(4)
    y = x + 1.0
    y.detach().mul_(2.0)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones(4))


def test_leaves_that_require_a_gradient():
    x = leaf(4)
    with pytest.raises(GraphError, match=r"add_: a leaf that requires a gradient"):
        x.add_(1.0)
    with pytest.raises(GraphError, match=r"a view of a leaf that requires a gradient"):
        x[0] += 1.0
    before = x.detach().clone()
    with dg.no_grad():
        x += 1.0
        x[0] = 7.0
    assert x.requires_grad
    assert x.is_leaf
    np.testing.assert_array_equal(x.detach().numpy()[1:], before.numpy()[1:] + 1.0)
    assert x.detach()[0].item() == 7.0


def test_a_view_made_without_recording():
    x = leaf(4)
    y = x * 2.0
    with dg.no_grad():
        v = y[0]
    with pytest.raises(InPlaceError, match="made while nothing was recorded"):
        v *= 2.0
    with dg.no_grad():
        v *= 2.0
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(4, 2.0))


def test_results_that_do_not_fit():
    x = dg.zeros((3,))
    with pytest.raises(ShapeError, match=r"add_: the result is \[2, 3\] and does not fit into \[3\]"):
        x.add_(dg.zeros((2, 3)))
    with pytest.raises(DTypeError, match=r"divide: the result is float32 and does not fit into int64"):
        dg.asarray(np.arange(3)).__itruediv__(2)
    with pytest.raises(InPlaceError, match="read-only"):
        dg.broadcast_to(x, (2, 3)).add_(1)
    with pytest.raises(ShapeError, match="fill_: expected a number"):
        x.fill_(dg.zeros((3,)))


def test_a_wider_result_keeps_the_dtype():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    y = x * 2.0
    y *= np.full(3, 3.0)
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 6.0))


def test_a_retained_gradient_is_that_of_the_changed_tensor():
    x = leaf(3)
    y = x * 2.0
    y.retain_grad()
    y *= 3.0
    (y * 5.0).sum().backward()
    np.testing.assert_array_equal(y.grad.numpy(), np.full(3, 5.0))


def test_detach_in_place():
    x = leaf(3)
    y = x * 2.0
    assert y.detach_() is y
    assert not y.requires_grad
    z = x * 2.0
    view = z[1:]
    with pytest.raises(GraphError, match="detach_: other tensors are views"):
        z.detach_()
    del view
    z.detach_()
    assert not z.requires_grad


def test_many_views_of_one_tensor_are_forgotten():
    base = dg.zeros((4,))
    for _ in range(1000):
        base[1:]
    assert len(base._aliases._references) < 20


@pytest.mark.parametrize("operation", [lambda x: x / 2.0, lambda x: x / dg.ones(3), lambda x: x**2.0])
def test_a_result_that_only_another_input_s_gradient_needs_may_change(operation):
    x = dg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = operation(x)
    expected = dg.autograd.grad(operation(x).sum(), [x])[0].tolist()
    y[1] = 0.0
    y.sum().backward()
    assert x.grad.tolist() == [expected[0], 0.0, expected[2]]
