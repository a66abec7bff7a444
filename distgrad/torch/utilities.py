"""``torch.utils``, and names of compilers that programs call in passing."""

from __future__ import annotations

import typing
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from distgrad.autograd.failures import LinAlgError
from distgrad.autograd.tensor import Tensor
from distgrad.nn.module import Module

__all__ = ["FatalError", "ScriptModule", "cond", "set_anomaly_enabled", "typename", "while_loop"]


def _itself(function: Any = None, *args: Any, **options: Any) -> Any:
    """The function itself: kernels are compiled as they are needed."""
    return (lambda each: each) if function is None else function


def _nothing(*args: Any, **options: Any) -> None:
    """Nothing."""


@contextmanager
def _span(*args: Any, **options: Any) -> Any:
    yield


class type_names:
    """``torch.jit.annotations``: names of types."""

    List, Dict, Tuple, Optional, Union = list, dict, tuple, typing.Optional, typing.Union
    BroadcastingList1 = BroadcastingList2 = BroadcastingList3 = list


class ScriptFunction:
    """What ``torch.jit.script`` makes of a function in PyTorch; here no function is one."""


class ScriptModule(Module):
    """A base class of modules of old programs, which are run as they are written."""


class jit:
    """``torch.jit``: programs run as they are written."""

    script = script_method = ignore = unused = export = script_if_tracing = staticmethod(_itself)
    _overload = _overload_method = staticmethod(_itself)
    freeze = optimize_for_inference = interface = staticmethod(_itself)
    optimized_execution = fuser = strict_fusion = staticmethod(_span)
    set_fusion_strategy = staticmethod(_nothing)
    ScriptFunction = ScriptFunction
    TracerWarning = type("TracerWarning", (Warning,), {"__doc__": "A warning that is never given."})
    Error = type("Error", (RuntimeError,), {"__doc__": "An error that is never raised."})
    Attribute = staticmethod(lambda value, kind=None: value)
    trace = staticmethod(lambda function, example_inputs=None, **options: function)
    is_scripting = is_tracing = staticmethod(lambda: False)
    annotate = staticmethod(lambda kind, value: value)
    isinstance = staticmethod(isinstance)
    ScriptModule = ScriptModule
    Final = typing.Final


class compiler:
    """``torch.compiler``."""

    disable = allow_in_graph = disallow_in_graph = assume_constant_result = staticmethod(_itself)
    is_compiling = is_dynamo_compiling = is_exporting = staticmethod(lambda: False)
    reset = cudagraph_mark_step_begin = graph_break = staticmethod(lambda: None)
    mark_dynamic = maybe_mark_dynamic = mark_static = staticmethod(lambda *args, **options: None)
    list_backends = staticmethod(lambda *args, **options: [])
    set_stance = staticmethod(_span)


class compiler_settings:
    """Settings of PyTorch's compiler, which programs write: they change nothing."""

    triton, cpp = SimpleNamespace(), SimpleNamespace()
    cache_size_limit = recompile_limit = accumulated_cache_size_limit = 8
    suppress_errors = verbose = False
    capture_scalar_outputs = dynamic_shapes = automatic_dynamic_shapes = True


class overrides:
    """``torch.overrides``."""

    has_torch_function = has_torch_function_unary = is_tensor_like = staticmethod(lambda *args: False)


class onnx:
    """``torch.onnx``: nothing is exported."""

    is_in_onnx_export = staticmethod(lambda: False)


class internal:
    """``torch._C``."""

    _log_api_usage_once = staticmethod(lambda *args: None)
    _LinAlgError = LinAlgError
    _TensorMeta = type(Tensor)
    _disabled_torch_function_impl = staticmethod(
        lambda func, kinds, args=(), kwargs=None: func(*args, **(kwargs or {}))
    )
    _get_privateuse1_backend_name = staticmethod(lambda: "privateuseone")
    _jit_set_profiling_mode = _jit_set_profiling_executor = _jit_set_texpr_fuser_enabled = staticmethod(
        lambda *args: False
    )
    _jit_set_nvfuser_enabled = _jit_set_nvfuser_guard_mode = _jit_override_can_fuse_on_cpu = staticmethod(
        lambda *args: False
    )
    _jit_override_can_fuse_on_gpu = _jit_can_fuse_on_cpu = _jit_can_fuse_on_gpu = staticmethod(
        lambda *args: False
    )
    _jit_set_autocast_mode = _jit_set_bailout_depth = staticmethod(lambda *args: False)


def typename(obj: Any) -> str:
    """The type's full name: of a tensor ``torch.FloatTensor``, say."""
    if isinstance(obj, Tensor):
        return str(obj.type())
    kind = type(obj)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _assert(condition: Any, message: str = "") -> None:
    """As the statement ``assert``."""
    assert condition, message


_assert_async = _assert


def cond(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
    """The result of one of two functions of the operands."""
    return (true_fn if pred else false_fn)(*operands)


def while_loop(cond_fn: Any, body_fn: Any, carried_inputs: Any) -> Any:
    """What is left of the inputs when ``cond_fn`` of them says no more; ``body_fn`` makes the next ones."""
    while cond_fn(*carried_inputs):
        carried_inputs = body_fn(*carried_inputs)
        if not isinstance(carried_inputs, tuple | list):
            carried_inputs = (carried_inputs,)
    return carried_inputs


class FatalError(Exception):
    """For programs that catch it: nothing raises it."""


def set_anomaly_enabled(mode: bool, check_nan: bool = True) -> None:
    """As ``autograd.set_detect_anomaly``."""
    from distgrad.autograd.anomaly import set_detect_anomaly

    set_detect_anomaly(mode)
