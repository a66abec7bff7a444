"""Hooks of modules: before and after forward, and in backward."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn


class Affine(nn.Module):
    def forward(self, x, y, scale=1.0):
        return x * 2 * scale, y * 3


def test_forward_hooks_see_and_replace():
    calls = []
    layer = nn.ReLU()
    pre = layer.register_forward_pre_hook(lambda module, args: calls.append("pre") or (args[0] - 10,))
    post = layer.register_forward_hook(
        lambda module, args, out: calls.append(args[0]._data.tolist()) or out + 1
    )
    layer.register_forward_pre_hook(lambda module, args: calls.append("first"), prepend=True)
    assert layer(dg.tensor([1.0, 12.0])).tolist() == [1.0, 3.0]
    assert calls == ["first", "pre", [-9.0, 2.0]]
    pre.remove()
    post.remove()
    post.remove()
    assert layer(dg.tensor([1.0])).tolist() == [1.0]


def test_forward_hooks_with_keywords():
    layer = Affine()
    layer.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"scale": kwargs["scale"] * 2}), with_kwargs=True
    )
    seen = []
    layer.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    x, _ = layer(dg.ones(1), dg.ones(1), scale=5)
    assert x.item() == 20
    assert seen == [{"scale": 10}]
    layer.register_forward_pre_hook(lambda m, args, kwargs: args, with_kwargs=True)
    with pytest.raises(TypeError, match=r"expects None or \(args, kwargs\)"):
        layer(dg.ones(1), dg.ones(1), scale=5)


def test_a_hook_may_be_called_although_forward_raises():
    seen = []
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *args: seen.append("usual"))
    layer.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    with pytest.raises(dg.ShapeError):
        layer(dg.ones((1, 3)))
    assert seen == [None]


def test_backward_hooks_see_the_gradients_of_inputs_and_outputs():
    seen = []
    layer = Affine()
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
    x, y = dg.ones(2).requires_grad_(), dg.ones(3)
    a, b = layer(x, y)
    ((a * 5).sum() + b.sum() + (x * 100).sum()).backward()
    ((grad_input, grad_output),) = seen
    assert grad_input[0].tolist() == [10, 10]  # what goes through the module, not all of x's
    assert grad_input[1] is None
    assert grad_output[0].tolist() == [5, 5]
    assert grad_output[1] is None  # y needs no gradient
    assert x.grad.tolist() == [110, 110]


def test_backward_hooks_replace_gradients():
    layer = nn.Identity()
    layer.register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
    handle = layer.register_full_backward_hook(lambda m, gi, go: (gi[0] + go[0],))
    x = dg.ones(2).requires_grad_()
    layer(x).sum().backward()
    assert x.grad.tolist() == [4, 4]
    handle.remove()
    layer.register_full_backward_hook(lambda m, gi, go: (gi[0], gi[0]))
    with pytest.raises(ValueError, match="expected 1 gradients, got 2"):
        layer(x).sum().backward()


def test_backward_hooks_without_gradients_of_inputs():
    seen = []
    layer = nn.Linear(2, 1)
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go[0].shape)))
    layer(dg.ones((3, 2))).sum().backward()
    assert seen == [((None,), (3, 1))]
    with dg.no_grad():
        layer(dg.ones((3, 2)))
    assert len(seen) == 1


def test_backward_hooks_leave_second_order_gradients_right():
    layer = nn.Tanh()
    seen = []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append(gi[0]))
    x = dg.Tensor(np.array([0.3, -0.7]), requires_grad=True)
    (g,) = dg.autograd.grad(layer(x).sum(), x, create_graph=True)
    np.testing.assert_allclose(g._data, 1 - np.tanh(x._data) ** 2)
    assert seen[0].requires_grad
    (h,) = dg.autograd.grad(g.sum(), x)
    np.testing.assert_allclose(h._data, -2 * np.tanh(x._data) * (1 - np.tanh(x._data) ** 2))


def test_a_change_in_place_behind_a_hooked_module_is_noticed():
    layer = nn.Identity()
    layer.register_full_backward_hook(lambda m, gi, go: None)
    x = dg.ones(2).requires_grad_() * 2
    y = layer(x)
    z = (y * y).sum()
    x += 1
    with pytest.raises(dg.InPlaceError):
        z.backward()
