"""Derivatives as functions of functions."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.tensor import Tensor
from distgrad.errors import DTypeError, OptionError, ShapeError


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def constant(*shape, seed=0):
    return Tensor(array(*shape, seed=seed))


def cubes(x):
    return (x * x * x).sum()


def close(got, expected):
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_grad():
    x = constant(3)
    g = dg.func.grad(cubes)(x)
    close(g, 3 * x.numpy() ** 2)
    assert not g.requires_grad
    assert not x.requires_grad


def test_value_and_grad_over_nested_arguments():
    def loss(parameters, x, power=1.0):
        hidden = dg.tanh(dg.matmul(x, parameters["layers"][0]) + parameters["bias"])
        return (hidden * parameters["layers"][1]).sum() * power, {"hidden": hidden}

    parameters = {"layers": [constant(2, 3), constant(3, seed=1)], "bias": constant(3, seed=2), "name": "mlp"}
    x = constant(4, 2, seed=3)
    (value, aux), (gp, gx) = dg.func.value_and_grad(loss, argnums=(0, -1), has_aux=True)(
        parameters, x, power=2.0
    )
    leaves = [*parameters["layers"], parameters["bias"], x]
    for each in leaves:
        each.requires_grad_()
    expected, _ = loss(parameters, x, 2.0)
    expected.backward()
    for got, each in zip([*gp["layers"], gp["bias"], gx], leaves, strict=True):
        close(got, each.grad.numpy())
    assert gp["name"] == "mlp"
    assert value.item() == expected.item()
    assert not value.requires_grad
    assert not aux["hidden"].requires_grad


def test_nothing_is_left_behind():
    x = Tensor(array(3), requires_grad=True)
    w = Tensor(array(3, seed=1), requires_grad=True)
    for function in (
        lambda: dg.func.grad(lambda x: (x * w).sum())(x),
        lambda: dg.func.jacobian(lambda x: x * w)(x),
        lambda: dg.func.hessian(lambda x: (x * x * w).sum())(x),
        lambda: dg.func.vjp(lambda x: x * w, x)[1](constant(3)),
        lambda: dg.func.jvp(lambda x: x * w, (x,), (constant(3),)),
        lambda: dg.func.hvp(lambda x: (x * x * w).sum(), (x,), (constant(3),)),
    ):
        function()
        assert x.grad is None
        assert w.grad is None


def test_gradients_nest():
    x = constant()
    third = dg.func.grad(dg.func.grad(dg.func.grad(lambda x: x * x * x * x)))(x)
    close(third, 24 * x.numpy())


def test_inner_and_outer_variables_are_not_confused():
    def outer(x):
        return x * dg.func.grad(lambda y: x * y)(x)

    x = constant()
    close(dg.func.grad(outer)(x), 2 * x.numpy())

    def through_jvp(x):
        return dg.func.jvp(lambda y: x * y * y, (x,), (dg.ones_like(x),))[1]

    close(dg.func.grad(through_jvp)(x), 4 * x.numpy())


def test_gradients_outside_lead_through_a_gradient_inside():
    x = Tensor(array(3), requires_grad=True)
    w = Tensor(array(3, seed=1), requires_grad=True)
    penalty = (dg.func.grad(lambda x: (x * x * w).sum())(x) ** 2).sum()  # Σ 4 x² w²
    penalty.backward()
    close(x.grad, 8 * x.detach().numpy() * w.detach().numpy() ** 2)
    close(w.grad, 8 * x.detach().numpy() ** 2 * w.detach().numpy())


def test_modes_outside_do_not_matter():
    x = Tensor(array(3), requires_grad=True)
    for mode in (dg.no_grad, dg.inference_mode):
        with mode():
            g = dg.func.grad(cubes)(x)
            assert not dg.is_grad_enabled()
        close(g, 3 * x.detach().numpy() ** 2)
        assert not g.requires_grad


def polar(r, phi):
    return {"x": r * dg.cos(phi), "y": r * dg.sin(phi)}


def test_vjp():
    r, phi = constant(3), constant(3, seed=1)
    value, pullback = dg.func.vjp(polar, r, phi)
    assert not value["x"].requires_grad
    for seed in (2, 3):
        u = {"x": constant(3, seed=seed), "y": constant(3, seed=seed + 9)}
        gr, gphi = pullback(u)
        c, s, ux, uy = np.cos(phi.numpy()), np.sin(phi.numpy()), u["x"].numpy(), u["y"].numpy()
        close(gr, ux * c + uy * s)
        close(gphi, r.numpy() * (-ux * s + uy * c))
    _, _, aux = dg.func.vjp(lambda x: (x * x, x), r, has_aux=True)
    assert not aux.requires_grad
    with pytest.raises(
        ShapeError, match=r"vjp: cotangents must have the shapes \[\[3\], \[3\]\], got \[\[2\]\]"
    ):
        pullback(constant(2))


def test_jvp():
    r, phi, dr, dphi = (constant(3, seed=seed) for seed in range(4))
    value, tangent = dg.func.jvp(polar, (r, phi), (dr, dphi))
    c, s = np.cos(phi.numpy()), np.sin(phi.numpy())
    close(value["x"], r.numpy() * c)
    close(tangent["x"], dr.numpy() * c - r.numpy() * s * dphi.numpy())
    close(tangent["y"], dr.numpy() * s + r.numpy() * c * dphi.numpy())
    assert not tangent["x"].requires_grad
    *_, aux = dg.func.jvp(lambda x: (x * x, x), (r,), (dr,), has_aux=True)
    close(aux, r.numpy())
    with pytest.raises(ShapeError, match="jvp: tangents must have the shapes"):
        dg.func.jvp(polar, (r, phi), (dr,))


def test_jvp_of_what_does_not_depend_on_the_input():
    x = constant(3)
    value, tangent = dg.func.jvp(lambda x: (dg.ones((2,)), x * 2.0), (x,), (x,))
    assert tangent[0].tolist() == [0.0, 0.0]
    close(tangent[1], 2 * x.numpy())
    assert value[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("jacobian", [dg.func.jacobian, dg.func.jacrev, dg.func.jacfwd])
def test_jacobians(jacobian):
    w, x = constant(2, 3), constant(3, seed=1)
    dw, dx = jacobian(dg.matmul, argnums=(0, 1))(w, x)
    close(dx, w.numpy())
    close(dw, np.einsum("ij,k->ijk", np.eye(2), x.numpy()))
    tree = jacobian(polar, argnums=1)(x, x)
    close(tree["y"], np.diag(x.numpy() * np.cos(x.numpy())))
    block, aux = jacobian(lambda x: (x * x, x), has_aux=True)(x)
    close(block, np.diag(2 * x.numpy()))
    close(aux, x.numpy())
    assert jacobian(lambda x: x * 2.0)(dg.zeros((0,))).shape == (0, 0)


def test_hessian_and_its_products():
    x, v = constant(4), constant(4, seed=1)
    a = array(4, 4, seed=2)

    def energy(x):
        return dg.exp(x).sum() + dg.matmul(x, dg.matmul(Tensor(a), x))

    expected = np.diag(np.exp(x.numpy())) + a + a.T
    close(dg.func.hessian(energy)(x), expected)
    close(dg.func.jacfwd(dg.func.jacrev(energy))(x), expected)
    value, (product,) = dg.func.hvp(energy, (x,), (v,))
    close(product, expected @ v.numpy())
    close(value, energy(x).numpy())
    assert not product.requires_grad
    assert not value.requires_grad


def test_hessian_over_two_arguments():
    x, y = constant(2), constant(2, seed=1)
    (xx, xy), (yx, yy) = dg.func.hessian(lambda x, y: (x * x * y).sum(), argnums=(0, 1))(x, y)
    close(xx, np.diag(2 * y.numpy()))
    close(xy, np.diag(2 * x.numpy()))
    close(yx, np.diag(2 * x.numpy()))
    close(yy, np.zeros((2, 2)))


def test_what_is_refused():
    x = constant(3)
    with pytest.raises(ShapeError, match=r"tensor with one element, got \[3\]; use jacobian"):
        dg.func.grad(lambda x: x * 2.0)(x)
    with pytest.raises(ShapeError, match="argnums=1, but the function got 1 arguments"):
        dg.func.grad(cubes, argnums=1)(x)
    with pytest.raises(DTypeError, match="argument 0 holds no tensor, got float"):
        dg.func.grad(cubes)(2.0)
    with pytest.raises(DTypeError, match="gradients need a floating dtype"):
        dg.func.grad(cubes)(dg.asarray(np.arange(3)))
    for jacobian in (dg.func.jacrev, dg.func.jacfwd):
        with pytest.raises(DTypeError, match="function must return tensors, got float"):
            jacobian(lambda x: 3.0)(x)


def test_vmap_is_a_loop_over_samples():
    x, y, w = dg.randn(4, 3), dg.randn(3, 4), dg.randn(3)

    def f(x, y, w):
        return (x * w).sum(0), {"both": x * y}

    total, parts = dg.func.vmap(f, (0, 1, None))(x, y, w)
    np.testing.assert_allclose(total.numpy(), (x * w).sum(1).numpy(), rtol=1e-6)
    np.testing.assert_allclose(parts["both"].numpy(), (x * y.T).numpy(), rtol=1e-6)
    assert dg.func.vmap(lambda x: x, out_dims=1)(x).shape == (3, 4)
    assert dg.func.vmap(lambda pair: pair["a"] + pair["b"], ({"a": 0, "b": 1},))({"a": x, "b": y}).shape == (
        4,
        3,
    )
    nested = dg.func.vmap(dg.func.vmap(lambda a, b: a @ b, (None, 0)), (0, None))(x, x)
    np.testing.assert_allclose(nested.numpy(), (x @ x.T).numpy(), rtol=1e-5)


def test_vmap_of_a_gradient_gives_one_a_sample_and_can_be_differentiated():
    w, x, y = dg.randn(3), dg.randn(5, 3), dg.randn(5)

    def loss(w, x, y):
        return (x @ w - y) ** 2

    found = dg.func.vmap(dg.func.grad(loss), (None, 0, 0))(w, x, y)
    np.testing.assert_allclose(found.numpy(), (2 * (x @ w - y)[:, None] * x).numpy(), rtol=1e-4)
    mean = dg.func.grad(lambda w: dg.func.vmap(loss, (None, 0, 0))(w, x, y).mean())(w)
    np.testing.assert_allclose(mean.numpy(), found.mean(0).numpy(), rtol=1e-4)


def test_vmap_refuses_batches_that_do_not_fit_and_unasked_for_random_numbers():
    x = dg.ones((4, 3))
    with pytest.raises(ShapeError, match=r"one length of at least 1, got \[3, 4\]"):
        dg.func.vmap(lambda a, b: a, (0, 1))(x, x)
    with pytest.raises(ShapeError, match="no batch"):
        dg.func.vmap(lambda a: a, None)(x)
    with pytest.raises(ShapeError, match="axis 2"):
        dg.func.vmap(lambda a: a, 2)(x)
    with pytest.raises(OptionError, match="randomness"):
        dg.func.vmap(lambda a: a, randomness="some")
    with pytest.raises(OptionError, match="drew random numbers"):
        dg.func.vmap(lambda a: a * dg.rand(()))(x)
    same = dg.func.vmap(lambda a: a * dg.rand(()), randomness="same")(x).numpy()
    different = dg.func.vmap(lambda a: a * dg.rand(()), randomness="different")(x).numpy()
    assert len(np.unique(same)) == 1
    assert len(np.unique(different)) == 4
