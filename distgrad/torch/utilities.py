"""``torch.utils``, and names of compilers that programs call in passing."""

from __future__ import annotations

import typing
from contextlib import contextmanager
from typing import Any

from distgrad.nn.module import Module

__all__ = ["FatalError", "set_anomaly_enabled"]


def _itself(function: Any = None, *args: Any, **options: Any) -> Any:
    """The function itself: kernels are compiled as they are needed."""
    return (lambda each: each) if function is None else function


@contextmanager
def _span(*args: Any, **options: Any) -> Any:
    yield


class jit:
    """``torch.jit``: programs run as they are written."""

    script = script_method = ignore = unused = export = staticmethod(_itself)
    trace = staticmethod(lambda function, example_inputs=None, **options: function)
    is_scripting = is_tracing = staticmethod(lambda: False)
    annotate = staticmethod(lambda kind, value: value)
    isinstance = staticmethod(isinstance)
    ScriptModule = Module
    Final = typing.Final


class compiler:
    """``torch.compiler``."""

    disable = allow_in_graph = staticmethod(_itself)
    is_compiling = is_dynamo_compiling = staticmethod(lambda: False)
    reset = staticmethod(lambda: None)


class overrides:
    """``torch.overrides``."""

    has_torch_function = has_torch_function_unary = is_tensor_like = staticmethod(lambda *args: False)


class fx:
    """``torch.fx``: nothing is traced, so there is nothing that must not be."""

    wrap = staticmethod(_itself)


class absent:
    """Nothing."""


class internal:
    """``torch._C``."""

    _log_api_usage_once = staticmethod(lambda *args: None)


class FatalError(Exception):
    """For programs that catch it: nothing raises it."""


def set_anomaly_enabled(mode: bool, check_nan: bool = True) -> None:
    """As ``autograd.set_detect_anomaly``."""
    from distgrad.autograd.anomaly import set_detect_anomaly

    set_detect_anomaly(mode)
