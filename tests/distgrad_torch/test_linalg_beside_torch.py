"""Options of ``torch.linalg`` beside PyTorch's own: one expression, evaluated by both."""

import numpy as np
import pytest

import distgrad.torch as ours

real = pytest.importorskip("torch", reason="results are compared with PyTorch's")

DIAGONALS = "torch.diag_embed(torch.tensor([[4.0, 1.0, 0.1], [1e-3, 1e-4, 0.0], [0.0, 0.0, 0.0]]))"
LOPSIDED = "torch.tensor([[2.0, 99.0], [0.5, 3.0]])"
MIXED = "torch.tensor([[[1.0, 2.0], [2.0, 4.0]], [[2.0, 0.5], [0.5, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])"


def both(text):
    return [eval(text, {"torch": torch}) for torch in (ours, real)]


@pytest.mark.parametrize(
    "options",
    [
        "atol=0.5",
        "atol=0.0",
        "atol=1e-5, rtol=0.5",
        "atol=0.5, rtol=1e-5",
        "rtol=0.5",
        "hermitian=True",
        "atol=0.5, hermitian=True",
        "atol=torch.tensor([0.5, 1e-5, 1.0])",
        "atol=torch.tensor([0.5, 1e-5, 1.0]), rtol=torch.tensor([0.5, 0.5, 0.5])",
    ],
)
def test_the_tolerances_of_a_rank_are_pytorchs(options):
    first, second = both(f"torch.linalg.matrix_rank({DIAGONALS}, {options})")
    assert first.tolist() == second.tolist()
    first, second = both(f"torch.linalg.pinv({DIAGONALS}, {options})")
    np.testing.assert_allclose(first.numpy(), second.numpy(), rtol=1e-4)


@pytest.mark.parametrize("call", ["linalg.matrix_rank({}, hermitian=True)", "linalg.cholesky({})"])
@pytest.mark.parametrize("matrix", [LOPSIDED, f"({LOPSIDED}.T * torch.tensor([[1.0, 0.1], [0.0, 1.0]]))"])
def test_of_a_hermitian_matrix_one_triangle_counts(call, matrix):
    first, second = both("torch." + call.format(matrix))
    np.testing.assert_allclose(first.numpy(), second.numpy(), rtol=1e-5)
    first, second = both(f"torch.linalg.cholesky(({matrix}).T, upper=True)")
    np.testing.assert_allclose(first.numpy(), second.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (f"linalg.inv_ex({MIXED}", ("inverse", "info")),
        (f"linalg.inv_ex({MIXED}[0]", ("inverse", "info")),
        (f"linalg.inv_ex({MIXED}[1]", ("inverse", "info")),
        (f"linalg.solve_ex({MIXED}, torch.ones(3, 2)", ("result", "info")),
        (f"linalg.solve_ex({MIXED}, torch.ones(4, 3, 2, 5)", ("result", "info")),
        (f"linalg.solve_ex({MIXED}, torch.ones(3, 5, 2), left=False", ("result", "info")),
        (f"linalg.cholesky_ex({MIXED} - 0.1", ("L", "info")),
        (f"linalg.cholesky_ex({MIXED}, upper=True", ("L", "info")),
        (f"linalg.lu_factor_ex({MIXED}", ("LU", "pivots", "info")),
    ],
)  # fmt: skip
def test_a_failure_is_told_beside_the_result(call, names):
    first, second = both(f"torch.{call})")
    assert first._fields == names
    assert first.info.tolist() == second.info.tolist()
    assert str(first.info.dtype) == str(second.info.dtype).removeprefix("torch.") == "int32"
    assert first[0].shape == second[0].shape
    failed = np.asarray(second.info.numpy() != 0)
    shown, expected = first[0].numpy(), second[0].numpy()
    spread = np.broadcast_to(failed.reshape(*failed.shape, *(1,) * tail(call)), shown.shape)
    np.testing.assert_allclose(shown[~spread], expected[~spread], rtol=1e-5)
    if "lu_factor" not in call:
        assert np.isnan(shown[spread]).all()
    if failed.any():
        for torch in (ours, real):
            with pytest.raises((np.linalg.LinAlgError, RuntimeError)):
                eval(f"torch.{call}, check_errors=True)", {"torch": torch})


def tail(call):
    return 1 if "torch.ones(3, 2)" in call else 2


def test_gradients_pass_by_the_matrices_that_fail():
    x = ours.tensor([[[1.0, 2.0], [2.0, 4.0]], [[2.0, 0.5], [0.5, 1.0]]], requires_grad=True)
    ours.linalg.inv_ex(x).inverse[1].sum().backward()
    y = real.tensor([[2.0, 0.5], [0.5, 1.0]], requires_grad=True)
    real.linalg.inv(y).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [np.zeros((2, 2)), y.grad.numpy()], rtol=1e-5)
