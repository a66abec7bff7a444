"""Collectives on tensors: their values, their gradients, and layers that are split over ranks."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.comm import ThreadWorld
from distgrad.errors import CommError
from distgrad.nn import functional as F
from distgrad.parallel import functional as across

SIZES = [1, 2, 3, 5]


def numbers(rank: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([rank, *shape]).standard_normal(shape)


#: Function of the rank's tensor, and the same of all ranks' stacked, ``[size, ...]``, in one process.
CASES = {
    "all_reduce": (lambda x, comm: across.all_reduce(x, comm=comm), lambda xs, r: dg.sum(xs, axis=0)),
    "mean": (lambda x, comm: across.all_reduce(x, "mean", comm), lambda xs, r: dg.mean(xs, axis=0)),
    "all_gather": (across.all_gather, lambda xs, r: xs),
    "reduce_scatter": (
        lambda x, comm: across.reduce_scatter(x, comm=comm),
        lambda xs, r: dg.sum(xs, axis=0)[r],
    ),
    "mean of parts": (
        lambda x, comm: across.reduce_scatter(x, "mean", comm),
        lambda xs, r: dg.mean(xs, axis=0)[r],
    ),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_one_process(name, size):
    split, whole = CASES[name]
    stacked = dg.tensor(np.stack([numbers(rank, size, 3) for rank in range(size)]), requires_grad=True)
    results = [whole(stacked, rank) for rank in range(size)]
    weights = [numbers(100 + rank, *results[rank].shape) for rank in range(size)]
    sum((result * dg.tensor(w)).sum() for result, w in zip(results, weights, strict=True)).backward()

    def rank_program(comm):
        x = dg.tensor(numbers(comm.rank, size, 3), requires_grad=True)
        y = split(x, comm)
        (y * dg.tensor(weights[comm.rank])).sum().backward()
        return y.detach().numpy(), x.grad.numpy()

    for rank, (y, gradient) in enumerate(ThreadWorld(size).run(rank_program)):
        np.testing.assert_allclose(y, results[rank].detach().numpy(), rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(gradient, stacked.grad.numpy()[rank], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("size", SIZES)
def test_layers_split_by_columns_and_rows_equal_the_whole(size):
    """The first layer's outputs and the second's inputs are dealt out: one sum forward, one backward."""
    hidden = 4 * size
    first, second, x = numbers(1, hidden, 6), numbers(2, 3, hidden), numbers(3, 5, 6)
    whole = [dg.tensor(array, requires_grad=True) for array in (first, second, x)]
    (F.linear(dg.tanh(F.linear(whole[2], whole[0])), whole[1]) ** 2).sum().backward()

    def rank_program(comm):
        mine = slice(4 * comm.rank, 4 * comm.rank + 4)
        parts = [dg.tensor(array, requires_grad=True) for array in (first[mine], second[:, mine], x)]
        y = across.all_reduce(F.linear(dg.tanh(F.linear(parts[2], parts[0])), parts[1]), comm=comm)
        ((y**2).sum() / comm.size).backward()  # every rank has the same loss
        comm.all_reduce(total := parts[2].grad.numpy().copy())  # x is the same on all
        return parts[0].grad.numpy(), parts[1].grad.numpy(), total, mine

    for first_grad, second_grad, x_grad, mine in ThreadWorld(size).run(rank_program):
        np.testing.assert_allclose(first_grad, whole[0].grad.numpy()[mine], rtol=1e-10)
        np.testing.assert_allclose(second_grad, whole[1].grad.numpy()[:, mine], rtol=1e-10)
        np.testing.assert_allclose(x_grad, whole[2].grad.numpy(), rtol=1e-10)


def test_gradients_can_be_differentiated_again():
    def rank_program(comm):
        x = dg.tensor(numbers(comm.rank, 3), requires_grad=True)
        y = (across.all_reduce(x, comm=comm) ** 3).sum()
        (g,) = dg.autograd.grad(y, x, create_graph=True)
        (h,) = dg.autograd.grad(g.sum(), x)
        return h.numpy()

    total = numbers(0, 3) + numbers(1, 3)
    for found in ThreadWorld(2).run(rank_program):  # d/dx of 2 * 3 t^2, on both ranks
        np.testing.assert_allclose(found, 2 * 2 * 6 * total, rtol=1e-10)


@pytest.mark.ranks(3)
def test_over_mpi():
    comm = dg.comm.init()
    x = dg.tensor(np.full((3, 2), comm.rank + 1.0, np.float32), requires_grad=True)
    y = across.reduce_scatter(x)
    assert y.tolist() == [6.0, 6.0]
    (across.all_gather(y) * (comm.rank + 1)).sum().backward()
    assert x.grad.tolist() == [[6.0, 6.0]] * 3


def test_other_reductions_have_no_gradient():
    for function in (across.all_reduce, across.reduce_scatter):
        with pytest.raises(CommError, match="op must be sum or mean, got 'max'"):
            function(dg.ones((1, 2)), "max")
