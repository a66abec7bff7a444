"""PyTorch's names that libraries import in passing, where calling them is what is an error.

A library names a type to ask ``isinstance`` of it, to annotate with it, or to derive a class that few users
make; were the name absent, none of the library could be imported. Nothing is an instance of these types, and
making one, or calling a function of these, raises an error with the name and, where there is one, the way.
"""

from __future__ import annotations

__all__ = ["DEFERRED", "DTYPES"]

#: Dtypes that tables of libraries have as keys; asking for an array of one is an error.
DTYPES = "complex32 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"

#: By submodule behind ``torch``; each of these submodules can be imported.
DEFERRED = {
    "": "PyTorchFileReader PyTorchFileWriter SymBool SymFloat SymInt TypedStorage",
    "_dynamo._trace_wrapped_higher_order_op": "TransformGetItemToIndex",
    "_subclasses": "",
    "_tensor_str": "PRINT_OPTS _tensor_str",
    "_subclasses.fake_tensor": "FakeTensor FakeTensorMode",
    "ao": "",
    "ao.quantization": "FakeQuantizeBase ObserverBase QConfig",
    "autograd.profiler": "emit_itt emit_nvtx",
    "distributed._functional_collectives": "all_gather_tensor all_reduce all_to_all_single permute_tensor",
    "distributed._tensor": "DTensor distribute_module distribute_tensor",
    "distributed.rpc": "get_worker_info init_rpc remote rpc_async rpc_sync shutdown",
    "distributed.tensor": "DTensor distribute_module distribute_tensor",
    "distributed.tensor.experimental": "context_parallel implicit_replication",
    "distributed.tensor.parallel": "ColwiseParallel PrepareModuleInput PrepareModuleOutput RowwiseParallel "
    "SequenceParallel loss_parallel parallelize_module",
    "distributions": "LKJCholesky LogisticNormal VonMises Wishart",
    "distributions.lkj_cholesky": "LKJCholesky",
    "distributions.logistic_normal": "LogisticNormal",
    "distributions.transforms": "CorrCholeskyTransform",
    "distributions.von_mises": "VonMises",
    "distributions.wishart": "Wishart",
    "fx": "Graph GraphModule Interpreter Node Proxy Tracer Transformer replace_pattern symbolic_trace",
    "fx.experimental": "",
    "fx.experimental.proxy_tensor": "make_fx",
    "fx.graph": "Graph",
    "fx.graph_module": "GraphModule",
    "fx.node": "Node",
    "fx.passes": "",
    "fx.passes.shape_prop": "ShapeProp",
    "fx.proxy": "ParameterProxy Proxy TraceError",
    "nested": "as_nested_tensor nested_tensor nested_tensor_from_jagged to_padded_tensor",
    "nn.attention.flex_attention": "BlockMask create_block_mask create_mask flex_attention",
    "overrides": "TorchFunctionMode",
    "quantization": "FakeQuantizeBase ObserverBase QConfig",
    "quasirandom": "SobolEngine",
    "storage": "TypedStorage",
    "utils._python_dispatch": "TorchDispatchMode",
    "utils.data.dataloader": "_BaseDataLoaderIter _MultiProcessingDataLoaderIter "
    "_SingleProcessDataLoaderIter",
}
