"""Every primitive on every sample and rejection that its record holds."""

import numpy as np
import primitive_checks as checks
import pytest

from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.autograd.ops.shape_rules import broadcast_shape
from distgrad.autograd.primitive import DTYPE_CHARS, REGISTRY, Composite, Sample
from distgrad.autograd.samples import Case, is_floating, reject_cases, sample_cases
from distgrad.errors import DistgradError, DTypeError

CASES = list(sample_cases())
DIFFERENTIABLE = [case for case in CASES if checks.records_a_gradient(case)]
SMOOTH = [case for case in DIFFERENTIABLE if case.example.grad]
CONSTANT = [case for case in CASES if case.example.grad and case not in DIFFERENTIABLE]


def takes(case, dtype):
    """Whether the primitive computes in ``dtype``."""
    listed = np.dtype(dtype).char in DTYPE_CHARS[case.record.dtypes]
    return listed and not (dtype is np.float16 and checks.lapack_refuses(case, dtype))


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=str)


def each_low(cases):
    """Each case in float16 and float32, where the primitive takes them."""
    pairs = [(case, dtype) for case in cases for dtype in (np.float16, np.float32) if takes(case, dtype)]
    ids = [f"{case}-{dtype.__name__}" for case, dtype in pairs]
    return pytest.mark.parametrize(("case", "dtype"), pairs, ids=ids)


@each(SMOOTH)
def test_gradient(case, checked):
    assert gradcheck(case.call, case.tensors(), directions=1)
    checked["gradchecks"] += 1


@each(SMOOTH)
def test_gradient_of_the_gradient(case, checked):
    assert gradgradcheck(case.call, case.tensors(), directions=1)
    checked["gradgradchecks"] += 1


@each([case for case in DIFFERENTIABLE if not case.example.grad])
def test_gradient_is_a_number_at_kinks_and_tails(case):
    checks.check_gradient_is_a_number(case)


@each_low([case for case in DIFFERENTIABLE if "state" not in case.example.attributes])  # other draws a dtype
def test_low_precision_gradient(case, dtype):
    checks.check_low_precision_gradient(case, dtype)


@each_low(CASES)
def test_low_precision_result(case, dtype):
    checks.check_low_precision_result(case, dtype)


@each(CASES)
def test_result_dtype(case):
    for dtype in filter(lambda dtype: takes(case, dtype), (np.float16, np.float32, np.float64)):
        checks.check_result_dtype(case, dtype)


@each([case for case in CASES if case.record.shape])
def test_shape_rule(case):
    checks.check_shape_rule(case)


@each(CONSTANT)
def test_what_has_no_gradient_is_constant_around_every_point(case):
    checks.check_constant_without_gradient(case)


@each(CASES)
def test_results_and_gradients_are_arrays(case):
    checks.check_results_are_arrays(case)


@each(CASES)
def test_inputs_are_left_alone(case):
    checks.check_inputs_are_left_alone(case)


@each(CASES)
def test_memory_layout_does_not_matter(case):
    for layout in (checks.strided, checks.fortran):
        checks.check_memory_layout(case, layout)


@each([case for case in CASES if isinstance(case.record, Composite)])
def test_a_composite_computes_the_same_on_arrays(case):
    checks.check_formula_on_arrays(case)


@each([case for case in CASES if isinstance(case.record, Composite)])
def test_a_composite_adds_one_call_to_its_parts(case):
    checks.check_calls_of_a_composite(case)


@each(list(reject_cases()))
def test_rejection(case, checked):
    checks.check_rejection(case)
    checked["rejections"] += 1


# -- Python numbers and wrong dtypes


def binary_cases():
    """The first sample of each primitive that broadcasts, and the places where a number can stand."""
    for record in REGISTRY.values():
        if record.shape is broadcast_shape and len(record.inputs) > 1 and "f" in DTYPE_CHARS[record.dtypes]:
            for case in list(sample_cases([record]))[:1]:
                yield from ((case, place) for place, x in enumerate(case.inputs()) if is_floating(x))


@pytest.mark.parametrize(("case", "place"), list(binary_cases()), ids=str)
def test_a_python_number_keeps_float32(case, place, checked):
    low, high = case.example.domain or case.record.domain or (0.5, 2.0)

    def call(*inputs):
        return case.call(*inputs[:place], (low + high) / 2, *inputs[place:])

    inputs, tensors = case.inputs(np.float32), case.tensors()
    del inputs[place], tensors[place]
    (out,) = checks.arrays(call(*inputs))
    result, single = case.record.result, np.dtype(np.float32)
    expected = result(*[single] * len(case.record.inputs)) if callable(result) else result
    assert out.dtype == (single if result == "promote" else expected)
    if any(out.requires_grad for out in checks.as_list(call(*tensors))):
        assert gradcheck(call, tensors, directions=1)
        assert gradgradcheck(call, tensors, directions=1)
        checked["gradchecks"] += 1
        checked["gradgradchecks"] += 1


@each(
    [
        case
        for record in REGISTRY.values()
        if len(record.inputs) == 1 and not record.variadic
        for case in list(sample_cases([record]))[:1]
    ]
)
def test_a_lone_number_counts_as_an_array_without_axes(case):
    (array, *others), number = case.inputs(), 1
    if is_floating(array):
        number = sum(case.example.domain or case.record.domain or (0.5, 1.5)) / 2
    try:
        expected = case.call(np.asarray(number), *others)
    except (DistgradError, IndexError, np.linalg.LinAlgError) as error:
        with pytest.raises(type(error)):
            case.call(number, *others)
    else:
        for out, reference in zip(
            checks.arrays(case.call(number, *others)), checks.arrays(expected), strict=True
        ):
            np.testing.assert_array_equal(out, reference, strict=True)


def cases_of_another_dtype():
    """The first sample of each primitive that does not take every dtype, with one it lacks."""
    for record in REGISTRY.values():
        missing = [dtype for dtype in "lFd" if dtype not in DTYPE_CHARS[record.dtypes]]
        for case in list(sample_cases([record]))[:1]:
            if missing and all(isinstance(x, np.ndarray) for x in case.inputs()):
                yield case, missing[0]


@pytest.mark.parametrize(("case", "dtype"), list(cases_of_another_dtype()), ids=str)
def test_a_dtype_outside_the_category_is_refused(case, dtype):
    inputs = [np.zeros(x.shape, dtype) for x in case.inputs()]
    with pytest.raises(DTypeError, match=f"{case.record.name}: .* must be {case.record.dtypes}, got"):
        case.call(*inputs)


# -- the records themselves


@pytest.mark.parametrize("record", list(REGISTRY.values()), ids=lambda record: record.name)
def test_record_is_complete(record):
    assert record.math
    assert record.formula.__doc__
    assert record.samples
    named = record.result in ("promote", "any") or callable(record.result)
    assert named or np.dtype(record.result).name == record.result


def test_what_is_differentiable_has_a_sample_on_which_that_is_checked():
    checked_ones, ones = ({case.record.name for case in cases} for cases in (SMOOTH, DIFFERENTIABLE))
    assert checked_ones == ones


def test_inputs_depend_on_name_and_index_alone():
    add, subtract = REGISTRY["add"], REGISTRY["subtract"]
    sample = Sample(((3, 4), (3, 4)))
    first = Case(add, sample, 0).inputs()[0]
    np.testing.assert_array_equal(first, next(sample_cases([add])).inputs()[0])
    assert (first != Case(add, sample, 1).inputs()[0]).all()
    assert (first != Case(subtract, sample, 0).inputs()[0]).all()


def test_a_sequence_is_spread_out_and_put_together_again():
    case = next(sample_cases([REGISTRY["concat"]]))
    (sequence,) = case.arguments()
    assert [x.shape for x in sequence] == [x.shape for x in case.tensors()] == [(2, 3), (4, 3)]
    assert case.call(*case.tensors()).shape == (6, 3)
