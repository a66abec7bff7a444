"""What PyTorch raises for wrong arguments is caught here by the same ``except``."""

import importlib.util
import sys
import warnings
from pathlib import Path

import distgrad.torch.nn
import pytest

import distgrad.torch

torch = pytest.importorskip("torch")


def changed(x, key, value):
    x[key] = value


def again(x):
    y = (x**2).sum()
    y.backward()
    y.backward()


CALLS = {
    "a module without forward": lambda lib: lib.nn.Module()(1),
    "a buffer in a parameter's place": lambda lib: lib.nn.Linear(2, 2).register_buffer("weight", lib.ones(1)),
    "a parameter in an attribute's place": lambda lib: lib.nn.Linear(2, 2).register_parameter(
        "in_features", lib.nn.Parameter(lib.ones(1))
    ),
    "a module in a parameter's place": lambda lib: lib.nn.Linear(2, 2).add_module("bias", lib.nn.ReLU()),
    "a buffer that is a number": lambda lib: lib.nn.Module().register_buffer("a", 3),
    "keys that a module lacks": lambda lib: lib.nn.Linear(2, 2).load_state_dict({"a": lib.ones(1)}),
    "a list without such a module": lambda lib: lib.nn.ModuleList([lib.nn.ReLU()])[3],
    "features that do not fit": lambda lib: lib.nn.Linear(2, 2)(lib.ones(3, 3)),
    "whole numbers for a layer": lambda lib: lib.nn.Linear(2, 2)(lib.ones(3, 2, dtype=lib.int64)),
    "doubles for a layer": lambda lib: lib.nn.Linear(2, 2)(lib.ones(3, 2).double()),
    "channels that do not fit": lambda lib: lib.nn.Conv2d(3, 3, 3)(lib.ones(1, 4, 8, 8)),
    "a kernel larger than the picture": lambda lib: lib.nn.Conv2d(3, 3, 3)(lib.ones(1, 3, 2, 2)),
    "a weight of fewer axes": lambda lib: lib.nn.functional.conv2d(
        lib.ones(1, 2, 4, 4), lib.ones(1, 2, 2), padding="same"
    ),
    "a row that an embedding lacks": lambda lib: lib.nn.Embedding(2, 2)(lib.tensor([5])),
    "rows that are not whole": lambda lib: lib.nn.Embedding(2, 2)(lib.ones(1)),
    "a class too high": lambda lib: lib.nn.CrossEntropyLoss()(lib.ones(2, 3), lib.tensor([0, 5])),
    "floating classes": lambda lib: lib.nn.CrossEntropyLoss()(lib.ones(2, 3), lib.ones(2)),
    "smoothing above 1": lambda lib: lib.nn.CrossEntropyLoss(label_smoothing=2.0)(
        lib.ones(2, 3), lib.tensor([0, 1])
    ),
    "chances above 1": lambda lib: lib.nn.BCELoss()(2 * lib.ones(2), lib.ones(2)),
    "groups that do not divide": lambda lib: lib.nn.Conv2d(3, 4, 3, groups=2),
    "backward of many numbers": lambda lib: lib.ones(2, requires_grad=True).backward(),
    "backward twice": lambda lib: again(lib.ones(2, requires_grad=True)),
    "a leaf changed in place": lambda lib: lib.ones(2, requires_grad=True).add_(1),
    "NumPy's view of a leaf": lambda lib: lib.ones(2, requires_grad=True).numpy(),
    "shapes that do not broadcast": lambda lib: lib.ones(2) + lib.ones(3),
    "parts that do not fit": lambda lib: lib.cat([lib.ones(2, 2), lib.ones(3, 3)]),
    "nothing put together": lambda lib: lib.cat([]),
    "nothing side by side": lambda lib: lib.hstack([]),
    "the truth of two": lambda lib: bool(lib.ones(2)),
    "the number among two": lambda lib: lib.ones(2).item(),
    "the length of a scalar": lambda lib: len(lib.tensor(1)),
    "a place outside": lambda lib: lib.ones(2)[5],
    "a place outside, by a tensor": lambda lib: lib.ones(2)[lib.tensor([5])],
    "a place in a scalar": lambda lib: lib.tensor(1)[0],
    "a mask of another length": lambda lib: lib.ones(2)[lib.tensor([True])],
    "values that do not fit a slice": lambda lib: changed(lib.ones(3), slice(0, 2), lib.ones(3)),
    "None as a number": lambda lib: changed(lib.ones(3), 0, None),
    "a complex number among real ones": lambda lib: changed(lib.ones(3), 0, 1j),
    "a shape of other size": lambda lib: lib.ones(6).view(4),
    "an axis that is not there": lambda lib: lib.ones(2).sum(3),
    "axes that are no permutation": lambda lib: lib.ones(2, 3).permute(0, 0),
    "the mean of whole numbers": lambda lib: lib.ones(2, dtype=lib.int64).mean(),
    "gathering from outside": lambda lib: lib.ones(2, 2).gather(1, lib.tensor([[5]])),
    "gathering by floats": lambda lib: lib.ones(2, 2).gather(1, lib.ones(1, 1)),
    "scattering to outside": lambda lib: lib.ones(2).scatter(0, lib.tensor([4]), 1.0),
    "selecting from outside": lambda lib: lib.ones(2).index_select(0, lib.tensor([4])),
    "a part that starts outside": lambda lib: lib.ones(2).narrow(0, 3, 0),
    "a part of a scalar": lambda lib: lib.tensor(1.0).narrow(0, 0, 0),
    "one axis to turn about": lambda lib: lib.rot90(lib.ones(2, 2), 1, [0]),
    "boundaries of two axes": lambda lib: lib.bucketize(lib.ones(2), lib.ones(1, 2)),
    "reflections of a row": lambda lib: lib.ormqr(lib.ones(3), lib.ones(3), lib.ones(3, 3)),
    "a singular matrix": lambda lib: lib.linalg.inv(lib.zeros(2, 2)),
    "a matrix that is not positive": lambda lib: lib.linalg.cholesky(-lib.eye(2)),
    "floats into whole numbers": lambda lib: lib.ones(2, dtype=lib.int64).add_(1.5),
    "a gradient of whole numbers": lambda lib: lib.ones(2, dtype=lib.int64).requires_grad_(),
    "a negative length": lambda lib: lib.ones(-1),
    "a step of 0": lambda lib: lib.arange(0, 1, 0),
    "a permutation of fewer than 0": lambda lib: lib.randperm(-1),
    "an empty interval": lambda lib: lib.randint(5, 2, (1,)),
    "weights that are all 0": lambda lib: lib.multinomial(lib.zeros(2), 1),
    "a class below 0": lambda lib: lib.nn.functional.one_hot(lib.tensor([-1])),
    "no parameters": lambda lib: lib.optim.SGD([], lr=0.1),
    "a parameter that is no leaf": lambda lib: lib.optim.SGD([lib.ones(2, requires_grad=True).sum()], lr=0.1),
    "a window of whole numbers": lambda lib: lib.signal.windows.hann(3, dtype=lib.int64),
    "a gradient of another shape": lambda lib: setattr(lib.ones(1), "grad", lib.ones(2)),
}


def raised_by(call, lib):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(lib)
        except Exception as error:
            return error
    return None


@pytest.mark.parametrize("name", CALLS)
def test_an_error_is_of_the_class_that_pytorch_raises(name):
    theirs, ours = (raised_by(CALLS[name], lib) for lib in (torch, distgrad.torch))
    assert theirs is not None
    kind = next(each for each in type(theirs).__mro__ if each.__module__ == "builtins")
    assert isinstance(ours, kind), f"PyTorch {kind.__name__}, here {ours!r}"


def test_whoever_asks_for_a_missing_forward_is_told_at_the_call():
    module = distgrad.torch.nn.Module()
    assert hasattr(module, "forward")
    with pytest.raises(NotImplementedError, match="Module has no forward method"):
        module.forward()


def opinfo():
    path = Path(__file__).with_name("opinfo.py")
    spec = importlib.util.spec_from_file_location("opinfo", path)
    module = sys.modules["opinfo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_wrong_inputs_of_pytorchs_database_raise_of_its_class():
    pytest.importorskip("expecttest")
    walk = opinfo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_class, raised, total = walk.errors_in_all(*walk.load())
    assert total > 650
    assert raised >= 0.9 * total
    assert of_class >= 0.9 * raised
