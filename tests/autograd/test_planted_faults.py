"""The checks that hold primitives see what is wrong: each is run on a primitive that is wrong on purpose."""

import numpy as np
import primitive_checks as checks
import pytest

from distgrad.autograd.dispatch import operations, primitive
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.ops.shape_rules import restore_axes, same_shape
from distgrad.autograd.primitive import REGISTRY, Reject, Sample
from distgrad.autograd.samples import Case
from distgrad.backend.numpy import numpy_module
from distgrad.errors import GraphError, ShapeError


@pytest.fixture
def plant():
    """Registers a primitive, ``planted`` if not named, and returns its only case; takes it away again."""
    names = []

    def register(formula, sample, vjps, name="planted", **fields):
        if not formula.__annotations__:
            formula.__annotations__["x"] = "Array"
        names.append(name)
        fields = {"math": "", "dtypes": "floating-point", "samples": [sample]} | fields
        operation = primitive(name=name, **fields)(formula)
        for inputs, vjp in vjps.items():
            operation.vjp(*inputs.split())(vjp)
        return Case(operation.record, sample, 0)

    yield register
    for name in names:
        for where in (REGISTRY, operations.__dict__, numpy_module.__dict__):
            del where[name]


def twin(plant, name, sample, wrong=None):
    """A registered primitive once more, with some of its vjps replaced."""
    record = REGISTRY[name]
    own = {" ".join(vjp.inputs): vjp.function for vjp in record.vjps.values()}
    assert own.keys() >= (wrong or {}).keys()
    fields = ("shape", "dtypes", "result", "view", "outputs", "domain")
    return plant(
        record.formula, sample, own | (wrong or {}), **{field: getattr(record, field) for field in fields}
    )


TIES = Sample((np.array([[1.0, 2.0, 0.5], [0.1, 0.3, 0.9]]),), {"axis": 1})
TWICE = Sample(((3, 4),), {"key": (np.array([2, 0, 2]),)})
CLASSES = Sample(((3, 4),), {"target": np.array([1, 0, 3])})
PATCHES = {"stride": (1,), "padding": (1,), "dilation": (1,), "groups": 1}


def wrong_max(xp, g, x_shape, axis, keepdims):
    return restore_axes(xp, g, x_shape, axis, keepdims)


def wrong_getitem(xp, g, x_shape, key):
    return xp.setitem(xp.zeros(x_shape, dtype=g.dtype), g, key)


def wrong_var(xp, g, x, axis, correction, keepdims):
    return restore_axes(xp, g, x.shape, axis, keepdims) * (2.0 / x.shape[axis] * x)


def wrong_log_softmax(xp, g, y, axis):
    return g - xp.exp(y) * xp.sum(g, axis=0, keepdims=True)


def wrong_convolution(xp, g, x_shape, weight, stride, padding, dilation, groups):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return xp.convolution_input(g, weight[..., ::-1], shape=x_shape, **options)


WRONG = [
    ("subtract", "x2", "sign", Sample(((3, 4), (3, 4))), lambda xp, g: g),
    ("square", "x", "factor", Sample(((3, 4),)), lambda xp, g, x: g * x),
    ("sqrt", "x", "inverted factor", Sample(((3, 4),)), lambda xp, g, y: g * 2.0 / y),
    ("tanh", "x", "power", Sample(((3, 4),)), lambda xp, g, y: g * (1.0 - y)),
    ("divide", "x2", "power of x2", Sample(((3, 4), (4,))), lambda xp, g, x1, x2: -g * x1 / x2),
    ("pow", "x2", "missing logarithm", Sample(((3, 4), (3, 4))), lambda xp, g, y: g * y),
    ("softmax", "x", "missing term", Sample(((3, 4),)), lambda xp, g, y: g * y),
    ("log_softmax", "x", "wrong axis", Sample(((3, 4),), {"axis": 1}), wrong_log_softmax),
    ("max", "x", "to all, not to the largest", TIES, wrong_max),
    ("var", "x", "missing mean", Sample(((3, 4),), {"axis": 1}), wrong_var),
    ("mean", "x", "missing divisor", Sample(((3, 4),)), lambda xp, g, x_shape: xp.broadcast_to(g, x_shape)),
    ("matmul", "x1", "not transposed", Sample(((3, 3), (3, 3))), lambda xp, g, x2: xp.matmul(g, x2)),
    (
        "permute_dims",
        "x",
        "permuted instead of permuted back",
        Sample(((2, 2, 2),), {"axes": (2, 0, 1)}),
        lambda xp, g, axes: xp.permute_dims(g, axes),
    ),
    ("getitem", "x", "written where it should add up", TWICE, wrong_getitem),
    (
        "where",
        "x2",
        "condition not turned",
        Sample((np.array([True, False, True]), (3,), (3,))),
        lambda xp, g, condition: xp.where(condition, g, 0.0),
    ),
    (
        "softmax_cross_entropy",
        "logits",
        "missing target",
        CLASSES,
        lambda xp, g, logits: xp.softmax(logits, axis=1) * xp.expand_dims(g, axis=1),
    ),
    ("convolution", "x", "kernel backwards", Sample(((2, 3, 6), (4, 3, 3)), PATCHES), wrong_convolution),
]


@pytest.mark.parametrize(
    ("name", "inputs", "fault", "sample", "wrong"), WRONG, ids=[f"{each[0]}-{each[2]}" for each in WRONG]
)
def test_gradcheck_catches_a_wrong_gradient(plant, name, inputs, fault, sample, wrong):
    case = twin(plant, name, sample, {inputs: wrong})
    with pytest.raises(GraphError, match="the gradient is wrong"):
        gradcheck(case.call, case.tensors(), directions=1)
    assert not gradcheck(case.call, case.tensors(), directions=1, raise_exception=False)


@pytest.mark.parametrize(("name", "sample"), [(each[0], each[3]) for each in WRONG], ids=lambda x: str(x)[:9])
def test_the_same_without_the_fault_passes(plant, name, sample):
    case = twin(plant, name, sample)
    assert gradcheck(case.call, case.tensors(), directions=1)
    assert gradgradcheck(case.call, case.tensors(), directions=1)


def test_ten_primitives_are_among_the_planted():
    assert len({name for name, *_ in WRONG}) >= 10


# -- gradients that are wrong only when they are differentiated


def test_gradgradcheck_catches_a_gradient_that_leaves_the_graph(plant):
    def constant(xp, g, y):
        y = getattr(y, "_data", y)  # right as a number, and a constant to the second derivative
        return g * (1.0 - y * y)

    case = twin(plant, "tanh", Sample(((3, 4),)), {"x": constant})
    assert gradcheck(case.call, case.tensors())
    with pytest.raises(GraphError, match="the gradient is wrong"):
        gradgradcheck(case.call, case.tensors(), directions=1)


def test_gradgradcheck_catches_a_wrong_gradient_of_the_gradient(plant):
    sample = Sample(((3, 4),))
    plant(lambda xp, x, /: x * x, sample, {"x": lambda xp, g, x: g * x}, name="planted_square")
    case = plant(lambda xp, x, /: x * x * x, sample, {"x": lambda xp, g, x: g * 3.0 * xp.planted_square(x)})
    assert gradcheck(case.call, case.tensors())
    with pytest.raises(GraphError, match="the gradient is wrong"):
        gradgradcheck(case.call, case.tensors(), directions=1)


# -- everything else that a record or a formula can get wrong


def test_a_wrong_shape_rule_is_caught(plant):
    case = plant(lambda xp, x, /: xp.sum(x, axis=0), Sample(((3, 4),)), {}, shape=same_shape)
    with pytest.raises(AssertionError, match=r"\(4,\)"):
        checks.check_shape_rule(case)


def double_in_place(xp, x, /):
    x *= 2
    return x + 0


def test_a_formula_that_changes_its_input_is_caught(plant):
    case = plant(double_in_place, Sample(((3, 4),)), {})
    with pytest.raises(ShapeError, match="read-only"):
        checks.check_inputs_are_left_alone(case)


def change_cotangent(xp, g):
    g *= 2.0
    return g


def change_saved(xp, g, x):
    x += 1.0
    return g * x


def change_result(xp, g, y):
    y *= g
    return y


@pytest.mark.parametrize("wrong", [change_cotangent, change_saved, change_result])
def test_a_gradient_that_changes_what_it_is_given_is_caught(plant, wrong):
    case = plant(lambda xp, x, /: xp.exp(x), Sample(((3, 4),)), {"x": wrong})
    with pytest.raises(ValueError, match="read-only"):
        checks.check_inputs_are_left_alone(case)


def test_a_view_that_is_not_declared_is_caught(plant):
    case = plant(lambda xp, x, /: x[1:], Sample(((3, 4),)), {})
    with pytest.raises(AssertionError, match="is no view"):
        checks.check_inputs_are_left_alone(case)


def test_a_result_of_another_dtype_is_caught(plant):
    case = plant(lambda xp, x, /: xp.astype(x, np.dtype(np.float32)), Sample(((3, 4),)), {})
    with pytest.raises(AssertionError):
        checks.check_result_dtype(case, np.float64)
    checks.check_result_dtype(case, np.float32)


def test_overflow_in_float16_is_caught(plant):
    tails = Sample((np.array([0.0, 20.0]),))
    case = plant(lambda xp, x, /: xp.log(1 + xp.exp(x)), tails, {"x": lambda xp, g, x: g / (1 + xp.exp(-x))})
    with pytest.raises(AssertionError):
        checks.check_low_precision_result(case, np.float16)
    checks.check_low_precision_result(case, np.float32)


def test_a_gradient_that_is_not_a_number_in_float16_is_caught(plant):
    def overflowing(xp, g, x):
        e = xp.exp(x)
        return g * e / (1 + e)

    case = plant(lambda xp, x, /: xp.logaddexp(x, 0), Sample((np.array([0.0, 20.0]),)), {"x": overflowing})
    with pytest.raises(AssertionError):
        checks.check_low_precision_gradient(case, np.float16)
    checks.check_low_precision_gradient(case, np.float32)


def test_a_gradient_that_is_not_a_number_at_a_kink_is_caught(plant):
    kink = Sample((np.array([0.0, -1.0]),), grad=False)
    case = plant(lambda xp, x, /: xp.abs(x), kink, {"x": lambda xp, g, x: g * x / xp.abs(x)})
    with pytest.raises(AssertionError):
        checks.check_gradient_is_a_number(case)


def test_an_inexact_gradient_in_low_precision_is_caught(plant):
    def cancelling(xp, g, x):
        return g * ((x + 1000.0) - 1000.0)

    sample = Sample((np.array([0.1234, 0.5678]),))
    case = plant(lambda xp, x, /: 0.5 * x * x, sample, {"x": cancelling})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        checks.check_low_precision_gradient(case, np.float16)


def as_it_lies(xp, x, /):
    return x.ravel(order="K")


def next_in_memory(xp, x, /):
    return np.lib.stride_tricks.as_strided(x, (2,), (8,)) + 0.0


@pytest.mark.parametrize(
    ("wrong", "layout"), [(as_it_lies, checks.fortran), (next_in_memory, checks.strided)]
)
def test_a_dependence_on_memory_layout_is_caught(plant, wrong, layout):
    case = plant(wrong, Sample(((3, 4),)), {})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        checks.check_memory_layout(case, layout)


def test_a_gradient_that_is_not_recorded_is_caught(plant):
    case = plant(lambda xp, x, /: xp.sin(x), Sample(((3, 4),)), {})
    assert not checks.records_a_gradient(case)
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        checks.check_constant_without_gradient(case)


def reject_case(plant, formula, message="negative"):
    case = plant(formula, Sample(((3,),)), {"x": lambda xp, g: g})
    return Case(case.record, Reject((np.array([1.0, -1.0]),), ShapeError, message), 0)


def refuse(xp, x, /):
    raise ShapeError("planted: x is negative")


def test_a_rejection_with_another_text_or_none_is_caught(plant):
    with pytest.raises(AssertionError):
        checks.check_rejection(reject_case(plant, refuse, "positive"))


def test_a_rejection_that_does_not_come_is_caught(plant):
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        checks.check_rejection(reject_case(plant, lambda xp, x, /: x + 0))


def test_a_rejection_that_keeps_its_inputs_is_caught(plant):
    kept = []
    case = reject_case(plant, refuse)
    checks.check_rejection(case)
    call = operations.__dict__["planted"]
    operations.__dict__["planted"] = lambda x: (kept.append(x), call(x))
    with pytest.raises(AssertionError, match="still alive"):
        checks.check_rejection(case)
