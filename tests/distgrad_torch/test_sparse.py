"""``torch.sparse`` over dense tensors."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.torch as torch

pytestmark = pytest.mark.filterwarnings("ignore:sparse tensors are kept dense")

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
