"""What every primitive must satisfy, one function a property; each raises AssertionError where it does not.

``tests/autograd/test_primitives.py`` runs them on every sample of the registry, and
``tests/autograd/test_planted_faults.py`` on primitives that are wrong on purpose.
"""

import gc
import inspect
import sys
import weakref

import numpy as np
import pytest

from distgrad.autograd.dispatch import operations
from distgrad.autograd.functional import grad
from distgrad.autograd.samples import is_floating
from distgrad.autograd.tensor import Tensor
from distgrad.backend.numpy import numpy_module
from distgrad.errors import DTypeError

#: How far a gradient in low precision may be from the float64 one, of its largest element.
TOLERANCE = {np.dtype(np.float16): 0.03, np.dtype(np.float32): 3e-5}


# -- helpers


def as_list(result):
    """The results of an operation, also where there is one."""
    return [result] if isinstance(result, Tensor) else list(result)


def arrays(result):
    """The results as arrays."""
    return [out._data for out in as_list(result)]


def frozen(x):
    """An array that nobody can write into any more; whatever else, as it is."""
    if isinstance(x, np.ndarray):
        x.flags.writeable = False
    return x


def recorded(inputs):
    """Each floating array as a tensor that requires a gradient, in the same memory."""
    return [Tensor(x, requires_grad=True) if is_floating(x) else x for x in inputs]


def exact(inputs):
    """The floating arrays in float64."""
    return [x.astype(np.float64) if is_floating(x) else x for x in inputs]


@np.errstate(all="ignore")  # tails overflow, and float16 sooner than float64
def gradients(case, inputs):
    """Gradients with respect to the floating inputs that have one, by place; all memory is read-only."""
    tensors = recorded([frozen(x) for x in inputs])
    outs = [out for out in as_list(case.call(*tensors)) if differentiable(out)]
    places = [i for i, x in enumerate(tensors) if isinstance(x, Tensor)]
    if not outs or not places:
        return {}
    rng = np.random.default_rng(0)
    gs = [np.asarray(rng.uniform(0.5, 1.5, out.shape)).astype(out.dtype) for out in outs]
    for x in (*gs, *arrays(outs)):
        frozen(x)
    found = grad(outs, [tensors[i] for i in places], [Tensor(g) for g in gs], allow_unused=True)
    return {i: g._data for i, g in zip(places, found, strict=True) if g is not None}


def records_a_gradient(case):
    """Whether the results of this sample can be differentiated; what cannot be called fails in its tests."""
    try:
        outs = as_list(case.call(*case.tensors()))
    except Exception:
        return case.record.differentiable
    return any(differentiable(out) for out in outs)


def differentiable(out):
    """Whether a gradient flows into a result."""
    return out.requires_grad


def lapack_refuses(case, dtype):
    """Whether floating inputs of this dtype are an error because LAPACK does not compute in it."""
    try:
        case.call(*case.inputs(dtype))
    except DTypeError as error:
        return "is unsupported in linalg" in str(error)
    except Exception:  # fails in the tests
        return False
    return False


def promoted(inputs):
    """The dtype that the inputs promote to: the floating ones if there are any."""
    dtypes = [x.dtype for x in inputs if isinstance(x, np.ndarray)]
    return np.result_type(*([dtype for dtype in dtypes if dtype.kind in "fc"] or dtypes))


# -- properties


def check_shape_rule(case):
    """The shape rule says what shape comes out."""
    positional = list(inspect.signature(case.record.formula).parameters)[1:]
    shapes, attributes = [], dict(case.example.attributes)
    for place, x in enumerate(case.inputs()):
        if case.record.variadic or positional[place] in case.record.inputs:
            shapes.append(None if x is None else np.shape(x))
        else:
            attributes[positional[place]] = x
    expected = case.record.shape(*shapes, **attributes)
    found = [out.shape for out in arrays(case.call(*case.inputs()))]
    assert found == ([tuple(expected)] if case.record.outputs == 1 else list(map(tuple, expected)))


def check_result_dtype(case, dtype):
    """The result has the dtype that the record names, or that the inputs promote to.

    Of several results those that count or point at elements are integers. What a record computes from the
    inputs' dtypes is compared in ``tests/autograd/test_meta.py``.
    """
    if callable(case.record.result):
        return
    inputs = case.inputs(dtype)
    outs = arrays(case.call(*inputs))
    for out in outs:
        if case.record.result == "promote":
            assert out.dtype == promoted(inputs) or (len(outs) > 1 and out.dtype == np.int64)
        elif case.record.result != "any":
            assert out.dtype == case.record.result


@np.errstate(all="ignore")
def check_low_precision_result(case, dtype):
    """A result is finite where the float64 one is and fits, and NaN only where that is NaN."""
    rounded = case.inputs(dtype)
    references = arrays(case.call(*exact(rounded)))
    for out, reference in zip(arrays(case.call(*rounded)), references, strict=True):
        np.testing.assert_array_equal(np.isnan(out), np.isnan(reference))
        if out.dtype == dtype:
            fits = np.abs(reference) < np.finfo(dtype).max
            assert np.isfinite(out[fits]).all()


def check_low_precision_gradient(case, dtype):
    """A gradient has its input's dtype and is near the float64 one; it is NaN only where that is NaN."""
    rounded = case.inputs(dtype)
    references = gradients(case, exact(rounded))
    found = gradients(case, rounded)
    assert found.keys() == references.keys()
    tolerance = TOLERANCE[np.dtype(dtype)]
    for place, g in found.items():
        assert g.dtype == dtype
        reference = references[place]
        np.testing.assert_array_equal(np.isnan(g), np.isnan(reference))
        fits = np.isfinite(reference) & (np.abs(reference) < np.finfo(dtype).max)
        scale = max(1.0, np.abs(reference[fits]).max(initial=0))
        np.testing.assert_allclose(g[fits], reference[fits], atol=tolerance * scale, rtol=tolerance)


def check_gradient_is_a_number(case):
    """No gradient is NaN unless an input or a result is, also where the function has a kink or saturates."""
    inputs = case.inputs()
    with np.errstate(all="ignore"):
        numbers = [*inputs, *arrays(case.call(*inputs))]
    if not any(is_floating(x) and np.isnan(x).any() for x in numbers):
        for g in gradients(case, inputs).values():
            assert not np.isnan(g).any()


def check_constant_without_gradient(case):
    """What has no gradient does not change around the sample; complex numbers have none by definition."""
    inputs = case.inputs()
    rng = np.random.default_rng(0)
    moved = [x + 1e-9 * rng.uniform(0.1, 1, x.shape) if is_floating(x) else x for x in inputs]
    for here, there in zip(arrays(case.call(*inputs)), arrays(case.call(*moved)), strict=True):
        if here.dtype.kind != "c":
            np.testing.assert_array_equal(here, there)


def check_results_are_arrays(case):
    """Results and gradients are arrays, also where they have no axes and NumPy returns scalars."""
    results = [*arrays(case.call(*case.tensors())), *gradients(case, case.inputs()).values()]
    assert {type(out) for out in results} <= {np.ndarray}


def check_inputs_are_left_alone(case):
    """Neither formula nor vjp writes into an input, a result or the cotangent; only views share memory."""
    gradients(case, case.inputs())
    inputs = recorded([frozen(x) for x in case.inputs()])
    for out in as_list(case.call(*inputs)):
        for x in inputs:
            if isinstance(x, Tensor) and np.may_share_memory(out._data, x._data):
                assert out._version is x._version, "a result shares memory with an input and is no view of it"


def check_formula_on_arrays(case):
    """The formula gives the same on the backend's arrays as on tensors."""
    found = case.record.formula(numpy_module, *_spread(case), **case.example.attributes)
    expected = arrays(case.call(*case.inputs()))
    found = found if isinstance(found, tuple | list) else [found]
    for out, reference in zip(found, expected, strict=True):
        # Python's ** of arrays is NumPy's power, where the operation multiplies.
        np.testing.assert_allclose(out, reference, rtol=1e-15, atol=0.0)


def check_calls_of_a_composite(case):
    """Around the formula the public function is one call of Python: what takes others is there for arrays."""
    operation, calls = operations.__dict__[case.record.name], []
    numbers = np.ndarray | float | int
    given = [Tensor(np.asarray(x)) if isinstance(x, numbers) else x for x in case.arguments()]
    options = case.example.attributes.items()
    options = {key: Tensor(x) if isinstance(x, np.ndarray) else x for key, x in options}
    case.call(*case.inputs())  # which compiles it
    scope = operation.__globals__
    formula, scope["formula"] = scope["formula"], lambda *args, **options: None
    sys.setprofile(lambda frame, event, what: calls.append(frame.f_code) if event == "call" else None)
    try:
        operation(*given, **options)
    finally:
        sys.setprofile(None)
        scope["formula"] = formula
    assert len(calls) <= 2 + any(each.co_name == "<listcomp>" for each in calls), calls


def _spread(case):
    return case.inputs() if case.record.variadic else case.arguments()


def strided(x):
    """The same elements, not next to each other, and backwards along the last axis."""
    if not isinstance(x, np.ndarray) or x.ndim == 0:
        return x
    room = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
    out = room[..., ::2][..., ::-1]
    out[...] = x
    return out


def fortran(x):
    """The same elements, the first axis running fastest."""
    return np.array(x, order="F") if isinstance(x, np.ndarray) else x


def check_memory_layout(case, layout):
    """Where the elements lie changes neither result nor gradient."""
    plain, other = case.inputs(), [layout(x) for x in case.inputs()]
    for out, expected in zip(arrays(case.call(*other)), arrays(case.call(*plain)), strict=True):
        np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-11)
    found, expected = gradients(case, other), gradients(case, plain)
    assert found.keys() == expected.keys()
    for place, g in found.items():
        np.testing.assert_allclose(g, expected[place], rtol=1e-11, atol=1e-11)


def check_rejection(case):
    """The named error with its text is raised, and nothing keeps the inputs' place in the graph alive."""
    gc.disable()
    try:
        tensors = case.tensors()
        with pytest.raises(case.example.error) as caught:
            case.call(*tensors)
        assert type(caught.value) is case.example.error
        assert case.example.message in str(caught.value)
        alive = [weakref.ref(x._node) for x in tensors if isinstance(x, Tensor)]
        del caught, tensors
        assert not any(ref() for ref in alive), "the rejected inputs are still alive"
    finally:
        gc.enable()
