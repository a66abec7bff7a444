"""Modules with parameters of 16 bits: results of their dtype, close to those of float32."""

import numpy as np
import pytest
from nn.test_torch_equality import CASES as SIMPLE
from nn.test_torch_layers import CASES as LAYERS
from nn.test_torch_losses import CASES as LOSSES
from nn.test_torch_recurrent import CASES as RECURRENT
from nn.twins import _converted, _leaves, flat, values

import distgrad as dg
from distgrad import nn
from distgrad.autograd.tensor import FLOATING, Tensor

RANDOM = ("Dropout", "RReLU")  # other numbers are drawn for other dtypes
CASES = [
    case for case in (*SIMPLE, *LAYERS, *LOSSES, *RECURRENT) if not any(name in case.name for name in RANDOM)
]


def run(case, rounded, dtype):
    """Outputs and parameters' gradients, as float32; all values were rounded to ``rounded`` before."""

    def tensor(array):
        if array.dtype.kind != "f":
            return Tensor(array)
        return dg.tensor(array.astype(np.float32)).to(rounded).to(dtype)

    dg.manual_seed(0)
    module = getattr(nn, case.name)(
        *[_converted(each, "float32", Tensor) for each in case.args],
        **{key: _converted(value, "float32", Tensor) for key, value in case.options.items()},
    )
    module = module.to(rounded).to(dtype).train(case.training)
    inputs = [_leaves(each, tensor) for each in values(case, "float32")]
    keywords = {key: _leaves(value, tensor) for key, value in case.keywords.items()}
    outputs = [y for y in flat(module(*inputs, **keywords)) if y.dtype.char in FLOATING]
    assert {y.dtype for y in outputs} <= {dtype}
    trained = [y for y in outputs if y.requires_grad]
    if trained:
        sum((y.to(dg.float32).sum() for y in trained), dg.zeros(())).backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert {g.dtype for g in gradients} <= {dtype}
    return [each.detach().to(dg.float32).numpy() for each in (*outputs, *gradients)]


@pytest.mark.parametrize("dtype", [dg.bfloat16, dg.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_module_is_close_to_its_twin_of_float32(case, dtype):
    tolerance = 0.12 if dtype == dg.bfloat16 else 0.02
    for found, expected in zip(run(case, dtype, dtype), run(case, dtype, dg.float32), strict=True):
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
        np.testing.assert_allclose(found, expected, atol=tolerance * scale, rtol=tolerance)
