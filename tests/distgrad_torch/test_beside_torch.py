"""distgrad.torch beside PyTorch itself in one process: a tensor of the one given to the other is an error."""

import numpy as np
import pytest
from distgrad.torch.nn import functional as F

import distgrad.torch as torch
from distgrad.torch import nn

real = pytest.importorskip("torch")

OURS, THEIRS = torch.ones(2, 3), real.ones(2, 3)

GIVEN_THEIRS = {
    "a function": lambda: torch.add(OURS, THEIRS),
    "an operator": lambda: OURS + THEIRS,
    "an operator's other side": lambda: THEIRS * OURS,
    "matmul": lambda: OURS @ THEIRS.T,
    "a comparison": lambda: OURS == THEIRS,
    "an operator in place": lambda: OURS.clone().__iadd__(THEIRS),
    "a reduction": lambda: torch.sum(THEIRS),
    "values and places": lambda: torch.max(THEIRS, 1),
    "a condition": lambda: torch.where(THEIRS > 0, OURS, OURS),
    "a list": lambda: torch.stack([OURS, THEIRS]),
    "a norm": lambda: torch.linalg.norm(THEIRS),
    "a method in place": lambda: OURS.clone().copy_(THEIRS),
    "an activation": lambda: F.relu(THEIRS),
    "a module": lambda: nn.Linear(3, 2)(THEIRS),
    "a loss": lambda: F.mse_loss(OURS, THEIRS),
}
GIVEN_OURS = {
    "a function": lambda: real.add(THEIRS, OURS),
    "a list": lambda: real.cat([THEIRS, OURS]),
    "a module": lambda: real.nn.Linear(3, 2)(OURS),
    "a loss": lambda: real.nn.functional.mse_loss(THEIRS, OURS),
}


@pytest.mark.parametrize("call", GIVEN_THEIRS.values(), ids=GIVEN_THEIRS)
def test_pytorchs_tensor_given_to_ours_names_the_way(call):
    with pytest.raises(TypeError, match=r"got torch.Tensor; convert with \S*from_dlpack"):
        call()


@pytest.mark.parametrize("call", GIVEN_OURS.values(), ids=GIVEN_OURS)
def test_our_tensor_given_to_pytorch_names_the_way(call):
    with pytest.raises(TypeError, match=r"got a tensor of distgrad's .*; convert with torch.from_dlpack"):
        call()


def test_the_ways_that_are_named_exist():
    assert real.from_dlpack(OURS).tolist() == torch.from_dlpack(THEIRS).tolist() == np.ones((2, 3)).tolist()
    assert real.from_numpy(OURS.numpy()).tolist() == torch.from_numpy(THEIRS.numpy()).tolist()
    assert type(real.from_dlpack(OURS)) is real.Tensor


def test_both_compute_and_differentiate_side_by_side():
    x, y = torch.ones(2, requires_grad=True), real.ones(2, requires_grad=True)
    (x * 3).sum().backward()
    (y * 3).sum().backward()
    assert x.grad.tolist() == y.grad.tolist() == [3, 3]
    assert real.nn.Module is not nn.Module


def test_an_attribute_error_of_ours_stays_one():
    with pytest.raises(AttributeError, match="absent"):
        OURS.absent()


def test_ctc_loss_has_pytorchs_gradient_of_unnormalised_scores_too():
    rng = np.random.default_rng(0)
    scores, targets = rng.standard_normal((7, 3, 5)), rng.integers(1, 5, (3, 2))
    found = []
    for package in (torch, real):
        x = package.tensor(scores, requires_grad=True)
        lengths = [package.tensor([7, 5, 6]), package.tensor([2, 1, 2])]
        layer = package.nn.CTCLoss(reduction="sum")
        layer(x, package.tensor(targets), *lengths).backward()
        loss = package.nn.functional.ctc_loss(x, package.tensor(targets), (7, 5, 6), (2, 1, 2))
        (gradient,) = package.autograd.grad(loss, x)
        found.append((x.grad.numpy(), loss.item(), gradient.numpy()))
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_function_with_the_name_of_its_submodule_is_both():
    layer = torch.nn.utils.weight_norm(torch.nn.Linear(2, 3))
    assert [each.ndim for each in layer.parameters()] == [1, 2, 2]
    assert torch.nn.utils.weight_norm.weight_norm is not torch.nn.utils.weight_norm
    with pytest.raises(TypeError, match=r"torch\.nn\.parameter is a module"):
        torch.nn.parameter()
