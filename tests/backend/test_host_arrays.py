"""What records a computation has its own arrays taken as NumPy's, and its own memory used by the kernels."""

import ast
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import memory
from distgrad.backend.array_module import ARRAY_MODULES, HOST_ARRAYS, register_host_array
from distgrad.backend.kernels import support
from distgrad.nn import functional as F

KERNELS = Path(support.__file__).parent
#: They allocate by themselves: an update's direction, and what ranks share.
APART = {"rules.py", "shared.py", "workers.py"}  # the last: what threads tell each other


class Recorded(np.ndarray):
    """A recorder's array: whatever NumPy makes of it is one too."""


@pytest.fixture
def recorded():
    register_host_array(Recorded)
    yield
    HOST_ARRAYS.discard(Recorded)
    del ARRAY_MODULES[Recorded]


def train(kind):
    """Loss, and the gradients of a network of most layers that have kernels, from arrays of a class."""
    dg.manual_seed(0)
    nn = dg.nn
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2), nn.GroupNorm(2, 8)),
        *(nn.Flatten(2), nn.LayerNorm(16), nn.Dropout(0.5), nn.TransformerEncoderLayer(16, 2, 32)),
        *(nn.Flatten(), nn.Linear(128, 5)),
    )
    for p in model.parameters():
        p._data = p._data.view(kind)
    x = dg.asarray(np.random.default_rng(0).random((4, 3, 8, 8), np.float32)).detach()
    x._data = x._data.view(kind)
    loss = F.cross_entropy(model(x), dg.asarray([0, 4, 2, 1]))
    loss.backward()
    return loss, [p.grad for p in model.parameters()]


def test_arrays_of_a_registered_class_are_computed_on_as_numpys(recorded):
    loss, gradients = train(np.ndarray)
    found, others = train(Recorded)
    assert isinstance(found._data, Recorded)
    for a, b in zip([loss, *gradients], [found, *others], strict=True):
        np.testing.assert_array_equal(np.asarray(a._data), np.asarray(b._data))


def test_a_class_that_nobody_registered_is_no_host_array():
    x = np.ones(3, np.float32).view(Recorded)
    assert type(dg.exp(x)._data) is np.ndarray


def test_kernels_write_into_memory_from_one_place(monkeypatch):
    loss, gradients = train(np.ndarray)
    taken = []

    def empty(shape, dtype=np.float64):
        out = np.empty(shape, dtype)  # threads ask for it too
        out.view(np.uint8).fill(0xFF)  # NaN, which shows where it is read before it is written
        taken.append(out.shape)
        return out

    monkeypatch.setattr(memory.host_memory, "empty", empty)
    found, others = train(np.ndarray)
    assert len(taken) > 10
    for a, b in zip([loss, *gradients], [found, *others], strict=True):
        np.testing.assert_array_equal(a._data, b._data)


def allocations(source):
    """The lines on which functions that are not compiled ask NumPy for memory."""
    names = {f"np.{name}" for name in ("empty", "zeros", "ones", "full")}
    names |= {f"{name}_like" for name in names}

    def look(node, compiled):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call) and ast.unparse(child.func) in names and not compiled:
                yield child.lineno
            decorated = isinstance(child, ast.FunctionDef) and bool(child.decorator_list)
            yield from look(child, compiled or decorated)

    return list(look(ast.parse(source), False))


def test_no_kernel_asks_numpy_for_memory():
    files = sorted(path for path in KERNELS.glob("*.py") if path.name not in APART)
    assert len(files) > 15
    assert {path.name: lines for path in files if (lines := allocations(path.read_text()))} == {}
    planted = "def run(x):\n    return np.empty_like(x)\n\n@jit\ndef body(x):\n    return np.zeros(3)\n"
    assert allocations(planted) == [2]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_memory_like_an_arrays_has_its_axes_in_the_same_order(order):
    x = np.zeros((2, 3, 4), np.float32).transpose(order)
    mine = memory.host_memory.empty_like(x)
    assert (mine.shape, mine.strides, mine.dtype) == (x.shape, np.empty_like(x).strides, x.dtype)
    assert memory.host_memory.full((2, 3), 7, np.int64).tolist() == [[7] * 3] * 2
