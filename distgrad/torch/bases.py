"""Names of ``torch`` that begin with an underscore or are no longer public, but that programs know.

Bases of layers are asked for with ``isinstance``, bases of losses and schedules are subclassed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distgrad.errors import OptionError
from distgrad.nn.init import fan_in_and_out as _calculate_fan_in_and_fan_out
from distgrad.nn.init import trunc_normal_ as _no_grad_trunc_normal_
from distgrad.nn.modules.batchnorm import _BatchNorm, _InstanceNorm
from distgrad.nn.modules.batchnorm import _Norm as _NormBase
from distgrad.nn.modules.class_loss import _WeightedLoss as _OurWeightedLoss
from distgrad.nn.modules.conv import _Convolution as _ConvNd
from distgrad.nn.modules.conv import _ConvTranspose as _ConvTransposeNd
from distgrad.nn.modules.dropout import _Dropout as _DropoutNd
from distgrad.nn.modules.linear import Linear as NonDynamicallyQuantizableLinear
from distgrad.nn.modules.loss import Loss
from distgrad.nn.modules.pooling import _AdaptiveAvgPool as _AdaptiveAvgPoolNd
from distgrad.nn.modules.pooling import _AdaptiveMaxPool as _AdaptiveMaxPoolNd
from distgrad.nn.modules.pooling import _AvgPool as _AvgPoolNd
from distgrad.nn.modules.pooling import _MaxPool as _MaxPoolNd
from distgrad.nn.modules.rnn import _Cell as RNNCellBase
from distgrad.nn.modules.rnn import _Recurrent as RNNBase
from distgrad.optim.lr_scheduler.schedules import LRScheduler as _LRScheduler
from distgrad.torch.losses import layer_of

__all__ = [
    "NonDynamicallyQuantizableLinear", "ParamsT", "RNNBase", "RNNCellBase", "_AdaptiveAvgPoolNd",
    "_AdaptiveMaxPoolNd", "_AvgPoolNd", "_BatchNorm", "_ConvNd", "_ConvTransposeNd", "_DropoutNd",
    "_InstanceNorm", "_LRScheduler", "_Loss", "_MaxPoolNd", "_NormBase", "_WeightedLoss",
    "_calculate_correct_fan", "_calculate_fan_in_and_fan_out", "_no_grad_trunc_normal_", "required",
]  # fmt: skip

#: The type of what an optimizer trains.
ParamsT = Iterable[Any]
#: Stands for an option of an optimizer that has no default.
required = object()

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
