"""Every name of the tables leads somewhere, and means what PyTorch's means."""

import importlib
import subprocess
import sys
import time

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.casting import set_weak_scalars
from distgrad.autograd.naming import LINES, find, find_method, method_names
from distgrad.errors import AxisError, ShapeError
from distgrad.names.functions import FUNCTIONS
from distgrad.names.rooms import ALIASES, PLACES


@pytest.fixture(autouse=True, scope="module")
def torch():
    """The package, while scalars are weak; they are not in other tests."""
    module = importlib.import_module("distgrad.torch")
    set_weak_scalars(True)
    yield module
    set_weak_scalars(False)


X = [[1.0, 5.0, 2.0], [4.0, 3.0, 6.0]]


def test_every_line_is_a_function():
    assert [name for name in LINES if find(name) is None] == []
    assert [name for name in method_names() if find_method(name) is None] == []


def test_every_submodule_opens_and_lists_names_that_are_there(torch):
    for name in PLACES:
        module = importlib.import_module(f"distgrad.torch.{name}")
        for each in dir(module):
            assert getattr(module, each, None) is not None or each or each.startswith("__"), each
    for room, names in ALIASES.items():
        for each in names:
            if find(names[each]) is not None:
                assert callable(getattr(getattr(torch, room), each))
    assert all(callable(getattr(torch, name)) for name in FUNCTIONS.split() if find(name) is not None)


def test_methods_mean_what_pytorch_s_mean(torch):
    x = torch.tensor(X)
    values, places = x.max(1)
    assert (values.tolist(), places.tolist()) == ([5.0, 6.0], [1, 2])
    assert (
        x.min(dim=1, keepdim=True).indices.tolist()
        == x.min(axis=1, keepdims=True).indices.tolist()
        == [[0], [1]]
    )
    assert x.median().item() == 3.0
    np.testing.assert_allclose(x.std().item(), np.std(X, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(x.var(0, unbiased=False).numpy(), np.var(X, axis=0), rtol=1e-6)
    assert x.repeat(2, 1).shape == (4, 3)
    assert x.nonzero().shape == (6, 2)
    assert x.squeeze(1).shape == (2, 3)
    assert x.sort(1).indices.tolist() == [[0, 2, 1], [1, 0, 2]]
    assert x.equal(x.clone()) is True
    assert x.transpose(0, 1).shape == x.t().shape == (3, 2)
    assert x.expand(4, -1, -1).shape == (4, 2, 3)
    assert x.new_zeros(2, 2).shape == x.new_ones((2, 2)).shape == (2, 2)
    assert x.type() == "torch.FloatTensor"
    assert x.type(torch.LongTensor).dtype == torch.int64
    assert x.narrow(1, 1, 2).tolist() == [[5.0, 2.0], [3.0, 6.0]]
    assert x.is_contiguous()
    assert not x.t().is_contiguous()


def test_methods_in_place_write_into_the_tensor(torch):
    x = torch.tensor(X)
    y = x.add_(1).mul_(2).clamp_(max=10.0)
    assert y is x
    assert x.tolist() == [[4.0, 10.0, 6.0], [10.0, 8.0, 10.0]]
    assert (x.normal_(2.0, 0.0) == 2.0).all()
    with pytest.raises(dg.GraphError, match="leaf"):
        torch.ones(2, requires_grad=True).add_(1)


def test_functions_of_dg_are_still_the_standard_s():
    x = dg.asarray(X)
    assert dg.max(x, axis=1).tolist() == [5.0, 6.0]
    np.testing.assert_allclose(dg.std(x).item(), np.std(X), rtol=1e-6)
    assert dg.repeat(x, 2).shape == (12,)
    assert dg.equal(x, x).shape == (2, 3)
    assert len(dg.nonzero(x)) == 2


def test_kinds_that_meet(torch):
    counts, x = torch.arange(3), torch.ones(3)
    mixed = [counts * x, counts / 2, counts * 2.5, x * np.sqrt(2.0), counts.sqrt(), torch.sigmoid(counts)]
    assert {y.dtype.name for y in mixed} == {"float32"}
    assert (torch.tensor(2.0, dtype=torch.float64) * x).dtype == torch.float32
    assert (torch.tensor(2) * torch.arange(3, dtype=torch.int32)).dtype == torch.int32
    assert (torch.tensor(2.0, dtype=torch.float64) * counts).dtype == torch.float64
    set_weak_scalars(False)
    assert (dg.tensor(2.0, dtype=dg.float64) * dg.ones(3)).dtype == dg.float64
    set_weak_scalars(True)


def test_creation_takes_several_lengths_and_out(torch):
    assert torch.zeros(2, 3).shape == torch.zeros((2, 3)).shape == torch.zeros(size=(2, 3)).shape == (2, 3)
    out = torch.empty(0)
    assert torch.add(torch.ones(2), 1, out=out) is out
    assert out.tolist() == [2.0, 2.0]
    assert (
        torch.randint(5, (2,)).shape == torch.randint(0, 5, (2,)).shape == torch.randint(5, size=(2,)).shape
    )
    assert torch.Tensor is dg.Tensor or torch.Tensor([1, 2]).dtype == torch.float32
    assert torch.FloatTensor(2, 3).shape == (2, 3)
    assert torch.LongTensor([1, 2]).tolist() == [1, 2]
    assert isinstance(torch.ones(1), torch.FloatTensor)
    assert isinstance(torch.ones(1).device, torch.device)
    assert torch.device("cpu", 0) == torch.device("cpu")
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.zeros(1).dtype == torch.tensor(1.0).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_errors_name_what_is_wrong(torch):
    x = torch.tensor(X)
    with pytest.raises(TypeError, match="sum: unexpected keyword 'depth'"):
        x.sum(depth=1)
    with pytest.raises(TypeError, match=r"gather: missing argument 'dim'"):
        torch.gather(x)
    with pytest.raises(AxisError, match="transpose: axis 2"):
        x.transpose(0, 2)
    with pytest.raises(ShapeError, match="what NumPy calls repeat is repeat_interleave"):
        x.repeat(2)
    with pytest.raises(AttributeError, match=r"distgrad has no torch\.no_such_name"):
        _ = torch.no_such_name
    with pytest.raises(AttributeError, match=r"distgrad has no torch.nn.no_such_layer"):
        _ = torch.nn.no_such_layer


def test_a_call_costs_at_most_a_third_of_a_microsecond_more():
    code = """
import time, distgrad as dg, distgrad.torch as torch
from distgrad.autograd.casting import set_weak_scalars
set_weak_scalars(False)
x = dg.ones(8)
def cost(f, n=20000):
    start = time.process_time()
    for _ in range(n):
        f(x, x)
    return (time.process_time() - start) / n * 1e6
ours, theirs = torch.mul, dg.multiply
print(min(cost(ours) - cost(theirs) for _ in range(15)))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert float(found.stdout) < 0.3


def _entered(call):
    """How many Python functions a call enters."""
    entered = []
    sys.setprofile(lambda frame, event, argument: entered.append(frame) if event == "call" else None)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len(entered)


def test_a_name_enters_one_function_more_than_the_operation(torch):
    x, y = dg.ones((4, 4)), dg.ones((4, 4))
    mask = x > 0
    pairs = [
        (lambda: torch.maximum(x, y), lambda: dg.maximum(x, y)),
        (lambda: torch.softmax(x, -1), lambda: dg.softmax(x, axis=-1)),
        (lambda: x.log_softmax(dim=-1), lambda: dg.log_softmax(x, axis=-1)),
        (lambda: torch.where(mask, x, y), lambda: dg.where(mask, x, y)),
        (lambda: x.sum(1), lambda: dg.sum(x, axis=1)),
        (x.mean, lambda: dg.mean(x)),
        (lambda: x.view(2, 8), lambda: dg.reshape(x, (2, 8))),
        (lambda: x.argmax(1), lambda: dg.argmax(x, axis=1)),
    ]
    for named, own in pairs:
        named(), own()  # made when first called
        assert _entered(named) <= _entered(own) + 1 + (named is pairs[3][0])  # the mask's dtype is asked for


def test_arrays_and_numbers_are_operands_and_lists_are_not(torch):
    assert torch.softmax(np.zeros(2), 0).tolist() == [0.5, 0.5]
    assert torch.sort(np.float64(2.0), 0).values.item() == torch.cumsum(2.0, 0).item() == 2.0
    for name in ("softmax", "sum", "sort", "exp"):
        with pytest.raises(dg.errors.DTypeError, match="must be a Tensor"):
            getattr(torch, name)([1.0, 2.0], *((0,) if name == "softmax" else ()))


def test_importing_it_is_quick():
    start = time.perf_counter()
    code = "import distgrad.torch, sys; print([m for m in ('cupy', 'mpi4py', 'numba') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
    assert time.perf_counter() - start < 20


def test_the_type_of_tensors_makes_them_of_numbers_and_lengths(torch):
    assert torch.Tensor([1, 2]).dtype == torch.Tensor(np.array([1.5])).dtype == torch.float32
    assert (torch.Tensor(2, 3).shape, torch.Tensor().shape) == ((2, 3), (0,))
    x = torch.ones(2)
    assert isinstance(x, torch.Tensor)
    assert type(x) == torch.Tensor  # noqa: E721 (as programs ask)
    assert type(x) in (torch.Tensor,)
    assert not isinstance(x, torch.LongTensor)
    assert issubclass(torch.nn.Parameter, torch.Tensor)
    assert torch.Tensor.add(x, x).tolist() == [2.0, 2.0]

    class Mine(torch.Tensor):
        """A subclass in a program."""

    assert issubclass(Mine, torch.Tensor)
    assert Mine(np.ones(2)).sum().item() == 2.0


def test_types_of_tensors_on_gpus_can_be_named_without_one(torch):
    assert (torch.FloatTensor.is_cuda, torch.cuda.FloatTensor.is_cuda) == (False, True)
    assert torch.cuda.LongTensor.dtype == torch.int64
    x = torch.ones(2)
    assert isinstance(x, torch.FloatTensor)
    assert not isinstance(x, torch.cuda.FloatTensor)
    assert torch.BFloat16Tensor(2).dtype == torch.bfloat16
    assert x.type("torch.LongTensor").tolist() == x.type(torch.LongTensor).tolist() == [1, 1]
    if not torch.cuda.is_available():
        for call in (lambda: torch.cuda.FloatTensor(2), lambda: x.type("torch.cuda.FloatTensor")):
            with pytest.raises(dg.errors.DeviceError):
                call()


def test_a_summary_writer_takes_tensors_and_says_what_it_needs(torch, tmp_path, monkeypatch):
    writers = importlib.import_module("distgrad.torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(dg.errors.MissingDependencyError, match="pip install tensorboardX"):
        writers.SummaryWriter(tmp_path)
    monkeypatch.undo()
    pytest.importorskip("tensorboardX", reason="summaries need tensorboardX")
    with writers.SummaryWriter(log_dir=tmp_path) as writer:
        writer.add_scalar("loss", torch.tensor(0.5), 1)
        writer.add_histogram("weights", torch.ones(3), 1)
    assert any(path.name.startswith("events") for path in tmp_path.iterdir())


def test_windows_of_signals_are_scipys(torch):
    windows = pytest.importorskip("scipy.signal.windows", reason="windows are compared with SciPy's")
    ours = importlib.import_module("distgrad.torch.signal.windows")
    given = {"kaiser": (9.0,), "gaussian": (1.5,), "general_hamming": (0.6,), "general_cosine": ([0.4, 0.3],)}
    for name in ("hann", "hamming", "blackman", "bartlett", "cosine", *given):
        for sym in (True, False):
            found = getattr(ours, name)(9, *given.get(name, ()), sym=sym, dtype=torch.float64).numpy()
            expected = getattr(windows, name)(9, *given.get(name, ()), sym=sym)
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"{name} {sym}")
    np.testing.assert_allclose(torch.hann_window(8).numpy(), windows.hann(8, sym=False), atol=1e-6)
    np.testing.assert_allclose(torch.hamming_window(8, False).numpy(), windows.hamming(8), atol=1e-6)
    assert torch.broadcast_shapes((3, 1), 4, (1, 4)) == (3, 4)
