"""Keywords and names that PyTorch, NumPy and the array API standard have for the same thing."""

from __future__ import annotations

__all__ = ["HINTS", "ROOMS", "STANDARD_WORDS", "WORDS"]

#: Keywords that mean PyTorch's, in the order in which they are looked for among a function's arguments.
WORDS = {
    "axis": ("dim", "dims", "dim0"),
    "axes": ("dims", "dim"),
    "keepdims": ("keepdim",),
    "x": ("input",),
    "x1": ("input",),
    "x2": ("other",),
    "shift": ("shifts",),
    "k": ("diagonal",),
    "ord": ("p",),
    "a_min": ("min",),
    "a_max": ("max",),
}

#: What the array API standard calls PyTorch's keywords, for the messages of ``dg``'s functions.
STANDARD_WORDS = {
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

# fmt: off
#: What the array API standard calls PyTorch's functions, for the messages of ``dg``; ``x`` is a tensor.
HINTS = {
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

#: What ``dg`` has instead of names that PyTorch's package has.
ROOMS = {
    "FloatTensor": "dg.tensor(data)", "LongTensor": "dg.tensor(data)",
    "as_strided": "dg.sliding_window_view", "backends": "dg.set_num_threads",
    "compile": "nothing: kernels are compiled as they are needed",
    "device": "dg.Device", "distributed": "dg.comm and dg.parallel", "double": "dg.float64",
    "flatten": "x.flatten(start_dim)", "float": "dg.float32", "half": "dg.float16", "int": "dg.int32",
    "is_available": "dg.Device", "jit": "nothing: there is no script mode", "long": "dg.int64",
    "mps": "dg.Device", "numel": "x.numel()", "permute": "dg.permute_dims(x, axes)", "size": "x.shape",
    "utils": "dg.data and dg.nn.utils", "vision": "dg.data",
}
# fmt: on
