"""What to write for the names and arguments that PyTorch, NumPy and the standard have for the same thing.

:mod:`distgrad.names.lacking` makes errors of :data:`HINTS` and :data:`ARGUMENTS`.
"""

from __future__ import annotations

__all__ = ["ARGUMENTS", "HINTS", "POSITIONAL", "STANDARD_WORDS", "WORDS"]

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
    "split_size": ("split_size_or_sections",),
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

#: Functions that PyTorch has under another name, beside their own meaning here.
POSITIONAL = {"repeat": "what PyTorch calls repeat is dg.tile"}

# fmt: off
#: PyTorch's names for functions of arrays, whose names in ``dg`` are the standard's; ``x`` is a tensor.
_FUNCTIONS = {
    "absolute": "abs(x)", "addmm": "x + a @ b", "allclose": "np.allclose(x, y)", "arccos": "acos(x)",
    "arccosh": "acosh(x)", "arcsin": "asin(x)", "arcsinh": "asinh(x)", "arctan": "atan(x)",
    "arctan2": "atan2(x, y)", "arctanh": "atanh(x)", "argwhere": "dg.stack(dg.nonzero(x), axis=1)",
    "as_tensor": "dg.asarray(data)", "baddbmm": "x + a @ b", "byte": "x.astype(dg.uint8)",
    "cat": "dg.concat(tensors, axis=...)", "char": "x.astype(dg.int8)", "clamp": "x.clip(min, max)",
    "clamp_max": "x.clip(None, max)", "clamp_min": "x.clip(min)", "concatenate": "dg.concat(tensors)",
    "data_ptr": "x.numpy().ctypes.data", "det": "dg.linalg.det(x)", "diag": "dg.linalg.diagonal(x)",
    "diagonal": "dg.linalg.diagonal(x)", "div": "x / y", "dot": "dg.vecdot(x, y)",
    "element_size": "x.itemsize", "eq": "x == y", "expand": "x.broadcast_to(shape)",
    "expand_as": "x.broadcast_to(y.shape)", "fix": "trunc(x)", "fliplr": "x.flip(axis=1)",
    "flipud": "x.flip(axis=0)", "from_numpy": "dg.asarray(array)", "ge": "x >= y",
    "ger": "dg.linalg.outer(x, y)", "get_device": "x.device", "gt": "x > y",
    "index_put": "x[indices] = values", "index_put_": "x[indices] = values", "inner": "dg.vecdot(x, y)",
    "inverse": "dg.linalg.inv(x)", "is_complex": 'dg.isdtype(x.dtype, "complex floating")',
    "is_contiguous": "x.contiguous()", "is_cuda": "x.device",
    "is_floating_point": 'dg.isdtype(x.dtype, "real floating")', "is_tensor": "isinstance(x, dg.Tensor)",
    "isclose": "np.isclose(x, y)", "le": "x <= y", "lerp": "x + w * (y - x)", "lt": "x < y",
    "matrix_power": "dg.linalg.matrix_power(x, n)", "mm": "x @ y",
    "movedim": "x.moveaxis(source, destination)", "mul": "x * y", "mv": "x @ y",
    "narrow": "x[start:start + length]", "ndimension": "x.ndim", "ne": "x != y", "neg": "-x",
    "nelement": "x.numel()", "new_empty": "dg.empty(shape, dtype=x.dtype)",
    "new_full": "dg.full(shape, value, dtype=x.dtype)", "new_ones": "dg.ones(shape, dtype=x.dtype)",
    "new_tensor": "dg.tensor(data, dtype=x.dtype)", "new_zeros": "dg.zeros(shape, dtype=x.dtype)",
    "normal_": "nn.init.normal_(x)", "outer": "dg.linalg.outer(x, y)", "pinverse": "dg.linalg.pinv(x)",
    "ravel": "x.flatten()", "repeat_interleave": "x.repeat(n, axis=...)",
    "reshape_as": "x.reshape(y.shape)", "rsqrt": "1 / x.sqrt()", "select": "x[..., index]",
    "short": "x.astype(dg.int16)", "stride": "x.numpy().strides", "sub": "x - y",
    "svd": "dg.linalg.svd(x)", "swapaxes": "x.moveaxis(a, b)", "swapdims": "x.moveaxis(a, b)", "t": "x.T",
    "take_along_dim": "x.take_along_axis(indices, axis=...)", "tensor_split": "x.split(sizes)",
    "transpose": "x.mT for the last two axes, or x.permute_dims(axes)",
    "true_divide": "x / y", "type": "x.dtype, or x.astype(dtype)", "type_as": "x.astype(y.dtype)",
    "unbind": "x.unstack(axis=...)", "unflatten": "x.reshape(shape)", "uniform_": "nn.init.uniform_(x)",
    "unique": "dg.unique_values(x)", "unsqueeze": "x.expand_dims(axis=...)", "vdot": "dg.vecdot(x, y)",
    "view_as": "x.reshape(y.shape)",
}

#: What ``dg`` has instead of other names of PyTorch's package.
_ROOMS = {
    "FloatTensor": "dg.tensor(data)", "LongTensor": "dg.tensor(data)",
    "as_strided": "dg.sliding_window_view", "backends": "dg.set_num_threads",
    "compile": "dg.capture(step), or model.compile()",
    "distributed": "dg.comm and dg.parallel", "double": "dg.float64", "flatten": "x.flatten(start_dim)",
    "float": "dg.float32", "half": "dg.float16", "int": "dg.int32",
    "jit": "nothing: there is no script mode", "long": "dg.int64", "mps": "dg.Device",
    "numel": "x.numel()", "permute": "dg.permute_dims(x, axes)", "size": "x.shape",
    "utils": "dg.data and dg.nn.utils",
}
# fmt: on

#: What PyTorch's ``torch.distributed`` calls otherwise; ``comm`` is what ``init`` returns.
_DISTRIBUTED = {
    "init_process_group": "comm = dg.comm.init()",
    "destroy_process_group": "dg.comm.finalize()",
    "get_rank": "comm.rank",
    "get_world_size": "comm.size",
    "new_group": "comm.split(...)",
    "ReduceOp": 'op="sum", "mean", "max", "min" or "prod"',
    **{verb: f"comm.{verb}(array)" for verb in ("all_reduce", "broadcast", "all_gather", "reduce_scatter")},
    **{verb: f"comm.{verb}(...)" for verb in ("all_to_all", "barrier", "send", "recv")},
    "all_gather_object": "comm.all_gather_object(value)",
    "broadcast_object_list": "comm.broadcast_object(value)",
    "all_gather_into_tensor": "comm.all_gather(part, out=array)",
    "reduce_scatter_tensor": "comm.reduce_scatter(array, out=part)",
    "gather_object": "comm.gather_object(value)",
    "scatter_object_list": "comm.scatter_object(values)",
}

#: For names that a module or a class lacks, what to write or why they are left out.
HINTS = {
    "module 'distgrad'": {
        name: f"arrays have the array API standard's names; write {ours}"
        for name, ours in (_ROOMS | _FUNCTIONS).items()
    },
    "'Tensor' object": {
        "storage": "write x.numpy() for the elements, x.untyped_storage() for the memory behind them",
    },
    "module 'distgrad.nn'": {
        "SyncBatchNorm": "it stands in dg.parallel",
        "DataParallel": "one process a rank instead: dg.parallel.DistributedDataParallel",
        "parallel": "it is dg.parallel",
        "RNNBase": "subclass RNN, LSTM or GRU",
        "RNNCellBase": "subclass RNNCell, LSTMCell or GRUCell",
    },
    "module 'distgrad.comm'": {name: f"write {ours}" for name, ours in _DISTRIBUTED.items()},
}

#: For arguments that a function of PyTorch's has, what stands for them or why they are not needed.
ARGUMENTS = {
    "load": {
        "map_location": "tensors come on the CPU, and load_state_dict sends them to where the module lies",
        "weights_only": "no pickle is read without allow_pickle=True",
    },
    "DataLoader": {
        "pin_memory_device": "pinned memory serves all GPUs of a process",
        "multiprocessing_context": "workers are always interpreters of their own",
        "in_order": "batches always come in order",
    },
    "Optimizer": {
        "differentiable": "a step is no part of a graph; write the update with tensors and dg.func.grad",
    },
    "DistributedDataParallel": {
        "device_ids": "it trains where the module lies: call model.to(device) before",
        "output_device": "it trains where the module lies: call model.to(device) before",
        "process_group": "pass comm=, or nothing for all ranks",
        "find_unused_parameters": "unused parameters are found without it",
        "gradient_as_bucket_view": "gradients always lie in the buckets",
        "static_graph": "a plan that fits is found by itself",
    },
}
