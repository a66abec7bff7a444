"""A module beside its PyTorch twin: same weights and inputs in, same outputs and gradients out."""

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest

from distgrad import nn
from distgrad.autograd.functional import grad
from distgrad.autograd.tensor import Tensor

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


@dataclasses.dataclass(frozen=True)
class Case:
    """One module with its arguments and the shapes that it is called with.

    Args:
        name: of the class, the same in both libraries.
        args: of its constructor.
        inputs: of its call: a shape (random numbers that are differentiated), an array (taken as it is,
            differentiated if floating), or any other value.
        options: keyword arguments of its constructor; an array becomes a tensor.
        training: the mode that it is called in.
        keywords: keyword arguments of the call.
        tolerance: for a dtype, where PyTorch itself is less exact than the usual one.
    """

    name: str
    args: tuple[Any, ...] = ()
    inputs: tuple[Any, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: bool = True
    keywords: dict[str, Any] = dataclasses.field(default_factory=dict)
    tolerance: dict[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self.options.items() if not hasattr(value, "shape")]
        options += [key for key, value in self.options.items() if hasattr(value, "shape")]
        options += list(self.keywords)
        shapes = [
            str(each if isinstance(each, tuple) else getattr(each, "shape", each)) for each in self.inputs
        ]
        mode = [] if self.training else ["eval"]
        return "-".join([self.name, *map(str, self.args), *options, *shapes, *mode]).replace(" ", "")


def values(case: Case, dtype: str) -> list[Any]:
    """The inputs as arrays: shapes filled with random numbers, floating arrays in the dtype."""
    rng = np.random.default_rng(7)
    return [_value(each, rng, dtype) for each in case.inputs]


def _value(each: Any, rng: np.random.Generator, dtype: str) -> Any:
    if isinstance(each, tuple) and all(isinstance(length, int) for length in each):
        return rng.standard_normal(each).astype(dtype)
    if isinstance(each, tuple):  # such as an LSTM's two states
        return tuple(_value(part, rng, dtype) for part in each)
    if isinstance(each, np.ndarray) and each.dtype.kind == "f":
        return each.astype(dtype)
    return each


def _converted(value: Any, dtype: str, make: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_converted(part, dtype, make) for part in value)
    if isinstance(value, np.ndarray):
        return make(value.astype(dtype) if value.dtype.kind == "f" else value)
    return value


def ours_of(value: np.ndarray, requires_grad: bool = False) -> Tensor:
    return Tensor(value.copy(), requires_grad=requires_grad and value.dtype.kind == "f")


def make_pair(case: Case, dtype: str, torch: Any) -> tuple[Any, Any]:
    """Our module and PyTorch's, with PyTorch's weights in both."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its speed and its next versions
        theirs = getattr(torch.nn, case.name)(
            *[_converted(each, dtype, torch.tensor) for each in case.args],
            **{key: _converted(value, dtype, torch.tensor) for key, value in case.options.items()},
        ).to(getattr(torch, dtype))
    ours = getattr(nn, case.name)(
        *[_converted(each, dtype, ours_of) for each in case.args],
        **{key: _converted(value, dtype, ours_of) for key, value in case.options.items()},
    ).to(np.dtype(dtype))
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return ours.train(case.training), theirs.train(case.training)


def flat(result: Any) -> list[Any]:
    """The tensors of a result, in order."""
    if isinstance(result, (tuple, list)):
        return [tensor for part in result for tensor in flat(part)]
    return [] if result is None else [result]


def close(ours: Any, theirs: Any, tolerance: float, what: str) -> None:
    theirs = theirs.detach().numpy()
    ours = ours._data if isinstance(ours, Tensor) else ours
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} but PyTorch gives {theirs.shape}"
    assert ours.dtype == theirs.dtype, f"{what}: {ours.dtype} but PyTorch gives {theirs.dtype}"
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance, err_msg=what)


def compare(case: Case, dtype: str) -> None:
    """Outputs, gradients of inputs and parameters, and buffers after one step of both."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    ours, theirs = make_pair(case, dtype, torch)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    tolerance = {**TOLERANCE, **case.tolerance}[dtype]
    arrays = values(case, dtype)
    xs = [_leaves(each, lambda a: ours_of(a, True)) for each in arrays]
    ts = [_leaves(each, lambda a: torch.tensor(a, requires_grad=a.dtype.kind == "f")) for each in arrays]
    keywords = {key: _converted(value, dtype, lambda a: a) for key, value in case.keywords.items()}
    ys = flat(ours(*xs, **{key: _leaves(value, ours_of) for key, value in keywords.items()}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        us = flat(theirs(*ts, **{key: _leaves(value, torch.tensor) for key, value in keywords.items()}))
    assert len(ys) == len(us)
    for i, (y, u) in enumerate(zip(ys, us, strict=True)):
        close(y, u, tolerance, f"output {i}")
    pairs = [(y, u) for y, u in zip(ys, us, strict=True) if u.requires_grad]
    rng = np.random.default_rng(8)
    gs = [rng.standard_normal(u.shape).astype(dtype) for _, u in pairs]
    leaves = [(x, t) for x, t in zip(flat(xs), flat(ts), strict=True) if getattr(t, "requires_grad", False)]
    leaves += list(zip(ours.parameters(), theirs.parameters(), strict=True))
    if pairs:
        found = grad(
            [y for y, _ in pairs], [x for x, _ in leaves], [Tensor(g) for g in gs], allow_unused=True
        )
        wanted = torch.autograd.grad(
            [u for _, u in pairs], [t for _, t in leaves], [torch.tensor(g) for g in gs], allow_unused=True
        )
        for i, (g, w) in enumerate(zip(found, wanted, strict=True)):
            assert (g is None) == (w is None), f"gradient {i}: {g} but PyTorch gives {w}"
            if w is not None:
                close(g, w, tolerance, f"gradient {i}")
    for (name, ours_buffer), theirs_buffer in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        close(ours_buffer, theirs_buffer, tolerance, f"buffer {name}")


def _leaves(value: Any, make: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_leaves(part, make) for part in value)
    return make(value) if isinstance(value, np.ndarray) else value
