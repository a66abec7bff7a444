"""Names of ``torch`` that begin with an underscore or are no longer public, but that programs know.

Bases of layers are asked for with ``isinstance``, bases of losses and schedules are subclassed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

from distgrad.autograd.dispatch import operations as ops
from distgrad.autograd.modes import no_grad
from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.nn.init import fan_in_and_out as _calculate_fan_in_and_fan_out
from distgrad.nn.init import trunc_normal_ as _no_grad_trunc_normal_
from distgrad.nn.modules.batchnorm import _BatchNorm, _InstanceNorm
from distgrad.nn.modules.batchnorm import _Norm as _NormBase
from distgrad.nn.modules.class_loss import _WeightedLoss as _OurWeightedLoss
from distgrad.nn.modules.conv import _Convolution as _ConvNd
from distgrad.nn.modules.conv import _ConvTranspose as _ConvTransposeNd
from distgrad.nn.modules.dropout import _Dropout as _DropoutNd
from distgrad.nn.modules.lazy import _Lazy as LazyModuleMixin
from distgrad.nn.modules.linear import Linear as NonDynamicallyQuantizableLinear
from distgrad.nn.modules.loss import Loss
from distgrad.nn.modules.pooling import _AdaptiveAvgPool as _AdaptiveAvgPoolNd
from distgrad.nn.modules.pooling import _AdaptiveMaxPool as _AdaptiveMaxPoolNd
from distgrad.nn.modules.pooling import _AvgPool as _AvgPoolNd
from distgrad.nn.modules.pooling import _MaxPool as _MaxPoolNd
from distgrad.nn.modules.rnn import _Cell as RNNCellBase
from distgrad.nn.modules.rnn import _Recurrent as RNNBase
from distgrad.nn.state import IncompatibleKeys as _IncompatibleKeys
from distgrad.optim.lr_scheduler.schedules import LRScheduler as _LRScheduler
from distgrad.torch.losses import layer_of

__all__ = [
    "LazyModuleMixin",
    "NonDynamicallyQuantizableLinear",
    "ParamsT",
    "RNNBase",
    "RNNCellBase",
    "_AdaptiveAvgPoolNd",
    "_AdaptiveMaxPoolNd",
    "_AvgPoolNd",
    "_BatchNorm",
    "_ConvNd",
    "_ConvTransposeNd",
    "_DropoutNd",
    "_IncompatibleKeys",
    "_InstanceNorm",
    "_LRScheduler",
    "_Loss",
    "_MaxPoolNd",
    "_NormBase",
    "_WeightedLoss",
    "_calculate_correct_fan",
    "_calculate_fan_in_and_fan_out",
    "_default_to_fused_or_foreach",
    "_dispatch_sqrt",
    "_get_activation_fn",
    "_get_capturable_supported_devices",
    "_get_value",
    "_no_grad_trunc_normal_",
    "_stack_if_compiling",
    "_use_grad_for_differentiable",
    "required",
]  # fmt: skip

#: The type of what an optimizer trains.
ParamsT = Iterable[Any]
#: Stands for an option of an optimizer that has no default.
required = object()


def _use_grad_for_differentiable(step: Any) -> Any:
    """An optimizer's step, which makes no graph."""

    @functools.wraps(step)
    def call(*args: Any, **options: Any) -> Any:
        with no_grad():
            return step(*args, **options)

    return call


def _default_to_fused_or_foreach(
    params: Any, differentiable: bool, use_fused: bool = False
) -> tuple[bool, bool]:
    """Neither: a program's own optimizer goes from tensor to tensor."""
    return False, False


def _get_capturable_supported_devices(supports_xla: bool = True) -> list[str]:
    """Kinds of devices on which steps can be captured."""
    return ["cuda"]


def _get_value(x: Any) -> Any:
    """A number, of a tensor its element."""
    return x.item() if isinstance(x, Tensor) else x


def _stack_if_compiling(x: Any) -> Any:
    """What is given: nothing is compiled."""
    return x


def _dispatch_sqrt(x: Any) -> Any:
    """The square root of a number or a tensor."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def _get_activation_fn(activation: str) -> Any:
    """The function that a transformer's layer means by a name.

    Raises:
        OptionError: a name other than "relu" and "gelu".
    """
    if activation not in ("relu", "gelu"):
        raise OptionError(f"activation should be relu/gelu, not {activation}")
    return getattr(ops, activation)


_Loss = layer_of(Loss, "_Loss", "size_average reduce reduction")
_WeightedLoss = layer_of(_OurWeightedLoss, "_WeightedLoss", "weight size_average reduce reduction")


def _calculate_correct_fan(tensor: Any, mode: str) -> int:
    """The inputs of an output, or the outputs of an input, of a weight.

    Raises:
        OptionError: a mode other than "fan_in" and "fan_out".
    """
    modes = ("fan_in", "fan_out")
    if mode.lower() not in modes:
        raise OptionError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return _calculate_fan_in_and_fan_out(tensor)[modes.index(mode.lower())]
