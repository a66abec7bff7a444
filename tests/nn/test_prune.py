"""Pruning: which elements go, what is trained, and what is left behind; beside PyTorch's own masks."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import OptionError
from distgrad.nn import Linear, Sequential
from distgrad.nn.utils import prune

WEIGHTS = np.array([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]], np.float32)


def layer():
    made = Linear(3, 2)
    made.weight.data = dg.asarray(WEIGHTS.copy())
    return made


@pytest.mark.parametrize(
    ("apply", "mask"),
    [
        (lambda m: prune.l1_unstructured(m, "weight", 2), [[0, 0, 1], [1, 1, 1]]),
        (lambda m: prune.l1_unstructured(m, "weight", 0.5), [[0, 0, 0], [1, 1, 1]]),
        (lambda m: prune.ln_structured(m, "weight", 1, 2, 0), [[0, 0, 0], [1, 1, 1]]),
        (lambda m: prune.ln_structured(m, "weight", 0.34, float("inf"), 1), [[0, 1, 1], [0, 1, 1]]),
        (lambda m: prune.custom_from_mask(m, "weight", dg.asarray(WEIGHTS > 0)), [[1, 0, 1], [0, 1, 0]]),
        (lambda m: prune.identity(m, "weight"), [[1, 1, 1], [1, 1, 1]]),
        (
            lambda m: prune.l1_unstructured(
                m, "weight", 1, importance_scores=dg.asarray(-(np.abs(WEIGHTS) ** -1))
            ),
            [[1, 1, 1], [1, 1, 0]],
        ),
    ],
)
def test_masks(apply, mask):
    model = apply(layer())
    np.testing.assert_array_equal(model.weight_mask.numpy(), mask)
    np.testing.assert_array_equal(model.weight.detach().numpy(), WEIGHTS * mask)


def test_what_is_trained_stays_masked_and_removing_leaves_zeros():
    model = prune.l1_unstructured(layer(), "weight", 2)
    assert [name for name, _ in model.named_parameters()] == ["bias", "weight_orig"]
    optimizer = dg.optim.SGD(model.parameters(), lr=0.1)
    model(dg.ones((4, 3))).sum().backward()
    optimizer.step()
    assert model.weight_orig.grad.numpy()[0].tolist() == [0.0, 0.0, 4.0]
    model(dg.ones((4, 3)))
    after = model.weight.detach().numpy()
    assert after[0].tolist() == [0.0, 0.0, np.float32(3.0 - 0.4)]
    prune.remove(model, "weight")
    assert [name for name, _ in model.named_parameters()] == ["bias", "weight"]
    np.testing.assert_array_equal(model.weight.detach().numpy(), after)
    assert not prune.is_pruned(model)
    with pytest.raises(ValueError, match="has to be pruned"):
        prune.remove(model, "weight")


def test_a_second_method_counts_what_is_left_and_several_parameters_are_one():
    model = prune.l1_unstructured(prune.l1_unstructured(layer(), "weight", 2), "weight", 0.5)
    assert model.weight_mask.numpy().tolist() == [[0, 0, 0], [0, 1, 1]]
    pair = Sequential(layer(), layer())
    pair[1].weight.data = dg.asarray(WEIGHTS * 10)
    prune.global_unstructured([(pair[0], "weight"), (pair[1], "weight")], prune.L1Unstructured, amount=0.5)
    assert pair[0].weight_mask.sum().item() == 0
    assert pair[1].weight_mask.sum().item() == 6
    assert prune.is_pruned(pair)


def test_random_ones_take_as_many_as_they_are_told():
    dg.manual_seed(0)
    assert prune.random_unstructured(layer(), "weight", 4).weight_mask.sum().item() == 2
    mask = prune.random_structured(layer(), "weight", 1, 1).weight_mask.numpy()
    assert sorted(mask.sum(0).tolist()) == [0, 2, 2]


@pytest.mark.parametrize("amount", [7, -1, 1.5, -0.1])
def test_amounts_outside_are_errors(amount):
    with pytest.raises(OptionError, match="amount must be"):
        prune.l1_unstructured(layer(), "weight", amount)


def test_scores_of_another_shape_and_structured_ones_of_several_are_errors():
    with pytest.raises(OptionError, match="importance_scores"):
        prune.l1_unstructured(layer(), "weight", 1, importance_scores=dg.ones((2,)))
    with pytest.raises(OptionError, match="unstructured"):
        prune.global_unstructured([(layer(), "weight")], prune.LnStructured, amount=1, n=2)
