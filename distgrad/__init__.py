"""Data-parallel training of neural networks on NumPy, CuPy and MPI.

::

    import distgrad as dg

    t = dg.tensor([1.0, 0.0], requires_grad=True)
    (t * t).sum().backward()
    t.grad                      # tensor([2., 0.])
"""

from typing import Any

import numpy as _np

from distgrad.autograd import methods as _methods  # attaches the operators
from distgrad.autograd.creation import asarray, ones, rand, randn, tensor, zeros
from distgrad.autograd.dispatch import namespace as _namespace
from distgrad.autograd.modes import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from distgrad.autograd.tensor import Tensor
from distgrad.backend.rng import Generator, default_generator, manual_seed
from distgrad.errors import DistgradError

__version__ = "0.1.0"

float16, float32, float64 = (_np.dtype(name) for name in ("float16", "float32", "float64"))
int8, int16, int32, int64 = (_np.dtype(name) for name in ("int8", "int16", "int32", "int64"))
uint8, uint16, uint32, uint64 = (_np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64"))
bool = _np.dtype("bool")


def __getattr__(name: str) -> Any:
    """Operations by name, from the registry."""
    try:
        return _namespace.__dict__[name]
    except KeyError:
        raise AttributeError(f"module 'distgrad' has no attribute {name!r}") from None
