"""The tensor's methods: what they do, and that their declarations for type checkers keep in step."""

import ast
import copy
import inspect
import math
import operator
import pickle
from pathlib import Path

import numpy as np
import pytest
from write_declarations import FILES, FOLDER, text

import distgrad as dg
from distgrad.autograd import declared, declared_in_place, declared_names
from distgrad.autograd.dispatch import operations
from distgrad.autograd.methods import METHODS
from distgrad.autograd.naming import Named
from distgrad.errors import DTypeError, GraphError, ShapeError


class Special(dg.Tensor):
    """A subclass whose instances carry attributes."""


# -- declarations


def declarations():
    """Parameter names of everything that the declarations hold; None for an attribute."""
    found = {}
    for file in (declared, declared_names, declared_in_place):
        tree = ast.parse(Path(file.__file__).read_text())
        (declaration,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for node in declaration.body:
            if isinstance(node, ast.AnnAssign):
                found[node.target.id] = None
            elif isinstance(node, ast.FunctionDef):
                args = node.args
                plain = [
                    *args.posonlyargs,
                    *args.args,
                    *filter(None, [args.vararg]),
                    *args.kwonlyargs,
                    *filter(None, [args.kwarg]),
                ]
                found[node.name] = [arg.arg for arg in plain if arg.arg != "words"][1:]
    return found


@pytest.mark.parametrize("file", FILES)
def test_the_declarations_are_those_of_the_table(file):
    assert (FOLDER / file).read_text() == text(file), "run python tests/write_declarations.py"


def test_every_method_is_declared_with_its_arguments():
    found = declarations()
    assert found.keys() == {*METHODS, "backward"}
    for name, method in METHODS.items():
        if isinstance(method, property):
            assert found[name] is None
        elif name != "__hash__" and not isinstance(method, Named):
            assert found[name] == list(inspect.signature(method).parameters)[1:], name


def test_every_declared_method_is_there():
    assert [name for name in declarations() if not hasattr(dg.Tensor, name)] == []


# -- operators

ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"]
BITS = ["and_", "or_", "xor", "lshift", "rshift"]
COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]


@pytest.mark.parametrize("name", [*ARITHMETIC, *BITS, *COMPARISONS])
def test_operators_with_arrays_and_numbers_on_either_side(name):
    function = getattr(operator, name)
    integer = name in BITS
    x = np.array([[3, 1], [2, 2]], dtype=np.int64 if integer else np.float32)
    y = np.array([[1, 2], [3, 1]], dtype=x.dtype)
    expected = function(x, y)
    for left, right in ((dg.asarray(x), dg.asarray(y)), (dg.asarray(x), y), (x, dg.asarray(y))):
        found = function(left, right)
        assert isinstance(found, dg.Tensor)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.numpy(), expected)
    if name != "matmul":
        for number in (2, np.int64(2)) if integer else (2, 2.0, np.float32(2)):
            for left, right in ((dg.asarray(x), number), (number, dg.asarray(x))):
                plain = [side.numpy() if isinstance(side, dg.Tensor) else side for side in (left, right)]
                found = function(left, right)
                assert isinstance(found, dg.Tensor)
                np.testing.assert_array_equal(found.numpy(), function(*plain))
                assert found.dtype == function(*plain).dtype


@pytest.mark.parametrize("name", [*ARITHMETIC[:-1], "iand", "ior", "ixor", "ilshift", "irshift"])
def test_operators_in_place(name):
    function = getattr(operator, name if name.startswith("i") else f"i{name}")
    dtype = np.int32 if name.startswith("i") else np.float32
    for other in (np.array([2, 1], dtype=dtype), 2):
        x = dg.asarray(np.array([6, 3], dtype=dtype))
        before, memory = x, x.numpy()
        expected = function(memory.copy(), other)
        x = function(x, dg.asarray(other) if isinstance(other, np.ndarray) else other)
        assert x is before
        assert x.dtype == dtype
        assert x.numpy() is memory
        np.testing.assert_array_equal(memory, expected)


def test_an_operator_in_place_keeps_dtype_and_shape():
    x = dg.arange(3)
    with pytest.raises(DTypeError, match="does not fit into int64"):
        x += 0.5
    with pytest.raises(ShapeError, match="does not fit into"):
        x += dg.ones((2, 3), dtype=dg.int64)
    assert x.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("function", "values"), [(operator.neg, [-1.0, 2.0]), (operator.pos, [1.0, -2.0]), (abs, [1.0, 2.0])]
)
def test_unary_operators(function, values):
    assert function(dg.asarray([1.0, -2.0])).tolist() == values
    assert (~dg.asarray([True, False])).tolist() == [False, True]


def test_an_operator_with_something_else_is_an_error():
    with pytest.raises(TypeError):
        dg.ones(2) + "a"
    with pytest.raises(TypeError):
        [1, 2] * dg.ones(2)


# -- conversion


def test_python_numbers():
    assert float(dg.tensor(1.5)) == 1.5
    assert int(dg.tensor([3.7])) == 3
    assert complex(dg.tensor(1 + 2j)) == 1 + 2j
    assert [10, 20, 30][dg.tensor(1)] == 20
    assert bool(dg.tensor(0.0)) is False
    assert f"{dg.tensor(1.23456):.2f}" == "1.23"
    assert dg.tensor([1, 2]).tolist() == [1, 2]
    assert dg.tensor(2.5).item() == 2.5
    for convert in (float, int, bool, complex):
        with pytest.raises(ShapeError):
            convert(dg.ones(2))
    with pytest.raises(DTypeError, match="only whole numbers"):
        operator.index(dg.tensor(1.0))
    with pytest.raises(TypeError):
        float(dg.tensor(1j))


def test_containers():
    x = dg.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2
    assert [row.tolist() for row in x] == [[1.0, 2.0], [3.0, 4.0]]
    assert 3.0 in x
    assert 5.0 not in x
    assert len({x, x}) == 1
    with pytest.raises(TypeError, match="no length"):
        len(dg.tensor(1.0))
    with pytest.raises(TypeError, match="no length"):
        iter(dg.tensor(1.0))
    rows = list(dg.ones((3, 2)).requires_grad_() * 1.0)
    assert len({row.grad_fn.edges[0] for row in rows}) == 1, "one operation, whose gradient is one stack"


def test_a_tensor_is_made_around_an_array():
    with pytest.raises(DTypeError, match=r"Tensor: expected an array, got list; use dg\.tensor"):
        dg.Tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (lambda: dg.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (lambda: dg.tensor([1, 2]), "tensor([1, 2])"),
        (lambda: dg.tensor(True), "tensor(True)"),
        (lambda: dg.tensor([1.0], dtype=dg.float64), "tensor([1.], dtype=float64)"),
        (lambda: dg.tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
        (lambda: dg.tensor([1.0], requires_grad=True) * 2, "tensor([2.], grad_fn=<multiply>)"),
        (lambda: dg.zeros((0, 3)), "tensor([], size=(0, 3))"),
        (lambda: dg.zeros((2, 2)), "tensor([[0., 0.],\n        [0., 0.]])"),
        (lambda: dg.tensor([1j]), "tensor([0.+1.j])"),
    ],
)
def test_repr(tensor, text):
    assert repr(tensor()) == text
    assert str(tensor()) == text


def test_methods_by_pytorchs_names():
    x = dg.arange(6, dtype=dg.float32).reshape(2, 3)
    assert (x.numel(), x.dim(), x.size, x.ndim) == (6, 2, 6, 2)
    assert x.view(3, 2).shape == x.reshape((3, 2)).shape == (3, 2)
    assert x.permute(1, 0).shape == x.T.shape == x.mT.shape == (3, 2)
    assert x.flatten().shape == (6,)
    assert (x.double().dtype, x.half().dtype, x.long().dtype) == (dg.float64, dg.float16, dg.int64)
    assert (x.int().dtype, x.bool().dtype, x.float().dtype) == (dg.int32, dg.bool, dg.float32)
    assert x.to(dg.float64).dtype == x.to("float64").dtype == dg.float64
    assert x.to("cpu") is x.cpu() is x.to_device("cpu") is x
    assert x.T.contiguous().numpy().flags.c_contiguous
    assert x.sum(0).tolist() == x.sum(axis=0).tolist() == [3.0, 5.0, 7.0]
    assert x.max(axis=1, keepdims=True).values.shape == (2, 1)
    assert x.argmax().item() == 5
    clone = x.clone()
    clone.zero_()
    clone.add_(1).mul_(3)
    assert clone.tolist() == [[3.0] * 3] * 2
    assert x[0, 0].item() == 0
    with pytest.raises(ShapeError, match="expected two axes"):
        _ = dg.ones((1, 2, 3)).T
    with pytest.raises(dg.DeviceError, match="cuda"):
        x.to("cuda:99")


# -- NumPy


def test_asarray_does_not_copy():
    x = dg.ones(3)
    assert np.asarray(x) is x.numpy()
    assert np.shares_memory(np.from_dlpack(x), x.numpy())
    assert np.array(x) is not x.numpy()
    assert np.asarray(x, dtype=np.int32).dtype == np.int32
    array = np.ones(3)
    assert np.shares_memory(dg.asarray(array).numpy(), array)
    assert np.shares_memory(dg.from_dlpack(array).numpy(), array)
    assert not np.shares_memory(dg.from_dlpack(array, copy=True).numpy(), array)
    assert not np.shares_memory(dg.asarray(array, copy=True).numpy(), array)
    assert not np.shares_memory(dg.tensor(array).numpy(), array)
    assert x.__dlpack_device__() == (1, 0)
    assert np.shares_memory(dg.from_dlpack(x, device="cpu", copy=False).numpy(), x.numpy())
    with pytest.raises(ValueError, match="copy=False"):
        dg.asarray([1.0], copy=False)
    with pytest.raises(ValueError, match="copy=False"):
        dg.asarray(array, dtype=dg.float32, copy=False)


def test_asarray_of_a_tensor_keeps_the_graph():
    x = dg.tensor([1.0, 2.0], requires_grad=True)
    assert dg.asarray(x) is x
    dg.asarray(x, dtype=dg.float64).sum().backward()
    dg.asarray(x, copy=True).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_numpy_functions_compute_arrays():
    x = dg.asarray([1.0, 4.0])
    for found in (
        np.sqrt(x),
        np.concatenate([x, x]),
        np.add(x, x),
        np.add.reduce(x),
        np.stack((x, np.ones(2))),
    ):
        assert not isinstance(found, dg.Tensor)
    assert np.mean(x) == 2.5
    array = np.ones(2)
    array += x
    assert type(array) is np.ndarray
    assert array.tolist() == [2.0, 5.0]
    with pytest.raises(TypeError):
        np.add(array, array, out=x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (np.sin, "dg.sin"),
        (np.arccos, "dg.acos"),
        (np.concatenate, "dg.concat"),
        (np.linalg.inv, "dg.linalg.inv"),
        (np.fft.fft, "dg.fft.fft"),
        (np.unwrap, "detach"),
    ],
)
def test_numpy_functions_refuse_what_needs_a_gradient(function, name):
    x = dg.ones((2, 2), requires_grad=True)
    with pytest.raises(GraphError, match=f"numpy.{function.__name__}: a tensor requires a gradient.*{name}"):
        function([x, x] if function is np.concatenate else x)
    with pytest.raises(GraphError, match="detach"):
        np.asarray(x)
    with pytest.raises(GraphError, match="detach"):
        x.__dlpack__()
    assert isinstance(np.ones((2, 2)) @ x, dg.Tensor)
    (np.ones((2, 2)) * x).sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0]] * 2


# -- copies and pickles


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_copies(copied, requires_grad):
    x = dg.tensor([1.0, 2.0], requires_grad=requires_grad)
    y = copied(x)
    assert type(y) is dg.Tensor
    assert (y.tolist(), y.dtype, y.requires_grad, y.is_leaf) == (x.tolist(), x.dtype, requires_grad, True)
    assert not np.shares_memory(y._data, x._data)


def test_pickles_keep_class_and_attributes():
    x = Special(np.ones(2), requires_grad=True)
    x.name = "weight"
    y = pickle.loads(pickle.dumps(x))
    assert (type(y), y.name, y.requires_grad) == (Special, "weight", True)


def test_a_deep_copy_has_the_gradient_too():
    x = dg.ones(2, requires_grad=True)
    x.sum().backward()
    y = copy.deepcopy(x)
    y.grad.zero_()
    assert x.grad.tolist() == [1.0, 1.0]


def test_what_has_a_graph_is_neither_copied_nor_pickled():
    y = dg.ones(2, requires_grad=True) * 2
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(GraphError, match="only leaves"):
            copied(y)


# -- indexing


def test_getitem_and_setitem():
    x = np.arange(12.0).reshape(3, 4)
    t = dg.asarray(x.copy())
    keys = [
        1,
        -1,
        (0, 2),
        slice(1, None),
        (..., 0),
        (None, 1),
        (slice(None), slice(None, None, -2)),
        np.array([2, 0]),
    ]
    keys += [x > 5, (slice(None), [1, 1]), dg.asarray([2, 0]), dg.asarray(x > 5), (dg.asarray(1), 2)]
    for key in keys:
        plain = (
            tuple(np.asarray(k) if isinstance(k, dg.Tensor) else k for k in key)
            if isinstance(key, tuple)
            else key
        )
        plain = key.numpy() if isinstance(key, dg.Tensor) else plain
        np.testing.assert_array_equal(t[key].numpy(), x[plain])
        found, expected = dg.asarray(x.copy()), x.copy()
        found[key], expected[plain] = -1.0, -1.0
        np.testing.assert_array_equal(found.numpy(), expected)
    for key in (3, (0, 4), dg.asarray([3]), (0, 0, 0)):
        with pytest.raises(IndexError):
            t[key]
        with pytest.raises(IndexError):
            t[key] = 1.0
    with pytest.raises(ShapeError):
        t[0] = dg.ones(3)


def test_methods_are_the_modules_functions():
    x = dg.asarray([0.5, 0.25])
    for name in ("sin", "exp", "sqrt", "mean", "amax", "cumulative_sum"):
        np.testing.assert_array_equal(getattr(x, name)().numpy(), getattr(operations, name)(x).numpy())


@pytest.mark.parametrize("dtype", [np.float64, np.dtype(np.float64), dg.float64, "float64", np.double])
def test_a_method_takes_a_dtype_in_any_form(dtype):
    x = dg.ones(3)
    for y in (
        x.sum(dtype=dtype),
        x.sum(0, dtype=dtype),
        x.cumsum(0, dtype=dtype),
        x.mean(dtype=dtype),
        x.to(dtype),
    ):
        assert y.dtype == np.float64


def test_a_shape_is_a_tuple_whose_parts_and_sums_are_shapes():
    x = dg.ones((2, 3, 4))
    assert x.shape == (2, 3, 4) == x.size() == tuple(x.shape)
    assert hash(x.shape) == hash((2, 3, 4))
    assert {(2, 3, 4): 1}[x.shape] == 1
    assert repr(x.shape) == "(2, 3, 4)"
    for part, expected in (
        (x.shape[1:], (3, 4)),
        (x.shape[:-1] + (5,), (2, 3, 5)),
        (x.size()[::-1], (4, 3, 2)),
    ):
        assert type(part) is type(x.shape)
        assert part == expected
        assert part.numel() == math.prod(expected)
    assert x.shape.numel() == x.numel() == 24
    assert x.shape[-1] == 4
    assert type(x.shape[0]) is int
    assert dg.ones(()).shape.numel() == 1
    assert x.reshape(x.shape[:1] + (-1,)).shape == (2, 12)
    assert dg.zeros(x.shape[1:]).shape == np.zeros(x.shape[1:]).shape == (3, 4)
    assert pickle.loads(pickle.dumps(x.shape)) == copy.deepcopy(x.shape) == (2, 3, 4)
    with pytest.raises(TypeError):
        x.shape + [1]
