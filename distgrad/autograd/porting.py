"""What PyTorch's names for arrays are called here, so that each of them is met by an error that says so.

Arrays have the names of the array API standard, and there is no second name for anything. What trains has
PyTorch's, and needs no table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from distgrad.elsewhere import lacking

__all__ = ["KEYWORDS", "NAMES", "Elsewhere", "Size", "explain_name", "one_shape", "wrong_arguments"]

F = TypeVar("F", bound=Callable[..., Any])

#: PyTorch's and NumPy's keywords, and what stands for them.
KEYWORDS = {
    "dim": "axis",
    "dims": "axis",
    "dim0": "axis",
    "keepdim": "keepdims",
    "unbiased": "correction",
    "ddof": "correction",
    "diagonal": "k",
    "p": "ord",
    "a_min": "min",
    "a_max": "max",
    "shifts": "shift",
}

#: PyTorch's names of methods and functions that are called otherwise; ``x`` is the tensor.
# fmt: off
NAMES = {
    "absolute": "abs(x)", "add": "x + y", "addmm": "x + a @ b", "allclose": "np.allclose(x, y)",
    "arange_like": "dg.arange", "arccos": "acos(x)", "arccosh": "acosh(x)", "arcsin": "asin(x)",
    "arcsinh": "asinh(x)", "arctan": "atan(x)", "arctan2": "atan2(x, y)", "arctanh": "atanh(x)",
    "argwhere": "dg.stack(dg.nonzero(x), axis=1)", "as_tensor": "dg.asarray(data)", "baddbmm": "x + a @ b",
    "byte": "x.astype(dg.uint8)", "cat": "dg.concat(tensors, axis=...)", "char": "x.astype(dg.int8)",
    "clamp": "x.clip(min, max)", "clamp_max": "x.clip(None, max)", "clamp_min": "x.clip(min)",
    "concatenate": "dg.concat(tensors)", "data_ptr": "x.numpy().ctypes.data", "det": "dg.linalg.det(x)",
    "diag": "dg.linalg.diagonal(x)", "diagonal": "dg.linalg.diagonal(x)", "div": "x / y", "divide": "x / y",
    "dot": "dg.vecdot(x, y)", "element_size": "x.itemsize", "eq": "x == y",
    "expand": "x.broadcast_to(shape)", "expand_as": "x.broadcast_to(y.shape)", "fix": "trunc(x)",
    "fliplr": "x.flip(axis=1)", "flipud": "x.flip(axis=0)", "fmod": "x - dg.trunc(x / y) * y",
    "from_numpy": "dg.asarray(array)", "ge": "x >= y", "ger": "dg.linalg.outer(x, y)",
    "get_device": "x.device", "gt": "x > y", "index_put": "x[indices] = values",
    "index_put_": "x[indices] = values", "inner": "dg.vecdot(x, y)", "inverse": "dg.linalg.inv(x)",
    "is_complex": 'dg.isdtype(x.dtype, "complex floating")', "is_contiguous": "x.contiguous()",
    "is_cuda": "x.device", "is_floating_point": 'dg.isdtype(x.dtype, "real floating")',
    "is_tensor": "isinstance(x, dg.Tensor)", "isclose": "np.isclose(x, y)", "le": "x <= y",
    "lerp": "x + w * (y - x)", "lt": "x < y", "matrix_power": "dg.linalg.matrix_power(x, n)", "mm": "x @ y",
    "movedim": "x.moveaxis(source, destination)", "mul": "x * y", "multiply": "x * y", "mv": "x @ y",
    "narrow": "x[start:start + length]", "ndimension": "x.ndim", "ne": "x != y", "neg": "-x",
    "negative": "-x", "nelement": "x.numel()", "new_empty": "dg.empty(shape, dtype=x.dtype)",
    "new_full": "dg.full(shape, value, dtype=x.dtype)", "new_ones": "dg.ones(shape, dtype=x.dtype)",
    "new_tensor": "dg.tensor(data, dtype=x.dtype)", "new_zeros": "dg.zeros(shape, dtype=x.dtype)",
    "normal_": "nn.init.normal_(x)", "outer": "dg.linalg.outer(x, y)", "pinverse": "dg.linalg.pinv(x)",
    "ravel": "x.flatten()", "repeat_interleave": "x.repeat(n, axis=...)",
    "reshape_as": "x.reshape(y.shape)", "rsqrt": "1 / x.sqrt()", "select": "x[..., index]",
    "share_memory_": "the shared memory that dg.data.DataLoader uses by itself",
    "short": "x.astype(dg.int16)", "stride": "x.numpy().strides", "sub": "x - y", "subtract": "x - y",
    "svd": "dg.linalg.svd(x)", "swapaxes": "x.moveaxis(a, b)", "swapdims": "x.moveaxis(a, b)", "t": "x.T",
    "take_along_dim": "x.take_along_axis(indices, axis=...)", "tensor_split": "x.split(sizes)",
    "trace": "dg.linalg.trace(x)", "transpose": "x.mT for the last two axes, or x.permute_dims(axes)",
    "true_divide": "x / y", "type": "x.dtype, or x.astype(dtype)", "type_as": "x.astype(y.dtype)",
    "unbind": "x.unstack(axis=...)", "unflatten": "x.reshape(shape)", "uniform_": "nn.init.uniform_(x)",
    "unique": "dg.unique_values(x)", "unsqueeze": "x.expand_dims(axis=...)",
    "unsqueeze_": "x = x.expand_dims(axis=...)", "vdot": "dg.vecdot(x, y)", "view_as": "x.reshape(y.shape)",
    "zero_grad": "x.grad = None",
}
#: Functions that PyTorch has under another name, beside their own meaning here.
_HINTS = {"repeat": "what PyTorch calls repeat is x.tile((2, 2))"}
#: Names of PyTorch's package alone.
_ROOMS = {
    "FloatTensor": "dg.tensor(data)", "LongTensor": "dg.tensor(data)",
    "as_strided": "dg.sliding_window_view", "backends": "dg.set_num_threads",
    "compile": "nothing: kernels are compiled as they are needed",
    "device": "dg.Device", "distributed": "dg.comm and dg.parallel", "double": "dg.float64",
    "flatten": "x.flatten(start_dim)", "float": "dg.float32", "half": "dg.float16", "int": "dg.int32",
    "is_available": "dg.Device", "jit": "nothing: there is no script mode", "long": "dg.int64",
    "mps": "dg.Device", "numel": "x.numel()", "permute": "dg.permute_dims(x, axes)", "size": "x.shape",
    "utils": "dg.data and dg.nn.utils", "vision": "dg.data.datasets",
}
# fmt: on


_STANDARD = "arrays have the array API standard's names; write "


def _standard(names: dict[str, str]) -> dict[str, str]:
    return {name: _STANDARD + ours for name, ours in names.items()}


#: Raise the error for a name that tensors, or the package, lack.
explain_method = lacking("'Tensor' object", _standard(NAMES))
explain_name = lacking("module 'distgrad'", _standard(_ROOMS | NAMES))


class Elsewhere:
    """Stands in a class for one of PyTorch's names, and raises the error that says what it is called here."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return explain_method(self.name)


class Size(int):
    """A number of elements; PyTorch's ``size()`` is met by an error that says what it is called here."""

    def __call__(self, *axis: Any) -> Any:
        raise TypeError("size: x.size is the number of elements; write x.shape, or x.shape[axis]")


def wrong_arguments(
    name: str, attributes: Iterable[str], misplaced: tuple[Any, ...], misnamed: dict[str, Any]
) -> TypeError:
    """The error for arguments that an operation does not take.

    Args:
        name: of the operation.
        attributes: its keywords.
        misplaced: values by position that want a keyword.
        misnamed: those by keywords that it lacks.
    """
    keywords = list(attributes)
    takes = f"its keywords are {', '.join(keywords)}" if keywords else "it takes no keywords"
    if misplaced and "shape" in keywords:
        return TypeError(f"{name}: expected one shape, got several numbers; write them as one tuple")
    if misplaced:
        hint = _HINTS.get(name) or (f"write {keywords[0]}={misplaced[0]!r}" if keywords else "leave them out")
        return TypeError(f"{name}: expected options by keyword, got {misplaced}; {hint} ({takes})")
    wrong = next(iter(misnamed))
    ours = KEYWORDS.get(wrong)
    ours = next((each for each in (ours, f"{ours}s", "axes") if ours and each in keywords), None)
    if ours:
        return TypeError(f"{name}: unexpected keyword {wrong!r}; the array API standard calls it {ours!r}")
    return TypeError(f"{name}: unexpected keyword {wrong!r}; {takes}")


def one_shape(function: F) -> F:
    """Say what to write where a shape is given as several arguments."""

    @functools.wraps(function)
    def call(*shape: Any, **options: Any) -> Any:
        if len(shape) > 1:
            name = function.__name__
            raise TypeError(
                f"{name}: expected one shape, got {len(shape)} arguments; write dg.{name}({shape})"
            )
        return function(*shape, **options)

    return cast("F", call)
