"""``torch.sparse``: products over the places alone, everything else dense."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import distgrad as dg
import distgrad.torch as torch
from distgrad.errors import ShapeError

pytestmark = pytest.mark.filterwarnings("ignore:a sparse tensor was made dense")

PLACES = np.array([[0, 1, 1, 1], [2, 0, 2, 2]])


def test_a_sparse_tensor_is_dense_adds_what_comes_twice_and_has_a_gradient():
    values = torch.tensor([3.0, 4.0, 5.0, 6.0], requires_grad=True)
    x = torch.sparse_coo_tensor(torch.from_numpy(PLACES), values, (2, 3))
    assert x.to_dense().tolist() == [[0.0, 0.0, 3.0], [4.0, 0.0, 11.0]]
    (x * torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).sum().backward()
    assert values.grad.tolist() == [3.0, 4.0, 6.0, 6.0]
    assert torch.sparse.FloatTensor(torch.from_numpy(PLACES), values.detach(), torch.Size((2, 3))).shape == (
        2,
        3,
    )
    assert torch.sparse_coo_tensor(PLACES, [1.0, 1.0, 1.0, 1.0]).shape == (2, 3)


def test_products_and_the_softmax_of_what_is_not_zero():
    x = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    y = torch.ones(3, 2)
    for product in (torch.sparse.mm(x.to_sparse(), y), torch.spmm(x, y)):
        assert product.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert torch.sparse.addmm(y[:2], x, y, beta=2.0).tolist() == [[5.0, 5.0], [5.0, 5.0]]
    shares = torch.sparse.softmax(x, 1).numpy()
    np.testing.assert_allclose(shares[0, 1:], np.exp([1.0, 2.0]) / np.exp([1.0, 2.0]).sum(), rtol=1e-6)
    assert shares[0, 0] == shares[1, 1] == 0.0
    np.testing.assert_allclose(
        torch.sparse.log_softmax(x, 1).numpy()[0, 1:], np.log(shares[0, 1:]), rtol=1e-6
    )
    rows = torch.sparse_csr_tensor(
        torch.tensor([0, 2, 3]), torch.tensor([1, 2, 0]), torch.tensor([1.0, 2.0, 3.0])
    )
    assert rows.tolist() == x.tolist()
    assert torch.sparse.sum(x).item() == 6.0


def graph(rows=7, columns=5, count=12):
    rng = np.random.default_rng(0)
    places = np.stack([rng.integers(1, rows, count), rng.integers(0, columns, count)])
    return torch.sparse_coo_tensor(places, rng.standard_normal(count), (rows, columns))  # row 0 is empty


@pytest.mark.parametrize(
    "multiply", [torch.mm, torch.matmul, torch.spmm, torch.sparse.mm, lambda a, b: a @ b]
)
def test_a_sparse_product_and_its_gradients_are_the_dense_ones(multiply):
    sparse, x = graph(), torch.randn(5, 3, dtype=torch.float64)
    dense = sparse.to_dense()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is made dense
        assert sparse.is_sparse
        assert sparse._nnz() == sparse.values().shape[0] == sparse.indices().shape[1] <= 12
        assert dg.autograd.gradcheck(lambda x: multiply(sparse, x), (x.clone().requires_grad_(),))
        assert dg.autograd.gradgradcheck(lambda x: multiply(sparse, x) ** 3, (x.clone().requires_grad_(),))
        y, z = multiply(sparse, x), multiply(sparse.t(), torch.ones(7, 2, dtype=torch.float64))
        assert sparse.to(torch.float32).coalesce().transpose(0, 1).T.dtype == torch.float32
    np.testing.assert_allclose(y.numpy(), (dense @ x).numpy(), atol=1e-14)
    np.testing.assert_allclose(z.numpy(), (dense.T @ np.ones((7, 2))).numpy(), atol=1e-14)
    np.testing.assert_allclose((sparse @ x[:, 0]).numpy(), y.numpy()[:, 0], atol=1e-14)
    np.testing.assert_allclose((sparse @ sparse.t()).numpy(), (dense @ dense.T).numpy(), atol=1e-14)


def test_to_sparse_keeps_the_places_of_a_constant_matrix_and_products_from_both_sides_use_them():
    dense = graph().to_dense()
    sparse = dense.to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is made dense
        assert sparse.is_sparse
        assert not dense.is_sparse
        assert sparse.to_sparse() is sparse
        assert sparse.indices().tolist() == np.stack(np.nonzero(dense.numpy())).tolist()
        assert sparse.coalesce().values().tolist() == dense.numpy()[np.nonzero(dense.numpy())].tolist()
        for x in (torch.randn(3, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)):
            for product in (x @ sparse, torch.mm(x, sparse) if x.ndim == 2 else torch.matmul(x, sparse)):
                np.testing.assert_allclose(product.numpy(), (x @ dense).numpy(), atol=1e-14)
            assert dg.autograd.gradcheck(lambda x: x @ sparse, (x.requires_grad_(),))
        diagonal = torch.diag(torch.ones(7, dtype=torch.float64)).to_sparse()
        assert (diagonal @ dense).tolist() == dense.tolist()
        for again in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
            assert again.values().tolist() == sparse.values().tolist()
    assert dense.requires_grad_().to_sparse() is dense  # its gradient is dense
    assert torch.ones(2, 2, 2).to_sparse().shape == (2, 2, 2)


def test_what_a_sparse_tensor_lacks_is_done_with_the_dense_one_and_wrong_shapes_are_errors():
    sparse = graph()
    assert (sparse + 1).tolist() == (sparse.to_dense() + 1).tolist()
    assert graph(count=0).to_dense().tolist() == np.zeros((7, 5)).tolist()
    assert (graph(count=0) @ torch.ones(5, 2)).tolist() == np.zeros((7, 2)).tolist()
    with pytest.raises(ShapeError, match=r"\[7, 5\] times \[7, 2\]"):
        sparse @ torch.ones(7, 2)
    with pytest.raises(IndexError, match="axis 1 must be from 0 to 2"):
        torch.sparse_coo_tensor([[0, 0], [1, 3]], [1.0, 2.0], (2, 3))


def test_a_gpu_can_be_named_where_there_is_none():
    assert torch.device("cuda").type == "cuda"
    assert isinstance(torch.device("cuda"), dg.Device)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([2**40 + 1, 3], None, "int64"),
        (np.array([1e-300, 3.0]), None, "float64"),
        (np.array([2.0, 3.0], np.float32), None, "float32"),
        ([2.5, 3.5], None, "float32"),
        ([0.1, 3.0], "float64", "float64"),
    ],
)
def test_values_keep_their_dtype(values, dtype, expected):
    x = torch.sparse_coo_tensor([[0, 1], [1, 0]], values, (2, 2), dtype=dtype)
    assert str(x.dtype) == expected
    assert [x[0, 1].item(), x[1, 0].item()] == list(values)


@pytest.mark.parametrize("name", ["Float", "Double", "Half", "Long", "Int", "Short", "Char", "Byte"])
def test_tensors_of_old_have_the_dtype_in_their_name(name):
    x = getattr(torch.sparse, f"{name}Tensor")(torch.tensor([[0, 1], [1, 0]]), torch.tensor([2, 3]), (2, 2))
    assert x.dtype == getattr(torch, f"{name}Tensor")(1).dtype
    assert x.to_dense().tolist() == [[0, 2], [3, 0]]
