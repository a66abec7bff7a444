"""Names of PyTorch's that are not here, and what to do instead."""

from __future__ import annotations

__all__ = ["ABSENT"]

#: By the name behind ``torch.``.
ABSENT = {
    "onnx": "save the state dict with torch.save and export it where PyTorch is installed",
    "onnx.export": "save the state dict with torch.save and export it where PyTorch is installed",
    "utils.benchmark": "time calls with timeit",
    "autograd.forward_ad": "use torch.func.jvp",
    "quantization": "train in float16 or bfloat16 with torch.autocast",
    "ao": "train in float16 or bfloat16 with torch.autocast",
    "export": "save the state dict with torch.save and export it where PyTorch is installed",
    "fx": "there is no tracing of programs; call the module",
    "_inductor": "there is no graph compiler; leave it out",
    "jit.save": "save the state dict with torch.save",
    "jit.load": "load a state dict with torch.load",
    "distributed.rpc": "use send and recv of torch.distributed",
    "distributed.checkpoint": "save with torch.save on rank 0",
    "distributed.tensor": "use the collectives of torch.distributed.nn.functional",
    "distributed.pipelining": "use send and recv of torch.distributed",
    "distributed.get_pg_options": "leave it out: groups have no options",
}
