"""Names of PyTorch's that are not here, and what to do instead."""

from __future__ import annotations

import re

__all__ = ["ABSENT", "KINDS", "METHODS", "way_around"]

_EXPORT = "save the state dict with torch.save and export it where PyTorch is installed"
_NO_GRAPHS = "there is no compiler of programs; call the function or module itself"
_NARROW = "train in float16 or bfloat16 with torch.autocast"

#: By the name behind ``torch.``.
ABSENT = {
    "onnx": _EXPORT,
    "onnx.export": _EXPORT,
    "utils.benchmark": "time calls with timeit",
    "autograd.forward_ad": "use torch.func.jvp",
    "quantization": _NARROW,
    "ao": _NARROW,
    "export": _EXPORT,
    "fx": "there is no tracing of programs; call the module",
    "_inductor": "there is no graph compiler; leave it out",
    "jit.save": "save the state dict with torch.save",
    "jit.load": "load a state dict with torch.load",
    "distributed.rpc": "use send and recv of torch.distributed",
    "distributed.checkpoint": "save with torch.save on rank 0",
    "distributed.tensor": "use the collectives of torch.distributed.nn.functional",
    "distributed.pipelining": "use send and recv of torch.distributed",
    "distributed.get_pg_options": "leave it out: groups have no options",
    "lobpcg": "use torch.linalg.eigh",
    "Container": "use torch.nn.Module",
    "NLLLoss2d": "use torch.nn.NLLLoss",
    "CrossMapLRN2d": "use torch.nn.LocalResponseNorm",
    "Tensor.solve": "use torch.linalg.solve",
    "Tensor.symeig": "use torch.linalg.eigh",
    "Tensor.volatile": "use torch.no_grad",
    "func.linearize": "use torch.func.jvp",
    "cuda.CUDAGraph": "use torch.compile, or distgrad.capture",
    "cuda.graph": "use torch.compile, or distgrad.capture",
    "cuda.make_graphed_callables": "use torch.compile, or distgrad.capture",
    "nn.functional.grouped_mm": "use torch.bmm",
    "masked.masked_tensor": "use the reductions of torch.masked with mask=",
    "masked.MaskedTensor": "use the reductions of torch.masked with mask=",
}

_DENSE = "sparse tensors have their elements dense; use to_sparse, nonzero and indexing"

#: The same for names alike: a pattern of the name behind ``torch.``, and the way.
KINDS = (
    (r"(.*\.)?(quantized?|dequantize|q_|qint|quint|qscheme|int_repr|fake_quantize|fbgemm)\w*", _NARROW),
    (r"(fused_moving|choose_qparams|empty_quantized)\w*", _NARROW),
    (r"(float8|float4|bits?\d|u?int[1-7]$)\w*|bit", "the narrowest numbers are int8, float16 and bfloat16"),
    (r"complex32|(Tensor\.)?chalf", "the narrowest complex dtype is complex64"),
    (r"(cudnn|miopen|mkldnn|native)_\w+", "internal to PyTorch; call the function without the prefix"),
    (r"(.*\.)?sym_\w+", "sizes are Python's own numbers; use Python's own functions"),
    (r"\w*(Type|Graph|Script\w*|Code|Block|Node|Use|Value|FileCheck|CompilationUnit)", _NO_GRAPHS),
    (r"(jit\.|parse_|import_ir|unify_type|merge_type|Argument|FunctionSchema)\w*", _NO_GRAPHS),
    (r"compiler\.\w+", "there is no graph compiler; leave it out"),
    (r"utils\.data\.\w*(Pipe|datapipe|Chunk|validation|determini)\w*", "use a Dataset and a DataLoader"),
    (r"(.*\.)?\w*Storage\w*", "memory is seen through tensors alone; use the tensor"),
    (r"(.*\.)?(to_)?sparse_?(bsr|bsc|csc|compressed)\w*", _DENSE),
    (r"(.*\.)?(ccol|crow|row|col)_indices(_copy)?", _DENSE),
    (r"special\.\w*(bessel|polynomial|airy)\w*", "use scipy.special"),
    (r"distributed\.\w+(Options|Config)", "leave it out: groups have no options"),
    (r"cuda\.\w*(temperature|power|clock|utilization|processes)\w*", "watch it with nvidia-smi"),
)

#: Names of PyTorch's tensors among them.
METHODS = (
    "ccol_indices chalf col_indices crow_indices dequantize int_repr q_per_channel_axis "
    "q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point qscheme row_indices solve symeig "
    "to_sparse_bsc to_sparse_bsr to_sparse_csc volatile"
)


def way_around(name: str) -> str | None:
    """What to write in the place of a name that is not here; None where nothing is known.

    Args:
        name: as it stands behind ``torch.``.
    """
    found = ABSENT.get(name) or ABSENT.get(name.rpartition(".")[2])
    found = found or next((way for pattern, way in KINDS if re.fullmatch(pattern, name)), None)
    above = name.rpartition(".")[0]
    return found or (way_around(above) if above else None)
