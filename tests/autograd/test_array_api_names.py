"""The namespace has every name of the array API standard 2024.12, with its signatures."""

import inspect
import types

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.dispatch import operations
from distgrad.autograd.later import PUBLIC, TORCH, read_all
from distgrad.autograd.primitive import REGISTRY

array_api_strict.set_array_api_strict_flags(api_version="2024.12")

#: Of a later version of the standard, or array-api-strict's own.
NOT_2024_12 = {"isin", "broadcast_shapes", "Device", "ArrayAPIStrictFlags", "__version__"}
NOT_2024_12 |= {f"{verb}_array_api_strict_flags" for verb in ("get", "set", "reset")}

STANDARD = sorted(set(array_api_strict.__all__) - NOT_2024_12)
LINALG = sorted(array_api_strict.linalg.__all__)
FFT = sorted(array_api_strict.fft.__all__)
FUNCTIONS = [
    *[("", name) for name in STANDARD],
    *[("linalg.", name) for name in LINALG],
    *[("fft.", name) for name in FFT],
]
FUNCTIONS = [each for each in FUNCTIONS if each[1] not in ("fft", "linalg") or each[0]]

#: 2024.12 has keyword-only axis=0; array-api-strict shows the later signature.
SIGNATURE_2024_12 = {"expand_dims": "(x, /, *, axis=0)"}

ATTRIBUTES = ["T", "device", "dtype", "mT", "ndim", "shape", "size"]
OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"  # and what they reflect
METHODS = [
    *[f"__{kind}{name}__" for name in OPERATORS.split() for kind in ("", "r", "i")],
    *[f"__{name}__" for name in "eq ne lt le gt ge abs neg pos invert".split()],  # noqa: SIM905
    *[f"__{name}__" for name in "bool complex float index int getitem setitem".split()],  # noqa: SIM905
    *["__array_namespace__", "__dlpack__", "__dlpack_device__", "to_device"],
]


BY_PLACE_TOO = inspect.Parameter.POSITIONAL_OR_KEYWORD


def find(root, where, name):
    """A function by the extension that it stands in and its name."""
    return getattr(getattr(root, where.rstrip(".")) if where else root, name)


def parameters(signature):
    """Name, kind and default of each parameter, without annotations."""
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


def standard_signature(where, name):
    """The signature that the standard gives a function."""
    if name in SIGNATURE_2024_12:
        scope = {}
        exec(f"def {name}{SIGNATURE_2024_12[name]}: return x", scope)
        return inspect.signature(scope[name])
    return inspect.signature(find(array_api_strict, where, name))


@pytest.mark.parametrize(("where", "name"), FUNCTIONS)
def test_every_name_is_there(where, name):
    assert hasattr(dg if not where else getattr(dg, where.rstrip(".")), name)


def test_the_names_are_counted(checked):
    functions = [each for each in FUNCTIONS if callable(find(dg, *each))]
    records = [REGISTRY[name] for _, name in functions if name in REGISTRY]
    number = sum(each.differentiable for each in records)
    checked["functions of the array API standard"] = len(functions)
    checked["of them with a gradient"] = number
    assert number == 121
    assert len(functions) == 171


@pytest.mark.parametrize(
    ("where", "name"), [each for each in FUNCTIONS if isinstance(find(dg, *each), types.FunctionType)]
)
def test_signature(where, name):
    """Ours may have more keyword-only arguments (``requires_grad``), and take the first by position too."""
    standard = parameters(standard_signature(where, name))
    ours = parameters(inspect.signature(find(dg, where, name)))
    undefined = {inspect.Parameter.empty, None}
    assert len(ours) >= len(standard)
    by_name = {each[0]: each for each in ours}
    for place, (parameter, kind, default) in enumerate(standard):
        if kind is inspect.Parameter.POSITIONAL_ONLY:
            assert ours[place][1] is kind
        else:
            loose = kind is inspect.Parameter.KEYWORD_ONLY and by_name[parameter][1] is BY_PLACE_TOO
            assert by_name[parameter][1] is kind or loose
        found = ours[place][2] if kind is inspect.Parameter.POSITIONAL_ONLY else by_name[parameter][2]
        if "UNDEF" in repr(default):
            assert found in undefined
        else:
            assert found == default
    extra = [each for each in ours if each[0] not in {each[0] for each in standard}]
    extra = [each for each in extra if each[1] is not inspect.Parameter.POSITIONAL_ONLY]
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in extra)


@pytest.mark.parametrize("name", [*ATTRIBUTES, *METHODS])
def test_every_attribute_and_method_is_there(name):
    assert hasattr(dg.ones((2, 2)), name)


@pytest.mark.parametrize("name", METHODS[:-1])  # the standard's to_device has stream as keyword-only
def test_signature_of_a_method(name):
    """Arguments of one kind, and those that are not positional-only by one name."""
    ours, standard = (
        inspect.signature(getattr(x, name)).parameters.values()
        for x in (dg.ones(1), array_api_strict.ones(1))
    )
    assert [p.kind for p in ours] == [p.kind for p in standard]
    named = [[p.name for p in each if p.kind is p.KEYWORD_ONLY] for each in (ours, standard)]
    assert named[0] == named[1]


def test_constants():
    assert (dg.e, dg.pi, dg.inf, dg.newaxis) == (np.e, np.pi, np.inf, None)
    assert dg.nan != dg.nan
    assert dg.__array_api_version__ == "2024.12"


def test_the_names_are_real_attributes():
    from distgrad import linalg, sin

    assert sin is dg.sin
    assert linalg is dg.linalg
    assert {"sin", "linalg", "fft", "nn", "float32"} <= set(dir(dg))
    assert [name for name in dg.__all__ if name not in dir(dg)] == []
    with pytest.raises(AttributeError, match="no attribute 'sine'"):
        _ = dg.sine


#: Operations that others are made of: gradients and methods call them, users don't.
INTERNAL = {
    "move",
    "attention",
    "attention_weights",
    "attention_with_statistics",
    "batch_norm_with_statistics",
    "gru_cell",
    "lstm_cell",
    "lstm_steps",
    "random_mask",
    "getitem",
    "setitem",
    "put_zeros",
    "linear_recurrence",
    "convolution",
    "convolution_input",
    "convolution_weight",
    "counted_mean",
    "embedding_sum",
    "embedding_weight",
    "argtopk",
    "gather_elements",
    "scatter_elements",
    "max_pool_gather",
    "max_pool_scatter",
    "sum_pool",
    "sum_pool_input",
    "argmax_pool",
    "pad_constant",
    "pad_fold",
    "pad_repeat",
    "overlap_add",
    "windows",
    "adaptive_argmax_pool",
    "argcummax",
    "argcummin",
    "cofactors_vjp",
    "polygamma_of",
    "lu_permutation",
    "argmode",
    "scatter_combine",
}


def test_every_operation_has_a_public_name():
    read_all()
    rooms = {*vars(dg), *dg.linalg.__all__, *dg.fft.__all__, *TORCH.split()}
    rooms |= {name for names in PUBLIC.values() for name in names.split()}
    assert sorted(set(REGISTRY) - rooms - INTERNAL) == []
    assert sorted(INTERNAL - set(REGISTRY)) == []
    for room in (dg.linalg, dg.fft):
        for name in set(room.__all__) & set(REGISTRY):
            assert getattr(room, name) is operations.__dict__[name]


def test_array_namespace():
    x = dg.ones(3)
    assert x.__array_namespace__() is dg
    assert x.__array_namespace__(api_version="2023.12") is dg
    with pytest.raises(ValueError, match="api_version must be one of"):
        x.__array_namespace__(api_version="1999.12")
    with pytest.raises(TypeError):
        x.__array_namespace__("2024.12")


#: Calls with the axis in NumPy's and PyTorch's place; dg's and NumPy's functions share their names.
BY_POSITION = {
    "sum mean max min var std prod argmax argmin count_nonzero all any flip sort argsort": (1,),
    "cumulative_sum cumulative_prod expand_dims": (1,),
    "take": ([0, 2], 1),
    "repeat roll": (2, 1),
    "diff": (1, 0),
    "tril triu": (1,),
}


@pytest.mark.parametrize(
    ("name", "places"), [(name, where) for names, where in BY_POSITION.items() for name in names.split()]
)
def test_the_axis_is_taken_by_position_where_numpy_takes_it(name, places):
    x = np.random.default_rng(0).random((3, 3))
    theirs = name.replace("ulative_", "")  # NumPy's older names take it
    expected = getattr(np, theirs)(x, *places)
    inputs = [dg.asarray(each) if isinstance(each, list) else each for each in places]
    found = getattr(dg, name)(dg.asarray(x), *inputs)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_sequences_and_networks_take_the_axis_by_position():
    x = dg.asarray(np.random.default_rng(0).random((2, 3)))
    same = np.testing.assert_array_equal
    same(dg.concat([x, x], 1).numpy(), np.concatenate([x.numpy()] * 2, 1))
    same(dg.unstack(x, 1)[2].numpy(), x.numpy()[:, 2])
    same(dg.stack([x, x], -1).numpy(), np.stack([x.numpy()] * 2, -1))
    for function in (dg.softmax, dg.log_softmax, dg.logsumexp, dg.special.logsumexp, dg.squeeze, dg.cumsum):
        one = dg.ones((3, 1)) if function is dg.squeeze else x
        same(function(one, 1).numpy(), function(one, axis=1).numpy())
    same(dg.fft.fft(x, 4, 0).numpy(), np.fft.fft(x.numpy(), 4, 0))
    same(dg.fft.fftn(x, (2, 2), (0, 1)).numpy(), np.fft.fftn(x.numpy(), (2, 2), (0, 1)))
    same(dg.fft.fftshift(x, 1).numpy(), np.fft.fftshift(x.numpy(), 1))
    same(dg.tensordot(x, x, 2).numpy(), np.tensordot(x.numpy(), x.numpy(), 2))
