"""Gradients that come to an input on several paths, where an operation adds those of the others itself."""

import numpy as np
import pytest
from kernel_cases import defaults

import distgrad as dg
from distgrad.autograd.later import read_all
from distgrad.autograd.primitive import REGISTRY

OPTIONS = {
    "layer_norm": {"normalized_shape": (40,)},
    "rms_norm": {"normalized_shape": (40,)},
    "softmax": {"axis": -1},
}


def test_all_operations_that_add_are_here():
    read_all()
    adding = {name for name, record in REGISTRY.items() for v in record.vjps.values() if "before" in v.names}
    assert adding == OPTIONS.keys()


def gradient(name, x, weights, node, several, strided):
    """Of an operation, the identity and a product, each alone or all in one pass."""
    leaf = dg.tensor(x, requires_grad=True)
    value = leaf * 1.0 if node else leaf
    record = REGISTRY[name]
    options = defaults(record, OPTIONS[name])
    paths = [lambda v: v * 2.0, lambda v: getattr(dg, name)(v, **options), lambda v: v * v]
    if strided:
        paths[2] = lambda v: (v.T * dg.asarray(weights[0]).T).T
    parts = [(path(value) * dg.asarray(w)).sum() for path, w in zip(paths, weights, strict=True)]
    if several:
        return dg.autograd.grad(parts[0] + parts[1] + parts[2], leaf)[0].numpy()
    return sum(dg.autograd.grad(part, leaf, retain_graph=True)[0].numpy() for part in parts)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("node", [False, True], ids=["leaf", "result"])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3, 70])
def test_paths_add_up(name, node, strided, rows):
    rng = np.random.default_rng(0)
    for char, tolerance in (("f", 1e-5), ("d", 1e-12)):
        x, *weights = rng.standard_normal((4, rows, 40)).astype(char)
        together = gradient(name, x, weights, node, True, strided)
        apart = gradient(name, x, weights, node, False, strided)
        assert together.dtype == char
        np.testing.assert_allclose(together, apart, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("rows", [2, 70])
def test_a_residual_has_the_gradient_of_both_its_paths(name, rows):
    rng = np.random.default_rng(1)
    x, g = rng.standard_normal((2, rows, 40))
    options = defaults(REGISTRY[name], OPTIONS[name])

    def residual(x):
        x = x * 1.0
        return x + getattr(dg, name)(x, **options)

    leaf = dg.tensor(x, requires_grad=True)
    found_graph = dg.autograd.grad(residual(leaf), leaf, dg.asarray(g), create_graph=True)[0]
    alone = dg.autograd.grad(getattr(dg, name)(leaf, **options), leaf, dg.asarray(g))[0]
    found = found_graph.detach()
    np.testing.assert_allclose(found.numpy(), g + alone.numpy(), rtol=1e-12, atol=1e-12)
    plain = dg.autograd.grad(residual(leaf), leaf, dg.asarray(g))[0]
    np.testing.assert_allclose(plain.numpy(), found.numpy(), rtol=1e-12, atol=1e-12)
    twice = dg.autograd.grad(found_graph, leaf, dg.asarray(g))[0]
    fresh = dg.tensor(x, requires_grad=True)
    first = dg.autograd.grad(getattr(dg, name)(fresh, **options), fresh, dg.asarray(g), create_graph=True)[0]
    again = dg.autograd.grad(first, fresh, dg.asarray(g))[0]
    np.testing.assert_allclose(twice.numpy(), again.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("char", "fd")
def test_parameters_that_several_paths_use_have_the_gradients_of_all(name, char):
    rng = np.random.default_rng(2)
    x, g = (dg.asarray(array) for array in rng.standard_normal((2, 70, 40)).astype(char))
    options = defaults(REGISTRY[name], OPTIONS[name])
    parameters = [dg.asarray(rng.standard_normal(40).astype(char)) for _ in range(1 + (name == "layer_norm"))]
    for parameter in parameters:
        parameter.requires_grad = True

    def parts():
        once = getattr(dg, name)(x, *parameters, **options)
        twice = getattr(dg, name)(once.tanh(), *parameters, **options)
        return [(twice * g).sum(), *((p * p).sum() for p in parameters)]

    together = dg.autograd.grad(sum(parts()[1:], parts()[0]), parameters)
    step = 1e-2 if char == "f" else 1e-5
    for parameter, found in zip(parameters, together, strict=True):
        for place in (0, 17):
            sides = []
            for sign in (1, -1):
                values = parameter.detach().numpy()
                kept = values[place]
                values[place] = kept + sign * step
                sides.append(sum(float(part.item()) for part in parts()))
                values[place] = kept
            slope = (sides[0] - sides[1]) / (2 * step)
            np.testing.assert_allclose(found.numpy()[place], slope, rtol=2e-2 if char == "f" else 1e-6)
