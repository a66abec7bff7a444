"""Operators and methods of the tensor, attached once the operations that they call exist."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from distgrad.autograd import held as held  # registers itself
from distgrad.autograd.dispatch import operations, operator_method
from distgrad.autograd.html import tensor_html
from distgrad.autograd.inplace import in_place_methods, in_place_operator, in_two, plain_key
from distgrad.autograd.naming import Named, method_names
from distgrad.autograd.ops import (  # noqa: F401 (importing them registers their operations)
    activation,
    adaptive,
    attention,
    conv,
    ctc,
    cumulative,
    distance,
    dropout,
    einsum,
    elementwise,
    embedding,
    fft,
    index,
    interpolate,
    linalg,
    linalg_decompose,
    linalg_norms,
    linalg_products,
    linalg_solve,
    logic,
    loss,
    margin,
    move,
    norm,
    padding,
    parts,
    penalty,
    pool,
    products,
    recurrent,
    reduce,
    rounding,
    scan,
    scatter,
    shape,
    sorting,
    special,
    statistics,
    trig,
    windows,
)
from distgrad.autograd.ops.move import destination, is_pinned, lent, moved, pinned
from distgrad.autograd.porting import Elsewhere
from distgrad.autograd.showing import tensor_text
from distgrad.autograd.tensor import Tensor, class_at, home_of
from distgrad.autograd.timing import timed_operations  # noqa: F401 (registers itself)
from distgrad.backend.array_module import HOST_ARRAYS
from distgrad.backend.device import CPU, Device
from distgrad.errors import DeviceError, DTypeError, GraphError, ShapeError
from distgrad.names import absent
from distgrad.names.hints import HINTS

__all__ = ["METHODS"]

#: Python's name of an operator, and the function that it calls.
_ARITHMETIC = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "pow",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}
_COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
_UNARY = {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}

#: Methods under the array API standard's names that PyTorch does not have.
_STANDARD = (
    "astype", "cumulative_prod", "cumulative_sum", "expand_dims", "matrix_transpose", "permute_dims",
    "take_along_axis", "tensordot", "unstack", "vecdot",
)  # fmt: skip

# -- operators


def _getitem(self: Tensor, key: Any, /) -> Tensor:
    key = plain_key(key, self)
    if (apart := in_two(key)) is not None:
        return operations.getitem(operations.getitem(self, apart[0]), apart[1])
    return operations.getitem(self, key)


# -- conversion


def _item(self: Tensor) -> Any:
    if self.size != 1:
        raise ShapeError(f"item: expected one element, got a tensor of shape {list(self.shape)}")
    return self._data.item()


def _index(self: Tensor) -> int:
    if self.dtype.kind not in "iu":
        raise DTypeError(f"index: only whole numbers can be indices, got {self.dtype}")
    return int(_item(self))


def _numpy(self: Tensor) -> np.ndarray:
    if self.requires_grad:
        raise GraphError("numpy: the tensor requires a gradient; call detach().numpy()")
    return _on_host(self, "numpy")


def _on_host(tensor: Tensor, where: str) -> np.ndarray:
    """The tensor's array, which must lie on the host.

    Raises:
        DeviceError: it lies elsewhere.
    """
    if tensor._data.__class__ not in HOST_ARRAYS and tensor.device != CPU:
        raise DeviceError(
            f"{where}: expected a tensor on the CPU, got one on {tensor.device}; call .cpu() first"
        )
    array: np.ndarray = tensor._data
    return array


def _array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(_numpy(self), dtype=dtype, copy=copy)


def _bool(self: Tensor) -> bool:
    if self.size != 1:
        raise ShapeError(
            f"bool: a tensor of shape {list(self.shape)} is neither true nor false; use dg.all or dg.any"
        )
    return bool(self._data)


def _len(self: Tensor) -> int:
    if self.ndim == 0:
        raise TypeError("len: a tensor without axes has no length")
    return self.shape[0]


def _iter(self: Tensor) -> Iterator[Tensor]:
    _len(self)
    return iter(operations.unstack(self))


def _contains(self: Tensor, value: Any) -> bool:
    return bool((self._data == (value._data if isinstance(value, Tensor) else value)).any())


def _format(self: Tensor, spec: str) -> str:
    return format(self._data.item(), spec) if self.ndim == 0 else format(tensor_text(self), spec)


# -- NumPy's own functions

#: What Python calls for ``array + tensor``: NumPy's function, which cannot be told from the operator.
_OPERATOR_UFUNCS: dict[Any, Any] = {
    getattr(np, name): getattr(operations, name) for name in (*_ARITHMETIC.values(), *_COMPARISONS.values())
}


def _array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """Operators with an array on the left give tensors; other ufuncs compute on the arrays."""
    operation = _OPERATOR_UFUNCS.get(ufunc)
    if operation is not None and method == "__call__" and not options and not isinstance(inputs[0], Tensor):
        return operation(*inputs)
    return _compute_with_numpy(getattr(ufunc, method), ufunc, inputs, options)


def _array_function(self: Tensor, function: Any, types: Any, args: Any, options: Any) -> Any:
    """Other NumPy functions compute on the arrays too."""
    return _compute_with_numpy(function, function, args, options)


def _compute_with_numpy(call: Any, function: Any, args: Any, options: dict[str, Any]) -> Any:
    out = options.get("out")
    if any(isinstance(each, Tensor) for each in (out if isinstance(out, tuple) else (out,))):
        return NotImplemented
    return call(*_arrays(args, function), **_arrays(options, function))


def _arrays(value: Any, function: Any) -> Any:
    """The tensors inside ``value`` as arrays.

    Raises:
        GraphError: one of them requires a gradient.
    """
    if isinstance(value, Tensor):
        if value.requires_grad:
            ours = _our_name(function)
            raise GraphError(
                f"numpy.{function.__name__}: a tensor requires a gradient, which NumPy would lose; "
                + (f"use {ours}, or detach() it" if ours else "detach() it first")
            )
        return _on_host(value, f"numpy.{function.__name__}")
    if isinstance(value, dict):
        return {key: _arrays(each, function) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_arrays(each, function) for each in value)
    return value


def _our_name(function: Any) -> str | None:
    """What distgrad calls a NumPy function; None for one that it lacks."""
    for prefix, module in (("dg.", np), ("dg.linalg.", np.linalg), ("dg.fft.", np.fft)):
        for name in operations.__dict__:
            if vars(module).get(name) is function:
                return prefix + name
    return None


# -- the array API standard's own methods

_VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12")


def _array_namespace(self: Tensor, /, *, api_version: str | None = None) -> Any:
    if api_version is not None and api_version not in _VERSIONS:
        raise ValueError(f"__array_namespace__: api_version must be one of {_VERSIONS}, got {api_version!r}")
    return sys.modules["distgrad"]


def _to_device(self: Tensor, device: Device | str, /, *, stream: Any = None) -> Tensor:
    if stream is not None and self.device == CPU:
        raise ValueError(f"to_device: the CPU has no streams, got stream={stream!r}")
    return moved(self, device)


def _dlpack(self: Tensor, **options: Any) -> Any:
    if self.requires_grad:
        raise GraphError("__dlpack__: the tensor requires a gradient; call detach() first")
    return self._data.__dlpack__(**{key: value for key, value in options.items() if value is not None})


def _dlpack_method(
    self: Tensor,
    /,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[Any, int] | None = None,
    copy: bool | None = None,
) -> Any:
    return _dlpack(self, stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)


# -- methods with names of their own


def _transpose(self: Tensor) -> Tensor:
    if self.ndim != 2:
        raise ShapeError(f"T: expected two axes, got {list(self.shape)}; use mT or permute_dims")
    return operations.matrix_transpose(self)


def _conjugate(x: Tensor) -> Tensor:
    return operations.conj(x) if x.dtype.kind == "c" else x


def _to(self: Tensor, *args: Any, **options: Any) -> Tensor:
    """The tensor with another dtype, on another device, or both; itself if it is so already.

    Called as ``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(tensor)``.
    """
    device, dtype = destination(args, options)
    out = self
    if dtype is not None:
        out = operations.astype(out, np.dtype(dtype), copy=False)
    if device is not None:
        out = moved(out, device, options.get("non_blocking", False))
    return operations.astype(out, out.dtype) if options.get("copy") and out is self else out


def _cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """The tensor on a GPU: ``device``, a number or name; None means this rank's own."""
    target = f"cuda:{device}" if isinstance(device, int) else device or "cuda"
    return moved(self, target, non_blocking)


def _copy(self: Tensor, *memo: Any) -> Tensor:
    if not self.is_leaf:
        raise GraphError("copy: only leaves can be copied with the copy module; use clone() or detach()")
    out = _rebuild(Tensor, self._data.copy(), self.requires_grad)
    if self.grad is not None:
        out.grad = Tensor(self.grad._data.copy())
    out.__dict__.update(copy.deepcopy(self.__dict__, *memo) if memo else self.__dict__)
    return out


def _reduce(self: Tensor) -> Any:
    if not self.is_leaf:
        raise GraphError("pickle: only leaves can be pickled, not what has a graph; use detach()")
    return _rebuild, (home_of(type(self)), self._data, self.requires_grad), self.__dict__ or None


def _rebuild(kind: Any, data: Any, requires_grad: bool) -> Tensor:
    """A leaf of a class, given or named, around an array; what copies and pickles are made with."""
    kind = class_at(kind)
    out = kind.__new__(kind)
    Tensor.__init__(out, data, requires_grad)
    return out


_OPERATOR_SIGNATURE = inspect.Signature(
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("self", "other")]
)


def _methods() -> dict[str, Any]:
    """Everything that is attached, by name."""
    methods: dict[str, Any] = {}
    for name, function in _ARITHMETIC.items():
        methods[f"__{name}__"] = operator_method(function)
        methods[f"__r{name}__"] = operator_method(function, "right")
        methods[f"__i{name}__"] = in_place_operator(function)
    methods |= {f"__{name}__": operator_method(each) for name, each in _COMPARISONS.items()}
    for method in methods.values():
        method.__signature__ = _OPERATOR_SIGNATURE
    methods |= {f"__{name}__": getattr(operations, each) for name, each in _UNARY.items()}
    methods |= {name: getattr(operations, name) for name in _STANDARD}
    methods |= {name: Named(name) for name in method_names() if name not in vars(Tensor)}
    return methods | in_place_methods() | _SPECIAL | _OWN


_SPECIAL: dict[str, Any] = {
    "__array__": _array,
    "__array_function__": _array_function,
    "__array_namespace__": _array_namespace,
    "__array_ufunc__": _array_ufunc,
    "__bool__": _bool,
    "__complex__": lambda self: complex(_item(self)),
    "__contains__": _contains,
    "__copy__": _copy,
    "__deepcopy__": _copy,
    "__dlpack__": _dlpack_method,
    "__dlpack_device__": lambda self: self._data.__dlpack_device__(),
    "__float__": lambda self: float(_item(self)),
    "__format__": _format,
    "__getitem__": _getitem,
    "__hash__": object.__hash__,
    "__index__": _index,
    "__int__": lambda self: int(_item(self)),
    "__iter__": _iter,
    "__len__": _len,
    "__reduce__": _reduce,
    "__repr__": tensor_text,
    "_repr_html_": tensor_html,
}

#: What a tensor here never is.
_NEVER = ("is_meta", "is_mps", "is_quantized", "is_sparse", "is_sparse_csr", "is_xpu", "is_nested")

_OWN: dict[str, Any] = {
    "T": property(_transpose),
    "mT": property(operations.matrix_transpose),
    "real": property(operations.real),
    "imag": property(operations.imag),
    "to_device": _to_device,
    "to": _to,
    "cpu": lambda self: moved(self, CPU),
    "cuda": _cuda,
    "pin_memory": pinned,
    "is_pinned": is_pinned,
    "record_stream": lent,
    "item": _item,
    "tolist": lambda self: self._data.tolist(),
    "numpy": _numpy,
    "dim": lambda self: self._data.ndim,
    "H": property(lambda self: _conjugate(_transpose(self))),
    "mH": property(lambda self: _conjugate(operations.matrix_transpose(self))),
    "is_cuda": property(lambda self: self.device.kind == "cuda"),
    "is_cpu": property(lambda self: self.device == CPU),
    "layout": property(lambda self: "strided"),
    **{name: property(lambda self: False) for name in _NEVER},
}

#: All that this file attaches to Tensor; its declarations for type checkers stand in tensor.py.
METHODS = _methods()
for _name, _method in METHODS.items():
    setattr(Tensor, _name, _method)
for _name in (*HINTS["'Tensor' object"], *absent.METHODS.split()):
    setattr(Tensor, _name, Elsewhere(_name))
