"""Every argument of PyTorch's public classes and functions is here, in its place and with its default."""

import importlib
import inspect

import pytest
from nn.test_torch_names import PAIRS, public

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

#: Arguments that are left out wherever they stand; the guide's page says what to do without them.
LEFT_OUT = {
    *("size_average", "reduce"),  # deprecated: reduction
    *("foreach", "fused", "capturable", "differentiable"),  # of optimizers, met by an error with the reason
    *("pin_memory_device", "multiprocessing_context", "in_order"),  # of the loader, likewise
}
#: Arguments that are left out in one place, by the name of the class or function.
LEFT_OUT_OF = {
    "gumbel_softmax": {"eps"},  # deprecated
    "Hardtanh": {"min_value", "max_value"},  # deprecated
    "SequentialLR": {"last_epoch"},
    "normalize": {"out"},
    "UninitializedBuffer": {"requires_grad"},
}
#: Defaults that differ, and why.
OTHER_DEFAULTS = {
    ("Buffer", "data"),  # a tensor of nothing
    ("Parameter", "data"),
    ("PackedSequence", "batch_sizes"),
    ("random_split", "generator"),  # None means the default one
}


def parameters(function):
    """Names and defaults in order; None where there is no signature to read."""
    if inspect.isclass(function) and inspect.isfunction(function.__init__):
        function = function.__init__
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return {
        name: p.default
        for name, p in signature.parameters.items()
        if name != "self" and not name.startswith("_") and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def is_plain(value):
    return value is None or isinstance(value, (bool, int, float, str, tuple))


def differences(name, theirs, ours, left_out=LEFT_OUT):
    """What a call written for PyTorch would stumble over."""
    theirs, ours = parameters(theirs), parameters(ours)
    if not theirs or ours is None:
        return []
    gone = left_out | LEFT_OUT_OF.get(name, set())
    expected = [each for each in theirs if each not in gone]
    named = name.startswith("Lazy")  # takes the arguments of the layer that it becomes
    found = [f"{name}: no {each}" for each in expected if each not in ours and not named]
    shared = [each for each in expected if each in ours]
    if [each for each in ours if each in shared] != shared:
        found.append(f"{name}: order {[*ours]}, PyTorch's {expected}")
    for each in shared:
        want, got = theirs[each], ours[each]
        if is_plain(want) and want != got and (name, each) not in OTHER_DEFAULTS:
            found.append(f"{name}: {each}={got!r}, PyTorch's {want!r}")
    return found


@pytest.mark.parametrize("module", PAIRS)
def test_arguments_are_pytorchs(module):
    theirs, ours = importlib.import_module(module), PAIRS[module]
    shared = [name for name in sorted(public(module)) if hasattr(ours, name)]
    found = [
        each for name in shared for each in differences(name, getattr(theirs, name), getattr(ours, name))
    ]
    assert found == []


def test_what_a_call_would_stumble_over_is_seen():
    def theirs(a, b=1, *, c=None): ...

    def ours(b=2, a=None): ...

    assert differences("f", theirs, ours) == [
        "f: no c",
        "f: order ['b', 'a'], PyTorch's ['a', 'b', 'c']",
        "f: b=2, PyTorch's 1",
    ]
    assert differences("f", theirs, theirs) == []
